"""What search and training know of a task, and which task a recipe has."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from medarts.config import LossName, Recipe
from medarts.data.batches import Batches
from medarts.data.manifest import Manifest
from medarts.data.mixing import Mixture
from medarts.data.store import ImageStore
from medarts.tasks import Forward
from medarts.tasks.classification import ClassificationTask
from medarts.tasks.segmentation import SegmentationTask


class Task(Protocol):
    """What a network is asked to do.

    Attributes:
        score: the value of ``validate`` by which networks are chosen; larger is better.
    """

    score: str

    def loss(self, outputs: list[Tensor], mixture: Mixture) -> Tensor:
        """Returns the loss of a (mixed) batch; ``outputs`` are the logits of all heads, early to last."""

    def validate(self, forward: Forward, batches: Batches) -> dict[str, Any]:
        """Returns validation values, among them ``val_loss`` and the one named ``score``."""

    def check(self, store: ImageStore, parts: Mapping[str, Manifest]) -> None:
        """Refuses parts of the data that nothing can be learned from or validated on.

        Args:
            store: the images.
            parts: what errors call each part, such as "training", and its samples.

        Raises:
            DataError: there is such a part.
        """


def make_task(recipe: Recipe, manifest: Manifest, *, loss: LossName, field: str) -> Task:
    """Returns the task of a recipe.

    Args:
        recipe: its data.
        manifest: of these data.
        loss: name of the loss.
        field: of the recipe that names it, for errors.

    Raises:
        RecipeError: the loss does not fit the task.
        DataError: no finding can be scored on the validation images.
    """
    if recipe.data.task == "segmentation":
        return SegmentationTask(recipe.data, loss=loss, field=field, threshold=recipe.evaluation.threshold)
    return ClassificationTask(manifest, loss=loss, field=field, auxiliary_weight=recipe.train.auxiliary_weight)
