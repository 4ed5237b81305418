"""The file of a study: what it says, what it may leave out, and how its mistakes are named."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medarts.config import Recipe, to_yaml
from medarts.config.reading import first_difference
from medarts.config.study import GroupEntry, NetworkEntry, Study, group_recipe, load_study, search_recipe, study_to_yaml
from medarts.errors import RecipeError

STUDY = """
note: a small one
recipe:
  data:
    sources:
      - {kind: folder, path: /data/a, name: a}
      - {kind: folder, path: /data/b, name: b}
      - {kind: folder, path: /data/c, name: c}
    size: 32
  search:
    stages: [{depth: 3, epochs: 5, batch: 4}]
networks:
  - {name: mix, searched_on: [a, b], changes: ["search.stages.0.epochs=20"]}
  - {genotype: layer7_double_deep, parameters: unet}
  - {random: 3, like: mix}
  - {model: {name: unet, width: 16}}
  - {model: unetpp}
trained_on:
  - {data: [a], seeds: [0, 1]}
  - {data: [b, a], networks: [random, mix]}
external: [c]
reference: mix
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path / "study.yaml"


def test_says_which_networks_are_trained_on_what(path: Path) -> None:
    study = load_study(path)
    names = ("mix", "layer7_double_deep", "random-1", "random-2", "random-3", "unet", "unetpp")
    first, second = study.trained_on
    assert study.names == study.networks_of(first) == names
    assert (first.name, first.data, first.seeds) == ("a", ("a",), (0, 1))
    assert (second.name, second.data, second.seeds) == ("b-a", ("b", "a"), (0,))
    assert study.networks_of(second) == ("mix", "random-1", "random-2", "random-3")
    assert [study.entry_of(name).name for name in ("random-2", "random", "unet")] == ["random", "random", "unet"]
    assert study.entry_of("unet").model.width == 16
    assert study.entry_of("unetpp").model.width == 64
    assert (study.domains, study.external, study.reference) == (("a", "b", "c"), ("c",), "mix")


def test_recipes_of_groups_and_searches(path: Path) -> None:
    study = load_study(path, ["trained_on.1.changes=['train.lr=0.5', data.sampling=equal]"])
    recipe = group_recipe(study, study.trained_on[1], seed=7)
    assert [source.domain for source in recipe.data.sources] == ["a", "b"]
    assert (recipe.seed, recipe.train.lr, recipe.data.sampling) == (7, 0.5, "equal")
    searched = search_recipe(study, "mix")
    assert [source.domain for source in searched.data.sources] == ["a", "b"]
    assert searched.search.stages[0].epochs == 20
    assert (searched.train, searched.data.size) == (study.recipe.train, 32)


def test_searches_of_a_study_keep_to_its_budget_and_norm(path: Path) -> None:
    def searched(changes: str, budget: str = "{flops: 1e9}") -> Recipe:
        networks = f"[{{name: mix, searched_on: [a], changes: {changes}}}]"
        given = [
            f"networks={networks}",
            "trained_on=[{data: [a]}]",
            f"recipe.budget={budget}",
            "recipe.train.norm=batch",
        ]
        return search_recipe(load_study(path, given), "mix")

    same, smaller = searched("[]"), searched("[data.size=16]")
    assert (same.budget.size, same.data.size) == (None, 32), "as in searches of older studies"
    assert (smaller.budget.size, smaller.data.size, smaller.budget.flops) == (32, 16, 1e9)
    assert searched("[data.size=16]", "{flops: 1e9, size: 64}").budget.size == 64
    for change in ("budget.parameters=90000", "'budget={}'", "train.norm=group", "'train={epochs: 3}'"):
        with pytest.raises(
            RecipeError, match=r"networks\.0: changes cannot set .*, as recipe\.budget gives all networks"
        ):
            searched(f"[{change}]")
    own = searched("[train.norm=group, budget.flops=2]", "{}")
    assert (own.train.norm, own.budget.flops) == ("group", 2)
    with pytest.raises(RecipeError, match=r"norms of kind group .* with batch"):
        searched("[train.norm=group, search.method=random]", "{}")


