"""A third search space, from outside the package: everything that the spaces of medarts can do."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medarts import compare, evaluate, load, load_genotype, report, resume, search, train
from medarts.config import Recipe, parse, to_yaml
from medarts.nas.search import Search
from medarts.spaces import random_genotype
from medarts.study.jobs import Job, Layout, work_of
from medarts.system.workers import Processes

from .conftest import RECIPE


@pytest.fixture
def recipe(page, small_recipe: Recipe) -> Recipe:
    """A search of two epochs in the space of the page, and a training of one."""
    page("search-space")
    content: dict[str, Any] = {
        "data": small_recipe.data.model_dump(mode="json"),
        "space": {"name": "chain", "blocks": 2, "init_channel": 4},
        "search": {"stages": [{"epochs": 2, "batch": 4}], "arch_after": 1},
    }
    return parse(RECIPE | content)


@pytest.mark.usefixtures("quick_costs")
def test_a_search_space_from_the_search_to_the_comparison(recipe, tmp_path):
    assert recipe.train.lr == 2e-3  # the default of this space
    searched = search(recipe, out=tmp_path / "searched")
    genotype = load_genotype(searched)
    assert (genotype.space, len(genotype.cells["chain"])) == ("chain", 2)
    text = report(searched).read_text(encoding="utf-8")
    for part in ("chain cell", "<h3>Alphas: chain</h3>", "<dt>blocks</dt><dd>2</dd>", 'id="cost"', 'id="gap"'):
        assert part in text

    trained = train(searched, out=tmp_path / "trained")
    assert load(trained).predict(np.zeros((40, 40), np.uint8)).shape == (40, 40)
    assert not evaluate(trained).summary.empty
    text = report(trained).read_text(encoding="utf-8")
    for part in ("chain cell", 'id="scores-test"', 'id="cost"'):
        assert part in text

    model = "train.model={name: unet, width: 4, depth: 2}"
    unet = train("unet", recipe, changes=[model], out=tmp_path / "unet")
    found = compare([trained, unet], out=tmp_path / "comparison")
    assert {*found.costs[["network", "kind"]].itertuples(index=False, name=None)} == {
        ("searched", "searched"), ("unet", "baseline"),
    }  # fmt: skip
    assert "searched" in (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")


def test_a_search_that_was_killed_goes_on_to_the_same_bytes(recipe, tmp_path, monkeypatch):
    whole = search(recipe, out=tmp_path / "whole" / "chain")
    step = Search.step

    def killed(job: Search) -> None:
        if job.state.epoch == 1 and job.state.step == 1:
            raise KeyboardInterrupt
        step(job)

    monkeypatch.setattr(Search, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        search(recipe, out=tmp_path / "parts" / "chain")
    monkeypatch.setattr(Search, "step", step)
    parts = resume(tmp_path / "parts" / "chain")
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_search_space_on_the_command_line(recipe, medarts, tmp_path, monkeypatch):
    monkeypatch.setattr("medarts.profiling.plan.in_new_process", lambda attempt: attempt())
    (tmp_path / "chain.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    for words, part in (
        (("plan", "chain.yaml"), "search"),
        (("search", "chain.yaml", "search.stages.0.epochs=1", "--out", "searched"), "searched"),
        (("show", "searched"), "chain cell"),
        (("cost", "searched", "--json", "--repeats", 0), '"parameters"'),
        (("train", "searched", "--out", "trained"), "trained"),
        (("evaluate", "trained"), "Dice"),
    ):
        status, output, errors = medarts(*words)
        assert (status, part in output) == (0, True), output + errors
    assert Path("searched/pictures/cell_chain.svg").is_file()
    status, _, errors = medarts("search", "chain.yaml", "space.blokcs=3")
    assert (status, "blocks" in errors) == (1, True)


def test_a_search_space_is_known_to_the_processes_of_a_study(recipe, tmp_path):
    paths = Layout(tmp_path / "study").search("mine")
    with Processes() as workers:
        workers.start(work_of(Job(paths, recipe, None)))
        ended, latest = [], time.monotonic() + 300
        while not ended and time.monotonic() < latest:
            ended = workers.wait(10)
    assert [(one.error, one.stopped) for one in ended] == [(None, False)]
    like = load_genotype(paths.run)
    sampled = [random_genotype(like, seed=seed) for seed in range(8)]
    assert {genotype.space for genotype in sampled} == {"chain"}
    assert len({str(genotype.cells) for genotype in sampled}) > 1
