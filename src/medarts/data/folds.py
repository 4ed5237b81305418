"""Folds: the patients of small data sets divided into parts, each of which is the test set of one training.

A fold is a function of the seed, the number of folds and the patients of a data set alone. Of the patients outside of a
fold, some choose the best epoch (validation) and the others are learned from: no image of the fold does either.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from medarts.config import Split
from medarts.data.manifest import Manifest
from medarts.data.splits import random_rank
from medarts.errors import DataError

_FEWEST_OUTSIDE = 2
"""Patients outside of a fold: one to learn from, one to choose by."""


def assign_folds(patients: Iterable[str], *, folds: int, seed: int, first: int = 0) -> dict[str, int]:
    """Returns the fold of every patient, from 1 on; their numbers of patients differ by at most one.

    Args:
        patients: a name may come several times.
        folds: their number.
        seed: of the order in which patients are dealt.
        first: number of patients, of other data sets, that were dealt before.

    >>> sorted(assign_folds(["a", "b", "c", "d"], folds=2, seed=0).values())
    [1, 1, 2, 2]
    """
    ranked = sorted(set(patients), key=lambda patient: random_rank(seed, f"folds/{patient}"))
    return {patient: 1 + place % folds for place, patient in enumerate(ranked, first)}


def divided_into(
    manifest: Manifest, folds: int, *, fold: int | None, fractions: Mapping[str, float], seed: int
) -> Manifest:
    """Returns a manifest with the splits of a fold in place of its own.

    Every data set is divided; where one ends, the next goes on with the next fold.

    Args:
        manifest: of all images.
        folds: their number.
        fold: the one whose images are the test set. Of the others, a fraction of the patients is for validation. None
            makes every image one of the test set: it is that once.
        fractions: by data set the fraction of its patients that is for validation.
        seed: of all that is random.

    Raises:
        DataError: there are too few patients.
    """
    members = {
        domain: {sample.patient for sample in manifest.samples if sample.domain == domain}
        for domain in manifest.domains
    }
    of_patient: dict[str, dict[str, int]] = {}
    for domain, of in sorted(members.items()):
        dealt = sum(map(len, of_patient.values()))
        of_patient[domain] = assign_folds(of, folds=folds, seed=seed, first=dealt)
    _check_enough(of_patient, folds)
    if fold is None:
        return undivided(manifest)
    splits = {
        domain: _splits(assigned, fold, fraction=fractions[domain], seed=seed)
        for domain, assigned in of_patient.items()
    }
    samples = (replace(sample, split=splits[sample.domain][sample.patient]) for sample in manifest.samples)
    return replace(manifest, samples=tuple(samples))


def undivided(manifest: Manifest) -> Manifest:
    """Returns a manifest in which every image is one of the test set, as it is of one fold."""
    return replace(manifest, samples=tuple(replace(sample, split="test") for sample in manifest.samples))


def _splits(assigned: Mapping[str, int], fold: int, *, fraction: float, seed: int) -> dict[str, Split]:
    """Returns the split of every patient of a data set, in a fold."""
    outside = [patient for patient, number in assigned.items() if number != fold]
    outside.sort(key=lambda patient: random_rank(seed, f"fold {fold}/{patient}"))
    wanted = max(1, round(fraction * len(assigned))) if fraction > 0 else 0
    validation = set(outside[: min(wanted, len(outside) - 1)])  # one at least to learn from
    return {
        patient: "test" if number == fold else "val" if patient in validation else "train"
        for patient, number in assigned.items()
    }


def _check_enough(of_patient: Mapping[str, Mapping[str, int]], folds: int) -> None:
    numbers = [number for assigned in of_patient.values() for number in assigned.values()]
    largest = max(map(numbers.count, set(numbers)))
    if len(numbers) < folds or len(numbers) - largest < _FEWEST_OUTSIDE:
        raise DataError(
            f"{', '.join(of_patient)}: {len(numbers)} patients cannot be divided into {folds} folds.",
            fix="Use fewer folds (data.folds), or add patients; images without a known patient count as one each.",
        )
