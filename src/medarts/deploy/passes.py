"""Engines around an engine: the mean over mirrored copies, and sliding windows over large images.

Windows overlap by half and are blended by a Gaussian.
"""

from functools import partial

import numpy as np

from medarts.data.geometry import padded
from medarts.data.windows import blended, enlarging
from medarts.deploy.engines import Engine, Floats, Outputs
from medarts.deploy.info import ModelInfo

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of each copy of an image: as it is, mirrored left-right, top-bottom, and both."""

_OF_FINDINGS = MIRRORS[:2]
"""A chest has no other symmetry."""


class Mirrored:
    """Averages the probabilities of images and their mirrored copies.

    Masks are predicted four times: as they are, mirrored left-right, top-bottom, and both. Findings are predicted
    twice, as they are and left-right. The masks and logits of copies are left out.

    Args:
        engine: what runs the network.
        info: of the network.
    """

    def __init__(self, engine: Engine, info: ModelInfo) -> None:
        self._engine = engine
        self._info = info
        self.name = engine.name

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        masks = self._info.task == "segmentation"
        axes = MIRRORS if masks else _OF_FINDINGS
        names = ("probabilities",) if masks else ("probabilities", "calibrated")
        sums: Outputs = {}
        for flipped in axes:
            found = self._engine.run(np.ascontiguousarray(np.flip(images_bchw, flipped)), limits_b2)
            for name in names:
                one = np.flip(found[name], flipped) if masks else found[name]
                sums[name] = sums[name] + one if name in sums else one
        means: Outputs = {name: values / np.float32(len(axes)) for name, values in sums.items()}
        if not masks:
            means["decisions"] = (means["calibrated"] >= np.array(self._info.finding_thresholds, np.float32)).astype(
                np.uint8
            )
        return means


class Patchwise:
    """Predicts images of any size by a network of windows of one size; smaller images are padded.

    Args:
        engine: what runs the network.
        info: of the network.
        batch: windows in one pass.
    """

    def __init__(self, engine: Engine, info: ModelInfo, *, batch: int) -> None:
        self._engine = engine
        self._info = info
        self._batch = batch
        self.name = engine.name

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns the probabilities; limits are those of the whole images."""
        every = [self._one(*each) for each in zip(images_bchw, limits_b2, strict=True)]
        return {"probabilities": np.stack(every)}

    def _one(self, image_chw: Floats, limits: Floats) -> Floats:
        framing, shape = enlarging(image_chw.shape[1:], self._info.size)
        # What becomes 0, as the padding of training.
        black = np.repeat(limits[::2], self._info.channels_of_parts) if self._info.percentiles else self._info.black
        image = padded(image_chw, framing, shape, fill=0)
        outside = np.ones(shape, bool)
        outside[framing.window] = False
        image = np.where(outside, np.broadcast_to(black, len(image)).astype(np.float32)[:, None, None], image)

        def windows(tiles: Floats) -> Floats:
            found: Floats = self._engine.run(tiles, np.tile(limits, (len(tiles), 1)))["probabilities"]
            return found

        found: Floats = framing.inside(blended(image, self._info.size, windows, batch=self._batch))
        return np.ascontiguousarray(found)


class Windowed:
    """Predicts masks of images that are larger than a window in overlapping windows; others whole.

    Args:
        engine: what runs the network.
        window: height and width of the windows in pixels.
        batch: windows in one pass.
    """

    def __init__(self, engine: Engine, window: int, *, batch: int) -> None:
        self._engine = engine
        self._window = window
        self._batch = batch
        self.name = engine.name

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns the probabilities; limits are those of the whole images."""
        if max(images_bchw.shape[-2:]) <= self._window:
            return {"probabilities": self._engine.run(images_bchw, limits_b2)["probabilities"]}

        every = [
            blended(image, self._window, partial(self._tiles, limits), batch=self._batch)
            for image, limits in zip(images_bchw, limits_b2, strict=True)
        ]
        return {"probabilities": np.stack(every)}

    def _tiles(self, limits: Floats, tiles: Floats) -> Floats:
        found: Floats = self._engine.run(tiles, np.tile(limits, (len(tiles), 1)))["probabilities"]
        return found
