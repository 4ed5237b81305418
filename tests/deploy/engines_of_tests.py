"""Engines of a few lines, whose outputs are known, and what describes them."""

from collections.abc import Callable

import numpy as np

from medarts.deploy.engines import Floats, Outputs
from medarts.deploy.info import Calibration, ImageKind, ModelInfo, Provenance

PROVENANCE = Provenance(
    medarts="1", torch="2", created="2026-01-01", recipe="0" * 64, weights="1", architecture="x", seed=0, images={}
)
GREY = ImageKind(channels=1, dtype="uint8", range=(0.0, 255.0))


def masks_info(**about: object) -> ModelInfo:
    given = {
        "name": "tiny", "task": "segmentation", "outputs": ("foreground",), "in_channels": 1, "size": 16, "head": "0",
        "kinds": (GREY,), "provenance": PROVENANCE, **about,
    }  # fmt: skip
    return ModelInfo.model_validate(given)


def findings_info(**about: object) -> ModelInfo:
    thresholds = {"youden": {"Mass": 0.4, "Nodule": None}}
    calibration = Calibration(temperature=2.0, thresholds=thresholds)
    return masks_info(task="classification", outputs=("Mass", "Nodule"), calibration=calibration, **about)


class PixelEngine:
    """Gives each pixel's value divided by 255, or what a function makes of (B, H, W), and counts its passes.

    Args:
        classes: outputs; of several, the second has the value and the first the rest.
        make: from (B, H, W) to probabilities (B, H, W).
    """

    name = "pixels"

    def __init__(self, classes: int = 1, make: Callable[[Floats], Floats] | None = None) -> None:
        self._classes = classes
        self._make = make or (lambda values: values)
        self.shapes: list[tuple[int, ...]] = []
        self.limits: list[Floats] = []

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        self.shapes.append(images_bchw.shape)
        self.limits.append(limits_b2)
        values = self._make(images_bchw[:, 0] / np.float32(255)).astype(np.float32)
        if self._classes == 1:
            return {"probabilities": values[:, None], "mask": (values >= 0.5).astype(np.uint8)}
        probabilities = np.stack([1 - values, values, *[np.zeros_like(values)] * (self._classes - 2)], 1)
        return {"probabilities": probabilities, "mask": probabilities.argmax(1).astype(np.uint8)}


class FindingsEngine:
    """Gives the mean of the left half and of the right half of each image, as two findings."""

    name = "halves"

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        middle = images_bchw.shape[-1] // 2
        halves = (images_bchw[..., :middle], images_bchw[..., -middle:])
        probabilities = np.stack([half.mean((1, 2, 3)) / 255 for half in halves], 1).astype(np.float32)
        logits = np.log(probabilities / (1 - probabilities))
        return {
            "logits": logits,
            "probabilities": probabilities,
            "calibrated": 1 / (1 + np.exp(-logits / 2)),
            "decisions": (probabilities >= 0.5).astype(np.uint8),
        }
