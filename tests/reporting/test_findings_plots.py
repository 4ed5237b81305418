"""The figures of findings show every value that is there, at its place, and say which are not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from medarts.evaluation.summary import MEAN_OF_FINDINGS, MEAN_OF_FREQUENT
from medarts.reporting.score_plots import plot_cam, plot_precision_recall, plot_reliability, plot_roc, plot_summary
from medarts.reporting.style import PALETTE, inline_svg

NAMES = ("Mass", "Nodule", "Edema", "Hernia", "Effusion", "Fibrosis", "Pneumonia")


def row(finding: str, mean: float | None, *, spread: float | None = 0.05, domain: str = "nih") -> dict[str, Any]:
    value = math.nan if mean is None else mean
    reach = math.nan if spread is None else spread
    interval = {"value": value, "low": value - reach, "high": value + reach}
    return {"dataset": domain, "class": finding, "positives": 12, "images": 3400, **interval}


def plot_findings(rows: Sequence[Mapping[str, Any]]) -> Figure:
    return plot_summary(pd.DataFrame([*rows]), title="AUROC", chance=0.5)


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [([*map(float, line.get_xdata())], [*map(float, line.get_ydata())]) for line in axes.get_lines()]


def words(figure: Figure) -> str:
    texts: list[Any] = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(text.get_text() for text in texts)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def in_house_colours(figure: Figure) -> bool:
    """Whether every line has a colour that the page can turn for a dark screen."""
    light = {values[0] for values in PALETTE.values()}
    return {to_hex(line.get_color()) for axes in figure.axes for line in axes.get_lines()} <= light


def test_every_finding_is_a_dot_on_its_interval_with_its_numbers() -> None:
    figure = plot_findings([row("Mass", 0.7), row("Nodule", 0.62, spread=None), row(MEAN_OF_FINDINGS, 0.66)])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Mass", "Nodule", MEAN_OF_FINDINGS]
    first, second, mean = axes.get_yticks()
    assert mean - second > second - first > 0  # the mean stands apart
    drawn = [(pytest.approx(x), y) for x, y in lines(axes)]
    assert ([0.65, 0.75], [first, first]) in drawn
    assert ([0.7], [first]) in drawn
    assert ([0.62], [second]) in drawn
    assert ([0.5, 0.5], [0, 1]) in drawn
    assert len(drawn) == 6
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is on top
    for number in ("0.700", "0.650–0.750", "0.620", "12 of 3,400"):
        assert number in words(figure)
    assert words(figure).count("12 of 3,400") == 2  # a mean has no positives
    assert "Left out" not in words(figure)
    assert in_house_colours(figure)


def test_the_axis_reaches_down_to_the_lowest_interval() -> None:
    low, high = plot_findings([row("Mass", 0.3)]).axes[0].get_xlim()
    assert low < 0.25
    assert high >= 1
    assert plot_findings([row("Mass", 0.8)]).axes[0].get_xlim()[0] == pytest.approx(0.45)


def test_several_domains_are_named_and_each_mean_stands_apart() -> None:
    rows = [row(name, 0.7, domain=domain) for domain in ("nih", "phantom") for name in ("Mass", MEAN_OF_FINDINGS)]
    axes = plot_findings(rows).axes[0]
    expected = ["nih · Mass", f"nih · {MEAN_OF_FINDINGS}", "phantom · Mass", f"phantom · {MEAN_OF_FINDINGS}"]
    assert [label.get_text() for label in axes.get_yticklabels()] == expected
    assert (np.diff(axes.get_yticks()) > 1).all()


def test_both_means_stand_together_above_the_findings() -> None:
    axes = plot_findings([row(MEAN_OF_FINDINGS, 0.6), row(MEAN_OF_FREQUENT, 0.62), row("Mass", 0.7)]).axes[0]
    assert axes.get_yticklabels()[1].get_text().split() == MEAN_OF_FREQUENT.split()
    assert axes.get_yticks()[1] - axes.get_yticks()[0] < axes.get_yticks()[2] - axes.get_yticks()[1]


def test_excluded_findings_are_named_and_not_drawn() -> None:
    figure = plot_findings([row("Mass", 0.7), row("Hernia", None), row("Edema", None)])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Mass"]
    assert "Left out: Hernia, Edema." in words(figure)


def test_nothing_but_excluded_findings_leaves_their_names() -> None:
    figure = plot_findings([row(MEAN_OF_FINDINGS, None), row("Hernia", None)])
    assert figure.axes == []
    assert "Left out: Hernia." in inline_svg(figure, "AUROC")


def test_the_numbers_beside_the_axes_are_within_the_figure() -> None:
    figure = plot_findings([row("Pleural_Thickening", 0.7, domain=d) for d in ("chestxray14", "phantom")])
    figure.draw_without_rendering()
    box = figure.bbox
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0
        assert extent.x1 <= box.x1
        assert extent.y1 <= box.y1


def curves(score: str, *, absent: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    defined = {"x": [0.25, 0.5, 1.0], "y": [1.0, 0.5, 0.3], score: 0.625, "prevalence": 0.3}
    undefined = {"x": [], "y": [], score: math.nan, "prevalence": 0.0}
    return {name: undefined if name in absent else defined for name in NAMES}


@pytest.mark.parametrize(("plot", "score"), [(plot_roc, "auroc"), (plot_precision_recall, "average_precision")])
def test_every_finding_has_a_panel_with_its_score(plot: Any, score: str) -> None:
    figure = plot(curves(score, absent=["Hernia"]))
    drawn = panels(figure)
    assert [axes.get_title(loc="left") for axes in drawn] == list(NAMES)
    assert [axes.get_title(loc="right") for axes in drawn] == ["" if n == "Hernia" else "0.625" for n in NAMES]
    assert [len(axes.get_lines()) for axes in drawn] == [0 if n == "Hernia" else 2 for n in NAMES]
    assert [text.get_text() for text in drawn[NAMES.index("Hernia")].texts] == ["undefined"]
    assert in_house_colours(figure)


def test_a_roc_curve_is_drawn_beside_the_diagonal() -> None:
    assert lines(panels(plot_roc(curves("auroc")))[0]) == [
        ([0, 1], [0, 1]),
        ([0.25, 0.5, 1.0], [1.0, 0.5, 0.3]),
    ]


def test_the_area_below_a_precision_recall_curve_is_the_average_precision() -> None:
    (axes, *_) = panels(plot_precision_recall(curves("average_precision")))
    chance, curve = axes.get_lines()
    assert [*chance.get_ydata()] == [0.3, 0.3]
    assert curve.get_drawstyle() == "steps-pre"
    recall, precision = curve.get_data()
    assert recall[0] == 0
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(0.25 * 1.0 + 0.25 * 0.5 + 0.5 * 0.3)


@pytest.mark.parametrize("count", [1, 3])
def test_few_findings_make_a_small_figure_in_which_no_title_is_cut(count: int) -> None:
    figure = plot_roc(dict(list(curves("auroc").items())[:count]))
    figure.draw_without_rendering()
    assert len(figure.axes) == count
    every: list[Any] = figure.axes
    for axes in every:
        assert axes.title.get_window_extent().y1 <= figure.bbox.y1
        assert axes._left_title.get_window_extent().x1 < axes._right_title.get_window_extent().x0


def test_a_long_name_leaves_room_for_its_score() -> None:
    figure = plot_roc({f"Enlarged Cardiomediastinum{n}": curves("auroc")["Mass"] for n in range(5)})
    figure.draw_without_rendering()
    every: list[Any] = figure.axes
    for axes in every:
        assert axes._left_title.get_window_extent().x1 < axes._right_title.get_window_extent().x0


def reliability(shift: float, predictions: Sequence[int]) -> Mapping[str, Any]:
    return {
        "low": [0.0, 0.2, 0.4],
        "high": [0.2, 0.4, 1.0],
        "predictions": predictions,
        "mean_probability": [0.1, None, 0.5],
        "observed": [0.1 + shift, None, 0.5 + shift],
    }


def test_reliability_leaves_empty_bins_out_and_counts_the_others() -> None:
    figure = plot_reliability(reliability(0.2, [2000, 0, 30]), reliability(0.0, [1990, 0, 40]))
    curve, counts = figure.axes
    diagonal, before, after = lines(curve)
    assert diagonal == ([0, 1], [0, 1])
    assert before == (pytest.approx([0.1, 0.5]), pytest.approx([0.3, 0.7]))
    assert after == (pytest.approx([0.1, 0.5]), pytest.approx([0.1, 0.5]))
    legend = [text.get_text() for text in curve.get_legend().get_texts()]
    assert legend == ["calibrated", "as trained", "after temperature scaling"]
    patches: list[Any] = [*counts.patches]
    heights = [[*patch.get_data().values] for patch in patches]
    assert heights == [[2000, 0.5, 30], [1990, 0.5, 40]]
    assert [*patches[0].get_data().edges] == [0.0, 0.2, 0.4, 1.0]
    for patch, line in zip(patches, curve.get_lines()[1:], strict=True):
        assert to_hex(patch.get_edgecolor()) == to_hex(line.get_color())
    figure.draw_without_rendering()
    assert "$" not in words(figure)  # powers are not set as mathematics in the house's style


def test_distances_have_an_axis_of_their_own() -> None:
    rows = [row("foreground", 21.0, spread=8.0, domain=domain) for domain in ("isic", "cvc")]
    axes = plot_summary(pd.DataFrame(rows), title="HD95").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["isic", "cvc"]
    low, high = axes.get_xlim()
    assert low < 13
    assert high > 29


def test_where_the_map_is_zero_the_x_ray_is_bare() -> None:
    image = np.random.default_rng(0).random((8, 8, 3))
    cam = np.zeros((8, 8))
    cam[2, 5], cam[2, 6] = 1.0, 0.5
    figure = plot_cam(image, cam)
    assert figure.get_size_inches() == pytest.approx([2.4, 2.4])
    grey, overlay = figure.axes[0].images
    np.testing.assert_allclose(grey.get_array(), image.mean(axis=2))
    alpha = overlay.get_alpha()
    assert alpha[2, 5] > alpha[2, 6] > 0
    assert (alpha[cam == 0] == 0).all()
    assert alpha.max() < 1
    assert (overlay.get_clim(), grey.get_clim()) == ((0, 1), (0, 1))
