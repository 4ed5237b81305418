"""The plots of a run show its journals, value for value."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from medarts.config import StackSettings, StageSettings, SupernetSettings, WeaveSettings
from medarts.reporting.plots import plot_alphas, plot_curves, plot_gammas
from medarts.spaces.stack.operations import OPERATIONS
from medarts.spaces.stack.supernet import StackSpace
from medarts.spaces.weave.supernet import WeaveSpace

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


def stack(nodes: int = 4) -> StackSpace:
    settings = StackSettings(search_channel=2, intermediate_nodes=nodes)
    return StackSpace(settings, in_channels=1, outputs=2, supernet=NORMALISED)


def weave(nodes: int = 2) -> WeaveSpace:
    settings = WeaveSettings(init_channel=2, intermediate_nodes=nodes)
    return WeaveSpace(settings, in_channels=1, outputs=1, supernet=NORMALISED)


def drawn(axes: Axes) -> list[list[float]]:
    return [[*map(float, line.get_ydata())] for line in axes.get_lines()]


def epoch(auroc: float, **by_finding: float | None) -> dict[str, Any]:
    values = {"val_loss": 0.3, "val_auroc": auroc, "val_auroc_by_finding": by_finding}
    return {"epoch": 0, "train_loss": 0.4, "lr": 0.1, **values}


def test_the_auroc_of_all_findings_is_drawn_from_little_below_chance() -> None:
    records = [epoch(0.6, Mass=0.7, Edema=0.5, Hernia=None), epoch(0.75, Mass=0.8, Edema=0.7, Hernia=None)]
    scores = plot_curves(records).axes[1]
    assert scores.get_title(loc="left") == "Validation AUROC (dashed: chance)"
    assert scores.get_ylim() == (0.4, 1.0)
    for line in ([0.6, 0.75], [0.7, 0.8], [0.5, 0.7], [0.5, 0.5]):
        assert line in drawn(scores)


def test_the_axis_of_auroc_reaches_to_the_lowest() -> None:
    low, _ = plot_curves([epoch(0.45, Mass=0.7, Hernia=0.2)]).axes[1].get_ylim()
    assert 0 < low < 0.2


def test_epochs_are_whole_numbers() -> None:
    figure = plot_curves([epoch(0.5 + 0.1 * n, Mass=0.5) for n in range(3)])
    figure.canvas.draw()
    for axes in figure.axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_every_edge_of_a_stack_has_its_alphas_with_none_among_them(kind: str) -> None:
    records = snapshots(stack(), depth=4)
    figure = plot_alphas(records, kind)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 14
    assert [panels[index].get_title(loc="left") for index in (0, 4, 13)] == ["s0 → n0", "n0 → n1", "n2 → n3"]
    weights = np.asarray([record["alphas"][kind]["weights"][4] for record in records])
    np.testing.assert_allclose(drawn(panels[4]), weights.T)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(OPERATIONS)
    assert len({handle.get_color() for handle in legend.get_lines()}) == len(OPERATIONS)


@pytest.mark.parametrize(
    ("space", "depth", "kinds"),
    [(stack(2), 4, ["normal", "reduce"]), (weave(2), 3, ["down", "normal", "up"])],
    ids=["stack", "weave"],
)
def test_gammas_are_drawn_node_by_node(space: Any, depth: int, kinds: list[str]) -> None:
    records = snapshots(space, depth=depth)
    figure = plot_gammas(records)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{kind}: into n{node}" for kind in kinds for node in range(2)]
    for axes, title in zip(figure.axes, titles, strict=True):
        kind, node = title.split(": into n")
        edges = [f"{node}<-{state}" for state in range(2 + int(node))]
        assert drawn(axes) == [[record["gammas"][kind][edge] for record in records] for edge in edges]
        np.testing.assert_allclose(np.sum(drawn(axes), axis=0), 1, rtol=1e-6)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["from s0", "from s1", "from n0"]
