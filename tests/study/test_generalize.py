"""A study from its data sets to its file: what is scored, what is kept, and what is listed as missing."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts import cli
from medarts.config import parse
from medarts.config.study import Study
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError
from medarts.evaluation import evaluate as module
from medarts.evaluation.evaluate import current_scores, evaluate
from medarts.metrics.ranking import auroc
from medarts.spaces.genotype import load_genotype
from medarts.study.benchmark import benchmark
from medarts.study.generalize import Generalization, generalize
from medarts.study.jobs import Layout, do
from medarts.study.plan import prepare

pytestmark = pytest.mark.usefixtures("nothing_rendered")


def write_discs(root: Path, *, seed: int, images: int = 16) -> Path:
    """Writes images of bright discs in the layout `folder`: a patient an image, half of them to train."""
    generator = np.random.default_rng(seed)
    rows = ["id,patient,split"]
    y, x = np.mgrid[:16, :16]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(images):
        centre, radius = generator.uniform(5, 11, 2), generator.uniform(2, 5)
        mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        image = generator.integers(0, 100 + 30 * seed, (16, 16)) + 100 * mask
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number:02d}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{number:02d}.png")
        part = "train" if number < images / 2 else "val" if number < 3 * images / 4 else "test"
        rows.append(f"{number:02d},p{number},{part}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def study_in(folder: Path, **changes: Any) -> Study:
    """A U-Net of a few weights, trained on a and on a and b, and tested on those and on x."""
    sources = [{"kind": "folder", "path": str(folder / name), "name": name} for name in "xab"]
    recipe = {
        "data": {"sources": sources, "size": 16, "in_channels": 1, "cache": str(folder / "cache")},
        "train": {"epochs": 2, "batch": 4, "optimizer": "adamw", "lr": 0.02},
        "evaluation": {"batch": 4, "bootstrap": 100},
        "compute": {"device": "cpu", "threads": 1},
    }
    content = {
        "note": "Discs.",
        "recipe": parse(recipe),
        "networks": [{"model": {"name": "unet", "width": 2, "depth": 2}}],
        "trained_on": [{"data": "a", "seeds": [0, 1]}, {"data": ["a", "b"]}],
        "external": ["x"],
    }
    return Study.model_validate(content | changes)


def train(study: Study, out: Path) -> Layout:
    """Trains a study in this process, which takes less time than processes of their own."""
    out.mkdir()
    plan = prepare(study, out)
    for step in plan.trainings:
        do(plan.job(step))
    return plan.layout


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    for seed, name in enumerate("abx"):
        write_discs(tmp_path / name, seed=seed)
    return tmp_path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The run and the data set of every evaluation from now on; of those that a run has of its own the run alone."""
    made: list[tuple[str, ...]] = []

    def watched(path: Path, **options: Any) -> Any:
        domains = [source.domain for source in options["sources"] or ()]
        made.append((path.parent.parent.name, *domains))
        return evaluate(path, **options)

    monkeypatch.setattr(module, "evaluate", watched)
    return made


def folder_of(run: Path, name: str) -> Path:
    """The newest folder of scores, with the digits of its images behind its name where it has some."""
    found = [*run.glob(f"scores/{name}"), *run.glob(f"scores/{name}-????????")]
    return max(found, key=lambda folder: (folder / "scores.json").stat().st_mtime_ns)


def test_every_run_is_scored_on_every_data_set(discs, evaluated):
    study, out = study_in(discs), discs / "out"
    layout = train(study, out)
    found = generalize(out)
    assert sorted(evaluated) == [("a", "b"), ("a", "b"), ("a", "x"), ("a", "x"), ("a-b", "x")]
    about = found.about
    assert (about["missing"], about["untested"], about["note"]) == ([], [], "Discs.")
    assert {name: (one["external"], one["images"]) for name, one in about["datasets"].items()} == {
        "a": (False, 4), "b": (False, 4), "x": (True, 16)  # whatever their split
    }  # fmt: skip
    sources = {source.domain: source for source in study.recipe.data.sources}
    means = found.tested.set_index(["group", "dataset"])["mean"]
    for group, seeds in (("a", (0, 1)), ("a-b", (0,))):
        for dataset, part in (("a", "test"), ("b", "test"), ("x", "all")):
            values = []
            for seed in seeds:
                run = RunDirectory(layout.training(group, "unet", seed).run)
                own = dataset in group.split("-")
                table = current_scores(run, part, sources=None if own else (sources[dataset],))
                values.append(table[(table.dataset == dataset) & (table.metric == "dice")].value.mean())
            chosen = found.seeds[(found.seeds.group == group) & (found.seeds.dataset == dataset)]
            assert [*chosen.value] == pytest.approx(values)
            assert means[group, dataset] == pytest.approx(np.mean(values))
    (contrast,) = found.contrasts[found.contrasts.dataset == "x"].itertuples()
    assert (contrast.claim, contrast.relation) == ("training", "external")
    assert contrast.difference == pytest.approx(means["a-b", "x"] - means["a", "x"])


