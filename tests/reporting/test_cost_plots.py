"""The plot of costs shows the numbers measured, and says how far parameters tell the latency."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.reporting.plots import plot_costs, rank_correlation

NETWORKS = {"unet": (34.5e6, 520.0), "unetpp": (36.6e6, 900.0), "resenc-unet": (71e6, 480.0), "searched": (0.6e6, 95.0)}


def costs(*, shipped: bool = True, threads: tuple[int, ...] = (1,), batch: int = 1) -> dict[str, Cost]:
    """Costs whose form as built takes twice as long; a thread more halves the time."""
    return {
        name: Cost(
            int(parameters),
            10**9,
            size=256,
            in_channels=3,
            outputs=1,
            built=tuple(Timing(each, batch, 2 * latency / each, 1.0) for each in threads),
            shipped=tuple(Timing(each, batch, latency / each, 1.0) for each in threads) if shipped else None,
        )
        for name, (parameters, latency) in NETWORKS.items()
    }


def drawn(figure: Figure) -> dict[str, tuple[float, float]]:
    """Returns the point of every name, from the names; held against the markers."""
    (axes,) = figure.axes
    names = {text.get_text(): text.xy for text in axes.texts if isinstance(text, Annotation) and text.get_text()}
    markers = {tuple(map(float, line.get_xydata()[0])) for line in axes.get_lines() if line.get_marker() == "o"}
    assert markers == {tuple(map(float, point)) for point in names.values()}
    return {name: (float(x), float(y)) for name, (x, y) in names.items()}


def test_every_network_stands_where_it_was_measured() -> None:
    figure = plot_costs(costs(threads=(2, 1)))
    assert drawn(figure) == NETWORKS
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylabel() == "CPU latency of one image on 1 thread, ms"
    assert axes.get_title(loc="left") == "Latency against parameters: rank correlation 0.40 (Spearman, 4 networks)"
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(low < parameters < high and bottom < latency < top for parameters, latency in NETWORKS.values())


def test_networks_without_a_form_for_inference_are_hollow() -> None:
    mixed = costs() | {"chexnet": Cost(7_000_000, 10**9, 256, 3, 1, (Timing(1, 1, 150.0, 1.0),))}
    figure = plot_costs(mixed)
    assert drawn(figure)["chexnet"] == (7e6, 150.0)
    fills = [line.get_markerfacecolor() for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [fill == "none" for fill in fills] == [False] * 4 + [True]
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["for inference", "as built", "time in proportion to parameters"]
    (legend,) = plot_costs(costs()).legends
    assert "as built" not in [text.get_text() for text in legend.get_texts()]


def test_the_axis_says_what_was_measured() -> None:
    figure = plot_costs(costs(shipped=False, threads=(2, 4), batch=8))
    assert figure.axes[0].get_ylabel() == "CPU latency of a batch of 8 on 2 threads, ms"
    assert drawn(figure)["unet"] == (34.5e6, 520.0)


def test_the_dashed_line_is_time_in_proportion() -> None:
    (line,) = [line for line in plot_costs(costs()).axes[0].get_lines() if line.get_marker() != "o"]
    (x0, y0), (x1, y1) = line.get_xydata()
    assert y1 / y0 == pytest.approx(x1 / x0)
    centre = np.exp(np.log([*NETWORKS.values()]).mean(axis=0))
    assert y0 / x0 == pytest.approx(centre[1] / centre[0])


def test_names_do_not_cover_each_other() -> None:
    close = {f"network {n}": (30e6 * 1.01**n, 500 * 1.01**n) for n in range(4)} | {"far": (1e6, 20.0)}
    timings = {name: (Timing(1, 1, latency, 1.0),) for name, (_, latency) in close.items()}
    figure = plot_costs({name: Cost(int(close[name][0]), 1, 256, 3, 1, timings[name]) for name in close})
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts if text.get_text() in close]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_rank_correlation_needs_three_different_networks() -> None:
    rising = np.asarray([[1, 10], [2, 30], [3, 20], [9, 90]], dtype=float)
    assert rank_correlation(rising) == pytest.approx(0.8)
    assert rank_correlation(rising[:2]) is None
    assert rank_correlation(np.asarray([[5, 10], [5, 30], [5, 20]], dtype=float)) is None
    two = dict(list(costs().items())[:2])
    assert plot_costs(two).axes[0].get_title(loc="left") == "Latency against parameters"
