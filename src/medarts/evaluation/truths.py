"""What masks are scored against, one image at a time: the mask as its file has it, or as networks see it.

At the resolution of files the mask is read again, and the probabilities of the network are brought to its size as
``medarts predict`` does, so that scores are those of the masks that it writes. No more than one image is held.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medarts.config import EvaluationSettings, Recipe
from medarts.config.data import IGNORE
from medarts.data.formats import spacing_of
from medarts.data.masks import read_mask
from medarts.data.reading import MaskState, unframed
from medarts.data.store import ImageStore
from medarts.metrics import BoolMask, Metric, Tolerance
from medarts.metrics.masks import mask_scores

Stored = NDArray[np.uint8]
"""Class indices (..., H, W), or 0 and 1 of overlapping classes (..., C, H, W); `IGNORE` where pixels do not count."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The true mask of an image.

    Attributes:
        stored: the mask.
        states: what it has of each foreground class, a `MaskState` (C,).
        spacing: distances of rows and columns in mm; None where unknown, or at the size of networks.
    """

    stored: Stored
    states: NDArray[np.uint8]
    spacing: tuple[float, float] | None = None


class Truths:
    """The true masks of a store at the resolution at which a recipe scores them.

    Args:
        store: the images.
        recipe: classes, resolution and tolerances.
    """

    def __init__(self, store: ImageStore, recipe: Recipe) -> None:
        settings = recipe.evaluation
        self.store, self._data = store, recipe.data
        self.of_files = settings.resolution == "file"
        self._tolerance = Tolerance(settings.tolerance_mm, settings.tolerance_px)
        self._classes = store.truths.shape[1]
        self._overlap = recipe.data.overlap

    def of(self, index: int) -> Truth:
        """Returns the true mask of a sample of the store.

        Raises:
            DataError: its file can no longer be read.
        """
        if not self.of_files:
            return Truth(self.store.targets[index], self.store.truths[index])
        stored = self._as_given(index)
        shown = [self.mask(stored, number).any() for number in range(self._classes)]
        states = np.where(shown, MaskState.PRESENT, MaskState.EMPTY).astype(np.uint8)
        return Truth(stored, states, self._spacing(index))

    def at_its_size(self, index: int, probabilities_khw: Tensor) -> Tensor:
        """Returns the probabilities of a network for a sample, (K, size, size), at the size of its true mask."""
        if not self.of_files:
            return probabilities_khw
        # As `medarts.deploy.deployable.Deployable` does.
        return unframed(probabilities_khw[None], self.store.framing(index))[0].clamp(0, 1)

    def mask(self, stored: Stored, number: int) -> BoolMask:
        """Returns where a mask has a foreground class, counted from 0: (..., H, W)."""
        if self._overlap:
            plane: BoolMask = stored[..., number, :, :] == 1
            return plane
        if self._classes == 1:
            return np.asarray((stored != 0) & (stored != IGNORE))
        return np.asarray(stored == number + 1)

    def counted(self, stored: Stored, number: int) -> BoolMask:
        """Returns which pixels of a true mask count for a foreground class: (..., H, W)."""
        return np.asarray((stored[..., number, :, :] if self._overlap else stored) != IGNORE)

    def scores(
        self, decided: Stored, truth: Stored, number: int, *, vanished: bool, spacing: tuple[float, ...] | None
    ) -> dict[str, float]:
        """Returns all metrics of a foreground class of an image, or of a volume (slices first), by name."""
        return mask_scores(
            self.mask(decided, number),
            self.mask(truth, number),
            vanished=vanished,
            spacing=spacing,
            counted=self.counted(truth, number),
            tolerance=self._tolerance,
        )

    def unit(self, metric: Metric, spacing: tuple[float, ...] | None, *, axes: int) -> str:
        """Returns the unit of a metric of an image, or a volume, of this spacing."""
        return metric.unit(axes=axes, in_mm=spacing is not None, tolerance=self._tolerance)

    def _as_given(self, index: int) -> Stored:
        if self.store.given is not None:
            return self.store.given[index]
        sample = self.store.manifest.samples[index]
        rules = self.store.manifest.rules[sample.domain]
        return read_mask(sample, rules, names=self._data.class_names, overlap=self._data.overlap).classes

    def _spacing(self, index: int) -> tuple[float, float] | None:
        if self.store.given is not None:  # in memory
            return None
        row, column, _ = spacing_of(self.store.manifest.samples[index].image)
        return None if row is None or column is None else (row, column)


def described(settings: EvaluationSettings) -> dict[str, Any]:
    """Returns what of the settings decides the scores of masks, apart from the threshold."""
    if settings.resolution == "network":
        return {"resolution": "network", "tolerance_px": settings.tolerance_px}
    names = ("resolution", "tolerance_mm", "tolerance_px")
    return {name: getattr(settings, name) for name in names}
