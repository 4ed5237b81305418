"""Criteria: which channels of a trained network matter least.

A criterion scores the channels of a unit, that is of all layers that lose them together; the lowest go first. Scores of
a criterion whose scope is "layer" are compared within a unit, and every unit loses the same share; those whose scope is
"global" are compared over the network. A channel with the score infinity stays. A criterion is a class:

    >>> class SpreadSettings(Settings):
    ...     power: float = 1.0
    >>> @register_criterion("spread", settings=SpreadSettings)
    ... class Spread(Criterion):
    ...     def scores(self, unit: Unit) -> Tensor:
    ...         return sum(layer.std(1) ** self.settings.power for layer in filters(unit))
    >>> criteria.choose({"name": "spread", "power": 2.0})
    SpreadSettings(name='spread', power=2.0)
    >>> criteria.remove("spread")
"""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import pad_sequence

from medarts.config import KeepSettings
from medarts.config.section import Number, Weight, Whole
from medarts.errors import MedartsError, RecipeError, RunError
from medarts.pruning.method import Method, Taken, gradients_of, image_of, make_method
from medarts.pruning.selection import Cuts, Scope, check_reachable, choose_for
from medarts.pruning.units import Joined, Member, Unit, cut, examine, small_image
from medarts.registry import Settings, calling, criteria
from medarts.system.console import progress_bar
from medarts.training.trainer import Training

C = TypeVar("C", bound="type[Criterion]")


@dataclass(frozen=True)
class ScalePenalty:
    """A training before the cut has the L1 norm of the norms' scales in its loss, which drives those of channels that
    matter little to zero.

    Attributes:
        strength: factor of the sum of the scales' absolute values.
    """

    strength: float

    def over(self, units: Sequence[Unit]) -> Callable[[], Tensor]:
        """Returns the term of the loss, a function that gives a scalar with gradients; for all scales of the units.

        Raises:
            RunError: no norm of the units has scales.
        """
        places: dict[nn.Module, list[int]] = defaultdict(list)
        for member in _scaled_norms(units):
            places[member.module] += (index for of_channel in member.indices for index in of_channel)
        if not places:
            raise RunError(
                "The network has no norm with scales in a layer that can be cut.", fix="Use another criterion, as l1."
            )
        chosen = {norm: None if len({*of}) == _length(norm) else torch.tensor(of) for norm, of in places.items()}

        def penalty() -> Tensor:
            scales = (_scales(norm) if of is None else _scales(norm)[of] for norm, of in chosen.items())
            return self.strength * torch.stack([each.abs().sum() for each in scales]).sum()

        return penalty


@dataclass(frozen=True)
class FilterMasks:
    """A training before the cut zeroes the filters that would go, after each of its epochs; they may grow back.

    Attributes:
        three_quarters_at: progress of the training at which three quarters of the channels that go in the end are
            zeroed, above 0 and below 0.75, from where it is an exponential that levels off at 1. None: all from the
            first epoch on.
    """

    three_quarters_at: float | None = None

    def rate(self, progress: float) -> float:
        """Returns the rate of channels to zero, as a share of the rate of the cut.

        Args:
            progress: epochs done as a share of all, 0 to 1; at 1 the rate is 1.

        >>> FilterMasks().rate(0.1), FilterMasks(three_quarters_at=0.125).rate(0.125)
        (1.0, 0.75)
        """
        if self.three_quarters_at is None:
            return 1.0
        decay = _decay(self.three_quarters_at)
        return round(math.expm1(-decay * progress) / math.expm1(-decay), 12)


