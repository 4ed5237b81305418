"""A smaller set of the same kind: a number of images, whole patients, every finding as frequent as before."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medarts.config import SPLITS
from medarts.data.manifest import Sample
from medarts.data.splits import random_rank
from medarts.errors import DataError

# Every number below is whole and far below 2**53, so that float64 sums are exact and no machine breaks a tie otherwise.
_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]
_WEIGHT = 10**6
_TRIES = 8  # patients who could leave in an exchange; more take time and bring little


def sample_patients(samples: Iterable[Sample], *, images: int, seed: int) -> list[Sample]:
    """Samples about that many images, as whole patients, with the distribution of the findings kept.

    Every split gives its share of the images. Within a split, patients are drawn at random until the share is reached,
    so that a share is exceeded by less than the images of one patient, the last. Every finding has a patient among
    them, as far as their images fit into the share. Then patients are exchanged, one for those who fill its place
    best, as long as that brings the numbers of images with each finding, of images without one and of patients nearer
    to those of the whole split (sum of squared differences, each over the number wanted).

    The aim is that of iterative stratification (Sechidis et al., ECML PKDD 2011); patients with different
    numbers of images make an exchange nearer to it than the allotment finding by finding.

    Args:
        samples: of one domain, in any order; a patient is in one split.
        images: how many to draw, from 1.
        seed: seed of the draw. It depends neither on the order of the samples nor on the machine.

    Returns:
        The samples drawn, in the order given.
    """
    every = list(samples)
    if images > len(every):
        raise DataError(
            f"{images} images are requested, but there are only {len(every)}.",
            fix="Lower 'images' of the source, or leave it out for all.",
        )
    chosen: set[str] = set()
    reached = given = 0
    for split in SPLITS:
        part = [sample for sample in every if sample.split == split]
        reached += len(part)
        share = round(images * reached / len(every)) - given  # shares add up to the images asked for
        given += share
        if part:
            chosen |= _drawn(part, max(share, 1), seed)
    return [sample for sample in every if sample.patient in chosen]


@dataclass(frozen=True, slots=True)
class _Counts:
    """The patients of a split in the order of their draw, and what is wanted of them.

    Attributes:
        patients: their names.
        sizes: images of each, P.
        numbers: images with each finding, images without one, and 1 for the patient itself, P x C.
        wanted: of each column, C.
        weights: of a squared difference in each column, C.
        costs: squares of a patient's own numbers, weighted and summed, P.
    """

    patients: tuple[str, ...]
    sizes: _Array
    numbers: _Array
    wanted: _Array
    weights: _Array
    costs: _Array


class _Draw:
    """Who is taken, and what they are together; nobody at first."""

    def __init__(self, counts: _Counts) -> None:
        self.counts = counts
        self.taken = np.zeros(len(counts.patients), dtype=np.bool_)
        self.images = 0.0
        self.found = np.zeros(len(counts.wanted))

    def copy(self) -> "_Draw":
        """Returns a draw of the same patients."""
        other = _Draw(self.counts)
        other.taken, other.images, other.found = self.taken.copy(), self.images, self.found.copy()
        return other

    def move(self, patient: np.int64, *, sign: int) -> None:
        """Takes a patient (sign 1) or leaves one out (-1)."""
        self.taken[patient] = sign > 0
        self.images += sign * self.counts.sizes[patient]
        self.found += sign * self.counts.numbers[patient]

    @property
    def present(self) -> _Mask:
        """The findings that are among those taken."""
        return np.asarray(self.found[:-2] > 0)

    @property
    def distance(self) -> float:
        """How far the numbers are from those wanted."""
        return float((self.counts.weights * (self.found - self.counts.wanted) ** 2).sum())

    def change(self, *, sign: int) -> _Array:
        """Returns what the distance grows by where a patient is taken (sign 1) or left out (-1), for each of them."""
        slope = self.counts.numbers @ (self.counts.weights * (self.found - self.counts.wanted))
        return np.asarray(self.counts.costs + 2 * sign * slope)


def _drawn(samples: Sequence[Sample], share: int, seed: int) -> set[str]:
    """Returns the patients drawn of one split."""
    counts = _count(samples, share, seed)
    drawn = _first_draw(counts, share)
    while (better := _exchanged(drawn, share)) is not None:
        drawn = better
    return {counts.patients[n] for n in np.flatnonzero(drawn.taken)}


def _count(samples: Sequence[Sample], share: int, seed: int) -> _Counts:
    patients = sorted(
        {sample.patient for sample in samples}, key=lambda patient: random_rank(seed, f"sample/{patient}")
    )
    rows = {patient: n for n, patient in enumerate(patients)}
    columns = {name: n for n, name in enumerate(sorted({name for sample in samples for name in sample.findings}))}
    numbers = np.zeros((len(patients), len(columns) + 2))
    sizes = np.zeros(len(patients))
    for sample in samples:
        row = rows[sample.patient]
        sizes[row] += 1
        numbers[row, [columns[name] for name in sample.findings] or len(columns)] += 1
    numbers[:, -1] = 1
    wanted = np.rint(numbers.sum(axis=0) * share / len(samples))
    weights = np.maximum(np.rint(_WEIGHT / np.maximum(wanted, 1)), 1)
    return _Counts(tuple(patients), sizes, numbers, wanted, weights, costs=(numbers**2) @ weights)


def _first_draw(counts: _Counts, share: int) -> _Draw:
    """Draws one with each finding, the rarest first, as their images fit in; then all until the share is reached."""
    drawn = _Draw(counts)
    having = counts.numbers[:, :-2] > 0
    for finding in np.argsort(having.sum(axis=0), kind="stable"):
        fitting = np.flatnonzero(having[:, finding] & (counts.sizes <= share - drawn.images))
        if not drawn.present[finding] and fitting.size:
            excess = np.maximum(counts.numbers[fitting] - np.maximum(counts.wanted, 1), 0).sum(axis=1)
            drawn.move(fitting[np.argmin(excess)], sign=1)
    for patient in np.flatnonzero(~drawn.taken):
        if drawn.images >= share:
            break
        drawn.move(patient, sign=1)
    return drawn


def _exchanged(drawn: _Draw, share: int) -> _Draw | None:
    """Returns the draw after the first exchange that is nearer to what is wanted; None where none was found."""
    distance = drawn.distance
    taken = np.flatnonzero(drawn.taken)
    order = np.argsort(drawn.change(sign=-1)[taken], kind="stable")
    for patient in taken[order[:_TRIES]]:
        after = _refilled(drawn, patient, share)
        if after is not None and after.distance < distance:
            return after
    return None


def _refilled(drawn: _Draw, leaving: np.int64, share: int) -> _Draw | None:
    """Returns the draw without a patient, filled up by those of most use an image; None where a finding is lost."""
    counts, free = drawn.counts, ~drawn.taken
    after = drawn.copy()
    after.move(leaving, sign=-1)
    while after.images < share:
        lost = np.flatnonzero(drawn.present & ~after.present)
        able = np.flatnonzero(free & (counts.numbers[:, lost] > 0).any(axis=1) if lost.size else free)
        if not able.size:
            return None
        joining = able[np.argmin(after.change(sign=1)[able] / counts.sizes[able])]
        after.move(joining, sign=1)
        free[joining] = False
    return after if (after.present >= drawn.present).all() else None
