"""The guard: signals that are right, collapse that is detected, and what is done about it."""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from medarts.config import Recipe, apply_overrides, parse
from medarts.errors import MedartsError, RecipeError
from medarts.nas import guard
from medarts.nas.search import Search, resume_search, start_search
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet
from medarts.tasks import SegmentationTask


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """One stage of four epochs, whose alphas learn from the start."""
    return changed(
        small_recipe, "data.size=16", "space.intermediate_nodes=1", "search.arch_after=0", "search.arch_lr=0.05",
        "space.operations={normal: [identity, conv, dep_conv], down: [max_pool, down_conv], up: [up_conv]}",
        "search.stages=[{depth: 3, epochs: 4, batch: 4}]",
    )  # fmt: skip


def lines(run: Path, journal: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / journal).read_text().splitlines()]


@pytest.fixture
def ill_from(monkeypatch: pytest.MonkeyPatch):
    """Makes genotypes of the first stage consist of convolutions, and from an epoch on of identity and pooling."""
    derive = Search.derive

    def start(epoch: int, *, until: int = 100) -> None:
        def derived(job: Search) -> Genotype:
            genotype = derive(job)
            if job.state.stage:
                return genotype
            ill = epoch <= job.state.epoch < until
            cells = {
                kind: tuple(tuple((_named(kind, state, ill=ill), state) for _, state in node) for node in cell)
                for kind, cell in genotype.cells.items()
            }
            return Genotype(**{**vars(genotype), "cells": cells})

        monkeypatch.setattr(Search, "derive", derived)

    return start


def _named(kind: str, state: int, *, ill: bool) -> str:
    operations = {"down": ("max_pool", "down_conv"), "up": ("up_conv", "up_conv")}.get(
        kind if state == 1 else "", ("identity", "conv")
    )
    return operations[0 if ill else 1]


def test_a_collapse_is_told_and_the_last_healthy_genotype_returned(recipe, tmp_path, ill_from, capsys):
    ill_from(2)
    saved = []

    def deliver(genotype: Genotype, _: Recipe) -> tuple[Genotype, dict[str, Any]]:
        saved.append(load_genotype(tmp_path / "run"))  # the chosen one, as a budget may yet refuse it
        return genotype, {}

    run = start_search(changed(recipe, "search.guard={}"), tmp_path / "run", deliver=deliver).path
    assert saved == [load_genotype(run)]
    records = lines(run, "architecture.jsonl")
    assert [record["signals"]["identity"] > 0.5 for record in records] == [False, False, True, True]
    genotype, summary = load_genotype(run), json.loads((run / "summary.json").read_text())
    assert genotype.provenance["epoch"] == 1
    assert json.loads(genotype.to_json()) == records[1]["genotype"]
    assert summary["returned_epoch"] == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "Stage 1 of the search has collapsed: 83% of the genotype's operations are identity or pooling" in said
    assert "Epoch 2, the last healthy one, counts instead." in said
    assert "derive.select=perturbation" in said
    assert "The genotype has not collapsed: 0 of 6 operations (0%) are identity or pooling" in said
    assert "the guard went back to epoch 2." in said
    gap = summary["gap"]
    assert gap == pytest.approx(summary["supernet"] - summary["discrete"])


def test_stop_ends_the_stage_there_and_continue_goes_on(recipe, tmp_path, ill_from):
    ill_from(2)
    stopped = start_search(changed(recipe, "search.guard={action: stop}"), tmp_path / "stopped").path
    assert len(lines(stopped, "metrics.jsonl")) == 3
    assert load_genotype(stopped).provenance["epoch"] == 1
    went_on = start_search(changed(recipe, "search.guard={action: continue}"), tmp_path / "continued").path
    assert len(lines(went_on, "metrics.jsonl")) == 4
    assert load_genotype(went_on).provenance["epoch"] == 4
    assert json.loads((went_on / "summary.json").read_text())["collapse"]


def test_a_search_that_never_was_healthy_gets_other_operations(recipe, tmp_path, monkeypatch, capsys):
    derive = NasWdanSupernet.derive

    def derived(supernet, settings, **options):
        with torch.no_grad():  # alphas that prefer identity and pooling
            for kind, alphas in supernet.alphas.items():
                for row, names in zip(alphas, supernet.candidates[kind], strict=True):
                    row.add_(9 * torch.tensor([name in NasWdan.free for name in names]))
        return derive(supernet, settings, **options)

    monkeypatch.setattr(NasWdanSupernet, "derive", derived)
    run = start_search(changed(recipe, "search.guard={identity: 0.4}"), tmp_path / "run").path
    last = lines(run, "architecture.jsonl")[-1]
    assert last["signals"]["identity"] > 0.4 >= guard.free_share(load_genotype(run), NasWdan.free)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["limited"]
    assert "returned_epoch" not in summary
    said = " ".join(capsys.readouterr().err.split())
    assert "No epoch was healthy, so the last one counts, with other operations in place of its weakest" in said
    assert "Its last epoch counts, with other operations in place of its weakest" in guard.ending(summary, 1)
    assert "has not collapsed" in guard.verdict(summary)


