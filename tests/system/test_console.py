"""What is printed: names are never markup or control characters, no encoding fails, no table is cut."""

import io
import re
import sys
import time

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from medarts import terminal
from medarts.evaluation.scores import Scores, table_of
from medarts.evaluation.scoring import calibrate, finding_table
from medarts.evaluation.summary import summarized
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.system import console as terminal_streams
from medarts.system.console import columns, make_console, name_column, say, show_table, tolerate_encodings, wrapped

HOSTILE = "[/x][red]:smile: \x1b[31m\a\r\nü\udce9–"
SHOWN = r"[/x][red]:smile: \x1b[31m\x07\r\nü\xe9–"


class Output:
    """Standard output and error in one encoding, while a ``with`` lasts."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sys, "stdout", self.stream)
        self.patch.setattr(sys, "stderr", self.stream)
        tolerate_encodings()

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    @property
    def text(self) -> str:
        """What has been written."""
        self.stream.flush()
        return self.stream.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def output(request: pytest.FixtureRequest) -> Output:
    """In UTF-8, or the encoding of the parameter. (A fixture cannot put it in place: pytest does so after it.)"""
    return Output(getattr(request, "param", "utf-8"))


every_encoding = pytest.mark.parametrize("output", ["ascii", "latin-1", "cp437", "cp1252", "utf-8"], indirect=True)


def console(width: int = 80) -> Console:
    made = make_console()
    made.width = width
    return made


@every_encoding
def test_no_sign_makes_an_output_fail(output: Output) -> None:
    with output:
        print("0.65–0.72 … µ ± 病 \udce9")
        print("x", file=sys.stderr)
    assert output.text.startswith("0.65")
    if output.encoding == "ascii":
        assert output.text == "0.65-0.72 ... u +- ? \\xe9\nx\n"


@every_encoding
def test_tables_in_every_encoding(output: Output) -> None:
    table = Table(name_column("name"), *columns("dice"))
    table.add_row("lésion 病", "0.65\n0.61–0.72")
    with output:
        show_table(console(), table)
    assert "0.65" in output.text


def test_lines_of_text_are_printed_one_by_one(output: Output) -> None:
    with output:
        say("a\x1b[31m\nb\r\udce9")
    assert output.text == "a\\x1b[31m\nb\\r\\xe9\n"


def test_a_console_takes_names_as_they_are(output: Output) -> None:
    table = Table(name_column("[/h]"))
    table.add_row("[/x] :smile:")
    with output:
        console().print("[/x][red]a[/red] :smile:")
        show_table(console(), table)
    for word in ("[/x][red]a[/red] :smile:", "[/h]", "[/x] :smile:"):
        assert word in output.text


@pytest.mark.parametrize("width", [1, 10, 20, 39, 40, 60, 80, 200])
def test_no_cell_is_cut_at_any_width(output: Output, width: int) -> None:
    cells = {"images": "1,234", "Dice": "0.812\n0.801–0.830", "difference": "+0.123  p 0.012\n+0.101 to +0.200"}
    table = Table(name_column("network"), "two words", *columns(*cells))
    table.add_row("alpha0_5_stage1_nodouble_deep_ep80", "a sentence of words", *cells.values())
    with output:
        show_table(console(width), table)
    for word in (*cells, *"\n".join(cells.values()).split("\n"), "sentence", "words", "network"):
        assert word in output.text
    assert "…" not in output.text
    letters = re.sub(r"[^a-z0-9_]", "", "".join(line.split("│")[1] for line in output.text.splitlines() if "│" in line))
    assert letters == "alpha0_5_stage1_nodouble_deep_ep80"
    if width >= 80:
        assert max(map(len, output.text.splitlines())) <= width


def test_lines_on_a_terminal_end_between_words(output: Output) -> None:
    path = "/a/very/long/path/" + "x" * 90
    text = f"{'word ' * 30}\n  medarts search {'a' * 40} {'b' * 40}\nerror in {path}, see there"
    assert wrapped(text) == text.split("\n"), "in a pipe lines are as they are"
    terminal = Console(width=80, force_terminal=True)
    lines = wrapped(text, to=terminal)
    assert " ".join(lines).split() == text.split()
    assert [line for line in lines if len(line) > 80] == [text.split("\n")[1], f"{path},"]
    with output:
        say("word " * 30, to=Console(width=80, force_terminal=True))
    assert max(map(len, output.text.splitlines())) <= 80


def test_commands_and_paths_are_not_broken(output: Output) -> None:
    terminal = Console(width=60, force_terminal=True)
    command = f"medarts search --resume 'runs/{'long name ' * 4}' data.cache=/x"
    stopped = f"error: Stopped; runs/s is saved. Resume with: {command}"
    said = ["error: Stopped; runs/s is saved. Resume with:", f"    {command}"]
    assert wrapped(stopped, to=terminal) == said
    assert wrapped(f"{stopped}. Or train the genotype.", to=terminal) == [*said, "Or train the genotype."]
    assert wrapped("Resume with: medarts search --resume s", to=terminal) == ["Resume with: medarts search --resume s"]
    assert len(wrapped(f"error: medarts was {'not ' * 20}installed", to=terminal)) == 2  # which is no command
    path = f"/home/me/{'My Documents/' * 6}report.html"
    with output:
        say(path, to=terminal, whole=True)
    assert output.text == f"{path}\n"


def test_columns_of_zero_are_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert make_console().width == 80


def test_progress_takes_names_as_they_are(output: Output) -> None:
    with output, terminal_streams.progress_bar(HOSTILE, 3) as bar:
        bar.note(HOSTILE)
        bar.reach(2, 3)
    assert output.text == f"{SHOWN} {SHOWN}\n"


def test_progress_on_a_terminal(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = make_console(stderr=True)
    seen._force_terminal = True
    seen.width = 300
    monkeypatch.setattr(terminal_streams, "console", seen)
    with output, terminal_streams.progress_bar("[/x]", 3) as bar:
        bar.note("{task.id} [red]" + HOSTILE)
    assert SHOWN in output.text
    assert "{task.id} [red]" in output.text


def test_long_work_without_a_count_is_told_and_short_work_is_not(output: Output, monkeypatch) -> None:
    monkeypatch.setattr(terminal_streams, "SECONDS_OF_SILENCE", 0.1)
    monkeypatch.setattr(terminal_streams, "SECONDS_A_LINE", 0.1)
    with output:
        with terminal_streams.told_if_long("short"):
            pass
        with terminal_streams.told_if_long("listing"), terminal_streams.told_if_long("a part of it"):
            time.sleep(0.5)
        told = output.text
        time.sleep(0.3)
    assert re.fullmatch(r"(listing: 0\.\d s\n)+", told)
    assert output.text == told


def finding_scores(name: str) -> Scores:
    """Scores of twelve images; nobody has the second finding, which has the name twice."""
    labels = np.stack([np.arange(12) % 2, np.zeros(12)], axis=1).astype(np.uint8)
    logits, names = np.random.default_rng(0).normal(size=(12, 2)), (name, name * 2)
    calibration = calibrate(logits, labels, findings=names, sensitivity=0.9)
    about = [("films", str(number), str(number)) for number in range(12)]
    return summarized(
        Scores(finding_table(about, names, logits, labels, temperature=1.0), "test", draws=100, calibration=calibration)
    )


def mask_scores(name: str, *classes: str, dataset: str = "films", **values: tuple[float, float]) -> Scores:
    names = classes or (f"{name}0", f"{name}1")
    metrics = values or dict.fromkeys(("dice", "jaccard", "hd95"), (0.5, 0.5))
    rows = [
        (dataset, f"{i}", f"{i}", names[i % 2], "present", metric, of[i % 3 % 2])
        for i in range(12)
        for metric, of in metrics.items()
    ]
    return summarized(Scores(table_of(rows), "test", head="last", draws=100))


def test_scores_of_several_classes_fit_into_80_columns(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "console", console(80))
    values = {"dice": (0.123, 0.987), "jaccard": (0.2, 0.9), "hd95": (12.3, 145.6)}
    with output:
        terminal.show_scores(mask_scores("", "class 0", "class 1", dataset="colonoscopy-2017", **values))
    lines = output.text.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.search(r"│[0-9.]+–[0-9.]+ *│[0-9.]+–[0-9.]+ *│[0-9.]+–[0-9.]+ *│", output.text)


def words_of(text: str) -> str:
    """Returns a text without the lines of tables and the breaks of folded names."""
    return re.sub(r"[\s│┃|+-]", "", text)


@every_encoding
@pytest.mark.parametrize("show", ["findings", "masks", "costs", "missing"])
def test_hostile_names_are_shown_as_they_are(output: Output, show: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "console", console(200))  # where no name has to be folded
    cost = Cost(1, 1, 16, 3, 1, timings={"onnxruntime": (Timing(1, 1, 1.0, 0.1),)})
    with output:
        if show == "findings":
            terminal.show_scores(finding_scores(HOSTILE))
        elif show == "masks":
            terminal.show_scores(mask_scores(HOSTILE, dataset=HOSTILE))
        elif show == "costs":
            terminal.show_costs({HOSTILE: cost})
        else:
            run = {"group": HOSTILE, "network": HOSTILE, "seed": 0, "state": "failed", "reason": HOSTILE}
            terminal.show_missing([run])
    for control in ("\x1b", "\a", "\r"):
        assert control not in output.text
    assert words_of(r"[/x][red]:smile: \x1b[31m\x07\r\n") in words_of(output.text)
