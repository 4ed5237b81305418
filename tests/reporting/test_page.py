import json
import os
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medarts.comparison.candidates import listed_samples
from medarts.config import Recipe, SupernetSettings, parse
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import signed
from medarts.errors import MedartsError, RunError
from medarts.evaluation.files import read_files
from medarts.evaluation.scores import Scores, table_of
from medarts.evaluation.summary import summarized
from medarts.profiling.cost import Backend, Cost
from medarts.profiling.latency import Timing
from medarts.registry import Settings, spaces
from medarts.reporting.page import write_report
from medarts.spaces import register_space
from medarts.spaces.base import SearchSpace
from medarts.spaces.genotype import Genotype
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import NasWdan

EPOCHS = 3

SCORE_FILES = ("scores.json", "examples.npz", "scores.csv")


@pytest.fixture
def run(tmp_path: Path, small_recipe: Recipe) -> Path:
    """A search run as it stands before its first epoch has ended."""
    recipe = small_recipe.model_copy(update={"note": "a <note> & more"})
    lines = ["key,domain,patient,split,image,mask,findings", "a,blobs,p,train,i,m,", "b,blobs,q,val,i,m,"]
    RunDirectory.create(
        tmp_path / "run",
        recipe,
        kind="search",
        data_fingerprint="d" * 16,
        files={"manifest.csv": "\n".join(lines) + "\n"},
        environment={"processor": "abacus"},
    )
    return tmp_path / "run"


def _add_search(path: Path, recipe: Recipe) -> None:
    run = RunDirectory.open(path)
    settings = recipe.space.model_copy(update={"intermediate_nodes": 2})
    normalised = SupernetSettings(edge_normalisation=True)
    space = NasWdan(settings, in_channels=3, outputs=1, supernet=normalised)
    for stage in range(2):
        supernet = space.supernet(recipe.search.stages[stage], None)
        for epoch in range(EPOCHS):
            here = {"stage": stage, "epoch": epoch}
            scores = {"val_loss": 0.4, "val_dice": 0.1 * epoch, "val_dice_by_domain": {"blobs": 0.1 * epoch}}
            run.append("metrics.jsonl", {**here, "train_loss": 0.5, "arch_loss": None, "lr": 0.1, **scores})
            signals = {"identity": 0.4 * epoch, "alpha_entropy": 0.9, "rank_correlation": 0.5 if epoch else None}
            run.append("architecture.jsonl", {**here, **supernet.snapshot(), "signals": signals})
            spent = {"input": 3.0, "steps": 51.0, "validation": 6.0, "logging": 0.0}
            run.append("timing.jsonl", {**here, "seconds": 60.0, "spent": spent, "peak_memory_mb": 1500.0})
    supernet.derive(recipe.derive, name="run", provenance={}).save(path / "genotype.json")
    gap = {"score": "dice", "supernet": 0.8, "discrete": 0.5, "gap": 0.3}
    ill = {**gap, "collapse": "80% of the genotype's operations are identity or pooling", "returned_epoch": 0}
    run.write_json("summary.json", {**ill, "stages": [gap, ill]})
    medians: dict[Backend, float] = {"torch": 12.3, "inference form": 8.1, "onnxruntime": 3.4}
    timings = {backend: (Timing(threads=1, batch=1, median_ms=ms, spread_ms=0.5),) for backend, ms in medians.items()}
    cost = Cost(1234567, 2 * 10**9, size=32, in_channels=3, outputs=1, timings=timings)
    run.write_json("cost.json", signed(cost.as_json()))


def _add_scores(path: Path) -> None:
    rows = [
        ("blobs", f"k{number}", f"p{number}", "foreground", "present", metric, value)
        for number in range(4)
        for metric, value in (("dice", 0.5 + 0.1 * number), ("hd95", float("nan") if number else 2.0))
    ]
    about = {"resolution": "file", "tolerance_mm": 2.0, "tolerance_px": 2.0, "by": None}
    scores = summarized(Scores(table_of(rows), "test", head="4,0", draws=100, about=about))
    square = np.zeros((1, 16, 16), np.uint8)
    square[:, 4:9, 4:9] = 1
    examples = {
        "images": np.random.default_rng(0).random((1, 16, 16, 3), np.float32),
        "targets": square,
        "predictions": np.zeros_like(square),
        "titles": np.asarray(["blobs · best · k3 · Dice 0.8"]),
        "domains": np.asarray(["blobs"]),
        "of_gallery": np.asarray([False]),
        "stretch": np.ones(1),
    }
    scores.write(path / "scores" / "test", examples=examples)