def test_a_search_that_recovers_is_returned_as_it_is(recipe, tmp_path, ill_from, capsys):
    ill_from(1, until=3)
    run = start_search(changed(recipe, "search.guard={}"), tmp_path / "run").path
    assert "collapse" not in json.loads((run / "summary.json").read_text())
    assert "has collapsed" not in capsys.readouterr().err


def test_without_a_guard_a_collapse_is_told_and_nothing_is_done(recipe, tmp_path, ill_from, capsys):
    ill_from(2)
    run = start_search(recipe, tmp_path / "run").path
    assert load_genotype(run).provenance["epoch"] == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "has collapsed" in said
    assert "search.guard={}" in said


def test_candidates_of_the_last_healthy_epoch_go_to_the_next_stage(recipe, tmp_path, ill_from):
    keep = {"normal": 2}
    two = changed(
        recipe, "seed=1", "search.guard={}", "search.arch_lr=0.3", "space.operations={}",
        f"search.stages=[{{depth: 3, epochs: 2, batch: 4, keep: {json.dumps(keep)}}}, "
        "{depth: 3, epochs: 1, batch: 4}]",
    )  # fmt: skip
    ill_from(1)
    run = start_search(two, tmp_path / "run").path
    first, second, third = (record["alphas"]["normal"] for record in lines(run, "architecture.jsonl"))

    def strongest(of_set: dict[str, Any]) -> list[list[str]]:
        return [
            sorted(names[place] for place in np.argsort(weights)[-2:])
            for names, weights in zip(of_set["operations"], of_set["weights"], strict=True)
        ]

    assert [sorted(names) for names in third["operations"]] == strongest(first) != strongest(second)


def blind_from(monkeypatch: pytest.MonkeyPatch, *, validation: int) -> None:
    """Makes the supernet predict no foreground from a validation on, counted from 0; before, it predicts all of it."""
    validate, validations = SegmentationTask.validate, count()

    def blind(task, forward, batches):
        is_blind = next(validations) >= validation
        values = {
            "val_foreground_by_domain": {"blobs": 0.0 if is_blind else 1.0},
            "val_found_by_domain": {"blobs": 0.05},
        }
        return {**validate(task, forward, batches), **values}

    monkeypatch.setattr(SegmentationTask, "validate", blind)


def test_a_supernet_that_goes_blind_gives_its_last_genotype_with_sight(recipe, tmp_path, ill_from, monkeypatch, capsys):
    ill_from(5)  # none of its four epochs: all that is wrong is the foreground
    blind_from(monkeypatch, validation=2)
    run = start_search(changed(recipe, "search.guard={}"), tmp_path / "run").path
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["collapse"], summary["returned_epoch"]) == ("the supernet predicts no foreground on blobs", 1)
    told = guard.verdict(summary)
    assert told in " ".join(capsys.readouterr().err.split())
    assert re.fullmatch(r"The genotype has not collapsed: 0 of 6 operations .*; the guard went back to epoch 2\.", told)
    alone = {name: value for name, value in summary.items() if name != "returned_epoch"} | {"is_guarded": False}
    told = "The search has found nothing: the supernet predicts no foreground on blobs; there was no guard."
    assert guard.verdict(alone) == told


def test_a_supernet_without_foreground_is_an_error_of_the_search(recipe, tmp_path, ill_from, monkeypatch):
    ill_from(2)  # identity and pooling beside it change nothing
    blind_from(monkeypatch, validation=0)
    with pytest.raises(MedartsError, match=r"found nothing and collapsed: .* on blobs, and 83% of .*Raise search.lr"):
        start_search(changed(recipe, "search.guard={}"), tmp_path / "run")
    with pytest.raises(MedartsError, match="predicts no foreground"):  # resumed, it says so again
        resume_search(tmp_path / "run")


def test_advice_names_what_the_recipe_lacks(recipe):
    assert guard.advice(recipe, stage=0, blind=True) == (
        "Raise search.lr (0.025) or search.stages.0.epochs (4), or use search.loss=bce_dice or "
        "data.sampling=foreground or space.full_size_head=true where structures are thin."
    )
    finer = changed(recipe, "search.loss=bce_dice", "data.sampling=foreground", "space.full_size_head=true")
    assert "or use space.stem_stride=1 where structures are thin." in guard.advice(finer, stage=0, blind=True)
    able = changed(recipe, "search.loss=bce_dice", "data.sampling=foreground", "space.stem_stride=1", "search.lr=0.2")
    assert guard.advice(able, stage=0, blind=True) == "Raise search.lr (0.2) or search.stages.0.epochs (4)."
    patches = changed(recipe, "search.loss=dice", "data.resize=patches", "space.stem_stride=1")
    assert "or use 'data.sampling={foreground: 0.33}'." in guard.advice(patches, stage=0, blind=True)
    told = (
        "Use search.guard={} or derive.select=perturbation or search.regularizers=[beta_decay], or lower search.arch_lr"
    )
    assert guard.advice(recipe, stage=0, blind=False) == f"{told} (0.05)."
    able = changed(recipe, "search.guard={}", "derive.select=perturbation", "search.regularizers=[beta_decay]")
    assert guard.advice(able, stage=0, blind=False) == f"Lower search.arch_lr ({able.search.arch_lr:g})."


