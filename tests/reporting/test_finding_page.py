"""The page of a run on findings: everything that its files hold is there, and nothing that belongs to masks."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medarts.config import Recipe, SupernetSettings, parse
from medarts.engine.directory import RunDirectory
from medarts.evaluation.scores import Scores
from medarts.evaluation.scoring import calibrate, finding_table
from medarts.evaluation.summary import summarized
from medarts.models.chexnet import CheXNetSettings
from medarts.reporting.page import write_report
from medarts.spaces.darts import Darts
from medarts.spaces.darts.text import to_text
from medarts.spaces.genotype import Genotype, zoo
from medarts.spaces.genotype import load_genotype as load

FINDINGS = ("Mass", "Edema", "a <b> & c", "Hernia")
"""Hernia is in no test image and no validation image."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return parse(
        {
            "data": {
                "sources": [{"kind": "table", "path": str(tmp_path / "rays"), "name": "rays"}],
                "size": 32,
                "findings": list(FINDINGS),
            },
            "space": {"name": "darts", "search_channel": 4, "layers": 8, "init_channel": 4, "intermediate_nodes": 2},
            "search": {
                "stages": [{"depth": 4, "epochs": 2, "batch": 4}],
                "supernet": {"partial_channels": 2, "edge_normalisation": True},
            },
        }
    )


def make_run(path: Path, recipe: Recipe, *, kind: str, network: str = "chexnet") -> RunDirectory:
    """A run with its manifest: one training image with Mass and Edema, one with nothing, one validation image."""
    facts = {"network": network} if kind == "train" else {}
    if kind == "train" and network == "chexnet":
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"model": CheXNetSettings()})})
    lines = [
        "key,domain,patient,split,image,mask,findings",
        "a,rays,p,train,i,,Mass|Edema",
        "b,rays,q,train,i,,",
        "c,rays,r,val,i,,Mass",
    ]
    return RunDirectory.create(
        path,
        recipe,
        kind=kind,
        data_fingerprint="d" * 16,
        files={"manifest.csv": "\n".join(lines) + "\n"},
        environment={"processor": "abacus"},
        **facts,
    )


def add_search(run: RunDirectory, *, epochs: int = 2) -> Genotype:
    """Journals, genotype and summary of a search in darts, with gammas."""
    recipe = run.recipe
    torch.manual_seed(0)
    stage = recipe.search.stages[0]
    space = Darts(recipe.space, in_channels=1, outputs=len(FINDINGS), supernet=recipe.search.supernet)
    supernet = space.supernet(stage, None)
    for epoch in range(epochs):
        with torch.no_grad():
            for parameter in supernet.architecture():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        here = {"stage": 0, "epoch": epoch}
        append_epoch(run, here, auroc=0.5 + 0.2 * epoch / epochs)
        run.append("architecture.jsonl", {**here, **supernet.snapshot()})
    genotype = supernet.derive(recipe.derive, name="found", provenance={})
    genotype.save(run.path / "genotype.json")
    gap = {"score": "auroc", "supernet": 0.71, "discrete": 0.52, "gap": 0.19}
    run.write_json("summary.json", {**gap, "stages": [gap]})
    return genotype


def append_epoch(run: RunDirectory, here: dict[str, int], *, auroc: float) -> None:
    of_findings = {name: None if name == "Hernia" else auroc + 0.02 * place for place, name in enumerate(FINDINGS)}
    scores = {"val_loss": 0.3, "val_auroc": auroc, "val_auroc_by_finding": of_findings}
    run.append("metrics.jsonl", {**here, "train_loss": 0.4, "lr": 0.1, **scores})
    run.append("timing.jsonl", {**here, "seconds": 60.0, "peak_memory_mb": 1500.0})


