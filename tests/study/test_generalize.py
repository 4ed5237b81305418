"""A study from its data sets to its file: what is scored, what is kept, and what is listed as missing."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts import cli
from medarts.comparison import scored
from medarts.config import parse
from medarts.config.study_sections import Study
from medarts.errors import RecipeError
from medarts.evaluation.evaluate import evaluate
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.mask_scores import Scores
from medarts.spaces.reading import load as load_genotype
from medarts.study.benchmark import benchmark
from medarts.study.generalization import Generalization
from medarts.study.generalize import FILE, generalize
from medarts.study.jobs import do
from medarts.study.layout import Layout
from medarts.study.plan import prepare


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

    monkeypatch.setattr(scored, "evaluate", watched)
    return made


def folder_of(run: Path, name: str) -> Path:
    """The newest folder of scores, with the digits of its images behind its name where it has some."""
    found = [*run.glob(f"scores/{name}"), *run.glob(f"scores/{name}-????????")]
    return max(found, key=lambda folder: (folder / "scores.json").stat().st_mtime_ns)


def dice(folder: Path, domain: str) -> list[float]:
    return [score.metrics["dice"] for score in Scores.read(folder).images if score.domain == domain]


def test_every_run_is_scored_on_every_data_set(discs, evaluated):
    study, out = study_in(discs), discs / "out"
    layout = train(study, out)
    found = generalize(out)
    assert Generalization.read(out / FILE) == found
    assert sorted(evaluated) == [("a", "b"), ("a", "b"), ("a", "x"), ("a", "x"), ("a-b", "x")]
    assert (found.missing, found.untested, found.note) == ((), (), "Discs.")
    assert [(one.name, one.external, one.images) for one in found.domains] == [
        ("a", False, 4),
        ("b", False, 4),
        ("x", True, 16),  # whatever their split
    ]
    alone, both = found.trained[0].rows
    runs = [layout.training("a", "unet", seed).run for seed in (0, 1)]
    mixed = layout.training("a-b", "unet", 0).run
    for domain, folder in (("a", "test"), ("b", "test-b"), ("x", "all-x")):
        by_seed = [np.mean(dice(folder_of(run, folder), domain)) for run in runs]
        assert alone.cells[domain].by_seed == pytest.approx(by_seed)
        assert alone.cells[domain].mean == pytest.approx(np.mean(by_seed))
        own = folder_of(mixed, "all-x" if domain == "x" else "test")
        assert both.cells[domain].mean == pytest.approx(np.mean(dice(own, domain)))
    assert found.retrained.rows[0].cells == {"a": alone.cells["a"]}
    (claim,) = (claim for claim in found.claims if claim.about == "training")
    (contrast,) = claim.contrasts
    assert (contrast.domain, contrast.relation) == ("x", "external")
    assert contrast.difference.mean == pytest.approx(both.cells["x"].mean - alone.cells["x"].mean)


def test_what_is_scored_is_not_scored_again(discs, evaluated):
    study, out = study_in(discs, trained_on=[{"data": "a"}]), discs / "out"
    layout = train(study, out)
    first = generalize(out)
    assert evaluated == [("a", "x"), ("a", "b")]
    assert generalize(out) == first
    assert len(evaluated) == 2
    run = layout.training("a", "unet", 0).run
    (folder_of(run, "test-b") / "scores.json").write_text("{", encoding="utf-8")  # killed while it wrote
    before = dice(folder_of(run, "all-x"), "x")
    mask = discs / "x" / "masks" / "03.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    os.utime(mask, ns=(0, 0))  # an older file than the scores
    generalize(out)
    assert evaluated[2:] == [("a", "x"), ("a", "b")]
    after = dice(folder_of(run, "all-x"), "x")
    assert [number for number, (one, other) in enumerate(zip(before, after, strict=True)) if one != other] == [3]
    splits = discs / "b" / "splits.csv"
    splits.write_text(splits.read_text().replace("p11,val", "p11,test"), encoding="utf-8")
    again = generalize(out)
    assert evaluated[4:] == [("a", "b")]
    assert [domain.images for domain in again.domains] == [4, 5, 16]


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
    (missing,) = found.missing
    assert (missing.group, missing.network, missing.seed, missing.state) == ("broken", "unet", 0, "failed")
    assert "diverged" in missing.reason
    (untested,) = found.untested
    assert (untested.group, untested.network, untested.seed, untested.domain) == ("a", "unet", 0, "x")
    assert str(discs / "x") in untested.reason
    row, broken = found.trained[0].rows
    assert (row.cells["x"], row.cells["b"] is None, broken.cells) == (None, False, {"a": None, "b": None, "x": None})
    assert found.retrained.rows[0].cells["broken"] is None


def test_what_is_not_trained_yet_is_listed_and_not_trained(discs, capsys):
    out = discs / "out"
    out.mkdir()
    plan = prepare(study_in(discs), out)
    do(plan.job(plan.trainings[0]))
    with pytest.raises(RecipeError, match="These words do not go together"):
        cli.generalize(out, ("recipe.seed=1",))
    with pytest.raises(SystemExit) as ended:
        cli.generalize(out)
    assert ended.value.code == 1
    assert capsys.readouterr().out.endswith(f"{out / 'generalization.html'}\n")
    found = Generalization.read(out / FILE)
    assert [(one.group, one.seed) for one in found.missing] == [("a", 1), ("a-b", 0)]
    assert {one.state for one in found.missing} == {"not begun"}
    assert [len(cell.by_seed) for cell in found.trained[0].rows[0].cells.values()] == [1, 1, 1]
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
    assert (found.task, found.score, found.untested) == ("classification", "auroc", ())
    scores = FindingScores.read(layout.training("films", "small", 0).run / "scores" / "test")
    cell = found.retrained.rows[0].cells["films"]
    assert cell.mean == pytest.approx(scores.mean_auroc)
    assert [(domain.name, domain.images) for domain in found.domains] == [("films", 8), ("other", 32)]
