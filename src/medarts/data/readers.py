"""Images and their masks as they are stored, read ahead and in order: by threads, or by processes where they are small.

Decoding and resizing large images leaves the interpreter to other threads. A small image takes longer in the
interpreter than in the decoder, so that threads wait for each other and only processes read several at once.
"""

import math
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from medarts.config import DataSettings
from medarts.data.crops import places_of
from medarts.data.formats import shape_of
from medarts.data.levels import MaskLevel
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.masks import Mask, check_classes
from medarts.data.reading import MaskState, frame_image, frame_mask, framing_of, read_image, read_pair
from medarts.errors import DataError

T = TypeVar("T")

PIXELS = 50_000_000
"""Pixels of all images that are read at one time, unless a single one has more.

Reading takes some 23 bytes a pixel of three channels, so that this is about 1.2 GB.
"""

SMALL = 512 * 512
"""Pixels of images up to which processes read them faster than threads."""

WORTH_A_PROCESS = 5_000
"""Images: to read them takes longer than to start a process, some seconds."""

_LOOKED_AT = 16
"""Images whose size tells whether images are small."""

_COMPRESSION = 10

_TOGETHER = 64
"""Images that a process reads at a time, at most."""

_BYTES_TOGETHER = 4_000_000
"""Bytes of the stored images that a process reads at a time, about."""

_BEGIN = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import medarts.data.readers as r; r.serve()"


class Read(NamedTuple):
    """What a sample gives the store.

    Attributes:
        rows: of the arrays, in the order of their forms.
        is_stretched: the image has lost its aspect ratio.
        lost: the mask has lost a class.
        levels: see ``medarts.data.levels``.
        snapped: share of the mask's pixels that are of no labelled colour exactly.
    """

    rows: tuple[ArrayLike, ...]
    is_stretched: bool = False
    lost: bool = False
    levels: tuple[MaskLevel, ...] = ()
    snapped: float = 0.0


