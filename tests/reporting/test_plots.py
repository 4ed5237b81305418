"""The plots of a run show its journals, value for value."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from medarts.config import StageSettings, SupernetSettings
from medarts.reporting.journals import Panel, weight_panels
from medarts.reporting.plots import plot_curves, plot_weights
from medarts.spaces.darts import OPERATIONS, Darts, DartsSettings
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
