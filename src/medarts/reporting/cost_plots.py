"""The plot of what networks cost: latency against parameters, which are not the same thing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from scipy import stats

from medarts.profiling.cost import Cost
from medarts.reporting.plots import name_points
from medarts.reporting.style import MUTED, PALETTE, styled

_BLUE = PALETTE["blue"][0]
_FEWEST = 3
"""Networks from which on a correlation says something."""
_ROOM = 0.12
"""Free space at either end of an axis, as a part of it; decades where all networks are nearly the same."""


@styled
def plot_costs(costs: Mapping[str, Cost]) -> Figure:
    """Plots the latency of networks against their parameters, on logarithmic axes, with the rank correlation.

    The latency is that of the fewest threads and the smallest batch that were measured, of the form for inference where
    there is one.

    Args:
        costs: of at least two networks, from one measurement.
    """
    threads, batch = min((timing.threads, timing.batch) for cost in costs.values() for timing in cost.timings)
    points = np.asarray([(cost.parameters, cost.latency_ms(threads=threads, batch=batch)) for cost in costs.values()])
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    images = "one image" if batch == 1 else f"a batch of {batch}"
    axes.set(
        xscale="log", yscale="log", xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]), xlabel="parameters",
        ylabel=f"CPU latency of {images} on {threads} thread{'s' * (threads > 1)}, ms", title=_title(points),
    )  # fmt: skip
    _set_ticks(axes.xaxis, unit=1e6, suffix=" M")
    _set_ticks(axes.yaxis, unit=1, suffix="")
    for point, cost in zip(points, costs.values(), strict=True):
        axes.plot(*point[:, None], "o", ms=6.5, mec=_BLUE, mfc=_BLUE if cost.shipped else "none", zorder=3)
    ends, centre = np.asarray(axes.get_xlim()), np.exp(np.log(points).mean(axis=0))
    look: dict[str, Any] = {"color": MUTED, "lw": 1, "linestyle": (0, (4, 3))}
    axes.plot(ends, centre[1] * ends / centre[0], zorder=1, scalex=False, scaley=False, **look)
    forms = {"for inference": (_BLUE, True), "as built": ("none", False)}
    shipped = [cost.shipped is not None for cost in costs.values()]
    handles = [
        Line2D([], [], color=_BLUE, marker="o", ms=6.5, mfc=fill, ls="", label=label)
        for label, (fill, form) in forms.items()
        if form in shipped
    ]
    handles.append(Line2D([], [], label="time in proportion to parameters", **look))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    name_points(axes, points, [*costs])
    return figure


def rank_correlation(points: NDArray[np.float64]) -> float | None:
    """Returns Spearman's rank correlation of points (n, 2); None where there are too few, or one side is constant."""
    if len(points) < _FEWEST or np.ptp(points, axis=0).min() == 0:
        return None
    return float(stats.spearmanr(points).statistic)


def _title(points: NDArray[np.float64]) -> str:
    correlation = rank_correlation(points)
    if correlation is None:
        return "Latency against parameters"
    return f"Latency against parameters: rank correlation {correlation:.2f} (Spearman, {len(points)} networks)"


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(_ROOM * (high - low), _ROOM)
    return float(10 ** (low - room)), float(10 ** (high + room))


def _set_ticks(axis: Axis, *, unit: float, suffix: str) -> None:
    """Writes numbers at 1, 2 and 5 of every decade; nearer ones where networks are nearly the same."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,g}{suffix}"))
    axis.set_minor_locator(NullLocator())
