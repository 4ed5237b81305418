"""The verbs of ``import medarts`` on objects: what they take for data, and what they leave as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import medarts
from medarts.comparison.candidates import group_runs
from medarts.comparison.overlays import predict_overlays
from medarts.config.study import Study
from medarts.data.store import ImageStore
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import signed

RECIPE: dict[str, Any] = {
    "space": {"name": "nas-wdan", "init_channel": 4, "double_down_channel": False},
    "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0},
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}
IMAGES = np.random.default_rng(0).integers(0, 255, (30, 32, 32)).astype(np.uint8)
MASKS = IMAGES > 128


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A training on a pair of arrays."""
    return medarts.train(None, RECIPE, data=(IMAGES, MASKS), out=tmp_path_factory.mktemp("api") / "unet")


def contents(run: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(MASKS)),
        [torch.from_numpy(IMAGES), torch.from_numpy(MASKS)],
        medarts.from_arrays(IMAGES, MASKS),
    ],
    ids=["data set", "tensors", "store"],
)
def test_images_in_memory_may_be_given_in_any_form(trained: RunDirectory, data: Any) -> None:
    medarts.evaluate(trained, data=data)
    # They are those of the run, as their fingerprint tells.
    assert [folder.name for folder in (trained.path / "scores").iterdir()] == ["test"]


@pytest.mark.parametrize("data", [IMAGES, 3, [], (IMAGES, "blobs"), {"images": IMAGES}])
def test_other_data_are_refused_in_every_verb(trained: RunDirectory, tmp_path: Path, data: Any) -> None:
    accepted = r"data is .*Give folders, names of data sets, or images in memory: from_arrays"
    out = tmp_path / "run"
    for verb in (
        lambda: medarts.search(RECIPE, data=data, out=out),
        lambda: medarts.train("unet", RECIPE, data=data, out=out),
        lambda: medarts.resume(trained, data=data),
        lambda: medarts.evaluate(trained, data=data),
    ):
        with pytest.raises(medarts.MedartsError, match=accepted):
            verb()
    assert not out.exists()


def test_a_list_of_names_stays_one(trained: RunDirectory) -> None:
    for data in ("nowhere", Path("nowhere"), ["nowhere"], ("nowhere", Path("elsewhere"))):
        with pytest.raises(medarts.MedartsError, match="nowhere"):
            medarts.evaluate(trained, data=data)
    with pytest.raises(medarts.MedartsError, match="is on its own data sets"):
        medarts.resume(trained, data="nowhere")