def test_what_is_scored_is_not_scored_again(discs, evaluated):
    study, out = study_in(discs, trained_on=[{"data": "a"}]), discs / "out"
    layout = train(study, out)
    first = generalize(out)
    assert evaluated == [("a", "x"), ("a", "b")]
    assert generalize(out).tested.equals(first.tested)
    assert len(evaluated) == 2
    run = layout.training("a", "unet", 0).run
    (folder_of(run, "test-b") / "scores.json").write_text("{", encoding="utf-8")  # killed while it wrote
    mask = discs / "x" / "masks" / "03.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    os.utime(mask, ns=(0, 0))  # an older file than the scores
    second = generalize(out)
    assert evaluated[2:] == [("a", "x"), ("a", "b")]
    changed = first.tested[first.tested["mean"] != second.tested["mean"]]
    assert [*changed.dataset] == ["x"]
    splits = discs / "b" / "splits.csv"
    splits.write_text(splits.read_text().replace("p11,val", "p11,test"), encoding="utf-8")
    again = generalize(out)
    assert evaluated[4:] == [("a", "b")]
    assert [one["images"] for one in again.about["datasets"].values()] == [4, 5, 16]


def test_what_fails_is_listed(discs, capfd):
    """A training that diverges, and data sets that are not there or for which a run is not made."""
    groups = [
        {"data": "a"},
        {"data": "b", "name": "broken", "changes": ["train.lr=100", "train.weight_decay=100", "train.optimizer=sgd"]},
    ]
    study, out = study_in(discs, trained_on=groups), discs / "out"
    train(study_in(discs, trained_on=groups[:1]), out)
    shutil.rmtree(discs / "x")
    benchmark(study, out)
    found = generalize(out)
    (missing,) = found.about["missing"]
    assert (missing["group"], missing["network"], missing["seed"], missing["state"]) == ("broken", "unet", 0, "failed")
    assert "diverged" in missing["reason"]
    (untested,) = found.about["untested"]
    assert (untested["group"], untested["network"], untested["seed"], untested["dataset"]) == ("a", "unet", 0, "x")
    assert str(discs / "x") in untested["reason"]
    tested = found.tested[found.tested["mean"].notna()]
    assert {*zip(tested.group, tested.dataset, strict=True)} == {("a", "a"), ("a", "b")}


def test_what_is_not_trained_yet_is_listed_and_not_trained(discs, capsys):
    out = discs / "out"
    out.mkdir()
    plan = prepare(study_in(discs), out)
    do(plan.job(plan.trainings[0]))
    with pytest.raises(RecipeError, match="These arguments do not fit together"):
        cli.generalize(out, ("recipe.seed=1",))
    with pytest.raises(SystemExit) as ended:
        cli.generalize(out)
    assert ended.value.code == 1
    assert capsys.readouterr().out.endswith(f"{out / 'generalization' / 'report.html'}\n")
    found = Generalization.read(out / "generalization")
    missing = [(one["group"], one["seed"], one["state"]) for one in found.about["missing"]]
    assert missing == [("a", 1, "not started"), ("a-b", 0, "not started")]
    assert [*found.tested[found.tested.group == "a"].seeds] == [1, 1, 1]
    assert [run.name for run in (out / "runs").iterdir()] == ["a"]


def test_findings(tmp_path, table_data, finding_recipe):
    other = tmp_path / "other"
    shutil.copytree(table_data, other)
    small = tmp_path / "small.json"
    load_genotype("darts_v2").with_settings(layers=4, init_channel=4).save(small)
    content = finding_recipe.model_dump(mode="json")
    content["data"]["sources"] += [{"kind": "table", "path": str(other), "name": "other"}]
    study = Study.model_validate(
        {
            "recipe": parse(content),
            "networks": [{"genotype": str(small)}],
            "trained_on": [{"data": "films"}],
            "external": ["other"],
        }
    )
    out = tmp_path / "out"
    layout = train(study, out)
    found = generalize(out)
    assert (found.about["task"], found.about["score"], found.about["untested"]) == ("classification", "auroc", [])
    table = current_scores(RunDirectory(layout.training("films", "small", 0).run), "test")
    wide = table.pivot(index=["class", "image"], columns="metric", values="value")
    areas = [auroc(of.logit, of.label) for _, of in wide.groupby("class")]
    assert found.retrained["mean"].iloc[0] == pytest.approx(np.nanmean(areas))
    assert {name: one["images"] for name, one in found.about["datasets"].items()} == {"films": 8, "other": 32}
