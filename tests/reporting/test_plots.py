"""Plots show the journals of a run and measured costs, value for value."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from medarts.config import StageSettings, SupernetSettings
from medarts.profiling.cost import Cost
from medarts.profiling.latency import Timing
from medarts.reporting.journals import Panel, weight_panels
from medarts.reporting.plots import plot_costs, plot_curves, plot_weights, rank_correlation
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts.operations import OPERATIONS
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings

NORMALISED = SupernetSettings(edge_normalisation=True)


def snapshots(space: Any, *, depth: int) -> list[dict[str, Any]]:
    """Two epochs of a search whose architecture has changed."""
    supernet = space.supernet(StageSettings(depth=depth), None)
    records = []
    for epoch in range(2):
        with torch.no_grad():
            for parameter in supernet.architecture():
                parameter.add_(torch.randn_like(parameter))
        records.append({"stage": 0, "epoch": epoch, **supernet.snapshot()})
    return records


def darts(nodes: int = 4) -> Darts:
    settings = DartsSettings(search_channel=2, intermediate_nodes=nodes)
    return Darts(settings, in_channels=1, outputs=2, supernet=NORMALISED)


def nas_wdan(nodes: int = 2) -> NasWdan:
    settings = NasWdanSettings(init_channel=2, intermediate_nodes=nodes)
    return NasWdan(settings, in_channels=1, outputs=1, supernet=NORMALISED)


def drawn(axes: Axes) -> list[list[float]]:
    return [[*map(float, line.get_ydata())] for line in axes.get_lines()]


def epoch(auroc: float, **by_finding: float | None) -> dict[str, Any]:
    values = {"val_loss": 0.3, "val_auroc": auroc, "val_auroc_by_finding": by_finding}
    return {"epoch": 0, "train_loss": 0.4, "lr": 0.1, **values}


def test_every_score_of_the_journal_is_drawn_whatever_it_is_called() -> None:
    """Three pictures: losses, and two scores, one with its values by group."""
    records = [
        {"epoch": 0, "train_loss": 0.4, "val_loss": 0.3, "val_mine": 0.6, "val_mine_by_site": {"a": 0.7, "b": None}},
        {"epoch": 1, "train_loss": 0.3, "val_loss": 0.2, "val_mine": 0.8, "val_mine_by_site": {"a": 0.9, "b": 0.5}},
    ]
    records = [record | {"val_hd95": 12.0} for record in records]
    losses, mine, distance = (axes for axes in plot_curves(records).axes if axes.axison)
    assert drawn(losses) == [[0.4, 0.3], [0.3, 0.2]]
    assert mine.get_title(loc="left") == "Validation mine"
    np.testing.assert_array_equal(drawn(mine), [[0.7, 0.9], [np.nan, 0.5], [0.6, 0.8]])
    assert [text.get_text() for text in mine.get_legend().get_texts()] == ["a", "b", "mean"]
    assert distance.get_title(loc="left") == "Validation HD95"
    assert drawn(distance) == [[12.0, 12.0]]


def test_many_groups_share_a_colour_and_a_name() -> None:
    by_finding = {f"finding {n}": 0.05 * n for n in range(14)}
    scores = plot_curves([epoch(0.6, **by_finding), epoch(0.75, **by_finding)]).axes[1]
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["each finding", "mean"]
    assert len(drawn(scores)) == 15


def test_epochs_are_whole_numbers() -> None:
    figure = plot_curves([epoch(0.5 + 0.1 * n, Mass=0.5) for n in range(3)])
    figure.canvas.draw()
    for axes in figure.axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_every_edge_of_a_stack_has_its_alphas_with_none_among_them(kind: str) -> None:
    records = snapshots(darts(), depth=4)
    panels = weight_panels(records)[f"Alphas: {kind}"]
    assert len(panels) == 14
    assert [panels[index].title for index in (0, 4, 13)] == ["s0 → n0", "n0 → n1", "n2 → n3"]
    assert [*panels[4].series] == list(OPERATIONS["normal"].published)
    weights = np.asarray([record["alphas"][kind]["weights"][4] for record in records])
    figure = plot_weights(panels)
    axes = [axes for axes in figure.axes if axes.axison]
    assert [one.get_title(loc="left") for one in axes] == [panel.title for panel in panels]
    np.testing.assert_allclose(drawn(axes[4]), weights.T)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(OPERATIONS["normal"].published)
    assert len({handle.get_color() for handle in legend.get_lines()}) == len(OPERATIONS["normal"].published)


@pytest.mark.parametrize(
    ("space", "depth", "kinds"),
    [(darts(2), 4, ["normal", "reduce"]), (nas_wdan(2), 3, ["down", "normal", "up"])],
    ids=["darts", "nas-wdan"],
)
def test_gammas_are_shown_node_by_node(space: Any, depth: int, kinds: list[str]) -> None:
    records = snapshots(space, depth=depth)
    panels = weight_panels(records)["Gammas"]
    assert [panel.title for panel in panels] == [f"{kind}: into n{node}" for kind in kinds for node in range(2)]
    for panel in panels:
        kind, node = panel.title.split(": into n")
        edges = [f"{node}<-{state}" for state in range(2 + int(node))]
        assert [*panel.series] == ["from s0", "from s1", "from n0"][: len(edges)]
        assert [*panel.series.values()] == [[record["gammas"][kind][edge] for record in records] for edge in edges]
        np.testing.assert_allclose(np.sum([*panel.series.values()], axis=0), 1, rtol=1e-6)


def test_weights_of_any_space_are_shown_by_its_own_names() -> None:
    """Neither the kind of the weights nor their sets are those of a space that comes with medarts."""
    records = [
        {"stage": 0, "epoch": n, "widths": {"stem": {"16": 0.5 + n / 4, "32": 0.5 - n / 4}, "alone": {"8": 1.0}}}
        for n in range(2)
    ]
    panels = weight_panels([record | {"genotype": {"space": "mine", "cells": {}}} for record in records])
    assert panels == {"Widths": [Panel("stem", {"16": [0.5, 0.75], "32": [0.5, 0.25]})]}
    assert drawn(plot_weights(panels["Widths"]).axes[0]) == [[0.5, 0.75], [0.5, 0.25]]


# Costs

NETWORKS = {"unet": (34.5e6, 520.0), "unetpp": (36.6e6, 900.0), "resenc-unet": (71e6, 480.0), "searched": (0.6e6, 95.0)}


def costs(*, threads: tuple[int, ...] = (1,), batch: int = 1) -> dict[str, Cost]:
    """Costs of networks that take twice as long in PyTorch; a thread more halves the time."""
    return {
        name: Cost(
            int(parameters),
            10**9,
            size=256,
            in_channels=3,
            outputs=1,
            timings={
                "torch": tuple(Timing(each, batch, 2 * latency / each, 1.0) for each in threads),
                "onnxruntime": tuple(Timing(each, batch, latency / each, 1.0) for each in threads),
            },
        )
        for name, (parameters, latency) in NETWORKS.items()
    }


def points_of(figure: Figure) -> dict[str, tuple[float, float]]:
    """Returns the point of every name, from the names; held against the markers."""
    (axes,) = figure.axes
    names = {text.get_text(): text.xy for text in axes.texts if isinstance(text, Annotation) and text.get_text()}
    (marked,) = [line for line in axes.get_lines() if line.get_marker() == "o"]
    markers = {tuple(map(float, point)) for point in marked.get_xydata()}
    assert markers == {tuple(map(float, point)) for point in names.values()}
    return {name: (float(x), float(y)) for name, (x, y) in names.items()}


def test_every_network_stands_where_it_was_measured() -> None:
    figure = plot_costs(costs(threads=(2, 1)))
    assert points_of(figure) == NETWORKS
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_ylabel() == "latency of one image in ONNX Runtime, 1 thread, ms"
    assert axes.get_title(loc="left") == "Latency against parameters: rank correlation 0.40 (Spearman, 4 networks)"
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(low < parameters < high and bottom < latency < top for parameters, latency in NETWORKS.values())


def test_the_axis_says_what_was_measured() -> None:
    figure = plot_costs(costs(threads=(2, 4), batch=8))
    assert figure.axes[0].get_ylabel() == "latency of a batch of 8 in ONNX Runtime, 2 threads, ms"
    assert points_of(figure)["unet"] == (34.5e6, 260.0)


def test_the_dashed_line_is_time_in_proportion() -> None:
    (line,) = [line for line in plot_costs(costs()).axes[0].get_lines() if line.get_marker() != "o"]
    ends: Any = line.get_xydata()
    (x0, y0), (x1, y1) = ends
    assert y1 / y0 == pytest.approx(x1 / x0)
    centre = np.exp(np.log([*NETWORKS.values()]).mean(axis=0))
    assert y0 / x0 == pytest.approx(centre[1] / centre[0])


def test_names_do_not_cover_each_other() -> None:
    close = {f"network {n}": (30e6 * 1.01**n, 500 * 1.01**n) for n in range(4)} | {"far": (1e6, 20.0)}
    timings = {name: (Timing(1, 1, latency, 1.0),) for name, (_, latency) in close.items()}
    figure = plot_costs(
        {name: Cost(int(close[name][0]), 1, 256, 3, 1, {"onnxruntime": timings[name]}) for name in close}
    )
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
