"""Reading many images at once without having many large ones in memory."""

import threading
import warnings
from pathlib import Path

from PIL import Image

PIXELS = 50_000_000
"""Pixels of all images that are read at one time, unless a single one has more.

Reading takes some 23 bytes a pixel of three channels, so that this is about 1.2 GB.
"""

_VOLUMES = (".nii", ".gz")
_SLICE = 1_000_000
_COMPRESSION = 10


class Gate:
    """Lets images through while those that are being read have few pixels together.

    Args:
        pixels: how many; an image that has more goes through alone.
    """

    def __init__(self, pixels: int = PIXELS) -> None:
        self._limit = pixels
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self, pixels: int) -> None:
        """Waits until an image of so many pixels may be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside == 0 or self._inside + pixels <= self._limit)
            self._inside += pixels

    def leave(self, pixels: int) -> None:
        """Says that an image has been read."""
        with self._changed:
            self._inside -= pixels
            self._changed.notify_all()


def pixels_of(path: Path) -> int:
    """Returns about how many pixels an image has: from its header where that is quick, else from its file's size."""
    if path.suffix.lower() in _VOLUMES:  # a slice of a volume that is unpacked once
        return _SLICE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.width * image.height
    except Exception:  # the reader reports whatever is wrong with the file
        return path.stat().st_size * _COMPRESSION if path.is_file() else 0