def test_changes_of_the_command_line(path: Path) -> None:
    changes = ["recipe.train.epochs=3", "recipe.search.stages.0.epochs=2", "reference=unet", "networks.3.model.width=8"]
    study = load_study(path, changes)
    assert (study.recipe.train.epochs, study.recipe.search.stages[0].epochs) == (3, 2)
    assert (study.reference, study.entry_of("unet").model.width) == ("unet", 8)
    with pytest.raises(RecipeError, match=re.escape("Write recipe.train.epochs=3.")):
        load_study(path, ["train.epochs=3"])


def test_the_recipe_can_be_a_file_beside_the_study(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inline = load_study(path)
    content = yaml.safe_load(STUDY)
    (path.parent / "recipes").mkdir()
    (path.parent / "recipes" / "small.yaml").write_text(to_yaml(inline.recipe))
    path.write_text(yaml.safe_dump({**content, "recipe": "recipes/small.yaml"}))
    monkeypatch.chdir("/")
    assert load_study(path) == inline
    assert load_study(path, ["recipe.seed=4"]).recipe.seed == 4
    with pytest.raises(RecipeError, match=r"small.yaml: trian is not a key of a recipe. Did you mean 'train'"):
        load_study(path, ["recipe.trian=4"])


def test_genotypes_lie_beside_the_study_or_in_the_zoo(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "runs" / "v1.5").mkdir(parents=True)
    (path.parent / "found.json").touch()
    monkeypatch.chdir("/")
    monkeypatch.setenv("RUNS", "runs")
    entries = "[{genotype: $RUNS/v1.5}, {genotype: found.json}, {genotype: darts_v2}, {genotype: gone/genotype.json}]"
    study = load_study(path, [f"networks={entries}", "reference=null", "trained_on=[{data: a}]"])
    assert study.names == ("v1.5", "found", "darts_v2", "gone")
    assert [entry.genotype for entry in study.networks[:2]] == [
        str(path.parent / name) for name in ("runs/v1.5", "found.json")
    ]
    assert [entry.genotype for entry in study.networks[2:]] == ["darts_v2", "gone/genotype.json"]
    with pytest.raises(RecipeError, match=re.escape("networks.0.genotype uses $NOT_SET, which is not set")):
        load_study(path, ["networks=[{genotype: $NOT_SET/x}]"])


def test_what_is_written_is_read_back_from_anywhere(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path.parent / "mine").mkdir()
    study = load_study(path, ["networks.1.genotype=mine"])
    written = tmp_path / "elsewhere" / "study.yaml"
    written.parent.mkdir()
    written.write_text(study_to_yaml(study), encoding="utf-8")
    monkeypatch.chdir("/")
    assert study_to_yaml(load_study(written)) == study_to_yaml(study)
    assert (load_study(written).file, study.file) == (str(written), str(path))


def test_every_option_is_explained_where_it_stands() -> None:
    for section in (NetworkEntry, GroupEntry, Study):
        for name in section.model_fields:
            assert re.search(rf"^\s+{name}: ", section.__doc__, re.MULTILINE), f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("nots=x", "nots is not a key of a study. Did you mean 'note'?"),
        ("networks.3.model.widht=3", "networks.3.model.widht is not a key of a study. Did you mean 'width'?"),
        ("networks.3.model.name=unett", "networks.3.model.name cannot be 'unett'. Did you mean 'unet'?"),
        ("networks.3.model.width=one", "networks.3.model.width: .*integer"),
        ("networks.3.model={width: 3}", ".*networks.3.model.name is missing"),
        ("networks.3.model=chexnet", "networks.3.model: chexnet is for images with findings, but the recipe has masks"),
        ("networks.3.genotype=darts_v2", "networks.3: .*exactly one of.* model and genotype are given"),
        ("networks.3={name: x}", "networks.3: .*exactly one of.* none is given"),
        (
            "networks.3.parameters=9",
            "networks.3: init_channel and parameters .*; model has its own width",
        ),
        ("networks.2.init_channel=4", "networks.2: init_channel and parameters are for genotypes"),
        ("networks.1.init_channel=4", "networks.1: init_channel and parameters exclude each other"),
        ("networks.1.changes=[seed=1]", "networks.1: changes are for a network that is searched_on"),
        ("networks.1.parameters=unett", "networks.1.parameters: there is no network 'unett'. Did you mean 'unet'?"),
        ("networks.1.parameters=random", "networks.1.parameters: 'random' takes its own size from another network"),
        ("networks.1.parameters=layer7_double_deep", "networks.1.parameters: 'layer7_double_deep' takes its own size"),
        ("networks.0.parameters=layer7_double_deep", "networks.0.parameters: 'layer7_double_deep' takes its own size"),
        ("networks.2.like=random", "networks.2.like: 'random' is not a single genotype"),
        ("networks.2.like=unet", "networks.2.like: 'unet' is not a single genotype"),
        ("networks.2.like=null", "networks.2: random and like go together"),
        ("networks.0.searched_on=[a, d]", "networks.0.searched_on: there is no data set 'd'. Valid here: a, b, c"),
        ("networks.0.searched_on=c", "networks.0.searched_on: 'c' is external, so it is only ever tested on"),
        ("networks.0.changes=[search.lrr=1]", "networks.0.changes: search.lrr is not a key of a recipe"),
        ("networks.0.changes=[search.stages.4.epochs=1]", "networks.0.changes: .*there is no item '4'"),
        ("networks.0.name=a/b", "networks.0.name cannot be .*letters"),
        ("networks.4.name=unet", "networks: two are called 'unet'"),
        ("networks.4.name=random-2", "networks: two are called 'random-2'"),
        ("networks.4.name=random", "networks: two are called 'random'"),
        ("trained_on.1.name=a", "trained_on: two are called 'a'"),
        ("trained_on.0.data=[a, a]", "trained_on.0: data names a twice"),
        ("trained_on.0.data=[d]", "trained_on.0.data: there is no data set 'd'"),
        ("trained_on.0.data=[c]", "trained_on.0.data: 'c' is external"),
        ("trained_on.0.seeds=[1, 1]", "trained_on.0: seeds names 1 twice"),
        ("trained_on.0.seeds=[-1]", "trained_on.0.seeds.0: .*greater than or equal to 0"),
        ("trained_on.0.seeds=[]", "trained_on.0.seeds: .*at least 1 item"),
        ("trained_on.0.networks=[mixx]", "trained_on.0.networks: there is no network 'mixx'. Did you mean 'mix'?"),
        ("trained_on.0.changes=[seed=1]", "trained_on.0: changes cannot set seed"),
        ("trained_on.0.changes=['data.sources.0.path=/x']", "trained_on.0: changes cannot set data.sources"),
        ("trained_on.0.changes=[space.init_channel=8]", "trained_on.0: changes cannot set space"),
        ("trained_on.0.changes=['train.model=unet']", "trained_on.0: changes cannot set train.model"),
        ("trained_on.0.changes=[data.size=64]", "trained_on.0: changes cannot set data.size: .* data.sampling and"),
        ("trained_on.0.changes=['data={size: 64}']", "trained_on.0: changes cannot set data:"),
        ("trained_on.0.changes=[evaluation.threshold=0.3]", "trained_on.0: changes cannot set evaluation.threshold"),
        ("trained_on.0.changes=[train.epoch=1]", "trained_on.0.changes: train.epoch is not a key of a recipe"),
        ("trained_on.0.changes=[train.lr]", "trained_on.0.changes: 'train.lr' is not a change to a recipe"),
        ("external=[d]", "external: there is no data set 'd'"),
        ("reference=randum", "reference: there is no network 'randum'. Did you mean 'random"),
        ("networks.1.like=mix", "networks.1: random and like go together"),
        ("networks.0.method=ways", "networks.0.method: no other network has the method 'ways'"),
        ("networks.0.method=random", "networks.0.method: 'random' is the name of a network"),
        ("networks.2.method=ways", "networks.2: method is for single networks; those of 'random' are one method"),
        ("networks.1.search_seeds=[0, 1]", "networks.1: search_seeds are for a network that is searched_on"),
        ("networks.0.search_seeds=[3, 3]", "networks.0: search_seeds names 3 twice"),
        (
            "networks.0={searched_on: a, search_seeds: [3, 4], changes: [seed=1]}",
            "networks.0: changes and search_seeds",
        ),
        ("networks.0.search_seeds=[0, 1]", "networks.2.like: 'mix' is not a single genotype"),
        (
            "networks.3.train=[train.epochs=3]",
            "networks.3: train cannot change train.epochs: .*its own optimizer, lr, .*, compute.precision, as",
        ),
        ("networks.3.train=[train.lrr=3]", "networks.3: train cannot change train.lrr"),
        ("networks.3.train=[train.lr=x]", "networks.3.train: train.lr: .*number"),
        ("trained_on.0.changes=[budget.flops=9]", "trained_on.0: changes cannot set budget.flops"),
        ("recipe.budget.flops=1e9", "networks.1: parameters and recipe.budget exclude each other"),
        (
            "networks.0.changes=['search.method=pool', 'search.select.norms=[group]']",
            "networks.0.changes: .* norms of kind group .* trains all networks with None",
        ),
        ("recipe.train.epoch=3", "recipe: train.epoch is not a key of a recipe"),
        ("recipe=null", "recipe: .*given: None"),
        (
            "recipe.data.sources.2.path=/data/x/../a",
            "recipe.data.sources.2: 'c' and 'a' are the same images, /data/x/../a; keep one of them",
        ),
        ("networks=[]", "networks: .*at least 1 item"),
    ],
)
def test_mistakes_are_named_with_file_and_field(path: Path, change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{re.escape(str(path))}: {says}") as caught:
        load_study(path, [change])
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_key_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"There is no study .*gone.yaml"):
        load_study(tmp_path / "gone.yaml")
    with pytest.raises(RecipeError, match=r"There is no recipe .*gone.yaml"):
        load_study(path, ["recipe=gone.yaml"])
    path.write_text("note: x")
    with pytest.raises(RecipeError, match=r"recipe is missing. Add it.; networks is missing. Add it.; trained_on is"):
        load_study(path)