class Criterion(Method):
    """Scores the channels of units; those with the lowest scores go.

    Args:
        settings: those of the class that it was registered with.

    Attributes:
        scope: where scores are compared.
    """

    scope: ClassVar[Scope] = "layer"

    @property
    def batches(self) -> int:
        """Training batches whose gradients it reads, 0 or more; the scores of each are averaged."""
        return 0

    @property
    def training(self) -> ScalePenalty | FilterMasks | None:
        """What the training before the cut is like, if it wants one."""
        return None

    @abstractmethod
    def scores(self, unit: Unit) -> Tensor:
        """Returns how much the channels of a unit matter, (channels,); infinity for those that must stay.

        Where ``batches`` is not 0, the weights have the gradients of the loss of one batch.
        """

    @property
    def sparse(self) -> "Criterion | None":
        """Itself, where it wants a training before the cut."""
        return None if self.training is None else self

    def rate_for(self, training: Training, units: Sequence[Unit], target: KeepSettings) -> float:
        """Returns the rate at which a cut will meet a target, as far as the training before it has to know it.

        Args:
            training: on its device, with the weights that it begins with.
            units: of its network.
            target: of the cut.

        Returns:
            The rate, or 0 where the training has no use for one.

        Raises:
            MedartsError: see `take_away`.
        """
        cuts = self._cuts(training, units, self._scores(training, units))
        if isinstance(self.training, FilterMasks):
            return choose_for(target, cuts).rate
        check_reachable(target, cuts)
        return 0.0

    def check(self, training: Training, target: KeepSettings) -> None:
        """Refuses a target that could not be met if all channels of all units had scores; see `Method.check`."""
        if target.quantity == "latency":  # measured with the cut
            return
        units = examined(training).units
        scores = {unit.name: torch.zeros(unit.channels) for unit in units}
        check_reachable(target, self._cuts(training, units, scores))

    def take_away(self, training: Training, target: KeepSettings) -> Taken:
        """Removes channels; see `Method.take_away`."""
        units, fixed = examined(training)
        selection = choose_for(target, self._cuts(training, units, self._scores(training, units)))
        cut(training.network, selection.removals, _small_image(training), units=units)
        return Taken(selection.kept, uncut=fixed, latency=selection.latency)

    def _cuts(self, training: Training, units: Sequence[Unit], scores: Mapping[str, Tensor]) -> Cuts:
        return Cuts(training.network, units, scores, scope=self.scope, image=image_of(training))

    def _scores(self, training: Training, units: Sequence[Unit]) -> dict[str, Tensor]:
        with progress_bar("gradients", self.batches) as bar:
            return scores_of(self, units, gradients_of(training, after_each=bar.advance))


def examined(training: Training) -> Joined:
    """Returns the units of the network of a training, and what cannot be cut.

    Raises:
        RecipeError: its maps are so small that the norms of a cut network could see a single value.
    """
    network, size = training.network, training.recipe.data.size
    if network.smallest_map(size) == 1 and any(isinstance(module, nn.GroupNorm) for module in network.modules()):
        raise RecipeError(
            f"With data.size {size} the smallest maps of {training.architecture.name} are one pixel, on which a group "
            "of one channel, as a cut may leave it, has no norm.",
            fix="Train it on larger images, or prune it by depth.",
        )
    return examine(network, _small_image(training))


def _small_image(training: Training) -> Tensor:
    return small_image(training.network, training.recipe.data.in_channels)


def register_criterion(name: str, *, settings: type[Settings] = Settings) -> Callable[[C], C]:
    """Returns a decorator that registers a class of criteria under a name.

    Args:
        name: in recipes and on the command line.
        settings: class of its settings.
    """
    return criteria.register(name, settings=settings)


def make_criterion(settings: Settings | str) -> Criterion:
    """Returns the criterion that a section of a recipe names.

    Raises:
        RecipeError: it names a method that scores no channels.

    >>> make_criterion("slim").scope
    'global'
    """
    method = make_method(settings)
    if not isinstance(method, Criterion):
        raise RecipeError(f"{method.settings.name} scores no channels.", fix="Choose another method, as l1.")
    return method


