import copy
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from medarts import registry
from medarts.config import Recipe, apply_overrides, fingerprint, load, parse, to_yaml
from medarts.config.data import MaskSourceSettings
from medarts.config.reading import deciding_values, fingerprint_without_seed
from medarts.config.study import Study, is_study, load_study
from medarts.errors import RecipeError
from medarts.models.unet import UNetSettings
from medarts.spaces.nas_wdan import NasWdanSettings

RECIPES = Path(__file__).parents[2] / "recipes"


def content(**sections: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"sources": [{"kind": "folder", "path": "/data/blobs"}]}
    return {"data": data | sections.pop("data", {}), **sections}


def refused(mapping: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(mapping, origin="my.yaml")
    return str(caught.value)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Defaults


def test_published_defaults() -> None:
    recipe = parse(content())
    first, second = recipe.search.stages
    assert (first.depth, second.depth) == (4, 5)
    assert (first.epochs, second.epochs) == (80, 80)
    assert {first.batch, second.batch} <= set(range(12, 25))
    assert first.keep == {"down": 4, "normal": 4, "up": 2}
    assert first.accumulate == second.accumulate == recipe.train.accumulate == 1
    search = recipe.search
    assert (search.lr, search.lr_min, search.momentum, search.weight_decay) == (0.025, 1e-5, 0.9, 3e-4)
    assert (search.arch_lr, search.arch_betas, search.arch_weight_decay) == (2e-4, (0.5, 0.999), 1e-3)
    assert (search.arch_after, search.train_portion, search.loss.name) == (10, 0.5, "bce_logits")
    assert (search.mixing.alpha, search.mixing.images) == (0.5, 2)
    space = recipe.space
    assert isinstance(space, NasWdanSettings)
    assert (space.init_channel, space.double_down_channel, space.intermediate_nodes) == (16, True, 4)
    assert (space.deep_supervision, space.shuffle_groups, space.dropout_prob) == (True, 1, 0.0)
    train = recipe.train
    assert (train.epochs, train.batch, train.optimizer, train.lr) == (1600, 8, "sgd", 4e-3)
    assert (train.loss.name, train.schedule, train.mixing.alpha) == ("bce_dice", "cosine", 0.0)
    assert (recipe.data.size, recipe.data.in_channels, recipe.data.classes) == (256, 3, 1)


def test_is_immutable() -> None:
    recipe = parse(content())
    with pytest.raises(ValidationError):
        recipe.seed = 3
    with pytest.raises(ValidationError):
        recipe.train.mixing.alpha = 1.0


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    from medarts.config import sections

    inner = [value for value in vars(sections).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    return [model, *(item for item in inner if item.__module__ == sections.__name__)]


def test_every_option_is_explained_where_it_stands() -> None:
    for model in models(Recipe):
        if model.__name__ == "Section":
            continue
        assert model.__doc__
        for name in model.model_fields:
            assert re.search(rf"^\s+{name}: ", model.__doc__, re.MULTILINE), f"{model.__name__}.{name}"


# Unknown keys and wrong values


@pytest.mark.parametrize(
    ("mapping", "path", "nearest"),
    [
        (content(sede=1), "sede", "seed"),
        (content(trian={}), "trian", "train"),
        (content(train={"epoch": 3}), "train.epoch", "epochs"),
        (content(train={"mixing": {"alhpa": 0}}), "train.mixing.alhpa", "alpha"),
        (content(search={"arch_wd": 0}), "search.arch_wd", "arch_lr"),
        (content(search={"stages": [{"depth": 4}, {"epocs": 4}]}), "search.stages.1.epocs", "epochs"),
        (content(data={"augmentation": {"rotation": 3}}), "data.augmentation.rotation", "rotate"),
        (content(data={"sources": [{"kind": "isic", "path": "x", "nam": "y"}]}), "data.sources.0.nam", "name"),
        (content(space={"init_channels": 3}), "space.init_channels", "init_channel"),
        (content(derive={"topk": 3}), "derive.topk", "top_k"),
        (content(evaluation={"treshold": 0.3}), "evaluation.treshold", "threshold"),
        (content(compute={"precison": "fp32"}), "compute.precison", "precision"),
    ],
)
def test_unknown_key_is_named_with_its_path_and_the_nearest(mapping: dict[str, Any], path: str, nearest: str) -> None:
    assert f"my.yaml: {path} is not a key of a recipe. Did you mean '{nearest}'?" in refused(mapping)


def test_unknown_key_with_no_neighbour_lists_the_valid_ones() -> None:
    assert "derive.zzz is not a key of a recipe. Valid here: paths, select, skips, threshold, top_k." in refused(
        content(derive={"zzz": 3})
    )


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (content(train={"loss": "bce_dise"}), "train.loss.name cannot be 'bce_dise'. Did you mean 'bce_dice'?"),
        (content(compute={"precision": 16}), "compute.precision cannot be 16. Did you mean 'fp16'\\?"),
        (content(compute={"precision": "float"}), "compute.precision cannot be 'float'. Valid here: bf16, fp16, fp32."),
        (content(data={"sampling": "equally"}), "data.sampling cannot be 'equally'. Did you mean 'equal'?"),
        (content(space={"name": "darts"}), "space darts does not fit the data: images with masks need .*nas-wdan"),
        (content(derive={"paths": "top_K"}), "derive.paths cannot be 'top_K'. Did you mean 'top_k'?"),
        (content(train={"epochs": 0}), r"train.epochs: .*greater than or equal to 1 \(given: 0\)"),
        (content(train={"epochs": 2.5}), r"train.epochs: .*integer.* \(given: 2.5\)"),
        (content(train={"lr": -1}), r"train.lr: .*greater than 0 \(given: -1\)"),
        (content(train={"lr": "fast"}), r"train.lr: .*number.* \(given: 'fast'\)"),
        (content(train={"ema": 1.0}), r"train.ema: .*less than 1 \(given: 1.0\)"),
        (content(search={"train_portion": 1}), r"search.train_portion: .*less than 1"),
        (content(search={"mixing": {"images": 5}}), r"search.mixing.images: .*less than or equal to 4"),
        (content(search={"stages": []}), r"search.stages: .*at least 1 item"),
        (content(search={"stages": [{"depth": 2}]}), r"search.stages.0.depth: .*greater than or equal to 3"),
        (content(search={"stages": [{"keep": {"down": 0}}]}), r"search.stages.0.keep.down: .*equal to 1"),
        (content(search={"arch_betas": [0.5]}), r"search.arch_betas.1 is missing"),
        (content(seed=-1), r"seed: .*greater than or equal to 0"),
        (content(train=None), r"train: .*given: None"),
        (content(space={"init_channel": 6, "shuffle_groups": 4}), "space: shuffle_groups 4 does not divide"),
        ({"seed": 1}, "data is missing"),
        ({"data": {}}, "data.sources is missing"),
        ({"data": {"sources": []}}, "data.sources: .*at least 1 item"),
        ({"data": {"sources": [{"kind": "isic"}]}}, "data.sources.0.path is missing"),
        ({"data": {"sources": [{"path": "x"}]}}, "data.sources.0.kind is missing"),
        ({"data": {"sources": {"kind": "isic", "path": "x"}}}, "data.sources: .*tuple"),
        ({"data": {"sources": [{"kind": "isik", "path": "x"}]}}, "data.sources.0.kind cannot be 'isik'. .*'isic'"),
        ({"data": 3}, "data: "),
    ],
)  # fmt: skip
def test_wrong_value_is_named_with_its_path_and_what_is_valid(mapping: dict[str, Any], says: str) -> None:
    message = refused(mapping)
    assert message.startswith("my.yaml: ")
    assert re.search(says, message), message