def test_a_data_set_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = []

    class Items(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    def start(recipe: Any, folder: Path, *, data: ImageStore, **_: Any) -> int:
        return len(data.images)

    monkeypatch.setattr("medarts.pool.search.start_search", start)
    data = Items(torch.from_numpy(IMAGES), torch.from_numpy(MASKS))
    assert medarts.search(RECIPE, data=data, out=tmp_path / "run") == 30
    assert read == list(range(30))


def test_a_finished_training_on_arrays_is_left_as_it_is(trained: RunDirectory) -> None:
    before = contents(trained)
    medarts.resume(trained)
    assert contents(trained) == before


def test_a_finished_search_on_arrays_is_left_as_it_is(tmp_path: Path) -> None:
    run = medarts.search(RECIPE, data=(IMAGES, MASKS), out=tmp_path / "search")
    before = contents(run)
    medarts.resume(run)
    assert contents(run) == before


@pytest.mark.usefixtures("nothing_exported")
def test_a_cost_that_cannot_be_read_is_measured_again(
    trained: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medarts.api._PASSES", 2)
    monkeypatch.setattr("medarts.reporting.page.write_report", lambda path: path)
    cost = trained.path / "cost.json"
    medarts.report(trained)
    assert "cannot be read" not in capsys.readouterr().err
    right = trained.read_json("cost.json")
    written = cost.read_bytes()
    medarts.report(trained)
    assert cost.read_bytes() == written
    for damaged in (b"", written[:40], written.replace(b'"flops": ', b'"flops": 1')):
        cost.write_bytes(damaged)
        medarts.report(trained)
        assert "cost.json cannot be read; the cost is measured again" in " ".join(capsys.readouterr().err.split())
        assert trained.read_json("cost.json")["flops"] == right["flops"]
    trained.write_json("cost.json", signed({"parameters": 3}))  # of an older version
    medarts.report(trained)
    assert trained.read_json("cost.json")["parameters"] == right["parameters"]


@pytest.mark.usefixtures("nothing_exported")
def test_runs_on_arrays_are_compared_on_them(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medarts.profiling.cost.peak_of_inference_mb", lambda *_, **__: 1.0)
    monkeypatch.setattr("medarts.comparison.costs.REPEATS", 2)
    monkeypatch.setattr("medarts.comparison.costs.usual_threads", lambda: (1,))
    monkeypatch.setattr("medarts.reporting.comparison.write_comparison", lambda found, folder: None)
    nested = {"name": "unetpp", "width": 4, "depth": 2}
    recipe = {**RECIPE, "train": {**RECIPE["train"], "model": nested}}
    other = medarts.train(None, recipe, data=(IMAGES, MASKS), out=tmp_path / "other")
    with pytest.raises(medarts.MedartsError, match="changed"):
        medarts.compare([trained, other], data=(IMAGES, ~MASKS), out=tmp_path / "changed")
    for run in (trained, other):
        medarts.evaluate(run, data=(IMAGES, MASKS))
    monkeypatch.setattr("medarts.evaluation.evaluate.evaluate", None)  # what is kept holds
    found = medarts.compare([trained, other], data=(IMAGES, MASKS), out=tmp_path / "comparison")
    assert len(found.networks["network"].unique()) == 2
    shown = [("arrays", found.images["image"].iloc[0])]
    overlays = predict_overlays(
        group_runs([trained.path]), shown, split="test", data=medarts.from_arrays(IMAGES, MASKS)
    )
    assert [masks.shape for masks in overlays.predictions] == [(1, *MASKS.shape[1:])]  # of one network


REFUSED: dict[str, tuple[Any, str]] = {
    "no recipe": (lambda: medarts.search(None), "None is not a recipe"),
    "no recipe to plan": (lambda: medarts.plan(3), "3 is not a recipe"),
    "no run": (lambda: medarts.resume(None), "None is not a run"),
    "no run to compare": (lambda: medarts.compare(None), "None is not a run"),
    "no study": (lambda: medarts.benchmark(None), "None is not a study"),
    "changes of a study that has been read": (
        lambda: medarts.benchmark(Study.model_construct(), changes="recipe.seed=1"),
        r"^'recipe\.seed=1' would change a study that has been read",
    ),
    "changes of a study in its folder": (
        lambda: medarts.generalize(Path(), changes="recipe.seed=1"),
        r"^'recipe\.seed=1' would change the study of \., which has been trained",
    ),
    "no folder": (lambda: medarts.doctor(None), "None is not a folder"),
    "no network": (medarts.cost, r"No network is given\. Valid here: .*unet"),
    "None as a network": (lambda: medarts.cost(None), "No network is given"),
    "size in words": (lambda: medarts.cost("unet", size="small", repeats=0), "^size is 'small'"),
    "a figure of one": (lambda: medarts.cost("unet", figure="x.png"), "^A figure compares networks"),
    "a figure of another kind": (lambda: medarts.cost("unet", "unetpp", figure="x.jpg"), "^figure is 'x.jpg'"),
    "a figure of counts": (lambda: medarts.cost("unet", "unetpp", figure="x.png", repeats=0), "repeats is 0"),
    "nothing to train": (lambda: medarts.train(None, RECIPE | {"train": {}}, data=(IMAGES, MASKS)), "No network to"),
    "no data": (lambda: medarts.train("unet"), "Give data, or a recipe"),
    "data that are no section": (lambda: medarts.search({"data": 3}, data=(IMAGES, MASKS)), "recipe: data: .*given: 3"),
    "changes in another form": (
        lambda: medarts.search(RECIPE, data=(IMAGES, MASKS), changes=None),
        "^None is not a change",
    ),
    "numbers as changes": (lambda: medarts.search(RECIPE, data=(IMAGES, MASKS), changes=[3]), "^3 is not a change"),
    "a change of a network": (lambda: medarts.cost("unet", changes=[3], repeats=0), "^3 is not a change"),
    "no genotype": (lambda: medarts.show(None), "None is not a genotype"),
    "no genotype to load": (lambda: medarts.load_genotype(None), "None is not a genotype"),
    "no architecture": (lambda: medarts.create_model(None), "None is not a network"),
    "a change of nothing": (lambda: medarts.search(RECIPE, data=(IMAGES, MASKS), changes="a=b"), "a is not a key of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_clear_error(name: str) -> None:
    call, problem = REFUSED[name]
    with pytest.raises(medarts.MedartsError, match=problem):
        call()


def test_there_are_two_kinds_of_runs(trained: RunDirectory) -> None:
    with pytest.raises(medarts.MedartsError, match=r"no kind of run 'serach'\. Did you mean 'search'"):
        medarts.resume(trained, kind="serach")


def test_splits_and_heads_have_names(trained: RunDirectory) -> None:
    with pytest.raises(medarts.MedartsError, match=r"no split 'None'\. Valid here: all"):
        medarts.evaluate(trained, data=(IMAGES, MASKS), split=None)
    with pytest.raises(medarts.MedartsError, match="no head 4"):
        medarts.evaluate(trained, data=(IMAGES, MASKS), head=4)


def test_one_change_is_a_text_and_one_number_a_number(tmp_path: Path) -> None:
    (found,) = medarts.cost("unet", changes="model.width=8", batches=1, threads=1, size=32, repeats=0).values()
    assert found.parameters == 541929
    run = medarts.train("unet", RECIPE, data=(IMAGES, MASKS), changes="note=mine", out=tmp_path / "run")
    assert run.recipe.note == "mine"


@pytest.mark.usefixtures("nothing_exported")
def test_the_file_of_a_figure_may_be_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.profiling.cost.peak_of_inference_mb", lambda *_, **__: 1.0)
    figure = tmp_path / "new" / "costs.svg"
    medarts.cost("unet", "unetpp", changes=["model.width=2"], size=32, threads=1, repeats=2, figure=str(figure))
    assert figure.read_text().lstrip().startswith("<")


@pytest.mark.parametrize("verb", [medarts.search, lambda *a, **k: medarts.train("unet", *a, **k), medarts.plan])
def test_images_in_memory_need_those_to_validate_on(verb: Any) -> None:
    data = medarts.from_arrays(IMAGES, MASKS, fractions=(0.0, 0.2))
    with pytest.raises(medarts.MedartsError, match=r"No image of arrays is in the split 'val'\. Give some images"):
        verb(RECIPE, data=data)


def test_images_in_memory_are_planned_as_those_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    planned = medarts.plan(RECIPE, data=(IMAGES, MASKS))
    assert [stage.images_at_once for stage in planned.stages] == [4]
    assert planned.training.parameters == medarts.cost("unet", changes=["model.width=4", "model.depth=2"],
        in_channels=1, repeats=0, size=32)["unet"].parameters  # fmt: skip
    assert [*tmp_path.rglob("*")] == [tmp_path / "temporary"]
    with pytest.raises(medarts.MedartsError, match="'nowhere' is neither a data set"):
        medarts.plan(RECIPE, data="nowhere")


def test_a_baseline_that_the_recipe_names_keeps_its_options(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    model = {"name": "unet", "width": 4, "depth": 2}
    recipe = {"train": {"epochs": 1, "batch": 4, "model": model}}
    run = medarts.train("unet", recipe, data=(images, images > 127), out=tmp_path / "run")
    assert run.recipe.train.model.width == 4
    other = medarts.train(
        "unetpp", recipe, data=(images, images > 127), changes=["train.model.width=5"], out=tmp_path / "b"
    )
    assert (other.recipe.train.model.name, other.recipe.train.model.width) == ("unetpp", 5)