def scores_of(
    criterion: Criterion, units: Sequence[Unit], gradients: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """Returns the scores of units by their names, each (channels,) in float64 on the CPU.

    Args:
        criterion: scores them.
        units: of one network.
        gradients: leaves the gradients of the loss of a training batch, by its number from 0 on, in the weights, in
            place of those that were there. Called for each of ``criterion.batches``.

    Raises:
        MedartsError: the criterion failed, or returned something else than a score for every channel.
        RunError: it can score no unit.
        ValueError: it needs gradients, and none are given.
    """
    if criterion.batches and gradients is None:
        raise ValueError(f"{criterion.settings.name} needs gradients")
    totals: dict[str, Tensor] = {}
    for number in range(max(1, criterion.batches)):
        if gradients is not None and criterion.batches:
            gradients(number)
        for unit in units:
            found = _checked(criterion, unit)
            totals[unit.name] = totals[unit.name] + found if number else found
    if not any(total.isfinite().any() for total in totals.values()):
        raise RunError(
            f"The criterion '{criterion.settings.name}' can score no channel of this network: no layer that can be cut "
            "has what it reads.",
            fix="Use another one, such as l1.",
        )
    return {name: total / max(1, criterion.batches) for name, total in totals.items()}


@torch.no_grad()
def _checked(criterion: Criterion, unit: Unit) -> Tensor:
    name = criterion.settings.name
    with calling("criterion", name):
        found = criterion.scores(unit)
    if not isinstance(found, Tensor) or found.shape != (unit.channels,) or found.isnan().any():
        what = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        what = "NaN" if isinstance(found, Tensor) and found.shape == (unit.channels,) else what
        raise MedartsError(
            f"The criterion '{name}' returned {what} for the {unit.channels} channels of {unit.name}.",
            fix=f"Return a tensor ({unit.channels},) of numbers.",
        )
    return found.to("cpu", torch.float64)


def filters(unit: Unit) -> list[Tensor]:
    """Returns the weights that make each channel, (channels, weights), of every layer that makes the unit's channels.

    These are convolutions and linear layers that give them, and depthwise convolutions that they pass through.
    """
    return [_rows(each, _by_output) for each in unit.members if each.side != "in" and _is_linear(each.module)]


def readers(unit: Unit) -> list[tuple[Tensor, Tensor]]:
    """Returns the weights with which every layer that reads the unit's channels does so, and their gradients.

    Each is (channels, weights). Weights that have none, as the loss does not depend on them, have gradients of zero.
    """
    members = [each for each in unit.members if each.side == "in" and _is_linear(each.module)]
    return [(_rows(each, _by_input), _rows(each, _by_input, gradient=True)) for each in members]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd | nn.Linear)


def _rows(member: Member, by_channel: Callable[[Any, Tensor], Tensor], *, gradient: bool = False) -> Tensor:
    """Returns weights, or their gradients, of a layer by the channels of its unit, (channels, weights)."""
    weight: Any = member.module.weight
    tensor = (torch.zeros_like(weight) if weight.grad is None else weight.grad) if gradient else weight
    by_index = by_channel(member.module, tensor.detach().double()).flatten(1)
    return pad_sequence([by_index[list(of)].flatten() for of in member.indices], batch_first=True)


def _by_output(layer: Any, tensor: Tensor) -> Tensor:
    """Returns weights with the outputs of a layer as first axis, of groups those of the output's group."""
    return _regrouped(tensor, layer.groups) if getattr(layer, "transposed", False) else tensor


def _by_input(layer: Any, tensor: Tensor) -> Tensor:
    """Returns weights with the inputs of a layer as first axis, of groups those of the input's group."""
    return tensor if getattr(layer, "transposed", False) else _regrouped(tensor, getattr(layer, "groups", 1))


def _regrouped(tensor: Tensor, groups: int) -> Tensor:
    """Returns weights with the two axes of the channels swapped within each group."""
    return tensor.reshape(groups, -1, *tensor.shape[1:]).transpose(1, 2).flatten(0, 1)


SMALL = 0.01
"""Below which the absolute value of a scale counts as driven to zero; norms begin with scales of 1."""


def share_of_small_scales(units: Sequence[Unit], network: nn.Module) -> float:
    """Returns the share of the scales in units, 0 to 1, whose absolute value is below ``SMALL``.

    Args:
        units: with at least one norm that has scales.
        network: has their layers; it may be a copy of the one that they were found in.
    """
    norms = {each.module_name: network.get_submodule(each.module_name) for each in _scaled_norms(units)}
    scales = torch.cat([_scales(norm).detach() for norm in norms.values()])
    return float((scales.abs() < SMALL).double().mean())