def test_all_mistakes_are_said_at_once() -> None:
    message = refused(content(train={"epochs": 0, "losss": "dice"}, sed=1))
    assert message.count(";") == 2
    assert "train.epochs" in message
    assert "train.losss" in message
    assert "sed is not" in message


def test_messages_end_like_sentences() -> None:
    for mapping in (content(train={"epochs": 0}), content(sede=1), content(train={"loss": "x"}), {}):
        assert re.search(r"[^.? ][.?]$", refused(mapping)), refused(mapping)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"window": [-100, 200], "percentiles": [1, 99]}, "window and percentiles exclude each other"),
        ({"window": [200, -100]}, "is empty"),
        ({"percentiles": [50, 50]}, "is empty"),
        ({"fractions": [0.5, 0.5]}, "leave no training images"),
    ],
)
def test_sources_that_contradict_themselves(source: dict[str, Any], says: str) -> None:
    message = refused({"data": {"sources": [{"kind": "chaos", "path": "x", **source}]}})
    assert re.search(f"data.sources.0: .*{says}", message), message


def test_two_sources_of_one_name() -> None:
    same = [{"kind": "isic", "path": "a"}, {"kind": "isic", "path": "b"}]
    assert re.search(
        r"data: two sources have the name 'isic', .*/a and .*/b; give each", refused({"data": {"sources": same}})
    )
    named = [same[0], same[1] | {"name": "isic18"}]
    assert [s.domain for s in parse({"data": {"sources": named}}).data.sources] == ["isic", "isic18"]