def test_foreground_of_a_data_set_is_predicted_pixels_over_true_ones(recipe, tmp_path):
    run = start_search(changed(recipe, "search.stages=[{depth: 3, epochs: 1, batch: 4}]"), tmp_path / "run").path
    (record,) = lines(run, "metrics.jsonl")
    share = record["val_foreground_by_domain"]["blobs"]
    assert share == 0 or share > 0.001
    assert guard.without_foreground({"val_foreground_by_domain": {"a": 0.001, "b": 0.5, "c": None}}) == ["a"]
    held_down = {"val_foreground_by_domain": {"a": 0.0, "b": 0.0}, "val_found_by_domain": {"a": 0.6, "b": 0.05}}
    assert guard.without_foreground(held_down) == ["b"]
    assert guard.without_foreground({"val_auroc": 0.5}) == []


def test_signals_that_cost_something_are_made_where_they_are_asked_for(recipe, tmp_path, monkeypatch):
    recipe = changed(recipe, "search.stages=[{depth: 3, epochs: 2, batch: 4}]")
    plain = start_search(recipe, tmp_path / "plain").path
    full = start_search(changed(recipe, "search.guard={gap_every: 2, hessian: 2}"), tmp_path / "full").path
    signals = [record["signals"] for record in lines(full, "architecture.jsonl")]
    assert [each["gap"] is None for each in signals] == [True, False]
    assert signals[1]["gap"] == pytest.approx(json.loads((full / "summary.json").read_text())["gap"])
    assert all(each["hessian"] != 0 for each in signals)
    assert lines(plain, "architecture.jsonl")[1]["signals"].keys() == {
        "identity", "alpha_entropy", "beta_entropy", "rank_correlation",
    }  # fmt: skip
    # Measuring changes nothing.
    for name in ("metrics.jsonl",):
        assert (plain / name).read_bytes() == (full / name).read_bytes()
    assert signals[0]["rank_correlation"] is None
    assert -1 <= signals[1]["rank_correlation"] <= 1


def test_findings_have_the_signals_too(finding_recipe, tmp_path):
    short = changed(finding_recipe, "search.stages=[{depth: 4, epochs: 1, batch: 4}]", "search.guard={hessian: 1}")
    (record,) = lines(start_search(short, tmp_path / "run").path, "architecture.jsonl")
    assert 0 <= record["signals"]["identity"] <= 1
    assert 0.99 < record["signals"]["alpha_entropy"] <= 1
    assert record["signals"]["beta_entropy"] is None


def test_hessian_needs_fp32(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"search.guard.hessian .* bf16"):
        start_search(changed(recipe, "search.guard={hessian: 1}", "compute.precision=bf16"), tmp_path / "run")


def test_the_largest_eigenvalue_is_that_of_the_hessian() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.float64)
    matrix = matrix + matrix.T - 4 * torch.eye(6, dtype=torch.float64)  # the largest by size is negative
    parameters = [torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in (2, 4)]
    before = [each.detach().clone() for each in parameters]
    parameters[0].grad = torch.ones_like(parameters[0])
    fabric = Fabric(accelerator="cpu", precision="64-true")

    def objective():
        x = torch.cat(parameters)
        yield 0.5 * x @ matrix @ x + x.sum()

    found = guard.largest_eigenvalue(fabric, objective, architecture=parameters, weights=[], iterations=200)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert found == pytest.approx(float(eigenvalues[eigenvalues.abs().argmax()]), rel=1e-4)
    assert all(torch.equal(each, value) for each, value in zip(parameters, before, strict=True))
    assert torch.equal(parameters[0].grad, torch.ones(2, dtype=torch.float64))
    assert parameters[1].grad is None


def test_share_of_identity_and_pooling() -> None:
    cells = {"normal": ((("identity", 0), ("conv", 1)),), "down": ((("max_pool", 1), ("identity", 0)),)}
    genotype = Genotype(name="g", space="nas-wdan", cells=cells, settings={})
    assert guard.free_share(genotype, NasWdan.free) == 0.75
    limits = {limit: guard.illness(genotype, {}, free=NasWdan.free, limit=limit) for limit in (0.7, 0.75)}
    assert limits[0.75] is None
    assert "75% of the genotype's operations" in limits[0.7]


def test_entropy_and_rank_correlation() -> None:
    assert guard.entropy([[0.5, 0.5], [0.2] * 5]) == pytest.approx(1)
    assert guard.entropy([[1.0]]) is None
    assert guard.rank_correlation([[0.1, 0.3, 0.6]], []) is None
    assert guard.rank_correlation([[0.1, 0.3, 0.6], [0.6, 0.4]], [[0.2, 0.3, 0.5], [0.1, 0.9]]) == pytest.approx(0)
    assert guard.rank_correlation([[0.1, 0.9]], [[0.5, 0.5]]) is None
