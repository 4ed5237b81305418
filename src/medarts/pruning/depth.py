"""Depth: whole cells of a lattice and late heads go, chosen by what they add to the loss for what they save.

A network of many small operations is bound on a CPU by their number, which cutting channels does not change. Here parts
go one at a time: of all that can, the one with which the loss on validation images rises least for what is saved, until
the target is met. Not all are tried at every step: what a part added to the loss before others went is taken for the
least that it adds now, and only the best are tried again (lazy greedy search, Minoux 1978). A loss that falls is a gain
without a price: the part that lowers it most for the largest saving goes first.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medarts.config import KeepSettings
from medarts.config.section import Whole
from medarts.data.batches import Batches, Mixture
from medarts.errors import RecipeError, RunError
from medarts.network import Network
from medarts.profiling.cost import count_flops, count_parameters
from medarts.profiling.flops import FlopCounter
from medarts.pruning.graph import unused_parameters
from medarts.pruning.latency import Latency, latency_beside
from medarts.pruning.method import Method, Taken, image_of
from medarts.pruning.recalibration import recalibrate
from medarts.pruning.selection import MOST_EXPORTS, NEAR, check_least
from medarts.registry import Settings, criteria
from medarts.system.console import Bar, progress_bar
from medarts.system.randomness import seed_of
from medarts.tasks import Task
from medarts.training.trainer import Training

OPERATION_SECONDS, FLOPS_A_SECOND, BYTES_A_SECOND = 1e-5, 3e10, 5e9
"""By which the latency of parts is estimated: the time that every operation takes, and what one core computes and
writes, as orders of magnitude. They weigh parts against each other, so that one of many small operations costs more
than its FLOPs say, and by that decide in which order parts go. What is left of the latency is always measured."""

TRIAL_BATCHES = 4
"""Training batches from which batch norms get the statistics with which a network is tried. With those from before
parts went, a network that loses nothing else can look as bad as a random one; see ``recalibration.py``."""

LAST_HEAD = None
"""Stands for the last head among the names of parts that can go."""

Option = str | None

Loss = Callable[[Network], float]
"""A network in evaluation mode -> the mean loss of its last head. Weights stay; statistics of norms may change."""

Cost = Callable[[Network], float]
"""A network -> what it costs, in the unit of the target."""


class DepthSettings(Settings):
    """Depth: whole cells and late heads go, one at a time, where the loss rises least for what is saved.

    Attributes:
        images: validation images, at most, on which the loss is measured, drawn by the seed of the recipe.
    """

    name: Literal["depth"] = "depth"
    images: Annotated[Whole, Field(ge=1, le=100_000)] = 64


@dataclass(frozen=True)
class Step:
    """What goes at a step.

    Attributes:
        part: its name; None where it is the last head.
        loss: of the last head that is left.
        kept: what is kept then of the quantity that the target is for, as a share; of the latency it is estimated.
    """

    part: Option
    loss: float
    kept: float


@dataclass(frozen=True)
class DepthSelection:
    """What goes to meet a target.

    Attributes:
        without: parts that go, and
        heads: heads that stay, early to last, for `Network.take_away`.
        kept: what is kept of the quantity that the target is for, as a share.
        loss_before: of the network as it is.
        steps: in their order.
        latency: what was measured for a target of the latency; None for other targets.
    """

    without: tuple[str, ...]
    heads: tuple[str, ...]
    kept: float
    loss_before: float
    steps: tuple[Step, ...]
    latency: Latency | None = None


@criteria.register("depth", settings=DepthSettings)
class Depth(Method):
    """Takes whole parts and late heads away, and leaves channels as they are."""

    def check(self, training: Training, target: KeepSettings) -> None:
        """Refuses a target that cannot be met; see `Method.check`."""
        _check_possible(target, training.network)
        if target.quantity != "latency":  # which is measured with the cut
            whole = copy.deepcopy(training.network).eval()
            cost = _COSTS[target.quantity](whole, image_of(training))
            _check_reachable(target, _smallest(whole, cost).cost / cost(whole))

    def take_away(self, training: Training, target: KeepSettings) -> Taken:
        """Takes parts and heads away; see `Method.take_away` and `choose_parts`.

        The loss is that of the last head, which is the one in use, on fixed images. They are validation images: a
        network has learned its training images by heart, and what it loses hardly shows there. Few are enough, as all
        networks are compared on the same ones. Batch norms of every network that is tried get statistics of its own
        first, of a few training batches.
        """
        network = training.network.eval()
        measured = loss_over(training.validation, training.task, images=self.settings.images, seed=training.recipe.seed)

        def loss(tried: Network) -> float:
            recalibrate(training, tried, batches=TRIAL_BATCHES)
            return measured(tried)

        chosen = choose_parts(target, network, loss, image=image_of(training))
        network.take_away(chosen.without, chosen.heads)
        return Taken(chosen.kept, chosen.without, chosen.heads, latency=chosen.latency)


def loss_over(batches: Batches, task: Task, *, images: int, seed: int) -> Loss:
    """Returns the mean loss of the last head on fixed images.

    Args:
        batches: of the images to draw from.
        task: has the loss.
        images: their number, at most.
        seed: by which they are drawn.
    """
    drawn = copy.copy(batches)
    if len(batches.indices) > images:
        generator = np.random.default_rng(seed_of(seed, "depth"))
        drawn.indices = np.sort(generator.choice(batches.indices, images, replace=False))

    @torch.inference_mode()
    def loss(network: Network) -> float:
        total = 0.0
        for batch in drawn.all():
            plain = Mixture(batch.images, ((1.0, batch.targets),))
            logits = drawn.over_images(network.forward_heads)(batch.images, network.heads[-1:])
            total += float(task.loss(logits, plain)) * len(batch.images)
        return total / len(drawn.indices)

    return loss


def choose_parts(target: KeepSettings, network: Network, loss: Loss, *, image: Tensor) -> DepthSelection:
    """Returns the parts and heads that go until a target is met.

    FLOPs and parameters are counted. Latency is estimated from the operations, what they compute and what they write,
    and is measured, by turns with the whole network, where the estimate meets the target.

    Args:
        target: what is to be kept; not ``channels``.
        network: stays as it is.
        loss: judges networks; see `loss_over`.
        image: (1, C, H, W) of the size that costs are counted for.

    Raises:
        MedartsError: the network cannot be exported, for a target of the latency.
        RecipeError: the target is one of channels.
        RunError: nothing can be taken away, the target is below what is left when all goes that can go, or the loss is
            not finite.
    """
    _check_possible(target, network)
    whole, keep = copy.deepcopy(network).eval(), target.share
    cost = _COSTS[target.quantity](whole, image)
    smallest = _smallest(whole, cost)
    counted = smallest.cost / cost(whole)
    if target.quantity == "latency":
        latency_of = latency_beside(copy.deepcopy(whole).cpu(), image)
        measured = latency_of(_reduced(whole, smallest.without, smallest.heads).cpu()).share
        _check_reachable(target, measured)
        with progress_bar("depth (%)", 100) as bar:
            search = _Search(whole, loss, cost, smallest, keep=keep * counted / measured, bar=bar)
            return _fast_enough(search, target, latency_of, scale=measured / counted)
    _check_reachable(target, counted)
    with progress_bar("depth (%)", 100) as bar:
        search = _Search(whole, loss, cost, smallest, keep=keep, bar=bar)
        steps = search.first(keep)
    kept = search.steps[steps - 1].kept
    _check_reachable(target, kept)
    return search.selection(steps, kept=kept)


def _check_possible(target: KeepSettings, network: Network) -> None:
    if target.quantity == "channels":
        raise RecipeError(
            "keep_channels is no target of depth, which leaves channels as they are.",
            fix="Use keep_flops, keep_parameters or keep_latency.",
        )
    if not _options(network):
        raise RunError(
            "The network has no parts and no late heads that can be taken away.", fix="Choose another method, as l1."
        )


_check_reachable = partial(
    check_least, when="all parts and heads go that can go", otherwise="Choose another method, as l1."
)


def _fast_enough(
    search: "_Search", target: KeepSettings, latency_of: Callable[[Network], Latency], *, scale: float
) -> DepthSelection:
    """Returns what goes until the measured latency meets the target.

    Args:
        search: by estimated latency.
        target: of the latency.
        latency_of: measures it.
        scale: measured share of the smallest network per estimated one.
    """
    low, high = 0, 0  # steps that leave too much, and that meet the target; 0 as long as none is known
    met: Latency | None = None
    share, exports = 1.0, 0
    while not high or exports < MOST_EXPORTS:
        steps = search.first(target.share / scale, above=low)
        steps = min(steps, high - 1) if high else steps
        if steps == low:
            break
        latency, exports = latency_of(search.after(steps).cpu()), exports + 1
        share = latency.share
        scale = share / search.steps[steps - 1].kept
        if share > target.share:
            low = steps
        else:
            high, met = steps, latency
            if share > target.share - NEAR:
                break
    if met is None:
        _check_reachable(target, share)
    assert met is not None
    return search.selection(high, kept=met.share, latency=met)


def _latency(_: Network, image: Tensor) -> Cost:
    """Returns the estimated seconds of a pass of one image on one core."""

    def seconds(network: Network) -> float:
        counter = _OperationCounter()
        with torch.inference_mode(), counter:
            _on_meta(network)(image.to("meta"))
        return counter.seconds

    return seconds


class _OperationCounter(FlopCounter):  # type: ignore[no-untyped-call]  # PyTorch leaves its base without types
    """Estimates how long a pass takes from its operations; see ``OPERATION_SECONDS``.

    Attributes:
        seconds: of all operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns what an operation returns; counts it, or those that it consists of."""
        flops, seconds = self.total, self.seconds
        out = super().__torch_dispatch__(func, types, args, kwargs)
        is_view = isinstance(out, Tensor) and out._is_view()
        if self.seconds == seconds and isinstance(out, Tensor) and not is_view:
            written = out.numel() * out.element_size()
            self.seconds += OPERATION_SECONDS + (self.total - flops) / FLOPS_A_SECOND + written / BYTES_A_SECOND
        return out


def _flops(_: Network, image: Tensor) -> Cost:
    images, channels, size = image[:1].to("meta"), image.shape[1], image.shape[-1]
    return lambda network: count_flops(_on_meta(network), in_channels=channels, size=size, images=images)


def _on_meta(network: Network) -> Network:
    """Returns a copy that has shapes alone."""
    return copy.deepcopy(network).to("meta")


def _parameters(network: Network, image: Tensor) -> Cost:
    return partial(count_parameters, without=unused_parameters(network, image))


_COSTS: dict[str, Callable[[Network, Tensor], Cost]] = {
    "flops": _flops,
    "parameters": _parameters,
    "latency": _latency,
}
"""Quantity -> what counts it, of a network and of what is left of it; given the network and an image of the size."""


@dataclass(frozen=True)
class _Smallest:
    """About the smallest network that is left when all goes that can go.

    Attributes:
        without: parts that go.
        heads: that stay.
        cost: of what is left.
    """

    without: tuple[str, ...]
    heads: tuple[str, ...]
    cost: float


def _smallest(network: Network, cost: Cost) -> _Smallest:
    """Cuts after the first head, then takes away first what saves most by itself."""
    small = _reduced(network, (), network.heads[:1])
    costs = {part: cost(_without(small, part)) for part in small.removable_parts}
    gone = []
    for part in sorted(costs, key=lambda part: costs[part]):
        if part in small.removable_parts:
            small.take_away((part,))
            gone.append(part)
    return _Smallest(tuple(gone), small.heads, cost(small))


def _options(network: Network) -> list[Option]:
    return [*network.removable_parts, *([LAST_HEAD] if len(network.heads) > 1 else [])]


def _without(network: Network, option: Option) -> Network:
    """Returns a copy that lacks a part, or its last head."""
    if option is LAST_HEAD:
        return _reduced(network, (), network.heads[:-1])
    return _reduced(network, (option,), network.heads)


def _reduced(network: Network, parts: Sequence[str], heads: Sequence[str]) -> Network:
    smaller = copy.deepcopy(network)
    smaller.take_away(parts, heads)
    return smaller


@dataclass(frozen=True)
class _Trial:
    """A network without a part.

    Attributes:
        rise: of the loss. Infinity: the part stays.
        saved: share of the cost of the whole network.
        loss: of that network.
        cost: of that network.
        step: at which it was tried.
    """

    rise: float
    saved: float
    loss: float
    cost: float
    step: int

    def price(self, needed: float) -> float:
        """Returns what the loss rises for what is saved, of which more than is needed does not count.

        A rise is divided by it; a fall is multiplied, as it is worth the more the more goes with it.
        """
        counts = min(self.saved, needed)
        return self.rise / counts if self.rise > 0 else self.rise * counts


def _not_finite(when: str) -> RunError:
    return RunError(
        f"The loss on validation images is not finite {when}, so it cannot judge what goes.",
        fix="See that the weights are finite, or choose another method, as l1.",
    )


class _Search:
    """Takes parts away one at a time.

    Args:
        whole: in evaluation mode; stays as it is.
        loss: judges networks.
        cost: of networks.
        smallest: what is in reach of the whole network.
        keep: share of the cost that must stay in reach, whatever goes.
        bar: shows how far it is, in percent.

    Attributes:
        steps: so far.

    Raises:
        RunError: the loss of the whole network is not finite.
    """

    def __init__(self, whole: Network, loss: Loss, cost: Cost, smallest: _Smallest, *, keep: float, bar: Bar) -> None:
        self.steps: list[Step] = []
        self._whole, self._loss_of, self._cost_of = whole, loss, cost
        self._smallest, self._keep, self._bar = smallest, keep, bar
        self._network, self._loss, self._cost = whole, loss(whole), cost(whole)
        if not math.isfinite(self._loss):
            raise _not_finite("with all parts")
        self._loss_before, self._whole_cost = self._loss, self._cost
        self._trials: dict[Option, _Trial] = {}

    def first(self, keep: float, *, above: int = 0) -> int:
        """Returns after how many steps a share of the cost is left at most; goes on as far as is needed.

        Args:
            keep: the share. The last step of all is returned where more is left.
            above: steps of which there must be more, unless there are no more.

        Raises:
            RunError: it is not finite, whichever part goes first.
        """
        while len(self.steps) <= above or self.steps[-1].kept > keep:
            if not self._step(keep):
                if not self.steps:
                    raise _not_finite("whichever part goes")
                return len(self.steps)
            self._bar.reach(min(100, round(50 + 50 * (1 - self.steps[-1].kept) / (1 - keep))), 100)
        return next(place for place, step in enumerate(self.steps, 1) if place > above and step.kept <= keep)

    def after(self, steps: int) -> Network:
        """Returns the network after the first steps."""
        return _reduced(self._whole, *self._gone(self.steps[:steps]))

    def selection(self, steps: int, *, kept: float, latency: Latency | None = None) -> DepthSelection:
        """Returns what goes in the first steps."""
        taken = tuple(self.steps[:steps])
        return DepthSelection(*self._gone(taken), kept, self._loss_before, taken, latency)

    def _gone(self, steps: Sequence[Step]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns the parts that go in steps, and the heads that stay."""
        parts = tuple(step.part for step in steps if step.part is not LAST_HEAD)
        return parts, self._whole.heads[: len(self._whole.heads) - len(steps) + len(parts)]

    def _step(self, keep: float) -> bool:
        """Takes away what has the lowest price on the way to a share; returns whether there was something."""
        options, needed = _options(self._network), self._cost / self._whole_cost - keep
        needed = needed if needed > 0 else 1.0
        self._try_new(options)
        while options:
            best = min(options, key=lambda option: self._trials[option].price(needed))
            trial = self._trials[best]
            if trial.rise == math.inf:
                return False
            if trial.step < len(self.steps):
                self._trials[best] = self._try(best)
            elif self._stays_in_reach(best):
                self._take(best, trial)
                return True
            else:
                self._trials[best] = replace(trial, rise=math.inf)
        return False

    def _try_new(self, options: Sequence[Option]) -> None:
        new = [option for option in options if option not in self._trials]
        for number, option in enumerate(new, 1):
            self._trials[option] = self._try(option)
            if not self.steps:
                self._bar.reach(50 * number // len(new), 100)

    def _try(self, option: Option) -> _Trial:
        smaller = _without(self._network, option)
        cost = self._cost_of(smaller)
        saved = (self._cost - cost) / self._whole_cost
        # What earlier heads alone need saves nothing.
        loss = self._loss_of(smaller) if saved > 0 else math.nan
        rise = math.inf if math.isnan(loss) else loss - self._loss
        return _Trial(rise, saved, loss, cost, len(self.steps))

    def _take(self, option: Option, trial: _Trial) -> None:
        self._network, self._loss, self._cost = _without(self._network, option), trial.loss, trial.cost
        self.steps.append(Step(option, trial.loss, trial.cost / self._whole_cost))
        if option is LAST_HEAD:  # another one is in use now, of which nothing was measured
            self._trials.clear()

    def _stays_in_reach(self, option: Option) -> bool:
        """Says whether parts can still go until the share is met once this one is gone."""
        gone, _ = self._gone(self.steps)
        gone = gone if option is LAST_HEAD else (*gone, option)
        try:
            _reduced(self._whole, (*gone, *self._smallest.without), self._smallest.heads)
        except RunError:  # the smallest network that is known has this part
            other = _smallest(_without(self._network, option), self._cost_of)
            if other.cost > self._keep * self._whole_cost:
                return False
            self._smallest = other
        return True
