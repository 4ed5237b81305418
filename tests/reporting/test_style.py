"""Names that come from data are text in every figure and page, whatever they hold."""

import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from medarts.metrics import metrics_of, register_metric
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.registry import metrics
from medarts.reporting.comparison import plot_latency
from medarts.reporting.plots import plot_costs, plot_curves
from medarts.reporting.score_plots import plot_reliability, plot_roc, plot_summary
from medarts.reporting.style import inline_svg, legible, render, save

NAMES = {
    "a formula": "a$b_1$c",
    "a broken formula": r"$\\frac{$",
    "an underscore": "_hidden",
    "markup": """<b class="x">&'amp;</b>-->""",
    "control": "nul\x00bell\x07esc\x1b[31m",
    "not UTF-8": "caf\udce9",
    "letters that the font lacks": "病変 🩺",
    "a turned direction": "abc\u202egnp",
    "a colour": "#ffffff #1f6fb4",
    "a font": "font: 12px none",
}


def scores(name: str) -> Figure:
    return summary(name, "foreground")


def findings(name: str) -> Figure:
    return summary("x", name)


def summary(dataset: str, name: str) -> Figure:
    values = {"value": 0.5, "low": 0.4, "high": 0.6, "positives": 3, "images": 9}
    rows = [{"dataset": one, "class": name, **values} for one in (dataset, "another")]
    return plot_summary(pd.DataFrame([*rows, {**rows[0], "class": "another"}]), title="Dice")


def panels(name: str) -> Figure:
    return plot_roc({name: {"x": [0, 1], "y": [0, 1], "auroc": 0.5}, "other": {"x": [], "y": [], "auroc": math.nan}})


def latencies(name: str) -> Figure:
    point = {"network": name, "kind": "searched", "score": 0.8, "latency_ms_1": 5.0, "latency_spread_ms_1": 0.1}
    frame = pd.DataFrame([{**point, "parameters": 10**6, "front": True}])
    return plot_latency(frame, title="Dice", reference=name)


def costs(name: str) -> Figure:
    timing = Timing(threads=1, batch=1, median_ms=3.0, spread_ms=0.1)
    cost = Cost(10**6, 10**9, size=32, in_channels=3, outputs=1, timings={"onnxruntime": (timing,)})
    return plot_costs({name: cost, "other": cost})


def curves(name: str) -> Figure:
    values = {"val_loss": 0.3, "val_dice": 0.5, "val_dice_by_domain": {name: 0.4, "other": 0.6}}
    return plot_curves([{"epoch": 0, "train_loss": 0.4, **values}])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("plot", [scores, findings, panels, latencies, costs, curves])
def test_a_name_is_text_in_every_figure(plot: Callable[[str], Figure], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = inline_svg(plot(name), f"the figure of {name}")
    svg.encode()
    figure = ET.fromstring(svg)
    assert figure.get("aria-label") == f"the figure of {legible(name)}"
    said = "".join(figure.itertext())
    assert re.sub(r"\s", "", legible(name)) in re.sub(r"\s", "", said)


@pytest.mark.parametrize("file_format", ["svg", "png"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_text_in_every_file(name: str, file_format: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(scores(name), tmp_path / "figure", file_format=file_format)
    if file_format == "svg":
        ET.parse(tmp_path / "figure")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_text_on_every_page(name: str) -> None:
    page = render("base.html", {"title": name})
    page.encode()
    assert f"<title>{legible(name)} · medarts</title>" in unescape(page)
    assert "<b class" not in page


def test_the_glossary_explains_every_metric() -> None:
    """Those of medarts in its own words, which the documentation shows too; those of users as they are registered."""
    register_metric("brier", task="classification", per="set", title="Brier", definition="Mean <squared> error.")(
        np.dot
    )
    try:
        page = render("base.html", {"title": "x"})
    finally:
        metrics.remove("brier")
    assert "<dt>Brier</dt><dd>Mean &lt;squared&gt; error.</dd>" in page
    terms = {term.lower() for term in re.findall("<dt>(.*?)</dt>", page)}
    for one in (*metrics_of("segmentation"), *metrics_of("classification")):
        assert any(one.title.lower() in term for term in terms), one.title


def test_what_is_not_legible_is_escaped() -> None:
    assert legible("a\x00b\nc\td\udce9 \u202e") == "a\\x00b\nc\td\\xe9 \\u202e"
    assert legible("thin\u2009space, no-break\xa0space – 病変") == "thin\u2009space, no-break\xa0space – 病変"


def test_counts_of_a_few_predictions_have_plain_ticks() -> None:
    """An axis of less than a decade has minor ticks, whose labels matplotlib writes as formulas."""
    table = {"low": [0.0, 0.5], "high": [0.5, 1.0], "predictions": [2, 3]}
    values = {"mean_probability": [0.2, 0.8], "observed": [0.5, 0.5]}
    svg = inline_svg(plot_reliability(table | values, table | values), "reliability")
    assert "mathdefault" not in svg
