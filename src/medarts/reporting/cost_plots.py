"""The plot of what networks cost: latency against parameters, which are not the same thing."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from scipy import stats

from medarts.profiling.cost import Cost
from medarts.reporting.labels import name_points
from medarts.reporting.style import MUTED, PALETTE, styled

_BLUE = PALETTE["blue"][0]
_DASHES = (0, (4, 3))
_MARKER = 6.5
_FEWEST = 3
"""Networks from which on a correlation says something."""
_ROOM = 0.12
"""Free space at either end of an axis, as a part of it; decades where all networks are nearly the same."""


@styled
def plot_costs(costs: Mapping[str, Cost]) -> Figure:
    """Plots the latency of networks against their parameters, on logarithmic axes, with the rank correlation.

    The latency is that of the fewest threads and the smallest batch that were measured, as shipped for inference where
    there is such a form.

    Args:
        costs: of at least two networks, from one measurement.
    """
    threads, batch = min((timing.threads, timing.batch) for cost in costs.values() for timing in cost.timings)
    points = np.asarray([(cost.parameters, cost.latency_ms(threads=threads, batch=batch)) for cost in costs.values()])
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="parameters")
    axes.set_ylabel(f"CPU latency of {_images(batch)} on {threads} thread{'s' * (threads > 1)}, ms")
    axes.set(xlim=_limits(points[:, 0]), ylim=_limits(points[:, 1]))
    _set_ticks(axes.xaxis, unit=1e6, suffix=" M")
    _set_ticks(axes.yaxis, unit=1, suffix="")
    proportional = _proportional(points, axes.get_xlim())
    axes.plot(*proportional.T, color=MUTED, lw=1, linestyle=_DASHES, zorder=1, scalex=False, scaley=False)
    for point, cost in zip(points, costs.values(), strict=True):
        axes.plot(*point[:, None], "o", ms=_MARKER, mec=_BLUE, mfc=_BLUE if cost.shipped else "none", zorder=3)
    axes.set_title(_title(points))
    handles = _handles([cost.shipped is not None for cost in costs.values()])
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    plain = [False] * len(costs)
    name_points(figure, axes, points, [*costs], radii=[_MARKER / 2] * len(costs), strong=plain, line=proportional)
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


def _images(batch: int) -> str:
    return "one image" if batch == 1 else f"a batch of {batch}"


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.log10(values.min()), np.log10(values.max())
    room = max(_ROOM * (high - low), _ROOM)
    return float(10 ** (low - room)), float(10 ** (high + room))


def _set_ticks(axis: Axis, *, unit: float, suffix: str) -> None:
    """Writes numbers at 1, 2 and 5 of every decade; nearer ones where networks are nearly the same."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,g}{suffix}"))
    axis.set_minor_locator(NullLocator())


def _proportional(points: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    """Returns the ends (2, 2) of the line through the middle of all points on which time goes with the parameters."""
    x, y = np.exp(np.log(points).mean(axis=0))
    return np.asarray([(end, y * end / x) for end in ends])


def _handles(are_shipped: Sequence[bool]) -> list[Line2D]:
    forms = {True: ("as shipped for inference", _BLUE), False: ("as built", "none")}
    points = [
        Line2D([], [], color=_BLUE, marker="o", ms=_MARKER, mfc=fill, ls="", label=label)
        for form, (label, fill) in forms.items()
        if form in are_shipped
    ]
    return [*points, Line2D([], [], color=MUTED, lw=1, linestyle=_DASHES, label="time in proportion to parameters")]
