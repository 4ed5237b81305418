"""Which channels go: by their scores and a rate, and the smallest rate that meets a target.

A rate is the share of channels that go: of every unit where scores are compared within it (scope "layer"), of the whole
network where they are compared over it ("global"). What a lower rate takes, a higher one takes too, so costs fall with
the rate and the smallest one that meets a target is found by bisection.
"""

import copy
import functools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from typing import Literal

from torch import Tensor

from medarts.config import KeepSettings
from medarts.errors import RecipeError, RunError, quoted
from medarts.network import Network
from medarts.profiling.cost import count_flops, count_parameters
from medarts.pruning.cutting import shrink
from medarts.pruning.graph import unused_parameters
from medarts.pruning.latency import Latency, latency_beside
from medarts.pruning.units import Unit
from medarts.system.console import Bar, progress_bar

Scope = Literal["layer", "global"]
"""Where scores are compared: within a unit, of which all lose the same share, or over the whole network."""

FLOORS: dict[Scope, float] = {"layer": 0.0, "global": 0.125}
"""Share of a unit's channels that stays whatever their scores, at least one. A threshold for the network would cut
the layer with the lowest scores down to one channel, through which all information must then pass (layer collapse,
arXiv 2006.05467). With an eighth on both sides a convolution has 1/64 of its FLOPs: targets hardly feel the floor."""

MOST_EXPORTS = 6
"""Cut networks that are exported to meet a target of the latency."""

NEAR = 0.02
"""How far below its target a share of the latency may be; timings are not more exact."""

ROUNDING = 1e-9
"""Taken off or added where shares become whole numbers: 0.57 of 100 channels are 57."""


@dataclass(frozen=True)
class Selection:
    """The channels that go to meet a target.

    Attributes:
        rate: the smallest rate that meets it.
        removals: unit -> its channels that go, ascending; units that keep all are left out.
        kept: what is kept then of the quantity that the target is for, as a share.
        latency: what was measured for a target of the latency; None for other targets.
    """

    rate: float
    removals: dict[str, tuple[int, ...]]
    kept: float
    latency: Latency | None