def test_difference_of_recipes(path: Path) -> None:
    def changed(*changes: str) -> Any:
        return load_study(path, changes).recipe

    recipe = changed()
    same = changed("recipe.note=x", "recipe.compute.threads=3", "recipe.data.sources.0.path=/elsewhere")
    assert first_difference(recipe, same) is None
    assert first_difference(recipe, changed("recipe.train.epochs=3")) == ("train.epochs", "1600", "3")
    other = changed("recipe.search.stages=[{depth: 3, epochs: 5, batch: 4}, {depth: 4}]")
    field, one, two = first_difference(recipe, other)
    assert (field, one) == ("search.stages.1", "not given")
    assert "'depth': 4" in two
    modelled = changed("recipe.train.model=unet")
    assert first_difference(modelled, recipe) == ("train.model", "{'depth': 5, 'name': 'unet', 'width': 64}", "None")
    assert first_difference(recipe, other, without=("search",)) is None


def test_a_recipe_is_no_study(path: Path) -> None:
    path.write_text(to_yaml(load_study(path).recipe), encoding="utf-8")
    with pytest.raises(
        RecipeError, match=rf"^{re.escape(str(path))} is a recipe, not a study. Write a study that names it"
    ):
        load_study(path)


def test_what_is_valid_is_listed_once_for_several_wrong_keys(path: Path) -> None:
    path.write_text(f"{STUDY}\nxyzzy: 1\nqwertz: 2\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_study(path)
    assert str(caught.value).count("Valid here: ") == 1
    assert "xyzzy is not a key of a study. Valid here: external, " in str(caught.value)
    assert "; qwertz is not a key of a study." in str(caught.value)
