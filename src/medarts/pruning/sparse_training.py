"""Training before a cut, so that less is lost by it: scales of norms are driven to zero, or filters are zeroed.

It is a training as any other, of a trained network, but for these three things:

- slim: the L1 norm of the norms' scales is a term beside the loss.
- soft, gradual: after the steps of every epoch, before the validation, the filters that would go are zeroed, in the
  moving average as well, since its weights are those that are validated and cut. Nothing else of them changes, such as
  their momentum: as published, they may grow back in the next epoch, and others be zeroed then.
- The learning rate is that of the recipe, without the factor of fine-tuning, as the weights are to move. There is no
  early stop, and of the weights those of the last epoch are kept, as sparsity grows while the score may fall.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medarts.pruning.criteria import Criterion, FilterMasks, ScalePenalty, scores_of
from medarts.pruning.selection import choose
from medarts.pruning.units import find_units, mask, small_image
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
        rate: share of the channels that the cut will take, 0 to 1; what lower rates take, it takes too.
        **options: see `PruningStage`.
    """

    kind = "prune"
    title = "training before the cut"

    def __init__(self, *arguments: Any, criterion: Criterion, rate: float, **options: Any) -> None:
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

    def set_up(self) -> None:
        """Finds the channels that go together, and what the criterion wants of the training."""
        self.units = find_units(self.network, small_image(self.network, self.recipe.data.in_channels))
        wanted = self.criterion.training
        self.penalty: Callable[[], Tensor] | None = (
            wanted.over(self.units) if isinstance(wanted, ScalePenalty) else None
        )
        self.masks = wanted if isinstance(wanted, FilterMasks) else None
        super().set_up()

    def learning_rate(self) -> float:
        """Returns that of the schedule."""
        return self.scheduled_rate()

    def add_penalties(self) -> None:
        """Adds the gradient of the scales' norm."""
        if self.penalty is not None:
            self.fabric.backward(self.penalty())

    def validate(self) -> dict[str, Any]:
        """Zeroes the filters of the epoch, and returns the validation values of the network that is left."""
        if self.masks is not None:
            self._zero_filters(self.rate * self.masks.rate((self.state.epoch + 1) / self.epochs))
        return super().validate()

    def is_better(self, score: float) -> bool:
        """Says that the last weights are preferred."""
        return True

    def _zero_filters(self, rate: float) -> None:
        scores = scores_of(self.criterion, self.units, gradients_of(self))
        removals = choose(self.units, scores, rate, scope=self.criterion.scope)
        mask(self.network, self.units, removals)
        if self.averaged is not None:
            mask(self.averaged.module, self.units, removals)


def gradients_of(training: Training, *, after_each: Callable[[], object] = lambda: None) -> Callable[[int], None]:
    """Returns what leaves the gradients of the loss of a training batch in a network, see `scores_of`.

    The batch is one as in training. The network is in evaluation mode, so that its statistics stay as they are.

    Args:
        training: its network is on its device.
        after_each: called after each batch.
    """
    network, recipe = training.network, training.recipe

    def gradients(number: int) -> None:
        network.eval()
        network.zero_grad()
        epoch, step = divmod(number, training.steps)
        order = training.training.order(epoch, seed=recipe.seed, sampling=recipe.data.sampling)
        for loss in training.losses(network, order, step, where=("pruning", number)):
            training.fabric.backward(loss)
        after_each()

    return gradients