FIGURES = {
    "plots": ("plot_curves", "plot_weights"),
    "scores": ("plot_summary", "inline_svg"),
    "drawings": ("draw_cell", "draw_lattice"),
    "style": ("inline_svg",),
}


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a page."""
    for room, names in FIGURES.items():
        for name in names:
            monkeypatch.setattr(f"medarts.reporting.{room}.{name}", lambda *_, **__: "a figure")


@pytest.fixture
def finished(run: Path, small_recipe: Recipe, without_figures: None) -> Path:
    """A search run that has finished, with scores as a training has them."""
    _add_search(run, small_recipe)
    _add_scores(run)
    RunDirectory.open(run).finish()
    return run


def cells(text: str, first: str) -> list[str]:
    """Returns the texts of the row of a table whose first cell has that text."""
    rows = (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL))
    (found,) = ([unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in rows if row and row[0] == first)
    return found


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
        if tag == "image":
            self.sources.append(dict(attrs)["href"] or "")


def test_a_run_without_results_has_a_page(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert _Reader(text).sections == ["data", "environment"]
    assert "No epoch has ended yet." in text
    assert "not finished" in text
    assert "a &lt;note&gt; &amp; more" in text
    assert "abacus" in text


def test_every_section_comes_with_its_data_and_opens_offline(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    _add_scores(run)
    text = write_report(run).read_text(encoding="utf-8")
    reader = _Reader(text)
    expected = ["data", "scores-test", "curves", "signals", "gap", "genotype", "architecture", "cost", "environment"]
    assert reader.sections == expected
    assert not reader.open
    assert "1,234,567" in text
    for heading, median in {"PyTorch, as built": 12.3, "PyTorch, inference form": 8.1, "ONNX Runtime": 3.4}.items():
        assert f"{heading}, ms" in text
        assert str(median) in text
    assert "± 0.25" in text
    assert "<b>3.40 ms</b><span>ONNX Runtime at 32 px, 1 thread</span>" in text
    assert "0.650" in text  # the mean Dice
    assert "3 undefined" in text
    assert "+0.300" in text
    assert "6.0 minutes" in text
    for weights in ("Alphas: down", "Alphas: normal", "Alphas: up", "Betas", "Gammas"):
        assert f"<h3>{weights}</h3>" in text
    assert "best validation Dice" in text
    assert 'href="scores/test/summary.csv"' in text
    assert "<summary>Glossary</summary>" in text
    assert not re.search(r"https?://|url\((?!#)|@import|<script src|<link", text)
    assert reader.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)


# --- damaged runs -----------------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]\n",
    "an object": lambda content: b"{}\n",
    "not text": lambda content: b"\xff" + content[1:],
}


NEVER_MADE_AGAIN = (
    "recipe.yaml", "manifest.csv", "metrics.jsonl", "architecture.jsonl", "timing.jsonl", "genotype.json",
    "summary.json",
)  # fmt: skip


def _other_digit(content: bytes) -> bytes:
    text = content.decode()
    at = max(text.rfind(digit) for digit in "0123456789")
    return f"{text[:at]}{9 - int(text[at])}{text[at + 1 :]}".encode()


def _damage(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes((DAMAGE | {"another digit": _other_digit})[kind](path.read_bytes()))


def test_a_page_says_what_the_epochs_were_spent_on(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    assert "steps 85%, validation 10%, input 5%, logging 0%" in write_report(run).read_text(encoding="utf-8")


def test_the_health_of_a_search_is_told(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    text = write_report(run).read_text(encoding="utf-8")
    verdict = "Stage 1 ended healthy. Stage 2 collapsed: 80% of the genotype&#39;s operations are identity or pooling. "
    assert verdict + "Epoch 1 counts instead." in text
    drawn = text[text.index('<section id="signals">') : text.index('<section id="gap">')]
    for title in ("identity and pooling", "entropy of alphas", "rank correlation"):
        assert title in drawn
    assert "eigenvalue" not in drawn


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", "cut"),
        ("architecture.jsonl", "empty"),
        ("timing.jsonl", "zeroed"),
        ("summary.json", "a list"),
        ("genotype.json", "an object"),
        ("manifest.csv", "not text"),
        ("metrics.jsonl", "another digit"),
        *((name, "missing") for name in NEVER_MADE_AGAIN),
    ],
)
def test_what_cannot_be_made_again_is_refused_by_name(finished: Path, name: str, damage: str) -> None:
    _damage(finished / name, damage)
    with pytest.raises(MedartsError, match=re.escape(name)):
        write_report(finished)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("cost.json", "another digit"),
        ("cost.json", "missing"),
        ("scores/test/scores.json", "cut"),
        ("scores/test/scores.json", "missing"),
        ("scores/test/examples.npz", "zeroed"),
    ],
)
def test_what_can_be_made_again_is_reported_as_missing(
    finished: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    _damage(finished / name, damage)
    text = write_report(finished).read_text(encoding="utf-8")
    fix = "medarts report" if name == "cost.json" else "medarts evaluate"
    for told in (capsys.readouterr().err, text):
        assert name in told
        assert fix in told
    kept = {"cost", "scores-test", "curves"} - {"cost" if name == "cost.json" else "scores-test"}
    assert kept <= {*_Reader(text).sections}


@pytest.mark.usefixtures("without_figures")
def test_a_line_that_was_being_written_when_the_run_was_killed_is_left_out(run: Path, small_recipe: Recipe) -> None:
    _add_search(run, small_recipe)
    whole = write_report(run).read_text(encoding="utf-8")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": 1, "epo')
    assert write_report(run).read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        (
            "metrics.jsonl",
            {"stage": 0, "epoch": 0},
            r"metrics.jsonl is damaged in line 2 .*no number for train",
        ),
        (
            "timing.jsonl",
            {"stage": 0, "epoch": 2, "seconds": 1, "peak_memory_mb": 1},
            r"timing.jsonl is damaged in line 2 .*another epoch",
        ),
        ("timing.jsonl", {"stage": 0, "epoch": 1, "seconds": True}, r"timing.jsonl .* line 2 .*no number for seconds"),
        (
            "architecture.jsonl",
            {"stage": 0, "epoch": 1},
            r"architecture.jsonl .* line 2 .*no alphas",
        ),
    ],
)
def test_a_wrong_line_of_a_journal_is_named(
    run: Path, small_recipe: Recipe, name: str, line: dict[str, object], says: str
) -> None:
    _add_search(run, small_recipe)
    lines = (run / name).read_text().splitlines()
    lines[1] = json.dumps(line)
    (run / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=says):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "lost", "is_named"),
    [("metrics.jsonl", 1, True), ("metrics.jsonl", 2, True), ("timing.jsonl", 1, False), ("timing.jsonl", 2, True)],
)
@pytest.mark.usefixtures("without_figures")
def test_a_journal_that_has_lost_epochs_is_named(
    run: Path, small_recipe: Recipe, name: str, lost: int, is_named: bool
) -> None:
    """The line of timing.jsonl is the last of an epoch: a process that was killed before it leaves one less."""
    _add_search(run, small_recipe)
    lines = (run / name).read_text().splitlines(keepends=True)
    (run / name).write_text("".join(lines[:-lost]))
    if is_named:
        with pytest.raises(RunError, match=rf"{name} has lost lines: it has {6 - lost} of 6 epochs"):
            write_report(run)
    else:
        write_report(run)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["key,domain,split", "a,blobs,train"], "no column 'patient'"),
        (["key,domain,patient,split,image,mask,findings", "a,blobs,p,train"], "more or fewer cells"),
        (["key,domain,patient,split,image,mask,findings", *["a,blobs,p,train,i,m,"] * 2], "listed twice"),
        (["key,domain,patient,split,image,mask,findings", "a,blobs,p,trbin,i,m,"], "'trbin' is not a split"),
    ],
)
def test_a_damaged_manifest_is_named(run: Path, lines: list[str], says: str) -> None:
    (run / "manifest.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=rf"manifest.csv is damaged .*{says}"):
        write_report(run)


def test_a_search_in_a_space_of_a_user_has_a_page(tmp_path: Path, small_recipe: Recipe) -> None:
    """Neither the space, nor its cells, operations and weights are ones that come with medarts."""

    class Mine(SearchSpace):
        task = "segmentation"

    register_space("mine", settings=Settings)(Mine)
    try:
        content = small_recipe.model_dump(mode="json") | {"space": {"name": "mine"}}
        manifest = "key,domain,patient,split,image,mask,findings\na,blobs,p,train,i,m,\n"
        run = RunDirectory.create(
            tmp_path / "run", parse(content), kind="search", data_fingerprint="d" * 16, environment={},
            files={"manifest.csv": manifest},
        )  # fmt: skip
        for epoch in range(2):
            here = {"stage": 0, "epoch": epoch}
            run.append("metrics.jsonl", {**here, "train_loss": 0.5, "val_loss": 0.4, "val_dice": 0.3})
            run.append("architecture.jsonl", {**here, "widths": {"stem": {"16": 0.5, "32": 0.5}}})
            run.append("timing.jsonl", {**here, "seconds": 60.0, "peak_memory_mb": 1500.0})
        cells = {"mixing": ((("my_operation", 0), ("other", 1)), (("my_operation", 2),))}
        Genotype("run", space="mine", cells=cells, settings={"width": 8}).save(run.path / "genotype.json")
        text = write_report(run.path).read_text(encoding="utf-8")
    finally:
        spaces.remove("mine")
    assert {"data", "curves", "genotype", "architecture"} <= {*_Reader(text).sections}
    for part in ("mixing cell", "my_operation", "<h3>Widths</h3>", "<dt>width</dt><dd>8</dd>"):
        assert part in text


@pytest.mark.usefixtures("without_figures")
def test_scores_of_an_evaluation_that_was_killed_are_said_to_be_lacking(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _add_scores(run)
    (run / "scores" / "val").mkdir()
    text = write_report(run).read_text(encoding="utf-8")
    assert "scores/val/scores.json does not exist." in capsys.readouterr().err
    assert "scores/val/scores.json does not exist." in text
    assert "scores-test" in text


def test_a_cost_in_another_form_is_said_to_be_lacking(run: Path) -> None:
    other = {"parameters": 3, "flops": 2e9, "latency_ms": 12.3, "spread": 0.5}
    RunDirectory.open(run).write_json("cost.json", signed(other))
    assert re.search(r"run/cost\.json holds no cost .* medarts report", write_report(run).read_text(encoding="utf-8"))


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("recipe.yaml", lambda run: run.recipe),
        ("manifest.csv", listed_samples),
        ("genotype.json", lambda run: load(run.path)),
        ("metrics.jsonl", lambda run: run.read_journal("metrics.jsonl")),
        ("summary.json", lambda run: run.read_json("summary.json")),
        *((f"scores/test/{file}", lambda run: read_files(run.path / "scores" / "test")) for file in SCORE_FILES),
    ],
)
def test_a_pipe_with_the_name_of_a_file_does_not_hang(
    finished: Path, name: str, read: Callable[[RunDirectory], object]
):
    """Nobody ever writes into it."""
    run = RunDirectory.open(finished)
    (finished / name).unlink(missing_ok=True)
    os.mkfifo(finished / name)
    with pytest.raises(MedartsError, match=rf"{name} is not a regular file"):
        read(run)


def test_changes_on_the_way_are_shown(run: Path) -> None:
    change = {"before": 2, "after": 4, "time": "2026"}
    stamp = RunDirectory.open(run)
    positions = {"search.stages.1.epochs": [1, 2, 0], "search.stages.0.accumulate": [0, 1, 3], "compute.threads": None}
    changes = [{**change, "field": field, "position": place} for field, place in positions.items()]
    stamp.write_json("run.json", stamp.facts | {"changes": changes})
    text = write_report(run).read_text(encoding="utf-8")
    for field, at in (
        ("search.stages.1.epochs", "stage 2, epoch 2"),
        ("search.stages.0.accumulate", "stage 1, epoch 1, step 3"),
        ("compute.threads", "the start"),
    ):
        assert cells(text, field) == [field, "2", "4", at]
