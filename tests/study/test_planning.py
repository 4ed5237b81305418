"""How long a study will take: every run is counted once, at the time of one like it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from medarts import cli, terminal
from medarts.config import Recipe
from medarts.config.study import load_study
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Trial
from medarts.engine.timing import Span
from medarts.errors import RecipeError
from medarts.profiling.budget import fit_to_recipe
from medarts.profiling.load import Load
from medarts.profiling.plan import Attempt, Known, StageAttempt, TrainingAttempt, Tried
from medarts.spaces.genotype import Genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.study import planning as module
from medarts.study.jobs import Layout
from medarts.study.planning import Part, StudyPlan, plan_study


@pytest.fixture
def path(folder_data: Path, tmp_path: Path) -> Path:
    sources = [{"kind": "folder", "path": str(folder_data), "name": "blobs"}]
    recipe = {
        "data": {"sources": sources, "size": 16, "cache": str(tmp_path)},
        "space": {"choices": {"depth": [3], "intermediate_nodes": [2], "double_down_channel": [False]}},
        "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0},
        "budget": {"parameters": 30_000},
    }
    networks = [
        {"name": "mix", "searched_on": "blobs", "search_seeds": [3, 4, 5]},
        {"random": 2},
        {"model": {"name": "unet", "depth": 2}, "train": ["train.lr=0.02"]},
        {"name": "deep", "model": {"name": "unet", "depth": 5}},
    ]
    groups = [{"data": "blobs", "seeds": [0, 1]}, {"name": "again", "data": "blobs", "networks": ["unet", "mix-2"]}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"recipe": recipe, "networks": networks, "trained_on": groups}))
    return tmp_path / "study.yaml"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Returns the list of the trainings that are to be tried, which are not."""
    found: list[Any] = []

    def tried(attempts: list[Any], *, budget_mb: float | None, known: Known) -> list[Tried]:
        found.extend(attempts)
        return [Tried(Trial(1, 10.0 * place, 1.0, 1, 1, low=0.5), "") for place, _ in enumerate(attempts, 1)]

    monkeypatch.setattr(module, "tried", tried)
    monkeypatch.setattr(module, "scoring_seconds", lambda recipe, store, trial: 2.0)
    monkeypatch.setattr("medarts.study.planning.Load.now", lambda: Load(5.0, 2))

    def planned(recipe: Recipe, *, known: Known) -> SimpleNamespace:
        seconds = 100.0 + recipe.seed
        return SimpleNamespace(search_span=Span(seconds, seconds, 2 * seconds))

    monkeypatch.setattr("medarts.pool.search.plan", planned)
    return found