def _scaled_norms(units: Sequence[Unit]) -> list[Member]:
    return [each for unit in units for each in unit.members if each.side == "both" and _is_scaled_norm(each.module)]


def _is_scaled_norm(module: nn.Module) -> bool:
    """Returns whether a module has a scale and a shift for every channel, as norms do, also those of users."""
    scales, shifts = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(scales, nn.Parameter) or not isinstance(shifts, nn.Parameter):
        return False
    return scales.ndim == 1 and scales.shape == shifts.shape


def _scales(norm: nn.Module) -> Tensor:
    scales = norm.weight
    assert isinstance(scales, Tensor)
    return scales


def _length(norm: nn.Module) -> int:
    return len(_scales(norm))


def _kept(unit: Unit) -> Tensor:
    """Returns scores that keep all channels of a unit."""
    return torch.full((unit.channels,), math.inf)


class SlimSettings(Settings):
    """Network slimming (arXiv 1708.06519): channels with the smallest scales in the norms go, over the whole network.

    Attributes:
        strength: factor of the L1 norm of the scales in the training before the cut. Default: as published for VGG, for
            160 epochs. In a few epochs no strength takes scales near 0, and larger ones shrink them all alike.
    """

    name: Literal["slim"] = "slim"
    strength: Weight = 1e-4


@register_criterion("slim", settings=SlimSettings)
class Slim(Criterion):
    """Absolute scales of the norms, by one threshold for the whole network.

    Source: Liu et al. 2017, arXiv 1708.06519, sections 3.2 and 4.2. Of several norms that a channel passes through, the
    largest scale counts: a channel matters if it does anywhere, and a sum would put units with many norms out of reach
    of the threshold. Units without a norm that has scales are not cut.
    """

    scope = "global"

    @property
    def training(self) -> ScalePenalty:
        """With the L1 norm of the scales in its loss."""
        return ScalePenalty(self.settings.strength)

    def scores(self, unit: Unit) -> Tensor:
        """Returns the largest absolute scale of every channel."""
        found = []
        for norm in _scaled_norms([unit]):
            scales = _scales(norm.module).abs()
            found.append(torch.stack([scales[list(of)].max() for of in norm.indices]))
        return torch.stack(found).amax(0) if found else _kept(unit)


class L1Settings(Settings):
    """L1 norm of the filters (arXiv 1608.08710): those with the smallest go, the same share of every layer."""

    name: Literal["l1"] = "l1"


@register_criterion("l1", settings=L1Settings)
class L1(Criterion):
    """Sum of the absolute weights of a filter; see `filter_norms`.

    Source: Li et al. 2017, arXiv 1608.08710, section 3.1.
    """

    def scores(self, unit: Unit) -> Tensor:
        """Returns the L1 norm of the filters that make every channel."""
        return filter_norms(unit, order=1)


class SoftSettings(Settings):
    """Soft filter pruning (arXiv 1808.06866): L2 norm of the filters, of which a training zeroes the smallest."""

    name: Literal["soft"] = "soft"


@register_criterion("soft", settings=SoftSettings)
class Soft(Criterion):
    """L2 norm of a filter, after a training with masks; see `filter_norms`.

    Source: He et al. 2018, arXiv 1808.06866, section 3.2.
    """

    @property
    def training(self) -> FilterMasks:
        """With all filters that would go zeroed after each epoch."""
        return FilterMasks()

    def scores(self, unit: Unit) -> Tensor:
        """Returns the L2 norm of the filters that make every channel."""
        return filter_norms(unit, order=2)


class GradualSettings(Settings):
    """Asymptotic soft filter pruning (arXiv 1808.07471): as soft, with a rate that grows over the epochs.

    Attributes:
        three_quarters_at: progress of the training before the cut, 0 to 1, at which three quarters of the channels are
            zeroed; the rate then levels off. Default: an eighth, as published.
    """

    name: Literal["gradual"] = "gradual"
    three_quarters_at: Annotated[Number, Field(gt=0.0, lt=0.75)] = 0.125


