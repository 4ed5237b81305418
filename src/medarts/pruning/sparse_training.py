"""Training before a cut, so that less is lost by it: scales of norms are driven to zero, or filters are zeroed.

It is a training as any other, of a trained network, but for these things:

- slim: the L1 norm of the norms' scales is a term beside the loss. metrics.jsonl has the share of the scales that are
  small.
- soft, gradual: after the steps of every epoch the filters that would go are zeroed, in the moving average as well,
  since its weights are those that are validated and cut. Nothing else changes, such as momentum and norms: as
  published, the filters may grow back in the next epoch, and others be zeroed then. What is validated is the network
  without their channels, as it would be cut. After the last epoch depthwise convolutions behind them are zeroed too:
  all that is scored of these channels is 0, so the cut takes them first.
- The learning rate of soft and gradual is that of fine-tuning, a tenth of that of the recipe, as published for trained
  networks. That of slim is the whole one: in its steps, scales have to come from 1 to 0.
- There is no early stop, and of the weights those of the last epoch are kept, as sparsity grows while the score may
  fall.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from medarts.config import KeepSettings
from medarts.network import Network
from medarts.pruning.criteria import (
    SMALL,
    Criterion,
    FilterMasks,
    ScalePenalty,
    examined,
    scores_of,
    share_of_small_scales,
)
from medarts.pruning.method import gradients_of
from medarts.pruning.selection import choose
from medarts.pruning.units import Removals, Unit, masked, zero_filters
from medarts.system.console import inform
from medarts.training.trainer import Training

RATE = "pruning_rate"
"""Key of run.json."""


class PruningStage(Training):
    """A training that is a part of pruning.

    Args:
        *arguments: see `Training`.
        command: that goes on with the pruning.
        **options: see `Training`.
    """

    def __init__(self, *arguments: Any, command: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.command = command

    @property
    def continuation(self) -> str:
        """That of the whole pruning."""
        return self.command


class SparseTraining(PruningStage):
    """A training before a cut.

    Args:
        *arguments: see `Training`.
        criterion: that wants it.
        rate: share of the channels that the cut will take, 0 to 1; what lower rates take, it takes too. A run that goes
            on has it, see `aim_at`.
        **options: see `PruningStage`.
    """

    kind = "prune"
    title = "training before the cut"

    def __init__(self, *arguments: Any, criterion: Criterion, rate: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.criterion = criterion
        self.rate = rate

    @property
    def facts(self) -> dict[str, Any]:
        """Those of a training, and the rate of the cut."""
        return {**super().facts, RATE: self.rate}

    @property
    def has_stopped_early(self) -> bool:
        """Never."""
        return False

    @cached_property
    def units(self) -> list[Unit]:
        """The channels of its network that go together."""
        return examined(self).units

    def aim_at(self, target: KeepSettings) -> None:
        """Sees that a cut can meet a target, and finds its rate, by the weights that the training begins with.

        Raises:
            MedartsError: see `medarts.pruning.method.Method.take_away`.
        """
        self.rate = self.criterion.rate_for(self, self.units, target)

    def set_up(self) -> None:
        """Finds what the criterion wants of the training."""
        wanted, units = self.criterion.training, self.units  # found before the weights change
        self.penalty: Callable[[], Tensor] | None = wanted.over(units) if isinstance(wanted, ScalePenalty) else None
        self.masks = wanted if isinstance(wanted, FilterMasks) else None
        super().set_up()

    def learning_rate(self) -> float:
        """Returns that of fine-tuning where filters are zeroed, and that of the schedule where scales are driven."""
        return self.scheduled_rate() if self.masks is None else super().learning_rate()

    def add_penalties(self) -> None:
        """Adds the gradient of the scales' norm."""
        if self.penalty is not None:
            self.fabric.backward(self.penalty())

    def validate(self) -> dict[str, Any]:
        """Zeroes the filters of the epoch, and returns the validation values of the network without their channels."""
        if self.masks is None:
            return super().validate()
        progress = (self.state.epoch + 1) / self.epochs
        removals = self._chosen(self.rate * self.masks.rate(progress))
        for network in {self.network, self._kept}:
            zero_filters(network, self.units, removals, depthwise=progress == 1)
        with masked(self._kept, self.units, removals):
            return super().validate()

    def are_kept(self, *, is_better: bool) -> bool:
        """Says that the last weights are."""
        return True

    def journals(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns the line of the metrics, with the share of scales that are small where they are driven to zero."""
        return super().journals(values if self.penalty is None else {"small_scales": self._small_scales, **values})

    def end_stage(self) -> None:
        """Writes the summary, and says how many scales are small where they were driven to zero."""
        super().end_stage()
        if self.penalty is not None:
            inform(f"{self._small_scales:.1%} of the scales are below {SMALL}.")

    @property
    def _small_scales(self) -> float:
        return share_of_small_scales(self.units, self._kept)

    @property
    def _kept(self) -> Network:
        """The network that is validated and cut."""
        return self.network if self.averaged is None else cast(Network, self.averaged.module)

    def _chosen(self, rate: float) -> Removals:
        scores = scores_of(self.criterion, self.units, gradients_of(self))
        return choose(self.units, scores, rate, scope=self.criterion.scope)
