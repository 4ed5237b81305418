"""What of a recipe may change when a run goes on."""

from pathlib import Path

import pytest
import torch

from medarts.config import Recipe, apply_overrides, fingerprint, parse, to_yaml
from medarts.engine.changes import changed_recipe, consequences, go_on, with_its_threads
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, RunError
from medarts.system.place import Place
from medarts.system.ranks import Ranks, as_current

ENVIRONMENT = {"device": "cpu", "threads": 2, "torch": torch.__version__, "processes": 1}


def begin(path: Path, recipe: Recipe, kind: str) -> RunDirectory:
    return RunDirectory.create(
        path, recipe, kind=kind, data_fingerprint="x", files={"manifest.csv": "old"}, environment=ENVIRONMENT
    )


def edit(run: RunDirectory, *changes: str) -> None:
    content = apply_overrides(run.recipe.model_dump(mode="json"), changes)
    (run.path / "recipe.yaml").write_text(to_yaml(parse(content)))


@pytest.fixture
def search(tmp_path: Path, small_recipe: Recipe) -> RunDirectory:
    return begin(tmp_path / "search", small_recipe, "search")


@pytest.fixture
def train(tmp_path: Path, small_recipe: Recipe) -> RunDirectory:
    return begin(tmp_path / "train", small_recipe, "train")


def test_without_changes_there_are_none(search: RunDirectory, small_recipe: Recipe) -> None:
    before = (search.path / "run.json").read_bytes()
    assert changed_recipe(search, ()) == (small_recipe, [])
    go_on(search, small_recipe, [], manifest="new", environment=ENVIRONMENT, ways=())
    assert (search.path / "run.json").read_bytes() == before
    assert (search.path / "manifest.csv").read_text() == "old"


@pytest.mark.parametrize(
    "change",
    [
        "search.lr=0.5",
        "search.stages.1.epochs=9",
        "search.arch_lr=0.001",
        "data.size=64",
        "seed=3",
        "evaluation.batch=2",
        "train.epochs=7",
        "space.init_channel=8",
        "search.stages.0.accumulate=2",
    ],
)
def test_an_edited_recipe_is_named_with_both_values(search: RunDirectory, change: str) -> None:
    edit(search, change, "note=edited", "derive.paths=all")
    field, _, value = change.partition("=")
    with pytest.raises(RunError, match=rf"recipe\.yaml was edited .*{field}: .* -> {value}\b") as caught:
        changed_recipe(search, ())
    assert "derive.paths: " in str(caught.value)
    with pytest.raises(RunError, match=rf"edited .*{field}"):
        _ = search.recipe  # nor does anything else go by it
    with pytest.raises(RunError, match=rf"edited .*{field}"):
        changed_recipe(search, ["note=x"])


def test_what_does_not_decide_may_be_edited(search: RunDirectory, tmp_path: Path) -> None:
    edit(search, "note=x", "compute.tensorboard=true", f"data.sources.0.path={tmp_path}")
    recipe, changes = changed_recipe(search, ())
    assert (recipe.note, changes) == ("x", [])


ANY = ["data.sources.0.path=/data/new", "data.cache=/cache", "note=x", "compute.device=auto", "compute.threads=3",
       "compute.tensorboard=true", "compute.timeout=60"]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *((kind, change) for kind in ("search", "train") for change in ANY),
        ("search", "search.stages.0.accumulate=2"),
        ("search", "search.stages.1.accumulate=4"),
        ("search", "search.stages.1.epochs=9"),
        ("train", "train.accumulate=4"),
        ("train", "train.epochs=9"),
    ],
)
def test_changes_on_purpose_are_recorded(kind: str, change: str, request: pytest.FixtureRequest) -> None:
    run: RunDirectory = request.getfixturevalue(kind)
    run.finish()
    (run.checkpoints / "last-000001-000002-000000").mkdir(parents=True)
    recipe, changes = changed_recipe(run, [change])
    go_on(run, recipe, changes, manifest="new", environment=ENVIRONMENT, ways=())
    field, _, value = change.partition("=")
    (recorded,) = run.facts["changes"]
    assert (recorded["field"], str(recorded["after"]).lower(), recorded["position"]) == (field, value, [1, 2, 0])
    assert recorded["before"] != recorded["after"]
    assert run.recipe == recipe
    assert run.facts["recipe_fingerprint"] == fingerprint(recipe)
    assert (run.path / "manifest.csv").read_text() == "new"
    assert run.facts["finished"] is not field.endswith("epochs")
    assert changed_recipe(run, ()) == (recipe, [])
    assert changed_recipe(run, [change]) == (recipe, [])  # the same command again