def choose(
    units: Sequence[Unit],
    scores: Mapping[str, Tensor],
    rate: float,
    *,
    scope: Scope,
) -> dict[str, tuple[int, ...]]:
    """Returns the channels that go at a rate, the lowest scores first; of equal ones the first unit and channel.

    Args:
        units: of one network.
        scores: of every unit, (channels,), by its name; channels with infinity stay.
        rate: share of the channels that go, at least 0 and below 1; what can go together is rounded, up for some units
            and down for others, so that the share is right for all of them.
        scope: where scores are compared.

    Returns:
        Unit -> its channels that go, ascending; units that keep all are left out.

    Raises:
        RecipeError: the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise RecipeError(f"The rate is {quoted(rate)}.", fix="Use the share that goes: at least 0, below 1.")
    return _up_to(rate, _steps(units, scores, scope=scope))


def choose_for(target: KeepSettings, cuts: "Cuts") -> Selection:
    """Returns the channels that go at the smallest rate that meets a target.

    FLOPs and parameters, without those that no head depends on, are counted on cut copies. Latency is measured: copies
    are exported and timed in turns with the network, at most ``MOST_EXPORTS``; the target is met by the copy that is
    returned, by up to ``NEAR``.

    Args:
        target: what is to be kept.
        cuts: of which one is chosen.

    Raises:
        MedartsError: the network cannot be exported, for a target of the latency.
        RunError: the target is below what is left when all goes that can go.
    """
    is_timed = target.quantity == "latency"
    with progress_bar(f"keep_{target.quantity}", MOST_EXPORTS if is_timed else len(cuts.rates).bit_length() + 1) as bar:
        kept = _counted(cuts, target, bar)
        _check(target, kept(cuts.last))
        place = _near(cuts, target, kept) if is_timed else _first(cuts, target, kept)
    return Selection(cuts.rates[place], cuts.removals(place), kept(place), cuts.latencies.get(place))


def check_reachable(target: KeepSettings, cuts: "Cuts") -> None:
    """Refuses a target that cannot be met, before a training for it.

    Args:
        target: what is to be kept.
        cuts: of which the last decides; of the scores only those that are infinite matter.

    Raises:
        MedartsError: the network cannot be exported, for a target of the latency.
        RunError: the target is below what is left when all goes that can go.
    """
    with progress_bar(f"keep_{target.quantity}", 1) as bar:
        _check(target, _counted(cuts, target, bar)(cuts.last))


def check_least(target: KeepSettings, least: float, *, when: str, otherwise: str) -> None:
    """Refuses a target of less than the least that can be left.

    Args:
        target: what is to be kept.
        least: the share that can be left.
        when: nothing more can go.
        otherwise: what to do where nothing can go.

    Raises:
        RunError: the target is below it.
    """
    if least <= target.share:
        return
    name, possible = f"keep_{target.quantity}", math.ceil(100 * least - ROUNDING) / 100
    raise RunError(
        f"{name} is {target.share:g}, but {least:.3g} is left of this network when {when}.",
        fix=f"Use {name} {possible:g} or more." if possible < 1 else otherwise,
    )


_check = partial(check_least, when="all channels go that can go", otherwise="Prune it by depth.")


@dataclass(frozen=True)
class _Step:
    """Channels of a unit that go together.

    Attributes:
        rate: the smallest one at which they go.
    """

    rate: float
    unit: str
    channels: tuple[int, ...]


def _steps(units: Sequence[Unit], scores: Mapping[str, Tensor], *, scope: Scope) -> list[_Step]:
    """Returns all channels that can go, by the rates at which they do, ascending."""
    portions = [_removable(unit, scores[unit.name], floor=FLOORS[scope]) for unit in units]
    if scope == "layer":
        return _steps_of_units(units, portions)
    ranked = sorted((score, number, channels) for number, of_unit in enumerate(portions) for score, channels in of_unit)
    total = sum(unit.channels for unit in units)
    gone = accumulate(len(channels) for _, _, channels in ranked)
    return [
        _Step(number / total, units[unit].name, channels)
        for number, (_, unit, channels) in zip(gone, ranked, strict=True)
    ]


Portions = list[tuple[float, tuple[int, ...]]]
"""Channels that go together, with their mean score, the lowest first."""


def _steps_of_units(units: Sequence[Unit], portions: Sequence[Portions]) -> list[_Step]:
    """Returns the channels of all units by the rates at which they go, where scores are compared within units.

    At a rate of 0.45 half of the units of 10 channels lose 4 and half of them 5: those first whose next channel has
    the lower score, in relation to the mean of its unit. Rounded alike for all, a network of units of 8 channels would
    jump from 56 to 39 % of its FLOPs.
    """
    steps: list[_Step] = []
    for place in range(max(map(len, portions), default=0)):
        there = [number for number, of_unit in enumerate(portions) if len(of_unit) > place]
        first = sorted(there, key=lambda number: (_relative(portions[number], place), number))
        for rank, number in enumerate(first, 1):
            channels = portions[number][place][1]
            rate = (place + rank / len(first)) * len(channels) / units[number].channels
            steps.append(_Step(rate, units[number].name, channels))
    return sorted(steps, key=lambda step: step.rate)


def _relative(portions: Portions, place: int) -> float:
    """Returns the score of a portion as a multiple of their mean."""
    mean = sum(score for score, _ in portions) / len(portions)
    return portions[place][0] / mean if mean else 1.0


def _removable(unit: Unit, scores: Tensor, *, floor: float) -> Portions:
    """Returns what can go of a unit."""
    values = scores.tolist()
    in_each = unit.channels // unit.together
    groups = [range(first, first + in_each) for first in range(0, unit.channels, in_each)]
    ranked = zip(*(sorted(group, key=lambda channel: (values[channel], channel)) for group in groups), strict=True)
    stays = max(1, math.ceil(floor * in_each - ROUNDING))
    portions = [(sum(values[channel] for channel in of) / unit.together, of) for of in islice(ranked, in_each - stays)]
    return [(score, of) for score, of in portions if score < math.inf]


def _up_to(rate: float, steps: Sequence[_Step]) -> dict[str, tuple[int, ...]]:
    """Returns the channels that go at a rate."""
    removals: dict[str, list[int]] = defaultdict(list)
    for step in steps[: bisect_right(steps, rate + ROUNDING, key=lambda step: step.rate)]:
        removals[step.unit] += step.channels
    return {name: tuple(sorted(channels)) for name, channels in removals.items()}


class Cuts:
    """A network cut at all rates that make a difference, ascending; each has a place.

    Args:
        network: which is left as it is.
        units: of the network.
        scores: see `choose`.
        scope: see `choose`.
        image: (1, C, H, W) of the size that costs are counted for.

    Attributes:
        network: as given.
        units: as given.
        image: as given.
        rates: by place.
        latencies: those that were measured, by place.

    Raises:
        RunError: nothing can be cut.
    """

    def __init__(
        self,
        network: Network,
        units: Sequence[Unit],
        scores: Mapping[str, Tensor],
        *,
        scope: Scope,
        image: Tensor,
    ) -> None:
        self.network, self.units, self.image = network, units, image
        self.latencies: dict[int, Latency] = {}
        self._steps = _steps(units, scores, scope=scope)
        if not self._steps:
            raise RunError("The network has no channels that can be cut.", fix="Prune it by depth.")
        self.rates = sorted({step.rate for step in self._steps})

    @property
    def last(self) -> int:
        """The place of the highest rate."""
        return len(self.rates) - 1

    def removals(self, place: int) -> dict[str, tuple[int, ...]]:
        """Returns the channels that go."""
        return _up_to(self.rates[place], self._steps)

    def copy(self, place: int, of: Network) -> Network:
        """Returns a cut copy of the network, on whichever device it is."""
        smaller = copy.deepcopy(of)
        shrink(smaller, self.units, self.removals(place))
        return smaller


Kept = Callable[[int], float]
"""Place of a rate -> what is kept of a quantity, as a share."""


def _counted(cuts: Cuts, target: KeepSettings, bar: Bar) -> Kept:
    """Returns what is kept of a target's quantity at a place; each is counted once, and advances the bar."""
    kept = _KEPT[target.quantity](cuts)

    @functools.cache
    def counted(place: int) -> float:
        share = kept(place)
        bar.advance()
        return share

    return counted


