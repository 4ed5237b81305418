"""The recipe of findings: its space, its published defaults, and what does not go together."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from medarts.config import (
    AugmentationSettings,
    DataSettings,
    Recipe,
    SearchSettings,
    SourceSettings,
    TrainSettings,
    apply_overrides,
    fingerprint,
    make_source,
    parse,
    to_yaml,
)
from medarts.config.sections import space_of, with_published_defaults
from medarts.errors import RecipeError
from medarts.models.chexnet import CheXNetSettings
from medarts.registry import sources
from medarts.spaces.darts import DartsSettings
from medarts.spaces.nas_wdan import NasWdanSettings

FILMS: dict[str, Any] = {"kind": "table", "path": "/data/films"}
RAYS: dict[str, Any] = {"kind": "chestxray14", "path": "/data/rays"}
BLOBS: dict[str, Any] = {"kind": "folder", "path": "/data/blobs"}


def findings(*sources: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"data": {"sources": list(sources or [FILMS])} | sections.pop("data", {}), **sections}


def refused(mapping: dict[str, Any], *changes: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(apply_overrides(mapping, changes), origin="my.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


# The space


@pytest.mark.parametrize(
    ("sources", "space", "task"),
    [
        ([FILMS], "darts", "classification"),
        ([RAYS], "darts", "classification"),
        ([FILMS, RAYS], "darts", "classification"),
        ([BLOBS], "nas-wdan", "segmentation"),
        ([{"kind": "isic", "path": "/d"}], "nas-wdan", "segmentation"),
        ([{"kind": "cvc", "path": "/d"}], "nas-wdan", "segmentation"),
        ([{"kind": "chaos", "path": "/d"}], "nas-wdan", "segmentation"),
    ],
)
def test_the_sources_choose_the_space(sources: list[dict[str, Any]], space: str, task: str) -> None:
    recipe = parse(findings(*sources))
    assert (recipe.space.name, recipe.data.task) == (space, task)
    assert isinstance(recipe.space, DartsSettings if space == "darts" else NasWdanSettings)
    as_models = findings()
    as_models["data"]["sources"] = tuple(make_source(**source) for source in sources)
    assert space_of(as_models) == space_of({"data": DataSettings(sources=as_models["data"]["sources"])}) == space


def test_settings_of_a_space_that_is_not_named_are_those_of_the_space_that_fits() -> None:
    assert parse(findings(space={"layers": 8})).space == DartsSettings(layers=8)
    assert parse(findings(BLOBS, space={"shuffle_groups": 2})).space == NasWdanSettings(shuffle_groups=2)
    assert "space.layers is not a key of a recipe" in refused(findings(BLOBS, space={"layers": 8}))


def test_a_space_is_its_name_or_a_section() -> None:
    assert parse(findings(space="darts")).space == parse(findings(space={"name": "darts"})).space == DartsSettings()


def test_a_wrong_space_is_refused() -> None:
    assert "space nas-wdan does not fit the data: images with findings need space.name darts" in refused(
        findings(space={"name": "nas-wdan"})
    )
    assert "space darts does not fit the data: images with masks need space.name nas-wdan" in refused(
        findings(BLOBS, space={"name": "darts"})
    )
    assert "space.name cannot be 'drats'. Did you mean 'darts'?" in refused(findings(space={"name": "drats"}))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("layer", "layers"), ("serch_channel", "search_channel"), ("drop_path", "drop_path_prob"), ("auxilary", "aux")],
)
def test_unknown_settings_of_the_stack_are_named_with_the_nearest(key: str, nearest: str) -> None:
    for space in ({key: 1}, {"name": "darts", key: 1}):
        message = refused(findings(space=space))
        assert f"my.yaml: space.{key} is not a key of a recipe. Did you mean '{nearest}" in message


def test_what_the_other_space_knows_is_no_key_of_the_stack() -> None:
    message = refused(findings(), "space.deep_supervision=false")
    assert message.startswith(
        "my.yaml: space.deep_supervision is not a key of a recipe. Valid here: auxiliary, choices, drop_"
    )


@pytest.mark.parametrize(
    "mapping",
    [
        {"data": {"sources": [{"kind": ["table"], "path": "x"}]}},
        {"data": {"sources": "table"}},
        {"data": {"sources": [None]}},
        {"data": 3},
        findings(space=None),
        findings(train=None),
        findings(search={"stages": [None]}),
        findings(search={"stages": 3}),
        findings(search={"stages": {"depth": 8}}),
    ],
    ids=str,
)
def test_what_is_no_section_is_refused_and_not_filled(mapping: dict[str, Any]) -> None:
    assert refused(mapping).startswith("my.yaml: ")


# Published defaults


def test_defaults_of_the_stack() -> None:
    recipe = parse(findings())
    (stage,) = recipe.search.stages
    assert (stage.depth, stage.epochs, stage.batch, stage.keep) == (12, 50, 16, {})
    search = recipe.search
    assert (search.lr, search.lr_min, search.momentum, search.weight_decay) == (0.025, 1e-4, 0.9, 3e-4)
    assert (search.arch_lr, search.arch_betas, search.arch_weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert (search.arch_after, search.loss.name, search.gradient.name, search.mixing.alpha) == (
        0,
        "bce_logits",
        "first_order",
        0,
    )
    space = recipe.space
    assert isinstance(space, DartsSettings)
    assert (space.stem, space.search_channel, space.init_channel, space.layers) == ("chest", 16, 36, 20)
    assert (space.intermediate_nodes, space.drop_path_prob, space.auxiliary) == (4, 0.2, False)
    train = recipe.train
    assert (train.epochs, train.batch, train.loss.name, train.norm) == (100, 32, "bce_logits", None)
    assert (train.optimizer, train.lr, train.schedule, train.plateau_epochs) == ("sgd", 0.025, "plateau", 5)
    assert (train.auxiliary_weight, train.mixing.alpha, train.model) == (0.4, 0.0, None)
    augmentation = recipe.data.augmentation
    assert (recipe.data.size, augmentation.flip, augmentation.transpose) == (224, "horizontal", False)
    assert (augmentation.brightness, augmentation.shift, augmentation.rotate) == (0.0, 0.07, 0.0)
    assert recipe.evaluation.sensitivity == 0.9


def test_what_is_given_wins_at_every_depth() -> None:
    recipe = parse(
        findings(
            data={"size": 64, "augmentation": {"brightness": 0.1}},
            search={"stages": [{"depth": 8}, {"epochs": 3, "keep": {"normal": 2}}], "mixing": {"images": 3}},
            train={"schedule": "cosine"},
        )
    )
    assert recipe.data.size == 64
    expected = AugmentationSettings(flip="horizontal", transpose=False, brightness=0.1, shift=0.07)
    assert recipe.data.augmentation == expected
    first, second = recipe.search.stages
    assert (first.depth, first.epochs, first.batch) == (8, 50, 16)
    assert (second.depth, second.epochs, second.batch, second.keep) == (12, 3, 16, {"normal": 2})
    assert (recipe.search.mixing.alpha, recipe.search.mixing.images) == (0.0, 3)
    assert (recipe.train.schedule, recipe.train.batch, recipe.train.norm) == ("cosine", 32, None)


def test_sections_that_are_made_already_stay_as_they_are() -> None:
    """Whoever makes a recipe in Python says all of a section, or none."""
    sections: dict[str, Any] = {
        "space": DartsSettings(layers=8),
        "search": SearchSettings(lr=0.1),
        "train": TrainSettings(loss="focal"),
    }
    recipe = Recipe(data=DataSettings(sources=(make_source(**FILMS),), size=64), **sections)
    assert {name: getattr(recipe, name) for name in sections} == sections
    assert recipe.data.augmentation == AugmentationSettings()
    assert parse(findings(**sections)).train is sections["train"]
    # An augmentation that is made already stays in data that are not.
    still = AugmentationSettings(flip=False)
    data = parse(findings(data={"augmentation": still})).data
    assert (data.augmentation, data.size) == (still, 224)


def test_the_content_that_is_filled_is_left_alone() -> None:
    content = findings(search={"stages": [{"depth": 8}]}, space={"layers": 8})
    before = deepcopy(content)
    filled = with_published_defaults(content)
    assert content == before
    filled["search"]["stages"][0]["depth"] = 3
    filled["data"]["augmentation"]["shift"] = 0.5
    assert content == before
    assert parse(findings()).search.stages[0].depth == 12  # the table of defaults is as it was


def test_recipes_of_masks_get_nothing_of_the_stack() -> None:
    content = findings(BLOBS, train={"batch": 3})
    recipe = parse(content)
    assert recipe == Recipe(
        data=DataSettings(sources=(make_source(**BLOBS),)), space=NasWdanSettings(), train=TrainSettings(batch=3)
    )
    assert [stage.depth for stage in recipe.search.stages] == [4, 5]
    assert (recipe.train.norm, recipe.train.schedule, recipe.data.augmentation.shift) == (None, "cosine", 0.0)


def test_a_whole_recipe_comes_back_and_has_no_defaults_left_to_fill() -> None:
    model = {"name": "chexnet", "weights": "/w.pt"}
    recipe = parse(findings(data={"findings": ["Mass", "Hernia"]}, train={"model": model}))
    content = yaml.safe_load(to_yaml(recipe))
    assert with_published_defaults(content) == content
    assert parse(content) == recipe
    assert fingerprint(parse(content)) == fingerprint(recipe)
    prints = {fingerprint(parse(apply_overrides(content, [change]))) for change in ("seed=0", "data.findings=[Mass]")}
    assert len(prints) == 2


# Overrides


def test_an_override_of_a_stage_keeps_what_else_is_published() -> None:
    recipe = parse(apply_overrides(findings(), ["search.stages.0.epochs=1"]))
    (stage,) = recipe.search.stages
    assert (stage.depth, stage.epochs, stage.batch) == (12, 1, 16)
    assert recipe.search.arch_lr == 3e-4
    written = parse(apply_overrides(findings(search={"stages": [{"depth": 8}]}), ["search.stages.0.epochs=1"]))
    assert (written.search.stages[0].depth, written.search.stages[0].epochs) == (8, 1)
    assert "there is no item '1'. Use 0 to 0." in refused(findings(), "search.stages.1.epochs=1")


def test_an_override_can_bring_the_sources_themselves() -> None:
    changes = ["data.sources=[{kind: table, path: /d}]", "search.stages.0.epochs=1"]
    assert parse(apply_overrides({}, changes)).search.stages[0].depth == 12


# What does not go together


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({**BLOBS, "images": 20}, "data.sources.0.images is not a key of a recipe"),
        ({**BLOBS, "partial": True}, "data.sources.0.partial is not a key of a recipe"),
        ({**FILMS, "labels": {255: 1}}, "data.sources.0.labels is not a key of a recipe"),
        ({**RAYS, "modality": "ct"}, "data.sources.0.modality is not a key of a recipe"),
        ({**FILMS, "lists": "toy"}, "data.sources.0.lists is not a key of a recipe"),
        ({**RAYS, "images": 9}, "greater than or equal to 10"),
        ({**RAYS, "lists": "toys"}, "cannot be 'toys'. Did you mean 'toy'?"),
    ],
)
def test_sources_that_are_refused(source: dict[str, Any], says: str) -> None:
    message = refused(findings(source))
    assert message.startswith("my.yaml: data.sources.0")
    assert says in message


def test_sources_that_are_taken() -> None:
    rays: Any = parse(findings({**RAYS, "lists": "toy", "images": 10, "partial": True})).data.sources[0]
    assert (rays.lists, rays.images, rays.partial) == ("toy", 10, True)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (findings(FILMS, BLOBS), "data: sources with masks and sources with findings cannot be joined"),
        (findings(BLOBS, FILMS), "data: sources with masks and sources with findings cannot be joined"),
        (findings(BLOBS, data={"findings": ["Mass"]}), "data: findings are for sources with findings"),
        (findings(data={"classes": 2}), "data: classes are for masks; name the outputs"),
        (findings(data={"findings": ["a", "b", "a"]}), "data: findings .* name one twice"),
        (findings(data={"findings": []}), "data.findings: .*at least 1 item"),
        (findings(train={"weights": "/w.pt"}), "train.weights is not a key of a recipe"),
        (findings(train={"model": {"name": "unet", "weights": "/w.pt"}}), "train.model.weights is not a key"),
        (findings(train={"model": "chexnot"}), "train.model.name cannot be 'chexnot'. Did you mean 'chexnet'"),
        (findings(space={"drop_path_prob": 1}), "space.drop_path_prob: .*less than 1"),
        (findings(space={"stem": "chests"}), "space.stem cannot be 'chests'. Did you mean 'chest'"),
        (findings(search={"gradient": "third_order"}), "search.gradient.name cannot be 'third_order'. Did you mean"),
        (findings(train={"auxiliary_weight": -1}), "train.auxiliary_weight: .*greater than or equal to 0"),
        (findings(evaluation={"sensitivity": 1}), "evaluation.sensitivity: .*less than 1"),
        (findings(data={"augmentation": {"flip": "vertical"}}), "data.augmentation.flip"),
    ],
)
def test_what_does_not_go_together_is_refused(mapping: dict[str, Any], says: str) -> None:
    message = refused(mapping)
    assert re.search(f"^my.yaml: {says}", message), message


def test_outputs_are_the_findings_once_they_are_known() -> None:
    data = parse(findings(data={"findings": ["Mass", "Hernia"]})).data
    assert data.outputs == 2
    assert parse(findings(BLOBS, data={"classes": 3})).data.outputs == 3
    with pytest.raises(ValueError, match="findings of the sources have not been read"):
        _ = parse(findings()).data.outputs


# Paths


def test_weights_are_a_path_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", "/big/disk")
    model = {"model": {"name": "chexnet", "weights": "$WEIGHTS/w.pt"}}
    assert parse(findings(train=model)).train.model == CheXNetSettings(weights=Path("/big/disk/w.pt"))
    relative = parse(findings(train={"model": {"name": "chexnet", "weights": "w.pt"}})).train.model
    assert relative == CheXNetSettings(weights=Path.cwd() / "w.pt")
    monkeypatch.delenv("WEIGHTS")
    message = refused(findings(train=model))
    assert message.startswith("my.yaml: train.model.weights uses $WEIGHTS, which is not set. Set it: export WEIGHTS=")


SOURCES = [sources.entry(kind).settings for kind in sources.names()]


@pytest.mark.parametrize("section", [SourceSettings, *SOURCES, AugmentationSettings, DataSettings])
def test_every_option_of_the_data_is_explained_where_it_stands(section: type[BaseModel]) -> None:
    inherited = {name for base in section.__bases__ for name in getattr(base, "model_fields", {})}
    for name in section.model_fields.keys() - inherited:
        assert re.search(rf"^\s+{name}: ", str(section.__doc__), re.MULTILINE), f"{section.__name__}.{name}"
