"""Whether the masks of a data set without labels are alike, so that what is foreground in one is so in all.

A single mask that holds one class looks binary whatever its value is; that there are several classes shows only where
another file has another value. So the values of masks without labels are compared over all files of a domain, for
foreground and background alike:

- Values are compared as parts of their type's range, so that 1 of 1 bit, 255 of 8 and 65535 of 16 are all white, and as
  colours, so that red and green differ. Those within ``NEAR`` are one: JPEG and rounding move values by less.
- A file that holds nothing above 1 is taken for 0 and 1. Sets with 0/1 in some files and 0/255 in others exist, written
  by two programs, and 1 and 255 are then the same. They are not where a file has both of them: 1 would be background
  there and foreground elsewhere.
- Only values that fill some area count. A soft spot has a peak of any value, and JPEG makes blocks of any value.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medarts.data.meanings import labels_text
from medarts.errors import DataError

NEAR = 32 / 255
"""Parts of the range by which values may differ and still be one; colours of palettes differ by 64 of 255 or more."""

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class MaskLevel:
    """A value that fills an area of a mask without labels.

    Attributes:
        path: the file.
        value: as stored: one number, or one a channel.
        colour: red, green and blue as parts of the range, 0 black and 1 white.
        foreground: it is read as foreground.
        label: the number that a label of the source would name, None where none can.
        exact: the file has no noise and no smooth edges.
        of: the class whose mask the file is, where every class has a file of its own.
    """

    path: Path
    value: tuple[float, ...]
    colour: tuple[float, float, float]
    foreground: bool
    label: int | None
    exact: bool
    of: str = ""

    @property
    def name(self) -> str:
        """The value in words, such as "128" or "(255, 0, 0)"."""
        numbers = [f"{number:g}" for number in self.value]
        return numbers[0] if len(set(numbers)) == 1 else f"({', '.join(numbers)})"

    def is_near(self, other: "MaskLevel") -> bool:
        """Tells whether two levels are one."""
        return all(abs(one - two) <= NEAR for one, two in zip(self.colour, other.colour, strict=True))


class DomainLevels:
    """The levels of a domain's masks, taken together as they are read."""

    def __init__(self) -> None:
        self._groups: list[dict[int | None, MaskLevel]] = []  # near each other, the first of every label
        self._sides: dict[tuple[str, int, bool], MaskLevel] = {}  # of exact files, by class, label and side

    def add(self, levels: Iterable[MaskLevel]) -> list[MaskLevel]:
        """Adds the levels of a mask, and returns those that are not like all before; to add these alone is as good."""
        return [level for level in levels if self._is_new(level)]

    def _is_new(self, level: MaskLevel) -> bool:
        """Adds a level, and tells whether that has changed anything."""
        is_new, side = False, (level.of, level.label or 0, level.foreground)
        if level.exact and level.label is not None and side not in self._sides:
            self._sides[side], is_new = level, True
        for group in self._groups:
            first = next(iter(group.values()))
            if (first.of, first.foreground) == (level.of, level.foreground) and first.is_near(level):
                is_new = is_new or level.label not in group
                group.setdefault(level.label, level)
                return is_new
        self._groups.append({level.label: level})
        return True

    def problem(self, domain: str) -> DataError | None:
        """Returns what is wrong with the masks of a domain, None where they are binary as far as they were added."""
        sides: dict[tuple[str, bool], list[MaskLevel]] = {}
        for group in self._groups:
            first = next(iter(group.values()))
            sides.setdefault((first.of, not first.foreground), []).append(first)
        for _, levels in sorted(sides.items(), key=lambda side: side[0]):
            if len(levels) > 1:
                return self._several(levels, domain)
        for (of, label, foreground), level in self._sides.items():
            other = self._sides.get((of, label, not foreground))
            if foreground and other is not None:
                return DataError(
                    f"The value {level.name} is the foreground of some masks of {domain} ({level.path}) and the "
                    f"background of others ({other.path}).",
                    fix=f"Give the source labels, such as {{{label}: 1, 255: 2}}, or {{{label}: 1, 255: ignore}} where "
                    "255 marks no class.",
                )
        return None

    def _several(self, levels: list[MaskLevel], domain: str) -> DataError:
        levels = sorted(levels, key=lambda level: level.value)
        what = "colours" if any(len(set(level.value)) > 1 for level in levels) else "values"
        side = "foreground" if levels[0].foreground else "background"
        shown = ", ".join(f"{level.name} ({level.path})" for level in levels[:_SHOWN])
        more = f" and {len(levels) - _SHOWN} more" if len(levels) > _SHOWN else ""
        return DataError(
            f"The masks of {domain} have different {side} {what}, which may be several classes: {shown}{more}.",
            fix=self._advice(),
        )

    def _advice(self) -> str:
        every = [level for group in self._groups for level in group.values()]
        first = "" if all(level.exact for level in every) else "Save the masks without JPEG noise and smooth edges. "
        labels = self._labels()
        if labels is None:
            return f"{first}Give the source labels, such as {self._colour_labels()}."
        return f"{first}Give the source labels, such as {labels}."

    def _colour_labels(self) -> str:
        """Returns a class for every colour, black being background, as a recipe has them."""
        firsts = [next(iter(group.values())) for group in self._groups]
        colours = sorted({tuple(round(255 * part) for part in level.colour) for level in firsts})
        return labels_text([bytes(colour) for colour in colours])

    def _labels(self) -> dict[int, int] | None:
        """Returns a class for every value, the black ones being background; None where numbers do not tell them."""
        labels: dict[int, int] = {}
        groups = sorted(self._groups, key=lambda group: next(iter(group.values())).value)
        classes = iter(range(1, len(groups) + 1))
        for group in groups:
            black = max(next(iter(group.values())).colour) <= NEAR
            index = 0 if black else next(classes)
            for label in group:
                if label is None or labels.setdefault(label, index) != index:
                    return None
        return {label: labels[label] for label in sorted(labels) if label != 0 or labels[label] != 0}