def scores_of(
    predictions: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], *, domains: int = 1
) -> Scores:
    findings = FINDINGS[: predictions[0].shape[1]]
    calibration = calibrate(*validation, findings=findings, sensitivity=0.9)
    about = [
        ("rays" if number % domains == 0 else "more rays", f"key{number:04d}", f"p{number // 2}")
        for number in range(len(predictions[0]))
    ]
    table = finding_table(about, findings, *predictions, temperature=calibration.temperature)
    return summarized(Scores(table, "test", draws=50, calibration=calibration))


def add_scores(path: Path, *, findings: tuple[str, ...] = FINDINGS, images: int = 60, domains: int = 1) -> Scores:
    """Scores of generated predictions, with an example of every finding that is there."""

    def predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        # From frequent to rare; the last is in no image.
        frequencies = np.append(np.geomspace(0.4, 0.1, len(findings) - 1), 0.0)
        labels = generator.random((images, len(findings))) < frequencies
        return 2 * generator.normal(1.2 * labels - 1.5, 1.0), labels.astype(np.uint8)

    scores = scores_of(predictions(1), predictions(2), domains=domains)
    y, x = np.mgrid[:64, :64] / 64
    image = np.exp(-(((x - 0.3) / 0.15) ** 2 + ((y - 0.5) / 0.3) ** 2)) + 0.5 * x
    maps = [np.exp(-((x - 0.1 * n) ** 2 + (y - 0.5) ** 2) / 0.02) for n in range(len(findings) - 1)]
    examples = {
        "images": np.stack([np.clip(image, 0, 1)[..., None].repeat(3, axis=2).astype(np.float32)] * len(maps)),
        "maps": np.stack(maps).astype(np.float32),
        "titles": np.asarray([f"{name} · key0007 · probability 0.71" for name in findings[:-1]]),
    }
    scores.write(path, examples=examples)
    return scores


def read(path: Path) -> str:
    """Writes the page and returns it."""
    return write_report(path).read_text(encoding="utf-8")


def words(page: str) -> str:
    """What the page says, without tags and style."""
    return re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_the_page_of_a_search_in_darts(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="search")
    genotype = add_search(run)
    page = read(run.path)
    assert re.findall(r'<section id="([^"]*)"', page) == [
        "data", "curves", "gap", "genotype", "architecture", "environment"
    ]  # fmt: skip
    said = words(page)
    assert [title in said for title in ("Alphas: normal", "Alphas: reduce", "Gammas")] == [True] * 3
    assert "Validation AUROC of the supernet" in said
    assert "0.710 0.520 +0.190" in said
    assert "the cell before the last" in said
    assert "halves the resolution: edges from s0 and s1 have stride 2" in said
    assert to_text(genotype) in said.replace("&#39;", "'")
    assert "best validation AUROC" in said
    for foreign in ("Dice", "etas", "lattice", "segmentation"):
        assert foreign not in said.split("Environment")[0]


def test_without_edge_normalisation_there_are_no_gammas(tmp_path: Path, recipe: Recipe) -> None:
    search = recipe.search.model_copy(update={"supernet": SupernetSettings()})
    run = make_run(tmp_path / "run", recipe.model_copy(update={"search": search}), kind="search")
    add_search(run)
    page = read(run.path)
    assert "<h3>Alphas: normal</h3>" in page
    assert "Gammas" not in page