@register_criterion("gradual", settings=GradualSettings)
class Gradual(Soft):
    """L2 norm of a filter, after a training with more and more masks.

    Source: He et al. 2019, arXiv 1808.07471, section III-D.
    """

    @property
    def training(self) -> FilterMasks:
        """With more and more filters zeroed after each epoch."""
        return FilterMasks(three_quarters_at=self.settings.three_quarters_at)


class FpgmSettings(Settings):
    """Geometric median (arXiv 1811.00250): filters that others can replace go, the same share of every layer."""

    name: Literal["fpgm"] = "fpgm"


@register_criterion("fpgm", settings=FpgmSettings)
class Fpgm(Criterion):
    """Sum of a filter's distances from all others of its layer: those nearest the geometric median go.

    Source: He et al. 2019, arXiv 1811.00250, section 3.3. Where several layers make the channels, their filters,
    divided by the layer's mean norm as in `filter_norms`, are one.
    """

    def scores(self, unit: Unit) -> Tensor:
        """Returns the sum of the distances of every channel's filters from those of the others."""
        layers = filters(unit)
        if not layers:
            return _kept(unit)
        joined = torch.cat([layer / _mean(layer.norm(dim=1)) for layer in layers], dim=1)
        return torch.cdist(joined, joined).sum(1)


class TaylorSettings(Settings):
    """Taylor expansion (arXiv 1906.10771): channels without which the loss changes least go, over the whole network.

    Attributes:
        batches: batches of training images whose gradients are taken. Default: 30.
    """

    name: Literal["taylor"] = "taylor"
    batches: Annotated[Whole, Field(ge=1, le=10_000)] = 30


@register_criterion("taylor", settings=TaylorSettings)
class Taylor(Criterion):
    """Squared change of the loss, to first order, if a channel were zero; mean over batches.

    Source: Molchanov et al. 2019, arXiv 1906.10771, equations 8 and 9: the squared gradient of a gate on the channel,
    which is the squared sum of gradient x weight. The sum is over the weights that read the channel, where it leaves
    the network, whatever makes it and however many layers do: between norm and ReLU, where the paper has its best gate,
    it is the same. Over the weights of a convolution before a batch norm, it would always be 0.
    """

    scope = "global"

    @property
    def batches(self) -> int:
        """As set."""
        batches: int = self.settings.batches
        return batches

    def scores(self, unit: Unit) -> Tensor:
        """Returns the squared sum of gradient x weight of every channel."""
        layers = readers(unit)
        if not layers:
            return _kept(unit)
        return torch.stack([(weights * gradients).sum(1) for weights, gradients in layers]).sum(0).square()


def filter_norms(unit: Unit, *, order: int) -> Tensor:
    """Returns the norm of the filters that make every channel of a unit, (channels,).

    Where several layers make the channels, as before a sum, the filters of each are divided by their mean norm first:
    a norm after them makes the scale of a whole layer meaningless, and the layer with the largest weights would decide
    alone. Within one layer, the order of the filters is as published.

    Args:
        unit: whose channels.
        order: 1 or 2, of the norm.
    """
    layers = [layer.norm(order, dim=1) for layer in filters(unit)]
    if not layers:
        return _kept(unit)
    relative = torch.stack([norms / _mean(norms) for norms in layers])
    norms: Tensor = relative.norm(order, dim=0)
    return norms


def _mean(norms: Tensor) -> Tensor:
    """Returns the mean of norms, or 1 where all are 0."""
    mean = norms.mean()
    return torch.where(mean > 0, mean, torch.ones_like(mean))


def _decay(three_quarters_at: float) -> float:
    """Returns k of the exponential (1 - exp(-k t)) / (1 - exp(-k)) that is 3/4 at a progress t, by bisection."""
    low, high = 1e-6, 1.0
    while _reached(high, three_quarters_at) < 0.75:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _reached(middle, three_quarters_at) < 0.75 else (low, middle)
    return high


def _reached(decay: float, progress: float) -> float:
    return math.expm1(-decay * progress) / math.expm1(-decay)
