"""The page of a generalization: every number of the matrices stands there, and what is missing is seen."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb

from medarts import terminal
from medarts.comparison.paired import Difference
from medarts.comparison.result import MetricScore
from medarts.reporting.generalization import write_generalization
from medarts.reporting.generalization_plots import HeatCell, HeatRow, Scale, plot_heat_map
from medarts.reporting.style import PALETTE
from medarts.study.generalization import (
    Claim,
    Contrast,
    Domain,
    Generalization,
    Group,
    MissingRun,
    MissingTest,
    Network,
    Pooled,
    Retrained,
    RetrainedRow,
    Trained,
    TrainedRow,
)


def score(mean: float, *seeds: float) -> MetricScore:
    return MetricScore(mean, mean - 0.011, mean + 0.012, by_seed=seeds or (mean,), undefined=0)


CONTRASTS = (
    Contrast("b", "mix", "alone", "b", "of the mix", 10, 2, Difference(0.021, 0.004, 0.039, 0.0151, 0.0302), True),
    Contrast("a", "mix", "alone", "a", "own", 3, 1, Difference(-0.013, -0.027, 0.001, 0.0641, 0.0641), False),
)

FOUND = Generalization(
    task="segmentation",
    score="dice",
    note="Small & made up.",
    domains=(
        Domain("a", False, 1200, 300, ""),
        Domain("b", False, 30, 10, ""),
        Domain("x", True, 7, 7, "It says nothing."),
    ),
    groups=(Group("a", ("a",)), Group("b", ("b",)), Group("both", ("a", "b"))),
    networks=(
        Network("alone", "searched", ("a",)),
        Network("mix", "searched", ("a", "b")),
        Network("<b>hand</b>", "made by hand", ()),
        Network("few", "random", ()),
    ),
    retrained=Retrained(
        groups=("a", "b"),
        shared=("a",),
        left_out=("b",),
        rows=(
            RetrainedRow("alone", {"a": score(0.811, 0.80, 0.822), "b": score(0.7)}, ("a", "b"), score(0.811), 2.0),
            RetrainedRow("mix", {"a": score(0.832), "b": score(0.721)}, ("a", "b"), score(0.832), 1.0),
            RetrainedRow("<b>hand</b>", {"a": score(0.790), "b": None}, ("a", "b"), score(0.790), 3.0),
            RetrainedRow("few", {"a": None, "b": score(0.6)}, ("b",), None, None),
        ),
    ),
    trained=(
        Trained(
            "mix",
            (
                TrainedRow(
                    "a",
                    {"a": score(0.832), "b": score(0.401), "x": None},
                    {"a": "own", "b": "unseen", "x": "external"},
                ),
                TrainedRow(
                    "both",
                    {"a": score(0.844), "b": score(0.733), "x": score(0.502)},
                    {"a": "part of the mix", "b": "part of the mix", "x": "external"},
                ),
            ),
        ),
    ),
    claims=(
        Claim(
            "search",
            "undecided",
            1,
            CONTRASTS,
            differing=(),
            sides=(),
            unseen=Pooled(("b",), (), 1, 10, 1, 0, 0, mean=0.021, low=0.004, high=0.039, p=0.2),
            own=None,
            neither=None,
            words=("The head: undecided.", "A sentence.", "Another < sentence."),
        ),
        Claim(
            "training",
            None,
            0,
            (),
            differing=(),
            sides=(),
            unseen=None,
            own=None,
            neither=None,
            words=("No such thing.",),
        ),
    ),
    missing=(MissingRun("b", "<b>hand</b>", 1, "failed", "It diverged."), MissingRun("b", "mix", 2, "not begun", "")),
    untested=tuple(MissingTest("a", "mix", seed, "x", "No such folder.") for seed in (0, 1)),
    definitions={"dice": "Overlap.", "own": "The <one>."},
)

MEANS = (
    "Means and ranks are over a, of the networks that have a score on all of them. "
    "b has 1 patient: it is shown, and not counted in means and ranks."
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pages") / "new" / "generalization.html"
    assert write_generalization(FOUND, target, title="How <well>") == target
    return target


@pytest.fixture(scope="module")
def page(page_file: Path) -> str:
    return page_file.read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, flags=re.DOTALL)
    assert found
    return found[1]


def rows(text: str, table: int = 0) -> list[list[str]]:
    """The cells of a table as they are read, lines of one cell apart by a bar."""
    (_, *found) = re.findall(
        r"<tr>(.*?)</tr>", re.findall(r"<table.*?</table>", text, flags=re.DOTALL)[table], re.DOTALL
    )
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in found]
    parted = [[cell.replace('<span class="interval">', "|").replace("\n", "|") for cell in row] for row in cells]
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in parted]


def pictures(text: str) -> list[set[str]]:
    """The texts of every figure."""
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    return [{unescape(found) for found in re.findall(r"<text[^>]*>([^<]*)</text>", svg)} for svg in svgs]


def test_the_verdict_comes_first(page):
    assert re.findall(r'<section id="(\w+)">', page) == ["verdict", "retrained", "trained", "missing", "how"]
    text = section(page, "verdict")
    assert text.index("The head: undecided.") < text.index("A sentence.") < text.index("No such thing.")
    assert "Another &lt; sentence." in text
    assert rows(text) == [
        ["mix|against alone", "+0.021|+0.004 to +0.039", "0.030", "0.015", "b", "of the mixed search", "10", "2"],
        [
            "mix|against alone",
            "-0.013|-0.027 to +0.001",
            "0.064",
            "0.064",
            "a",
            "of the single search",
            "3|too few",
            "1",
        ],
    ]
    assert "<b>0.030</b>" in text
    assert "<b>0.064</b>" not in text
    assert "<b>undecided</b><span>search on several sets</span>" in page
    assert "<b>not in the study</b><span>training on several sets</span>" in page


def test_networks_against_data_sets(page):
    text = section(page, "retrained")
    assert rows(text) == [
        [
            "mix|searched on a, b",
            "0.832|0.821 to 0.844",
            "1.0",
            "0.832|0.821 to 0.844",
            "0.721|0.710 to 0.733",
            "searched",
        ],
        [
            "alone|searched on a",
            "0.811|0.800 to 0.823",
            "2.0",
            "0.811|0.800 to 0.823|seeds 0.800, 0.822",
            "0.700|0.689 to 0.712",
            "searched",
        ],
        ["<b>hand</b>", "0.790|0.779 to 0.802", "3.0", "0.790|0.779 to 0.802", "–|missing", "made by hand"],
        ["few", "–|lacks some", "–", "–|not in the study", "0.600|0.589 to 0.612", "random"],
    ]
    (drawn,) = pictures(text)
    assert {"0.832", "0.821–0.844", "0.721", "0.700", "0.790", "mean", "mean rank", "3.0"} <= drawn
    assert {"mix", "searched on a, b", "<b>hand</b>", "made by hand", "Dice minus the median of the column"} <= drawn
    assert f"{MEANS}</p>" in text
    assert "what published networks were searched on is not marked." in text
    assert text.count("<pattern") == 1  # one cell is hatched


def test_groups_against_data_sets(page):
    text = section(page, "trained")
    assert rows(text) == [
        ["mix", "a", "0.832|0.821 to 0.844|own", "0.401|0.390 to 0.413|unseen", "–|missing|external"],
        [
            "mix",
            "both",
            "0.844|0.833 to 0.856|part of the mix",
            "0.733|0.722 to 0.745|part of the mix",
            "0.502|0.491 to 0.514|external",
        ],
    ]
    (drawn,) = pictures(text)
    assert {"own", "unseen", "part of the mix", "external", "(external)", "a, b", "0.401", "0.502"} <= drawn


def test_what_is_missing_and_what_words_mean(page):
    text = section(page, "missing")
    assert "&lt;b&gt;hand&lt;/b&gt; on b, seed 1: failed. It diverged." in text
    assert "not begun, by network and seed: mix on b (2)<" in text
    assert "Not tested on x: mix trained on a, seed 0; mix trained on a, seed 1. No such folder." in text
    text = section(page, "how")
    assert rows(text) == [
        ["a", "training and tests", "1,200", "300"],
        ["b", "training and tests", "30", "10"],
        ["x", "tests alone (external)", "7", "7"],
    ]
    assert "x: It says nothing." in text
    assert "<dt>own</dt><dd>The &lt;one&gt;.</dd>" in text


def test_the_page_opens_offline(page):
    assert not re.search(r"https?://|url\((?!#)|@import|<link|<script src", page)
    assert "<h1>How &lt;well&gt;</h1>" in page
    assert "<p>Small &amp; made up.</p>" in page


def test_a_study_without_scores_has_a_page(tmp_path):
    """Such as one of which every run has failed."""
    content = {
        "retrained": Retrained((), (), (), ()),
        "trained": (),
        "claims": FOUND.claims[1:],
        "untested": (),
    }
    empty = Generalization(**{**{name: getattr(FOUND, name) for name in FOUND.__dataclass_fields__}, **content})
    page = write_generalization(empty, tmp_path / "page.html", title="x").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', page) == ["verdict", "missing", "how"]


def test_what_is_planned_but_not_there_yet_is_no_lack_of_the_study(tmp_path):
    claims = (replace(FOUND.claims[1], planned=3),)
    page = write_generalization(replace(FOUND, claims=claims), tmp_path / "page.html", title="x").read_text("utf-8")
    assert "<b>not yet</b><span>training on several sets</span>" in page
    assert "not in the study</b>" not in page


def test_on_a_terminal(capfd):
    terminal.show_generalization(FOUND)
    lines = capfd.readouterr().out.splitlines()
    for claim in FOUND.claims:
        assert set(claim.words) <= set(lines)
    assert MEANS in lines
    mixed = next(line for line in lines if "│ mix " in line)
    cells = [cell.strip() for cell in mixed.split("│")[2:-1]]
    assert len(cells) == len(FOUND.retrained.groups) + 2
    assert [cell.endswith("*") for cell in cells] == [True, True, *[False] * (len(cells) - 2)]
    assert max(map(len, lines[: lines.index(MEANS)])) <= 80
    assert "<b>hand</b> on b, seed 1: failed. It diverged." in lines
    assert "mix on a, seed 1, is not tested on x: No such folder." in lines


def test_tints_tell_shades():
    signed = Scale.around_zero("x", [-0.01, 0.04])
    assert (signed.low, signed.high) == (-0.04, 0.04)
    assert signed.tint(0.02)[0] == PALETTE["blue"][0] != signed.tint(-0.02)[0]
    assert signed.tint(0.02)[1] == signed.tint(-0.02)[1] == pytest.approx(signed.tint(0.04)[1] / 2)
    assert signed.tint(0)[1] == 0
    assert not signed.ends
    failed = Scale.around_zero("x", [-0.7, *([-0.05, 0.03, 0.05] * 13)])
    assert (failed.high, failed.ends) == (0.05, True)
    assert failed.tint(-0.7) == failed.tint(-failed.high)
    plain = Scale.over("x", [0.3, 0.5, 0.9])
    strengths = [plain.tint(shade)[1] for shade in (0.3, 0.5, 0.9)]
    assert 0 < strengths[0] < strengths[1] < strengths[2]
    assert Scale.over("x", [0.5]).tint(0.5)[1] > 0  # one score alone


def contrast(one: Any, other: Any) -> float:
    """The contrast of two colours (WCAG 2.1)."""

    def luminance(color: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", [0, 1])
@pytest.mark.parametrize("shade", [-1.0, 1.0])
def test_numbers_are_legible_on_the_strongest_tints(ground, shade):
    color, opacity = Scale.around_zero("x", [1.0]).tint(shade)
    name = next(name for name, values in PALETTE.items() if values[0] == color)
    tint, surface, ink = (to_rgb(PALETTE[of][ground]) for of in (name, "surface", "ink"))
    seen = [opacity * t + (1 - opacity) * s for t, s in zip(tint, surface, strict=True)]
    assert contrast(seen, ink) >= 4.5


def test_names_are_not_cut_off():
    names = ["stage1_layer9_110epoch_double_deep_final", "MultiResUNet-WIDE-mm00", "x"]
    cell = HeatCell("0.999", ("0.999–0.999", "part of the mix"), 0.5)
    rows = [HeatRow(name, "searched on isic, cvc, chaos, nuclei", [cell, cell], strong=True) for name in names]
    figure = plot_heat_map(rows, ["isic", "retina\n(external)"], Scale.over("Dice", [0.5]), title="trained on", apart=1)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    assert any("\n" in text.get_text() for text in figure.axes[0].texts)
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    cells = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text() == "part of the mix"]
    assert max(box.width for box in cells) < 0.9 * 0.92 * figure.dpi  # narrower than a cell


def test_nothing_is_wider_than_a_phone(page_file, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    report = "parent.document.documentElement.dataset.width = document.documentElement.scrollWidth;"
    shown = page_file.read_text(encoding="utf-8").replace("<details>", "<details open>")
    shown = shown.replace("</body>", f"<script>{report}</script></body>")
    frame = f'<iframe style="border: 0; width: 390px; height: 800px" srcdoc="{escape(shown)}"></iframe>'
    opened = tmp_path / "opened.html"
    opened.write_text(f"<!DOCTYPE html><html><body>{frame}</body></html>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", opened.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'data-width="(\d+)"', dom)
    assert found
    assert json.loads(found[1]) == 390