def test_the_page_of_a_training_names_its_network(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train", network="chexnet")
    for epoch in range(3):
        append_epoch(run, {"epoch": epoch}, auroc=0.5 + 0.1 * epoch)
    run.write_json("summary.json", {"best_epoch": 2, "score": "auroc", "best_score": 0.7})
    page = read(run.path)
    said = words(page)
    assert "chexnet (run)" in said
    assert "0.700 best validation AUROC 3 epochs, 3 best" in said
    assert 'id="genotype"' not in page


def test_the_data_are_counted_by_finding(tmp_path: Path, recipe: Recipe) -> None:
    said = words(read(make_run(tmp_path / "run", recipe, kind="train").path))
    assert "Findings of rays" in said
    assert "Mass 1 50.0 % 1 100.0 % 0 Edema 1 50.0 % 0 0.0 % 0" in said
    assert "Hernia 0 0.0 % 0 0.0 % 0 none of them 1 50.0 % 0 0.0 % 0" in said


def test_every_score_of_a_finding_is_on_the_page(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train")
    scores = add_scores(run.path / "scores" / "test")
    page = read(run.path)
    said = words(page)
    assert scores.summary is not None
    assert scores.calibration is not None
    values: Any = scores.summary.set_index(["class", "metric"])

    def numbers(name: str, *metrics: str) -> str:
        return " ".join(f"{values.loc[(name, metric), 'value']:.3f}" for metric in metrics)

    row = values.loc[("Edema", "auroc")]
    ranking = f"Edema {row.positives} {100 * row.positives / 60:.1f} % {row.value:.3f} {row.low:.3f} to"
    assert ranking in said
    assert numbers("Edema", "ece_uncalibrated", "ece") in said
    for rule in ("youden", "sensitive"):
        assert (
            numbers("Edema", *(f"{rule}_{of}" for of in ("threshold", "sensitivity", "specificity", "ppv", "npv")))
            in said
        )
    mean = values.loc[("mean of findings", "auroc")]
    assert f"{mean.value:.3f} mean AUROC, test {mean.low:.3f} to {mean.high:.3f}" in said
    assert "Left out of the means, because undefined: Hernia (no positives)." in said
    assert "Without thresholds: Hernia (no positives in validation)." in said
    assert f"One temperature for all findings, {scores.calibration.temperature:.2f}," in said
    assert "sensitivity 0.9 in validation" in said
    assert "60 images of 30 patients" in said
    assert page.count("<img") == 3
    for name in ("summary.csv", "scores.csv", "scores.json"):
        assert f'href="scores/test/{name}"' in page
        assert (run.path / "scores" / "test" / name).exists()


def test_curves_have_their_scores_and_absent_findings_none(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train")
    scores = add_scores(run.path / "scores" / "test")
    page = read(run.path)
    assert scores.summary is not None
    values = scores.summary.set_index(["class", "metric"])["value"]
    for label, metric in (("ROC curves", "auroc"), ("precision-recall curves", "average_precision")):
        start = page.index(f'aria-label="{label} on test"')
        figure = words("<svg " + page[start : page.index("</svg>", start)])
        assert f"{values['Mass', metric]:.3f}" in figure
        assert figure.count("undefined") == 1


def test_names_of_findings_are_text(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train")
    add_scores(run.path / "scores" / "test")
    page = read(run.path)
    assert "a &lt;b&gt; &amp; c" in page
    assert "<b> & c" not in page


def test_data_sets_have_tables_of_their_own_and_one_together(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train")
    scores = add_scores(run.path / "scores" / "test", domains=2)
    page = read(run.path)
    for title in ("rays", "more rays", "all data sets together"):
        assert page.count(f"<h4>{title}</h4>") == 2
    assert scores.summary is not None
    together = scores.summary.set_index(["dataset", "class", "metric"])["value"]["all", "mean of findings", "auroc"]
    assert f"{together:.3f} mean AUROC, test" in words(page)


def test_scores_without_a_finding_or_a_patient_more_are_still_told(tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train")
    one = (np.zeros((1, 4)), np.zeros((1, 4), np.uint8))
    scores = scores_of(one, one)
    scores.write(run.path / "scores" / "test")
    said = words(read(run.path))
    assert "– mean AUROC, test" in said
    assert "Edema (no positives)" in said


@pytest.mark.parametrize("name", [name for name in zoo() if load(name).space == "darts"])
def test_published_genotypes_have_a_page(name: str, tmp_path: Path, recipe: Recipe) -> None:
    run = make_run(tmp_path / "run", recipe, kind="train", network=name)
    load(name).save(run.path / "genotype.json")
    said = words(read(run.path))
    assert f"{name} (run)" in said
    assert "edges from s0 and s1 have stride 2" in said
