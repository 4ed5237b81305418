"""Hard budgets: what a network costs as it is deployed, and the widest one that stays within a budget.

Parameters and FLOPs are counted. Latency and peak memory are those of the exported network in ONNX Runtime, measured.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from medarts.config import BudgetSettings, NormName, Recipe
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, check_number
from medarts.models import Architecture, build_network, scaled, without_weights
from medarts.network import Network
from medarts.profiling.cost import Exports, count_flops, count_parameters, last_head, run_exported
from medarts.profiling.latency import usable_cores
from medarts.profiling.latency_table import LatencyTable, predict
from medarts.profiling.memory import Form, peak_of_inference_mb
from medarts.profiling.reference import (
    Latency,
    kept_latency,
    kept_memory_mb,
    measured_latencies,
    reference_flops,
    usual_ms,
)
from medarts.registry import Settings
from medarts.spaces import space_of
from medarts.spaces.genotype import Genotype

A = TypeVar("A", bound=Architecture)

QUANTITIES = {
    "latency_ms": ("latency, ms", 1.0),
    "flops": ("MFLOPs", 1e6),
    "parameters": ("parameters, k", 1e3),
    "memory_mb": ("memory, MB", 1.0),
}
"""What a budget can limit: its title, and its unit there."""

PAST = 2
"""Widths that have to be over a budget in a row until wider ones are not looked at."""


class BudgetError(RecipeError):
    """No width of a network is within a budget, on this machine where the budget is a latency."""


@dataclass(frozen=True, slots=True)
class BudgetCost:
    """What a network costs, of what a budget can limit.

    Attributes:
        parameters: trainable parameters.
        flops: operations of one image, see ``medarts.profiling.cost.Cost``.
        latency: of one image, exported; None where it was not asked for.
        memory_mb: peak memory of that inference in MB (10^6 bytes); None where it was not asked for.
    """

    parameters: int
    flops: int
    latency: Latency | None = None
    memory_mb: float | None = None

    @property
    def amounts(self) -> dict[str, float]:
        """What is known, by the names of a budget."""
        known = {
            "parameters": self.parameters,
            "flops": self.flops,
            "latency_ms": None if self.latency is None else self.latency.ms,
            "memory_mb": self.memory_mb,
        }
        return {name: amount for name, amount in known.items() if amount is not None}

    def as_json(self) -> dict[str, Any]:
        """Returns the cost as what JSON can hold."""
        return asdict(self)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "BudgetCost":
        """Returns a cost from what ``as_json`` made."""
        latency = content["latency"]
        return cls(**{**content, "latency": None if latency is None else Latency(**latency)})


@dataclass(frozen=True, slots=True)
class Fitted(Generic[A]):
    """A network within a budget.

    Attributes:
        network: a genotype, or the settings of a baseline, as it was, with the width that was chosen.
        cost: as measured; of latency and memory what the budget limits.
        reduced: what was taken away of it, in words; see `fit_reduced`.
    """

    network: A
    cost: BudgetCost
    reduced: tuple[str, ...] = ()


def fit(
    network: A, budget: BudgetSettings, *, in_channels: int, outputs: int, norm: NormName | None = None
) -> Fitted[A] | None:
    """Returns a network with the largest width that stays within a budget, see `medarts.models.scaled`.

    The next two larger widths were measured to be over, unless there are fewer. The latency of an exported network does
    not always grow with its width, as some numbers of channels suit the processor better than others.

    Args:
        network: a genotype, whose C is not taken over, or the settings of a baseline.
        budget: with its size, see ``BudgetSettings.at``.
        in_channels: channels of the images.
        outputs: outputs of the network.
        norm: kind of all norms. Default: that of the network's paper.

    Returns:
        None where the smallest width is over, or the only one of a network that has no others.

    Raises:
        GenotypeError: the genotype does not fit its space.
        MedartsError: the network cannot be exported.
        RecipeError: the network cannot take images of that size, or the machine has fewer cores than threads.
    """
    budget = in_numbers(budget, in_channels=in_channels, outputs=outputs)
    table = LatencyTable(threads=budget.threads)
    widths = scaled(network)
    exports = Exports()
    meters = [_Meter(each, budget, in_channels, outputs, norm, exports=exports) for each in widths]
    rough = bisect_left(meters, True, key=lambda meter: not meter.is_probably_within()) - 1
    guess = _largest(len(meters), lambda place: _is_expected_within(widths[place], meters[place], table), guess=rough)
    place = _largest(len(meters), lambda place: meters[place].is_within(), guess=guess)
    return None if place < 0 else Fitted(widths[place], meters[place].cost())


def fit_reduced(
    genotype: Genotype,
    budget: BudgetSettings,
    *,
    space: Settings,
    in_channels: int,
    outputs: int,
    norm: NormName | None = None,
) -> Fitted[Genotype] | None:
    """Returns a genotype with the largest width that stays within a budget, reduced where even the smallest is over.

    It loses as little as possible, in the order of the space; see `SearchSpace.reductions`.

    Args:
        genotype: as in `fit`, as are the others.
        budget: with its size.
        space: section ``space`` of a recipe, whose choices a reduced genotype keeps to.
        in_channels: channels of the images.
        outputs: outputs of the network.
        norm: kind of all norms.

    Returns:
        None where what is left in the end is over.

    Raises:
        MedartsError: see `fit`.
    """
    given: dict[str, Any] = {"in_channels": in_channels, "outputs": outputs, "norm": norm}
    whole = fit(genotype, budget, **given)
    if whole is not None:
        return whole
    budget = in_numbers(budget, in_channels=in_channels, outputs=outputs)
    table, reductions = LatencyTable(threads=budget.threads), list(space_of(genotype).reductions(genotype, space))
    narrowest = [scaled(each.genotype)[0] for each in reversed(reductions)]
    meters = [_Meter(each, budget, in_channels, outputs, norm, exports=Exports()) for each in narrowest]
    guess = _largest(
        len(meters), lambda place: _is_expected_within(narrowest[place], meters[place], table), guess=len(meters)
    )
    place = _largest(len(meters), lambda place: meters[place].is_within(), guess=guess)
    if place < 0:
        return None
    steps = reductions[: len(reductions) - place]
    fitted = fit(steps[-1].genotype, budget, **given)
    assert fitted is not None  # as its narrowest form is within
    reduced = tuple(each.words for each in steps)
    provenance = {**fitted.network.provenance, "reduced": "; ".join(reduced)}
    return replace(fitted, network=replace(fitted.network, provenance=provenance), reduced=reduced)


def fit_to_recipe(genotype: Genotype, recipe: Recipe) -> Fitted[Genotype]:
    """Returns a genotype with the largest width that stays within the budget of a recipe, reduced where it has to be.

    Args:
        genotype: as in `fit_reduced`.
        recipe: with a budget, and with the names of its outputs.

    Raises:
        BudgetError: what is left of it in the end is over.
        MedartsError: see `fit`.
    """
    budget = recipe.budget.at(recipe.data.size)
    about: dict[str, Any] = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    given: dict[str, Any] = {**about, "space": recipe.space, "norm": recipe.train.norm}
    fitted = fit_reduced(genotype, budget, **given)
    if fitted is None:
        raise unmet_reduced(genotype, budget, **given)
    return fitted


def measure(
    architecture: Architecture, budget: BudgetSettings, *, in_channels: int, outputs: int, norm: NormName | None = None
) -> BudgetCost:
    """Returns what a network costs: parameters and FLOPs, and of latency and memory what a budget limits.

    Args:
        architecture: a genotype with its width, or a baseline.
        budget: as in ``fit``, as are the others.
        in_channels: channels of the images.
        outputs: outputs of the network.
        norm: kind of all norms.

    Raises:
        MedartsError: see ``fit``.
    """
    budget = in_numbers(budget, in_channels=in_channels, outputs=outputs)
    return _Meter(architecture, budget, in_channels, outputs, norm, exports=Exports()).cost()


def in_numbers(budget: BudgetSettings, *, in_channels: int, outputs: int) -> BudgetSettings:
    """Returns a budget whose latency, where it is that of a network (``latency_of``), is in milliseconds.

    The arguments are those of ``fit``.
    """
    if budget.latency_of is None:
        return budget
    meter = _meter_of(budget.model_copy(update={"flops": None, "parameters": None}), in_channels, outputs)
    return budget.model_copy(update={"latency_of": None, "latency_ms": meter.latency().ms})


def kept(budget: BudgetSettings, cost: BudgetCost, *, in_channels: int, outputs: int) -> dict[str, dict[str, float]]:
    """Returns every limit of a budget beside what was measured, as summary.json of a search has it.

    Args:
        budget: as in ``fit``.
        cost: of a network.
        in_channels: channels of the images.
        outputs: outputs of the network.
    """
    limits = in_numbers(budget, in_channels=in_channels, outputs=outputs).limits
    return {name: {"limit": limit, "measured": cost.amounts[name]} for name, limit in limits.items()}


class Kept(NamedTuple):
    """A limit, and what the genotype of a search costs, in the unit of the title."""

    title: str
    limit: float
    measured: float


def read_kept(run: RunDirectory) -> list[Kept]:
    """Returns the limits of a search, and what its genotype costs; none before it has finished, or without a budget.

    Raises:
        RunError: summary.json is damaged.
    """
    if run.facts["kind"] != "search" or not run.facts["finished"]:
        return []
    found = []
    for name, values in run.read_json("summary.json").get("budget", {}).items():
        title, unit = QUANTITIES[name]
        found.append(Kept(title, values["limit"] / unit, values["measured"] / unit))
    return found


def unmet(
    network: Architecture, budget: BudgetSettings, *, in_channels: int, outputs: int, norm: NormName | None = None
) -> BudgetError:
    """Returns the error of a budget that the narrowest form of a network exceeds, with what that costs.

    The arguments are those of ``fit``, which has returned None.
    """
    return _unmet(network, budget, in_channels, outputs, norm)


def unmet_reduced(
    genotype: Genotype,
    budget: BudgetSettings,
    *,
    space: Settings,
    in_channels: int,
    outputs: int,
    norm: NormName | None = None,
) -> BudgetError:
    """Returns the error of a budget that a genotype exceeds however it is reduced, with what is left of it in the end.

    The arguments are those of ``fit_reduced``, which has returned None.
    """
    reductions = list(space_of(genotype).reductions(genotype, space))
    if not reductions:
        return _unmet(genotype, budget, in_channels, outputs, norm)
    return _unmet(reductions[-1].genotype, budget, in_channels, outputs, norm, how=", reduced as far as it can be,")


def _unmet(
    network: Architecture,
    budget: BudgetSettings,
    in_channels: int,
    outputs: int,
    norm: NormName | None,
    *,
    how: str = "",
) -> BudgetError:
    budget, narrowest = in_numbers(budget, in_channels=in_channels, outputs=outputs), scaled(network)[0]
    cost = measure(narrowest, budget, in_channels=in_channels, outputs=outputs, norm=norm)
    kind = "genotype" if isinstance(network, Genotype) else "model"
    over = [
        f"{name} {cost.amounts[name]:,.4g} of {limit:,.4g}"
        for name, limit in budget.limits.items()
        if cost.amounts[name] > limit
    ]
    return BudgetError(
        f"The narrowest network of {kind} '{network.name}'{how} is over the budget: {', '.join(over)}.",
        fix="Raise the budget, or lower budget.size.",
    )


def _largest(number: int, is_within: Callable[[int], bool], *, guess: int) -> int:
    """Returns the last of places that are within, -1 where none is; the cost grows from place to place, by and large.

    Steps away from the guess grow (1, 1, 2, 3, 5) until the answer lies between two places that were looked at; halving
    their distance finds it. Then up to PAST places above it are looked at, and again above each that is within. So the
    answer does not depend on the guess, unless more places in a row are over than PAST - 1 with one within above them.
    A guess that is right or next to it is confirmed by two to four looks.
    """
    look = cache(is_within)
    low = _boundary(number, look, guess=guess)
    place = low + 1
    while place < min(number, low + 1 + PAST):
        if look(place):
            low = place
        place += 1
    return low


def _boundary(number: int, is_within: Callable[[int], bool], *, guess: int) -> int:
    """Returns a place that is within while the next is not; -1 where the first is not."""
    low, high, place = -1, number, guess
    step, following = 1, 1
    while high - low > 1:
        place = min(max(place, low + 1), high - 1)
        if is_within(place):
            low, place = place, place + step
        else:
            high, place = place, place - step
        step, following = following, step + following
        if low >= 0 and high < number:
            place = (low + high) // 2
    return low


def _is_expected_within(network: Architecture, meter: "_Meter", table: LatencyTable) -> bool:
    """Tells whether a budget is expected to be met, by what is known of the pieces of the network."""
    limit = meter.budget.limits.get("latency_ms")
    if limit is None or not meter.counts_are_within():
        return meter.counts_are_within()
    about = {"in_channels": meter.in_channels, "outputs": meter.outputs, "size": meter.size}
    expected = None  # of baselines the pieces are not known
    if isinstance(network, Genotype):
        expected = predict(network, **about, norm=meter.norm, table=table)
    return meter.is_probably_within() if expected is None else expected <= limit


class _Meter:
    """Measures one network, each quantity once, and only when it is asked for."""

    def __init__(
        self,
        architecture: Architecture,
        budget: BudgetSettings,
        in_channels: int,
        outputs: int,
        norm: NormName | None,
        *,
        exports: Exports,
    ) -> None:
        if budget.size is None:
            raise ValueError("the budget has no size; fill it in with BudgetSettings.at")
        check_number(
            "budget.threads", budget.threads, low=1, high=usable_cores(), reason="as this machine has no more cores"
        )
        self.architecture = architecture
        self.budget = budget
        self.size = budget.size
        self.in_channels = in_channels
        self.outputs = outputs
        self.norm = norm
        self.exports = exports
        self._build = partial(build_network, architecture, in_channels=in_channels, outputs=outputs, norm=norm)

    def is_within(self) -> bool:
        """Tells whether the budget is met; what is quick to see comes first, and the first that is over decides."""
        return all(self._amount(name) <= limit for name, limit in self.budget.limits.items())

    def is_probably_within(self) -> bool:
        """Tells whether the budget is probably met, by what is counted alone."""
        limit = self.budget.limits.get("latency_ms")
        if limit is None or not self.counts_are_within():
            return self.counts_are_within()
        # Many small operations run at about half the rate of the few large ones of the reference.
        rate = reference_flops() / usual_ms(self.budget.threads) / 2
        return self._amount("flops") / rate <= limit

    def counts_are_within(self) -> bool:
        """Tells whether parameters and FLOPs are within the budget."""
        limits = self.budget.limits
        return all(self._amount(name) <= limits[name] for name in ("parameters", "flops") if name in limits)

    def cost(self) -> BudgetCost:
        """Returns what the network costs."""
        limits = self.budget.limits
        return BudgetCost(
            self._parameters,
            self._flops,
            latency=self._latency if "latency_ms" in limits else None,
            memory_mb=self._memory_mb if "memory_mb" in limits else None,
        )

    def _amount(self, name: str) -> float:
        if name == "latency_ms":
            return self._latency.ms
        if name == "memory_mb":
            return self._memory_mb
        return self._flops if name == "flops" else self._parameters

    @cached_property
    def _shapes(self) -> Network:
        """The network without values, which is enough to count."""
        with torch.device("meta"):
            return self._network()

    @cached_property
    def _parameters(self) -> int:
        return count_parameters(self._shapes)

    @cached_property
    def _flops(self) -> int:
        image = torch.empty(1, self.in_channels, self.size, self.size, device="meta")
        form = last_head(self._shapes, self._shapes)
        with torch.device("meta"):
            return count_flops(form, in_channels=self.in_channels, size=self.size, images=image)

    @cached_property
    def _exported(self) -> "_Exported":
        about = {"in_channels": self.in_channels, "size": self.size}
        content = self.exports.exported(self.architecture.name, self._network(), **about)
        return _Exported(content, self.budget.threads)

    def latency(self) -> Latency:
        """Returns the latency, as it is kept now: a quicker reference shortens it."""

        def measured() -> Latency:
            image = torch.rand(1, self.in_channels, self.size, self.size, generator=torch.Generator().manual_seed(0))
            (found,) = measured_latencies([partial(self._exported(), image)], threads=self.budget.threads)
            return found

        return kept_latency(self._exported.digest, measured, threads=self.budget.threads)

    @cached_property
    def _latency(self) -> Latency:
        return self.latency()

    @cached_property
    def _memory_mb(self) -> float:
        shape, threads = (1, self.in_channels, self.size, self.size), self.budget.threads
        return kept_memory_mb(
            self._exported.digest,
            lambda: peak_of_inference_mb(self._exported, shape=shape, threads=threads),
            threads=threads,
        )

    def _network(self) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same network is the same file, by which its measurements are kept
            network = self._build().eval()
        network.check_size(self.size)
        return network


@lru_cache(maxsize=8)  # exported once, as every genotype of a search is held against it
def _meter_of(budget: BudgetSettings, in_channels: int, outputs: int) -> _Meter:
    """Returns what measures the network that a budget names."""
    assert budget.latency_of is not None
    return _Meter(without_weights(budget.latency_of), budget, in_channels, outputs, None, exports=Exports())


@dataclass(frozen=True, slots=True)
class _Exported:
    """An exported network; called, it is made ready to run, also in another process."""

    content: bytes
    threads: int

    @property
    def digest(self) -> str:
        """What is equal for equal networks, weights included, and images of one size."""
        return hashlib.sha256(self.content).hexdigest()

    def __call__(self) -> Form:
        return partial(run_exported, OnnxRuntimeEngine(self.content, threads=self.threads))