def test_a_change_that_was_not_written_down_to_the_end_can_be_given_again(train: RunDirectory) -> None:
    """As after a kill between the two files."""
    edit(train, "train.epochs=9")
    with pytest.raises(RunError, match=r"train\.epochs: 2 -> 9"):
        changed_recipe(train, ())
    recipe, changes = changed_recipe(train, ["train.epochs=9"])
    assert recipe.train.epochs == 9
    assert [(change.before, change.after) for change in changes] == [(2, 9)]


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("search", "search.lr=0.5", r"cannot change search\.lr: 0\.025 -> 0\.5"),
        ("search", "train.epochs=9", r"cannot change train\.epochs: 2 -> 9"),
        ("search", "search.stages.0.epochs=9", "only the last stage of a started search can get more epochs"),
        ("search", "search.stages.1.epochs=1", "cannot get fewer epochs"),
        ("search", "search.stages.1.batch=2", r"cannot change search\.stages\.1\.batch: 4 -> 2"),
        ("train", "train.epochs=1", "cannot get fewer epochs"),
        ("train", "train.lr=0.5", r"cannot change train\.lr: 0\.004 -> 0\.5"),
        ("train", "search.stages.1.epochs=9", r"cannot change search\.stages\.1\.epochs"),
        ("train", "compute.precision=bf16", r"cannot change compute\.precision: 'fp32' -> 'bf16'"),
        ("train", "data.sources.0.name=other", r"cannot change data\.sources\.0\.name"),
    ],
)
def test_all_other_changes_are_refused_by_name(
    kind: str, change: str, says: str, request: pytest.FixtureRequest
) -> None:
    run: RunDirectory = request.getfixturevalue(kind)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match=says) as caught:
        changed_recipe(run, [change])
    assert caught.value.fix
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_change_that_is_none_is_refused(train: RunDirectory) -> None:
    with pytest.raises(RecipeError):
        changed_recipe(train, ["train.epoch=9"])


def test_the_number_of_threads_is_that_of_the_beginning(tmp_path: Path, small_recipe: Recipe) -> None:
    free = parse(apply_overrides(small_recipe.model_dump(mode="json"), ["compute.threads=0"]))
    run = begin(tmp_path / "free", free, "train")
    recipe, changes = changed_recipe(run, ())
    assert with_its_threads(run, recipe, changes).compute.threads == 2
    recipe, changes = changed_recipe(run, ["compute.threads=3"])
    assert with_its_threads(run, recipe, changes).compute.threads == 3
    several = Ranks()
    several.place = Place(0, 2, 0, 2)
    with as_current(several):  # two threads were those of a process that was alone
        assert with_its_threads(run, free, ()).compute.threads == 0


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, ""),
        ({"threads": 3}, "threads 2 (now 3)"),
        ({"processes": 2}, "processes 1 (now 2)"),
        ({"device": "cuda:0", "torch": "9.0"}, "device cpu (now cuda:0), torch"),
    ],
)
def test_another_environment_is_said(
    train: RunDirectory, small_recipe: Recipe, capsys: pytest.CaptureFixture[str], now: dict[str, object], said: str
) -> None:
    go_on(train, small_recipe, [], manifest="", environment=ENVIRONMENT | now, ways=())
    err = capsys.readouterr().err
    assert (said in err and "last digits" in err) if said else err == ""


def test_what_more_epochs_mean_for_the_schedule_is_said(train: RunDirectory, search: RunDirectory) -> None:
    recipe, changes = changed_recipe(train, ["train.epochs=4"])
    (line,) = consequences(recipe, changes, position=(1, 0))
    assert line == "train.epochs: 2 -> 4; from epoch 2 on the learning rate is that of a run of 4 epochs."
    recipe, changes = changed_recipe(search, ["search.stages.1.epochs=4"])
    (line,) = consequences(recipe, changes, position=(1, 1, 0))
    assert line.endswith("; from epoch 2 on the learning rate is that of a run of 4 epochs.")
    (line,) = consequences(recipe, changes, position=(0, 2, 0))
    assert "from epoch 1 on" in line
    recipe, changes = changed_recipe(train, ["train.accumulate=2"])
    assert "the same up to rounding" in consequences(recipe, changes, position=None)[0]