def _kept_flops(cuts: Cuts) -> Kept:
    image = cuts.image[:1].to("meta")
    flops = partial(count_flops, in_channels=image.shape[1], size=image.shape[-1], images=image)
    return _ratio(cuts, flops)


def _kept_parameters(cuts: Cuts) -> Kept:
    without = unused_parameters(cuts.network, cuts.image[:1])
    return _ratio(cuts, partial(count_parameters, without=without))


def _ratio(cuts: Cuts, count: Callable[[Network], int]) -> Kept:
    """Returns what is kept of what can be counted on the meta device, where cut copies take neither time nor memory."""
    whole = copy.deepcopy(cuts.network).eval().to("meta")
    total = count(whole)
    return lambda place: count(cuts.copy(place, whole)) / total


def _kept_channels(cuts: Cuts) -> Kept:
    total = sum(unit.channels for unit in cuts.units)
    return lambda place: (total - sum(map(len, cuts.removals(place).values()))) / total


def _kept_latency(cuts: Cuts) -> Kept:
    network = copy.deepcopy(cuts.network).eval().cpu()
    latency_of = latency_beside(network, cuts.image)

    def kept(place: int) -> float:
        cuts.latencies[place] = latency = latency_of(cuts.copy(place, network))
        return latency.share

    return kept


_KEPT: dict[str, Callable[[Cuts], Kept]] = {
    "flops": _kept_flops,
    "parameters": _kept_parameters,
    "channels": _kept_channels,
    "latency": _kept_latency,
}


def _first(cuts: Cuts, target: KeepSettings, kept: Kept) -> int:
    """Returns the first place that meets a target, where what is kept falls from place to place."""
    return bisect_left(range(cuts.last), True, key=lambda place: kept(place) <= target.share)


def _near(cuts: Cuts, target: KeepSettings, kept: Kept) -> int:
    """Returns a place that meets a target, the first of the few that are measured.

    The first guess takes the latency for proportional to the FLOPs, the others for linear in the place between those
    measured on either side of the target.
    """
    low, high, share_at_low = -1, cuts.last, 1.0
    flops = _kept_flops(cuts)
    place = bisect_left(range(cuts.last), True, key=lambda each: flops(each) <= target.share)
    for _ in range(MOST_EXPORTS - 1):
        if high - low < 2 or kept(high) > target.share - NEAR:
            break
        place = min(max(place, low + 1), high - 1)
        if kept(place) <= target.share:
            high = place
        else:
            low, share_at_low = place, kept(place)
        towards_high = (share_at_low - target.share + NEAR / 2) / (share_at_low - kept(high))
        place = low + round(towards_high * (high - low))
    return high