# What has to fit together


@pytest.mark.parametrize(
    ("size", "depth", "valid"),
    [(64, 5, True), (96, 5, True), (32, 5, True), (16, 4, True), (48, 4, True), (8, 3, False), (24, 3, True)],
)
def test_sizes_that_can_be_halved(size: int, depth: int, valid: bool) -> None:
    mapping = content(data={"size": size}, search={"stages": [{"depth": 3}, {"depth": depth}]})
    if valid:
        assert parse(mapping).data.size == size
    else:
        refused(mapping)


# YAML


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 3e-4 as text."""
    text = "data: {sources: [{kind: folder, path: /d}]}\nsearch: {weight_decay: 3e-4, lr: 1e-1}\ntrain: {lr: 4E-3}\n"
    assert yaml.safe_load("3e-4") == "3e-4"
    recipe = load(written(tmp_path, text), ["train.weight_decay=5e-4"])
    assert (recipe.search.weight_decay, recipe.search.lr) == (3e-4, 0.1)
    assert (recipe.train.lr, recipe.train.weight_decay) == (4e-3, 5e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: [\n", "my.yaml is not valid YAML: line 2"),
        ("a: b: c\n", "my.yaml is not valid YAML: line 1, column 5"),
        ("", "my.yaml holds no keys"),
        ("- 1\n- 2\n", "my.yaml holds no keys"),
        ("just text", "my.yaml holds no keys"),
    ],
)
def test_files_that_are_no_recipe(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape(says)) as caught:
        load(written(tmp_path, text))
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_binary_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(RecipeError, match=r"my\.yaml is not text in UTF-8: see line 1"):
        load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="There is no recipe"):
        load(tmp_path / "my.yaml")
    with pytest.raises(RecipeError, match="is a folder, not a recipe"):
        load(tmp_path)


def full() -> Recipe:
    return parse(
        content(
            note="µ: 'quotes' # and signs",
            data={
                "sources": [
                    {"kind": "chaos", "path": "/d/chaos", "window": [-100, 200.5], "labels": {63: 1, 255: 2}},
                    {"kind": "folder", "path": "/d/x y", "name": "x", "percentiles": [1, 99]},
                ],
                "classes": 3,
                "cache": "/tmp/c",
            },
            search={"loss": "ce", "lr": 1e-7, "lr_min": 0, "stages": [{"depth": 3, "keep": {"up": 2}}]},
            train={"loss": "ce_dice", "warmup_epochs": 3},
        )
    )


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    for recipe in (full(), parse(content())):
        assert parse(yaml.safe_load(to_yaml(recipe))) == recipe
        (tmp_path / "r.yaml").write_text(to_yaml(recipe))
        assert load(tmp_path / "r.yaml") == recipe
        assert fingerprint(load(tmp_path / "r.yaml")) == fingerprint(recipe)


def test_whole_recipe_is_written() -> None:
    mapping = yaml.safe_load(to_yaml(parse(content())))
    assert set(mapping) == set(Recipe.model_fields)
    assert mapping["search"]["arch_lr"] == 2e-4
    assert mapping["search"]["stages"][1]["depth"] == 5


# Strict types and bounds


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (content(seed=True), "seed: .*integer .given: True.. Write a whole number"),
        (content(seed="on"), "seed: .*integer .given: 'on'."),
        (content(train={"epochs": "3"}), "train.epochs: .*integer .given: '3'."),
        (content(train={"epochs": 2.0}), "train.epochs: .*integer .given: 2.0."),
        (content(train={"lr": "0.1"}), "train.lr: .*number .given: '0.1'."),
        (content(train={"lr": True}), "train.lr: .*number .given: True."),
        (content(train={"lr": math.inf}), "train.lr: .*finite number .given: inf."),
        (content(train={"lr": math.nan}), "train.lr: .*finite number .given: nan."),
        (content(train={"lr": 1e308}), r"train.lr: .*less than or equal to 100 \(given: 1e\+308\)"),
        (content(space={"deep_supervision": "yes"}), "space.deep_supervision: .*Write true or false"),
        (content(space={"deep_supervision": 1}), "space.deep_supervision: .*Write true or false"),
        (content(data={"augmentation": {"flip": 1}}), "data.augmentation.flip"),
        (content(search={"supernet": {"partial_channels": True}}), "partial_channels: True is not a whole number"),
        (content(search={"stages": [{"depth": 10**6}]}), "search.stages.0.depth: .*less than or equal to"),
        (content(space={"intermediate_nodes": 10**5}), "intermediate_nodes: .*less than or equal to 16"),
        (content(compute={"threads": 10**5}), "compute.threads: .*less than or equal to 1024"),
        (content(data={"size": 10**6}), "data.size: .*less than or equal to 4096"),
        (content(seed=10**400), "seed: .*less than 2147483648"),
        (content(note=1.10), "note: .*string .given: 1.1.. Put quotes around it"),
        (content(note=True), "note: .*string"),
        (content(data={"findings": [str(n) for n in range(300)]}), "data.findings: .*at most 200 items"),
    ],
)  # fmt: skip
def test_nothing_is_converted_and_nothing_is_boundless(mapping: dict[str, Any], says: str) -> None:
    message = refused(mapping)
    assert re.search(says, message), message
    assert len(message) < 500


def numbers(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields all numbers of a JSON schema with their positions."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number") and "enum" not in schema and "const" not in schema:
            yield place, schema
        for key, inner in schema.items():
            yield from numbers(inner, f"{place}.{key}" if key not in ("properties", "$defs") else place)
    elif isinstance(schema, list):
        for inner in schema:
            yield from numbers(inner, place)


@pytest.mark.parametrize("kind", [Recipe, Study])
def test_every_number_has_bounds(kind: type[BaseModel]) -> None:
    found = dict(numbers(kind.model_json_schema()))
    assert len(found) > 50
    for place, schema in found.items():
        assert schema.keys() & {"minimum", "exclusiveMinimum"}, place
        assert schema.keys() & {"maximum", "exclusiveMaximum"}, place


WRONG: dict[str, list[Any]] = {
    "integer": [True, "1", 1.0, 10**30, math.nan],
    "number": [True, "1", 1e308, math.inf, -math.inf, math.nan],
    "boolean": [1, "yes", "true", 0.0],
}


def test_no_field_takes_another_type() -> None:
    whole = parse(content()).model_dump(mode="json")
    tried = 0

    def walk(schema: dict[str, Any], section: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, field in schema["properties"].items():
            if field.get("type") in WRONG:
                yield (*keys, name)
            reference = field.get("$ref", "").rpartition("/")[2]
            if reference and isinstance(section[name], dict):
                yield from walk(definitions[reference], section[name], (*keys, name))

    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for keys in walk(schema, whole, ()):
        inner: Any = schema
        for key in keys:
            inner = inner["properties"][key]
            inner = definitions[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        for value in WRONG[inner["type"]]:
            changed = copy.deepcopy(whole)
            section = changed
            for key in keys[:-1]:
                section = section[key]
            section[keys[-1]] = value
            assert ".".join(keys) in refused(changed), (keys, value)
            tried += 1
    assert tried > 150


def test_whole_numbers_are_numbers_names_and_folders() -> None:
    source = {"kind": "folder", "path": 2017, "name": 2018}
    recipe = parse(content(note=3, train={"lr": 1}, data={"sources": [source]}))
    assert (recipe.note, recipe.train.lr, recipe.data.sources[0].domain) == ("3", 1.0, "2018")
    assert recipe.data.sources[0].path.name == "2017"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({255: 1, "255": 2}, "data.sources.0.labels: 255 appears twice"),
        ({True: 1}, "True is not a value of a mask"),
        ({1.5: 1}, "1.5 is not a value of a mask"),
        ({"x": 1}, "'x' is not a value of a mask"),
        ({1: True}, "data.sources.0.labels.1: .*integer"),
        ({1: 200}, "data.sources.0.labels.1: .*less than 200"),
    ],
)
def test_labels_are_whole_numbers(labels: dict[Any, Any], says: str) -> None:
    assert re.search(says, refused(content(data={"sources": [{"kind": "folder", "path": "/d", "labels": labels}]})))


def test_labels_are_changed_by_their_number() -> None:
    before = content(data={"sources": [{"kind": "folder", "path": "/d", "labels": {63: 1}}]})
    changed = apply_overrides(before, ["data.sources.0.labels.63=2", "data.sources.0.labels.255=1"])
    added = apply_overrides(content(), ["data.sources.0.labels.255=1"])
    for after, labels in ((changed, {63: 2, 255: 1}), (added, {255: 1})):
        source = parse(after).data.sources[0]
        assert isinstance(source, MaskSourceSettings)
        assert source.labels == labels


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("note=020", "020"), ("note=2024-01-01", "2024-01-01"), ("note=12:30", "12:30"), ("note=no", "no"),
        ("note=", ""),
        ("note='a = b'", "a = b"),
    ],
)  # fmt: skip
def test_texts_stay_as_they_were_typed(change: str, value: str) -> None:
    if value:
        assert parse(apply_overrides(content(), [change])).note == value
    else:
        assert "note: " in refused(apply_overrides(content(), [change]))


@pytest.mark.parametrize(
    "pattern", ["{patient}_{n}", "{patient}{side}", "*_{patient}", "**/{patient}/*/*", "{patient}", '"{patient}_*"']
)
def test_patterns_need_no_quotes(pattern: str) -> None:
    """In YAML they do, and these would need others in a shell."""
    changed_content = apply_overrides(content(), [f"data.sources.0.patients={pattern}"])
    assert changed_content["data"]["sources"][0]["patients"] == pattern.strip('"')


def test_settings_that_hold_a_pattern_are_still_yaml() -> None:
    change = 'data.sources=[{kind: folder, path: x, patients: "{patient}_*"}]'
    assert apply_overrides(content(), [change])["data"]["sources"][0]["patients"] == "{patient}_*"
    with pytest.raises(RecipeError, match="is not YAML"):
        apply_overrides(content(), ["data.sources=[{patients: {patient}_*}]"])


@pytest.mark.parametrize(
    "value", ["020", "1_000", "0x10", "on", "yes", "1e2", "2024-01-01", "'3'", "[3]", ".inf", "9" * 5000]
)
def test_what_looks_like_a_number_is_refused_where_it_is_none(value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(apply_overrides(content(), [f"train.epochs={value}"]))
    assert "train.epochs" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_stages_of_an_alias_are_changed_by_themselves(tmp_path: Path) -> None:
    text = "data: {sources: [{kind: folder, path: /d}]}\nsearch: {stages: [&s {depth: 3, epochs: 4}, *s]}\n"
    recipe = load(written(tmp_path, text), ["search.stages.0.epochs=9"])
    assert [stage.epochs for stage in recipe.search.stages] == [9, 4]


def test_long_values_are_quoted_shortly() -> None:
    for mapping in (
        content(seed={"a": list(range(10_000))}),
        content(train={"model": "x" * 10_000}),
        content(**{"x" * 10_000: 1}),
        content(**{f"key{number}": 1 for number in range(5_000)}),
        content(data={"findings": ["same" * 500] * 2}),
    ):
        assert len(refused(mapping)) < 2_000
    assert "and 4990 more mistakes" in refused(content(**{f"key{number}": 1 for number in range(5_000)}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_editors(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes("note: µ\r\ndata: {sources: [{kind: folder, path: /d}]}\r\n".encode(encoding))
    assert load(path).note == "µ"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("#" * 200_001)
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1\nnote: \xb5\n")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for path, says in (
        (tmp_path / "pipe.yaml", r"pipe\.yaml is not a regular file"),
        (tmp_path / "large.yaml", r"large\.yaml is larger than 200,000 bytes"),
        (tmp_path / "latin.yaml", r"latin\.yaml is not text in UTF-8: see line 2\. Save it as UTF-8"),
        (tmp_path / "loop.yaml", r"loop\.yaml cannot be read .*links"),
        (Path("x" * 5_000), "There is no recipe x+"),
        (Path("a\0b"), "There is no recipe"),
    ):
        with pytest.raises(RecipeError, match=says) as caught:
            load(path)
        assert len(str(caught.value)) < 400


def test_paths_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, says in (("", "not a path"), ("a\0b", "not a path"), ("~nobody-at-all/x", "no such user")):
        assert f"data.sources.0.path is {path!r}" in refused(
            content(data={"sources": [{"kind": "isic", "path": path}]})
        )
        assert says in refused(content(data={"sources": [{"kind": "isic", "path": path}]}))
    monkeypatch.setenv("here", "elsewhere")
    (tmp_path / "a$here").mkdir()
    source = {"kind": "isic", "path": str(tmp_path / "a$here")}
    assert parse(content(data={"sources": [source]})).data.sources[0].path == tmp_path / "a$here"


def test_paths_that_are_not_utf8_survive_being_written(tmp_path: Path) -> None:
    recipe = parse(content(data={"sources": [{"kind": "folder", "path": "/x/\udce9"}]}))
    (tmp_path / "r.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load(tmp_path / "r.yaml") == recipe
    assert load(tmp_path / "r.yaml", ["data.sources.0.path=/y/\udce9"]).data.sources[0].path == Path("/y/\udce9")
    assert fingerprint(recipe)


# Overrides


def test_overrides_reach_every_depth() -> None:
    before = content(search={"stages": [{"depth": 4}, {"depth": 5}]})
    after = apply_overrides(
        before,
        [
            "seed=3",
            "train.lr=1e-2",
            "search.stages.1.epochs=7",
            "data.sources.0.name=mine",
            "space.double_down_channel=false",
            "search.stages.0={depth: 3, keep: {down: 2}}",
            "note=a = b",
        ],
    )
    recipe = parse(after)
    assert (recipe.seed, recipe.train.lr, recipe.note) == (3, 1e-2, "a = b")
    assert [(s.depth, s.epochs) for s in recipe.search.stages] == [(3, 80), (5, 7)]
    assert recipe.search.stages[0].keep == {"down": 2}
    assert recipe.data.sources[0].name == "mine"
    assert isinstance(recipe.space, NasWdanSettings)
    assert recipe.space.double_down_channel is False
    assert before == content(search={"stages": [{"depth": 4}, {"depth": 5}]})


def test_later_overrides_win() -> None:
    assert apply_overrides({}, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "'seed' is not a change to a recipe. Write key.path=value."),
        ("=3", "'=3' is not a change to a recipe"),
        ("note=[a", "The value of 'note=[a' is not YAML"),
        ("seed.x=3", "'seed' has no keys below it"),
        ("data.sources.1.name=x", "there is no item '1'. Use 0 to 0."),
        ("data.sources.first.name=x", "there is no item 'first'"),
        ("data.sources.-1.name=x", "there is no item '-1'"),
        ("data.sources.1=x", "there is no item '1'"),
        ("search.stages.2.accumulate=2", "there is no item '2'. Use 0 to 1."),
        (
            "search.stages.0.acumulate=2",
            "search.stages.0.acumulate is not a key of a recipe. Did you mean 'accumulate'?",
        ),
        ("search.stages.0.accumulate=0", "search.stages.0.accumulate: "),
        ("train.epoch=3", "train.epoch is not a key of a recipe. Did you mean 'epochs'?"),
    ],
)
def test_overrides_that_do_not_work(override: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(apply_overrides(content(seed=0), [override]))
    assert says in str(caught.value)
    assert "0 to -1" not in str(caught.value)


# Paths


def test_variables_and_home_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDARTS_DATA", "/big/disk")
    monkeypatch.setenv("HOME", "/home/me")
    sources = [
        {"kind": "isic", "path": "$MEDARTS_DATA/isic"},
        {"kind": "cvc", "path": "${MEDARTS_DATA}/cvc"},
        {"kind": "folder", "path": "~/x"},
    ]
    recipe = parse({"data": {"sources": sources}})
    assert [str(s.path) for s in recipe.data.sources] == ["/big/disk/isic", "/big/disk/cvc", "/home/me/x"]


@pytest.mark.parametrize("path", ["$NOT_SET_HERE/isic", "${NOT_SET_HERE}/isic", "/a/$NOT_SET_HERE", "${NOT_SET_HERE}x"])
def test_a_variable_that_is_not_set_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    with pytest.raises(RecipeError, match=r"data.sources.0.path uses \$NOT_SET_HERE, which is not set") as caught:
        parse({"data": {"sources": [{"kind": "isic", "path": path}]}})
    assert "export NOT_SET_HERE=" in caught.value.fix


def test_the_cache_is_expanded_like_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert str(parse(content(data={"cache": "~/cache"})).data.cache) == "/home/me/cache"


# Fingerprints


def test_fingerprint_ignores_note_machine_and_folders() -> None:
    recipe = parse(content())
    other = parse(content(note="x", data={"cache": "/elsewhere"}, compute={"device": "cpu", "threads": 2}))
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(recipe))
    assert fingerprint(other) == fingerprint(recipe)


CHANGES: list[Callable[[], dict[str, Any]]] = [
    lambda: content(seed=1),
    lambda: content(data={"size": 128}),
    lambda: content(data={"augmentation": {"flip": False}}),
    lambda: content(data={"sources": [{"kind": "folder", "path": "/data/x", "name": "other"}]}),
    lambda: content(space={"init_channel": 8}),
    lambda: content(search={"mixing": {"alpha": 1}}),
    lambda: content(search={"stages": [{"depth": 4}]}),
    lambda: content(derive={"paths": "all"}),
    lambda: content(train={"lr": 4.1e-3}),
    lambda: content(train={"finetune_lr": 0.5}),
    lambda: content(prune={"steps": 2}),
    lambda: content(budget={"flops": 1e9}),
    lambda: content(search={"relaxation": "sigmoid"}),
    lambda: content(space={"choices": {"depth": [3]}}),
    lambda: content(evaluation={"threshold": 0.4}),
    lambda: content(compute={"precision": "bf16"}),
]


def test_fingerprint_without_seed_ignores_the_seed_alone() -> None:
    first, *others = [fingerprint_without_seed(parse(change())) for change in CHANGES]
    assert first == fingerprint_without_seed(parse(content()))
    assert len({first, *others}) == len(CHANGES)


def test_fingerprint_changes_with_everything_else() -> None:
    prints = [fingerprint(parse(change())) for change in CHANGES]
    assert len({fingerprint(parse(content())), *prints}) == len(CHANGES) + 1


def test_a_key_of_later_versions_takes_part_where_it_is_set_alone() -> None:
    """So that a run of before such a key can be resumed."""
    values = deciding_values(parse(content()))
    assert values.keys().isdisjoint({"prune", "budget"})
    assert "relaxation" not in values["search"]
    assert "finetune_lr" not in values["train"]
    assert "choices" not in values["space"]
    written = {"name": "softmax"}  # the default in full is still the default
    assert deciding_values(parse(content(search={"relaxation": written}))) == values
    changed = deciding_values(parse(content(search={"relaxation": "sigmoid"})))
    assert changed["search"]["relaxation"]["name"] == "sigmoid"


# What is handed out


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_recipes_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDARTS_DATA", "MEDARTS_PHANTOMS"):
        monkeypatch.setenv(name, "/data")
    study = load_study(path) if is_study(path) else None
    recipe = load(path) if study is None else study.recipe
    assert path.read_text(encoding="utf-8").startswith("#"), "says what it reproduces"
    assert recipe.note if study is None else study.note
    assert all(source.path.is_absolute() for source in recipe.data.sources)


def test_there_are_ready_recipes() -> None:
    assert {"mixsearch-cpu", "isic-cpu", "benchmark-cpu"} <= {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize(
    ("batch", "accumulate", "at_once"), [(12, 1, 12), (12, 5, 3), (12, 7, 2), (12, 12, 1), (7, 2, 4), (1, 1, 1)]
)
def test_images_at_once(batch: int, accumulate: int, at_once: int) -> None:
    changes = [f"{key}={{batch: {batch}, accumulate: {accumulate}}}" for key in ("search.stages.0", "train")]
    recipe = parse(apply_overrides(content(), changes))
    assert recipe.search.stages[0].images_at_once == recipe.train.images_at_once == at_once


@pytest.mark.parametrize("section", ["search.stages.1", "train"])
def test_more_parts_than_images_are_refused(section: str) -> None:
    message = refused(apply_overrides(content(), [f"{section}.batch=4", f"{section}.accumulate=5"]))
    assert message == (
        f"my.yaml: {section}: accumulate 5 makes more parts than the batch has images; use 1 to 4, or a larger batch."
    )


def test_an_override_reaches_into_a_list_that_stands_in_the_defaults_alone() -> None:
    content = apply_overrides({"data": {"sources": [{"kind": "folder", "path": "x"}]}}, ["search.stages.1.epochs=3"])
    assert [stage.epochs for stage in parse(content).search.stages] == [80, 3]


def test_folders_become_absolute_and_leave_the_fingerprint_alone(tmp_path: Path) -> None:
    here, there = (parse({"data": {"sources": [{"kind": "folder", "path": path}]}}) for path in ("x", str(tmp_path)))
    assert here.data.sources[0].path.is_absolute()
    assert fingerprint(here) == fingerprint(there)


@pytest.mark.parametrize("name", ["a/b", "../up", "all", "mean of data sets", ""])
def test_names_that_cannot_be_folders_or_are_rows_of_tables_are_refused(name: str) -> None:
    message = refused(content(data={"sources": [{"kind": "folder", "path": "/d", "name": name}]}))
    assert "data" in message


def test_numbers_can_be_notes_and_names() -> None:
    assert parse(apply_overrides(content(), ["note=123", "data.sources.0.name=2017"])).note == "123"


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("search", {"lr": 1e-3, "lr_min": 1e-2}, "lr_min 0.01 is above lr 0.001"),
        ("train", {"lr": 1e-3, "lr_min": 1e-2}, "lr_min 0.01 is above lr 0.001"),
        ("train", {"epochs": 3, "warmup_epochs": 3}, "leave nothing of 3 epochs"),
    ],
)
def test_values_that_cannot_train_are_refused(section: str, values: dict[str, float], says: str) -> None:
    assert says in refused(content(**{section: values}))


# Baselines


@pytest.mark.parametrize("name", registry.models.names())
def test_a_model_is_its_name_or_a_section(name: str) -> None:
    alone = parse(content(train={"model": name}))
    assert alone.train.model == registry.models.choose(name)
    assert parse(yaml.safe_load(to_yaml(alone))) == alone
    assert fingerprint(alone) != fingerprint(parse(content()))


def test_models_are_changed_from_the_command_line() -> None:
    whole = yaml.safe_load(to_yaml(parse(content())))  # with train.model: null
    changes = ["train.model.name=unet", "train.model.width=16"]
    assert parse(apply_overrides(whole, changes)).train.model == UNetSettings(width=16)
    other = apply_overrides(content(train={"model": {"name": "r2unet", "steps": 3}}), ["train.model={name: unet}"])
    assert parse(other).train.model == UNetSettings()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("unett", "train.model.name cannot be 'unett'. Did you mean 'unet'?"),
        ({"name": "unet", "steps": 2}, "train.model.steps is not a key of a recipe. Valid here: depth, name, width."),
        ({"name": "r2unet", "step": 2}, "train.model.step is not a key of a recipe. Did you mean 'steps'?"),
        ({"name": "unet", "width": "wide"}, "train.model.width: "),
        ({"width": 16}, "train.model"),
    ],
)
def test_models_that_do_not_exist_are_refused(model: Any, says: str) -> None:
    assert says in refused(content(train={"model": model}))