def test_every_run_is_planned_and_of_runs_that_are_alike_one_is_tried(
    path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(path.parent)
    cli.plan(path, as_json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)
    trainings = {"mix on blobs": 6, "random on blobs": 4, "unet on blobs": 2, "mix on again": 1, "unet on again": 1}
    assert found["parts"] == [
        {"name": "search of mix", "runs": 3, "seconds": 100.0, "low": 1.0, "high": 2.0},
        *(  # half of the time with the fastest steps; scores take as long as they take
            {"name": name, "runs": runs, "seconds": each + 2, "low": (0.5 * each + 2) / (each + 2), "high": 1.0}
            for each, (name, runs) in zip((10.0, 20.0, 30.0, 40.0, 50.0), trainings.items(), strict=True)
        ),
    ]
    total = 3 * 100 + 6 * 12 + 4 * 22 + 2 * 32 + 42 + 52
    halves = 0.5 * (6 * 10 + 4 * 20 + 2 * 30 + 40 + 50)
    assert (found["seconds"], found["seconds_from_to"]) == (total, [total - halves, total + 300])
    assert "deep: The narrowest network of model 'unet' is over the budget" in said.err
    assert [each.genotype and each.genotype.name for each in asked[:3]] == ["untrained", "random-1", None]
    assert (asked[2].recipe.train.model.depth, asked[2].recipe.train.lr) == (2, 0.02)
    assert not (path.parent / "runs").exists(), "a plan leaves nothing behind"
    assert asked[1].measure(None).seconds > 0
    terminal.show_study_plan(StudyPlan((Part("search of mix", 3, 103.0), Part("unet on again", 1, 50.0))))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "search of mix 3 0:01:43 0:05:09" in shown
    assert "4 runs with their scores, one after the other: 5 to 7 min" in shown
    with pytest.raises(RecipeError, match="medarts plan STUDY"):
        cli.plan(path, memory_mb=100)


def test_networks_that_take_their_size_from_a_search_are_typical_ones_until_it_has_finished(
    path: Path, asked: list[Any], tmp_path: Path
) -> None:
    content = yaml.safe_load(path.read_text())
    content["recipe"] |= {"space": {"init_channel": 4, "intermediate_nodes": 2}, "budget": {}}
    genotype = NasWdan.sample(NasWdanSettings(choices={"depth": [3], "intermediate_nodes": [2]}), seed=1)
    genotype.save(tmp_path / "own.json")
    content["networks"] = [  # as in recipes/benchmark-cpu.yaml
        {"name": "mix", "searched_on": "blobs", "parameters": 20_000, "changes": ["space.init_channel=6"]},
        {"random": 2, "like": "mix"},
        {"genotype": "own.json", "parameters": "mix"},
        {"model": {"name": "unet", "depth": 2}},
    ]
    content["trained_on"] = [{"data": "blobs"}]
    path.write_text(yaml.safe_dump(content))
    study, out = load_study(path), tmp_path / "out"
    runs = {"search of mix": 1, "mix on blobs": 1, "random on blobs": 2, "own on blobs": 1, "unet on blobs": 1}
    assert {part.name: part.runs for part in plan_study(study, out).parts} == runs
    typical = [each.genotype for each in asked[:3]]
    assert [each.name for each in typical] == ["untrained"] * 3
    assert [each.settings["init_channel"] for each in typical] == [6, 6, 4]
    assert asked[3].genotype is None
    asked.clear()
    run = RunDirectory.create(
        Layout(out).search("mix").run, study.recipe, kind="search", data_fingerprint="", environment={}
    )
    genotype.save(run.path / "genotype.json")
    plan_study(study, out)
    assert [each.genotype for each in asked[:3]] == typical, "it has not finished"
    asked.clear()
    run.finish()
    assert {part.name: part.runs for part in plan_study(study, out).parts} == runs
    assert asked[3].genotype is None
    mixed: Genotype = asked[0].genotype
    assert (mixed.cells, mixed.name, asked[1].genotype.name) == (genotype.cells, "mix", "random-1")


def test_what_is_alike_is_tried_and_scaled_once(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(path.read_text())
    content["recipe"]["search"]["mixing"] = {"alpha": 0.5}
    content["networks"] = [  # as in recipes/ablation-cpu.yaml
        {"name": name, "searched_on": "blobs", "search_seeds": [3, 4], "changes": changes}
        for name, changes in {
            "base": [], "seed": ["seed=7"], "alone": ["search.mixing.alpha=0"], "nodes": ["space.intermediate_nodes=2"],
        }.items()
    ]  # fmt: skip
    content["networks"][1].pop("search_seeds")
    content["trained_on"] = [{"data": "blobs", "seeds": [0, 1]}]
    path.write_text(yaml.safe_dump(content))
    measured: list[Attempt] = []
    scaled = Mock(side_effect=fit_to_recipe)

    def measure(attempt: Attempt) -> Trial:
        measured.append(attempt)
        return Trial(1, 10.0 * len(measured), 1.0, attempt.settings.batch, 1)

    monkeypatch.setattr("medarts.profiling.plan.in_new_process", measure)
    monkeypatch.setattr("medarts.profiling.plan.fit_to_recipe", scaled)
    monkeypatch.setattr(module, "scoring_seconds", lambda recipe, store, trial: 2.0)
    parts = plan_study(load_study(path), tmp_path / "out").parts
    stages = [each for each in measured if isinstance(each, StageAttempt)]
    assert [each.recipe.search.mixing.alpha for each in stages] == [0.5, 0, 0.5]
    assert [each.recipe.space.model_dump()["intermediate_nodes"] for each in stages] == [4, 4, 2]
    trainings = [each for each in measured if isinstance(each, TrainingAttempt)]
    assert [each.genotype.settings["intermediate_nodes"] for each in trainings if each.genotype] == [4, 2]
    assert scaled.call_count == 2, "networks, not searches"
    seconds = {part.name: part.seconds for part in parts}
    assert seconds["search of base"] == seconds["search of seed"] != seconds["search of alone"]
    assert seconds["base on blobs"] == seconds["alone on blobs"] != seconds["nodes on blobs"]
    assert {part.name: part.runs for part in parts}["alone on blobs"] == 4