def read_all(
    manifest: Manifest, settings: DataSettings, *, threads: int, first: int = 0
) -> Generator[Read, None, None]:
    """Yields what the samples give, in their order; some are read ahead, few where they are large.

    Args:
        manifest: the samples.
        settings: how they are stored.
        threads: files read at a time; 0: as many as there are cores.
        first: the sample to begin with.
    """
    samples, at_once = manifest.samples[first:], threads or _cores()
    processes = min(at_once, len(samples) // WORTH_A_PROCESS)
    if processes > 1 and _are_small(samples, settings):
        return _by_processes(samples, manifest.rules, settings, processes)
    return _by_threads(samples, manifest.rules, settings, at_once)


def _by_threads(
    samples: Sequence[Sample], rules: Mapping[str, ReadingRules], settings: DataSettings, threads: int
) -> Generator[Read, None, None]:
    gate = Gate()

    def work(sample: Sample, pixels: int) -> Read:
        try:
            return read_sample(sample, rules, settings)
        finally:
            gate.leave(pixels)

    def begin(pool: ThreadPoolExecutor, sample: Sample) -> Future[Read]:
        pixels = _pixels_of(sample, settings)
        gate.enter(pixels)
        return pool.submit(work, sample, pixels)

    yield from _ahead(samples, begin, threads)


def _by_processes(
    samples: Sequence[Sample], rules: Mapping[str, ReadingRules], settings: DataSettings, processes: int
) -> Generator[Read, None, None]:
    stored = settings.size**2 * (2 * settings.in_channels + len(settings.class_names))
    number = max(1, min(_TOGETHER, _BYTES_TOGETHER // stored))
    parts = [samples[start : start + number] for start in range(0, len(samples), number)]
    with _readers(processes, rules, settings, most=PIXELS // processes) as readers:

        def work(part: Sequence[Sample]) -> list[Read | None]:
            reader = readers.get()
            try:
                return reader.read(part)
            finally:
                readers.put(reader)

        reads = _ahead(parts, lambda pool, part: pool.submit(work, part), processes)
        for part, found in zip(parts, reads, strict=True):
            for sample, read in zip(part, found, strict=True):
                yield read_sample(sample, rules, settings) if read is None else read


def _ahead(items: Sequence[Any], begin: Callable[[ThreadPoolExecutor, Any], "Future[T]"], workers: int) -> Iterator[T]:
    """Yields the results of what is begun for some items, in their order, with twice as many begun as can be done."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
                waiting.append(begin(pool, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _are_small(samples: Sequence[Sample], settings: DataSettings) -> bool:
    some = samples[:: -(-len(samples) // _LOOKED_AT)]
    return max(_pixels_of(sample, settings) for sample in some) <= SMALL


def _pixels_of(sample: Sample, settings: DataSettings) -> int:
    return pixels_of(sample.image) * (1 + len(sample.more)) * (1 + 2 * settings.context)


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_sample(sample: Sample, rules: Mapping[str, ReadingRules], settings: DataSettings) -> Read:
    """Reads the image of a sample and its mask, if it has one, and resizes them.

    Args:
        sample: what is read.
        rules: of each domain.
        settings: how images are stored.

    Raises:
        DataError: a file cannot be read or does not fit the rules, or a class is none of those that are named.
    """
    about: dict[str, Any] = {"channels": settings.in_channels, "context": settings.context}
    mask_read: Mask | None = None
    levels: tuple[MaskLevel, ...] = ()
    snapped = 0.0
    if sample.mask is None:
        image_hwc = read_image(sample, rules[sample.domain], **about)
    else:
        named: dict[str, Any] = {"names": settings.class_names, "overlap": settings.overlap}
        image_hwc, mask_read, levels, snapped = read_pair(sample, rules[sample.domain], **about, **named)
        if not settings.overlap:
            check_classes(sample, mask_read, settings.class_names, named=settings.names_classes)
    height, width = image_hwc.shape[:2]
    framing = framing_of(sample.image, height, width, settings)
    size = None if settings.resize == "patches" else settings.size
    rows: tuple[ArrayLike, ...] = frame_image(image_hwc, framing, size=size).astype(np.float16), (height, width)
    lost = False
    if mask_read is not None:
        mask, truths = frame_mask(mask_read, framing, size=size, number=len(settings.class_names))
        rows, lost = (*rows, mask, truths), bool((truths == MaskState.VANISHED).any())
        if size is None:
            rows = (*rows, mask.shape[-2:], *places_of(mask, len(truths)))
    return Read(rows, settings.resize == "squash" and height != width, lost, levels, snapped)


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
        """Waits until an image of this many pixels may be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside == 0 or self._inside + pixels <= self._limit)
            self._inside += pixels

    def leave(self, pixels: int) -> None:
        """Lets others take the place of an image that has been read."""
        with self._changed:
            self._inside -= pixels
            self._changed.notify_all()


def pixels_of(path: Path) -> int:
    """Returns how many pixels an image or slice has: from its header, or about as many as its file may hold."""
    try:
        return math.prod(shape_of(path))
    except DataError:  # the reader reports whatever is wrong with the file
        return path.stat().st_size * _COMPRESSION if path.is_file() else 0


# Processes. They are no children of multiprocessing, which would import the script of the user once more.


class _Reader:
    """A process that reads images.

    Args:
        start: its first message: rules, settings, and the pixels of images that it leaves to this process.
    """

    def __init__(self, start: tuple[Any, ...]) -> None:
        # A group of its own: Ctrl-C is for this process, at whose end the input of the other ends, too.
        apart: dict[str, Any] = {"process_group": 0}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **apart,
        )
        with suppress(OSError):  # it has ended, as `read` will find
            self._give([*sys.path])
            self._give(start)

    def read(self, samples: Sequence[Sample]) -> list[Read | None]:
        """Returns what samples give; None for those that are too large to be read beside others.

        Raises:
            Exception: what reading one of them has raised.
            DataError: the process has ended.
        """
        assert self._process.stdout is not None
        try:
            self._give(samples)
            found: list[Read | None] | Exception = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        if isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Ends the process, whatever it does."""
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                self._close(pipe)
        self._process.kill()
        self._process.wait()

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            pipe.close()

    def _give(self, content: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(content, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def _ended(self) -> DataError:
        code = self._process.wait()
        how = "was killed, as the system does where memory runs out" if code == -9 else f"ended with status {code}"
        return DataError(
            f"A process that reads images {how}.", fix="Run the command again; with compute.threads=1 none is needed."
        )


@contextmanager
def _readers(
    number: int, rules: Mapping[str, ReadingRules], settings: DataSettings, *, most: int
) -> Iterator["queue.SimpleQueue[_Reader]"]:
    """Starts processes that read images, and ends them."""
    # Nobody but this process may know the kinds of the sources, which have no part in reading.
    start = (dict(rules), settings.model_copy(update={"sources": ()}), most)
    free: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
    every: list[_Reader] = []
    try:
        for _ in range(number):
            every.append(_Reader(start))
            free.put(every[-1])
        yield free
    finally:
        for reader in every:
            reader.end()


def serve() -> None:
    """Reads images for the process that started this one, until that one has no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(1)
    with suppress(EOFError, BrokenPipeError):  # nobody asks any more
        rules, settings, most = pickle.load(sys.stdin.buffer)
        while True:
            samples: Sequence[Sample] = pickle.load(sys.stdin.buffer)
            found: list[Read | None] | Exception
            try:
                found = [
                    None if _pixels_of(sample, settings) > most else read_sample(sample, rules, settings)
                    for sample in samples
                ]
            except Exception as error:  # which the other process raises
                found = error
            pickle.dump(found, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
