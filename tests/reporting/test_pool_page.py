"""The page of a search by training: its plot and its tables, of candidates that nobody has trained."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.data.opening import open_manifest
from medarts.engine.directory import RunDirectory
from medarts.pool import trainings
from medarts.pool.candidates import Candidate, Source, read_candidates, write_candidates
from medarts.profiling.budget import BudgetCost
from medarts.reporting.page import write_report
from medarts.reporting.pool import plot_incumbent
from medarts.spaces.nas_wdan import NasWdan

TIMING = """{"supernet": 1, "epochs": 4, "seconds": 30.0}
{"candidate": "1-01", "to": 2, "epochs": 2, "seconds": 10.0}
{"candidate": "1-01", "to": 6, "epochs": 4, "seconds": 20.0}
{"candidate": "1-02", "to": 2, "epochs": 2, "seconds": 10.0}
"""


def candidate(
    recipe: Recipe, name: str, source: Source, scores: dict[int, float], *, parent: str | None = None, failure: str = ""
) -> Candidate:
    genotype = NasWdan.sample(recipe.space, seed=len(name + source))
    cost = BudgetCost(parameters=12_345, flops=6_700_000)
    origin = "norm: group -> batch" if parent else "seed 7"
    return Candidate(name, source, origin, genotype, None, cost, parent, scores, failure or None)


@pytest.fixture
def run(small_recipe: Recipe, tmp_path: Path) -> RunDirectory:
    """A pool of two generations, as it stands when it has finished."""
    changes = ["search.method=pool", "search.select.rungs=[2, 6]", "budget.flops=8000000"]
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), changes))
    manifest = open_manifest(recipe.data, needs=("train", "val"))
    run = RunDirectory.create(
        tmp_path / "run", recipe, kind="search", data_fingerprint=manifest.fingerprint(),
        files={"manifest.csv": manifest.to_csv()},
    )  # fmt: skip
    found = [
        candidate(recipe, "1-01", "supernet", {2: 0.5, 6: 0.7}),
        candidate(recipe, "1-02", "random", {2: 0.4}),
        candidate(recipe, "1-03", "random", {}, failure="Memory <ran> out."),
        candidate(recipe, "2-01", "neighbour", {2: 0.6, 6: 0.8}, parent="1-01"),
    ]
    write_candidates(run, found)
    return run


def finish(run: RunDirectory) -> None:
    NasWdan.sample(run.recipe.space, seed=0).save(run.path / "genotype.json")
    (run.path / "timing.jsonl").write_text(TIMING)
    retrained = {"scores": {"0": 0.75, "1": 0.79}, "failures": {"2": "Memory ran out."}}
    run.write_json("summary.json", {"score": "dice", "best_score": 0.8, "candidate": "2-01", "retrained": retrained})
    run.finish()


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))


def test_what_became_of_every_candidate(run: RunDirectory) -> None:
    finish(run)
    text = " ".join(text_of(write_report(run.path)).split())
    assert "best validation Dice" in text
    assert "4 candidates were trained for 8 epochs in 40 s." in text
    assert "took 30 s; as much computing by random search is search.method=random search.select.epochs=14" in text
    assert "2-01 neighbour 1-01: norm: group -&gt; batch 0.600 0.800 6.70 12.3 as published last rung" in text
    assert "MFLOPs (≤ 8)" in text
    assert "best validation Dice, mean 0.770, standard deviation 0.028." in text
    assert "2 – Memory ran out." in text
    assert "dropped after epoch 2" in text
    assert "failed: Memory &lt;ran&gt; out." in text
    assert text.index("2-01 neighbour") < text.index("1-01 supernet") < text.index("1-02 random")


def test_a_search_that_is_not_finished_has_a_page(run: RunDirectory) -> None:
    text = text_of(write_report(run.path))
    assert "not finished" in text
    assert "Finalists" in text
    assert "search.select.epochs=" not in text.partition("Recipe")[0]
    begun = trainings.folder_of_candidate(run, "1-02")
    begun.mkdir(parents=True)
    (begun / "metrics.jsonl").write_text("{}\n")
    write_candidates(run, [replace(each, scores={}, failure=None) for each in read_candidates(run)])
    text = text_of(write_report(run.path))
    assert "at epoch 1" in text
    assert "not trained yet" in text
    (run.path / "candidates.jsonl").unlink()
    assert "No epoch has ended yet." in text_of(write_report(run.path))


def test_the_plot_has_the_best_so_far_over_the_training_done(small_recipe: Recipe) -> None:
    candidates = [
        candidate(small_recipe, "1-01", "random", {2: 0.5, 6: 0.4}),
        candidate(small_recipe, "1-02", "random", {2: 0.3}),
        candidate(small_recipe, "1-03", "random", {}, failure="Memory ran out."),
        candidate(small_recipe, "2-01", "neighbour", {2: 0.7}, parent="1-01"),
    ]
    (axes,) = plot_incumbent(candidates, (2, 6), "Dice", lost={"1-03": 1}, before=10).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    # What is scored at a lower rung is not the best, however high.
    assert lines["best so far"] == [[12, 0.5], [14, 0.5], [19, 0.4], [21, 0.4]]
    assert lines["random genotype"] == [[12, 0.5], [14, 0.3], [19, 0.4]]
    assert lines["neighbour"] == [[21, 0.7]]
    assert "the supernets took as long as 10" in axes.get_xlabel()
