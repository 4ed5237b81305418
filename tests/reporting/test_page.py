import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medarts.errors import RunError
from medarts.evaluation.cost import Cost
from medarts.evaluation.latency import Timing
from medarts.evaluation.scores import ImageScore, Scores
from medarts.recipe import Recipe, SupernetSettings
from medarts.reporting.page import write_report
from medarts.run.directory import RunDirectory
from medarts.spaces.weave.supernet import WeaveSpace

EPOCHS = 3


@pytest.fixture
def run(tmp_path: Path, small_recipe: Recipe) -> Path:
    """A search run as it stands before its first epoch has ended."""
    recipe = small_recipe.model_copy(update={"note": "a <note> & more"})
    RunDirectory.create(
        tmp_path / "run", recipe, kind="search", data_fingerprint="d" * 16, environment={"processor": "abacus"}
    )
    return tmp_path / "run"


def _add_search(path: Path, recipe: Recipe) -> None:
    run = RunDirectory.open(path)
    settings = recipe.space.model_copy(update={"intermediate_nodes": 2})
    normalised = SupernetSettings(edge_normalisation=True)
    space = WeaveSpace(settings, in_channels=3, outputs=1, supernet=normalised)
    for stage in range(2):
        supernet = space.supernet(recipe.search.stages[stage], None)
        for epoch in range(EPOCHS):
            here = {"stage": stage, "epoch": epoch}
            scores = {"val_loss": 0.4, "val_dice": 0.1 * epoch, "val_dice_by_domain": {"blobs": 0.1 * epoch}}
            run.append("metrics.jsonl", {**here, "train_loss": 0.5, "arch_loss": None, "lr": 0.1, **scores})
            run.append("architecture.jsonl", {**here, **supernet.snapshot()})
            run.append("timing.jsonl", {**here, "seconds": 60.0, "peak_memory_mb": 1500.0})
    supernet.derive(recipe.derive, name="run", provenance={}).save(path / "genotype.json")
    gap = {"score": "dice", "supernet": 0.8, "discrete": 0.5, "gap": 0.3}
    run.write_json("summary.json", {**gap, "stages": [gap, gap]})
    built, shipped = (Timing(threads=1, batch=1, median_ms=median, spread_ms=0.5) for median in (12.3, 8.1))
    cost = Cost(1234567, 2 * 10**9, size=32, in_channels=3, outputs=1, built=(built,), shipped=(shipped,))
    run.write_json("cost.json", cost.as_json())
    lines = ["key,domain,patient,split,image,mask,findings", "a,blobs,p,train,i,m,", "b,blobs,q,val,i,m,"]
    (path / "manifest.csv").write_text("\n".join(lines) + "\n")


def _add_scores(path: Path) -> None:
    scores = Scores(split="test", checkpoint="best", head="4,0", draws=100)
    for number in range(4):
        metrics = {"dice": 0.5 + 0.1 * number, "hd95": float("nan") if number else 2.0}
        scores.add(
            ImageScore(
                key=f"k{number}",
                domain="blobs",
                patient=f"p{number}",
                class_index=1,
                class_name="foreground",
                metrics=metrics,
            )
        )
    square = np.zeros((1, 16, 16), np.uint8)
    square[:, 4:9, 4:9] = 1
    examples = {
        "images": np.random.default_rng(0).random((1, 16, 16, 3), np.float32),
        "targets": square,
        "predictions": np.zeros_like(square),
        "titles": np.asarray(["blobs · best · k3 · Dice 0.8"]),
        "domains": np.asarray(["blobs"]),
    }
    scores.write(path / "scores" / "test", examples=examples)


class _Reader(HTMLParser):
    """Collects the ids of sections, the sources of pictures and whatever tags stay open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "section":
            self.sections.append(values["id"] or "")
        if "src" in values:
            self.sources.append(values["src"] or "")
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Has nothing to close."""


def test_a_run_without_results_has_a_page(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert _Reader(text).sections == ["environment"]
    assert "not finished" in text
    assert "a &lt;note&gt; &amp; more" in text
    assert "abacus" in text


def test_every_section_comes_with_its_data(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    _add_scores(run)
    text = write_report(run).read_text(encoding="utf-8")
    reader = _Reader(text)
    expected = ["data", "scores-test", "curves", "gap", "genotype", "architecture", "cost", "environment"]
    assert reader.sections == expected
    assert not reader.open
    assert "1,234,567" in text
    assert "8.1 ms as shipped for inference" in text
    assert "12.3 ms as built" in text
    assert "<b>8 ms</b><span>CPU latency at 32 px</span>" in text
    assert "0.650" in text  # the mean Dice
    assert "3 undefined" in text
    assert "+0.300" in text
    assert "6.0 minutes" in text
    assert "Alphas, betas and gammas" in text
    assert "best validation Dice" in text
    assert 'href="scores/test/tables.csv"' in text


def test_a_cost_of_an_older_medarts_is_refused(run: Path) -> None:
    RunDirectory.open(run).write_json("cost.json", {"parameters": 3, "flops": 2e9, "latency_ms": 12.3, "spread": 0.5})
    with pytest.raises(RunError, match=r"run/cost\.json holds no cost .* --resume"):
        write_report(run)


def test_the_page_opens_offline(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    _add_scores(run)
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<link", text)
    sources = _Reader(text).sources
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_page_is_written_again_with_what_is_new(run: Path) -> None:
    write_report(run)
    _add_scores(run)
    assert "scores-test" in write_report(run).read_text(encoding="utf-8")
    assert not list(run.glob(".unfinished*"))


def test_the_whole_recipe_is_on_the_page(run: Path, small_recipe: Recipe) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    for key in json.loads(small_recipe.model_dump_json()):
        assert f"{key}:" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        write_report(tmp_path)
