"""Patients in the names of files: a pattern that puts images together, where names look as if they say it."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from medarts.data.patterns import PathPattern

_SEPARATORS = "_-. "
_FEWEST = 5
"""Patients below which a part of names is more likely a site or a class."""
_NO_COUNT = 2
"""Number of an image whose name has none: higher than that of the first."""
_FEWEST_PAIRS = 3
"""Patients with both sides below which the last letters of names are more likely something else."""


@dataclass(frozen=True, slots=True)
class NamedPatients:
    """Patients as names seem to say them.

    Attributes:
        pattern: what ``patients`` of a source would be.
        patients: their number.
        images: number of names.
        example: a patient with several images.
    """

    pattern: str
    patients: int
    images: int
    example: str

    @property
    def text(self) -> str:
        """What was found, in words."""
        return f"'{self.pattern}' gives {self.patients:,} patients of {self.images:,} images, such as '{self.example}'"


def patients_in(names: Collection[str]) -> NamedPatients | None:
    """Returns the pattern by which names, without suffix, fall into patients; None where none does.

    Every name has the pattern, there are at least five patients, and most of them have several images, or five of them
    have and the images of each are counted from 0 or 1.

    >>> found = patients_in([f"p{patient}_{n}" for patient in range(8) for n in range(3)])
    >>> found.text
    "'{patient}_{n}' gives 8 patients of 24 images, such as 'p0'"
    >>> patients_in([f"ISIC_{n:07d}" for n in range(30)])

    Or some have a left and a right image, as of eyes; the others may have one.

    >>> patients_in([f"{n:02d}{side}" for n in range(6) for side in "LR"] + [f"eye_{n}" for n in range(20)]).text
    "'{patient}{side}' gives 26 patients of 32 images, such as '00'"
    """
    ends = ("{n}", "*")
    several = _first_of((f"{{patient}}{mark}{end}" for end in ends for mark in _SEPARATORS), names)
    return several or _by_sides(names)


def _by_sides(names: Collection[str]) -> NamedPatients | None:
    """Returns the pattern by which names differ in a side behind a number, of at least three patients with both."""
    for mark in ("", *_SEPARATORS):
        text = f"{{patient}}{mark}{{side}}"
        found = [next(PathPattern(text).readings(name), None) for name in names]
        read = [(values["patient"], values["side"].lower()) for values in found if values is not None]
        with_side = {pair for pair in read if pair[1]}
        both = [patient for patient, count in Counter(patient for patient, _ in with_side).items() if count > 1]
        behind_numbers = all(patient[-1].isdecimal() for patient, _ in with_side)
        if len(read) == len(names) and len(both) >= _FEWEST_PAIRS and behind_numbers:
            return NamedPatients(text, len({patient for patient, _ in read}), len(names), min(both))
    return None


def patients_in_paths(paths: Collection[str]) -> NamedPatients | None:
    """Returns the pattern by which folders of paths, without suffix, are patients, as `patients_in` does for names.

    The name of every such folder has a number in it: others are more likely sites or classes.

    >>> found = patients_in_paths([f"train/patient{n // 2}/study{n % 2}/frontal" for n in range(20)])
    >>> found.text
    "'**/{patient}/*/*' gives 10 patients of 20 images, such as 'patient0'"
    """
    return _first_of(("**/{patient}/*/*", "**/{patient}/*"), paths, needs=re.compile(r"\d"))


def _first_of(
    texts: Iterable[str], names: Collection[str], *, needs: re.Pattern[str] | None = None
) -> NamedPatients | None:
    """Returns the first pattern that puts names together; in every patient of it is what is needed."""
    for text in texts:
        pattern = PathPattern(text)
        found = [next(pattern.readings(name), {}) for name in names]
        patients = [values.get("patient") for values in found]
        if not found or None in patients or (needs and not all(needs.search(patient or "") for patient in patients)):
            continue
        counts = Counter(patient for patient in patients if patient)
        several = sum(count > 1 for count in counts.values())
        most = 2 * several > len(counts) or (several >= _FEWEST and _are_counted(found))
        if _FEWEST <= len(counts) < len(found) and most:
            return NamedPatients(text, len(counts), len(found), max(sorted(counts), key=counts.__getitem__))
    return None


def _are_counted(found: Iterable[Mapping[str, str]]) -> bool:
    """Tells whether the images of every patient are counted from 0 or 1."""
    first: dict[str, int] = {}
    for values in found:
        number = int(values.get("n", _NO_COUNT))
        first[values["patient"]] = min(number, first.get(values["patient"], number))
    return max(first.values()) <= 1
