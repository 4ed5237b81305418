"""What the doctor found: findings, the same grouped by kind, and data sets in numbers."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from medarts.config import Split
from medarts.system.names import printable

Level = Literal["error", "warning"]

SHOWN = 3
"""Names in a line that sums up many."""

_NUMBER = re.compile(r"((?<![Cc]lass )(?<!\d)-?\d[\d.,]*(?<![.,])(?:e[+-]?\d+)?)")
_ANY = "…"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong or suspicious.

    Attributes:
        level: an error keeps the data set from being used, or its scores from being believed; a warning is worth
            a look.
        file: the file, or the folder where it is no single one.
        problem: what was found, in words that differ within a kind in their numbers alone.
        fix: what to do about it.
        detail: what is particular to this one: a name, a row, a value.
        count: how many there are of it, such as the rows that hold one wrong value.
    """

    level: Level
    file: str
    problem: str
    fix: str
    detail: str = ""
    count: int = 1

    @property
    def text(self) -> str:
        """The problem with its detail, as a sentence."""
        count = f" ({self.count:,})" if self.count > 1 else ""
        return _sentence(self.problem, count, self.detail)


@dataclass(frozen=True, slots=True)
class Group:
    """Findings of one kind.

    Attributes:
        findings: at least one, in the order in which they were found.
    """

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The level that they all have."""
        return self.findings[0].level

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(finding.count for finding in self.findings)

    @property
    def whole(self) -> bool:
        """True where the line says all that the findings say."""
        problems = {finding.problem for finding in self.findings}
        return len(self.findings) == 1 or (len(self.findings) <= SHOWN and len(problems) == 1 and not self._mixed)

    @property
    def line(self) -> str:
        """One line for all: where, what, how many, the first three names, and what to do."""
        first = self.findings[0]
        if len(self.findings) == 1:
            return f"{first.file}: {first.text} {first.fix}"
        files = {finding.file for finding in self.findings}
        names = [finding.detail or finding.file for finding in self.findings]
        where = f"{first.file}: " if len(files) == 1 else ""
        problem = common(finding.problem for finding in self.findings)
        return f"{where}{_sentence(problem, f' ({self.count:,})', first_of(names))} {first.fix}"

    @property
    def _mixed(self) -> bool:
        """True where details hide the names of several files."""
        files = {finding.file for finding in self.findings}
        return len(files) > 1 and any(finding.detail for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Summary:
    """A data set in numbers.

    Attributes:
        domain: its name.
        images: samples listed.
        patients: patients or sequences.
        splits: samples of every split.
        sizes: "height x width" -> readable images of that size, the most frequent first.
        foreground: mean part of the pixels that is not background, over the readable masks; None without one.
        findings: what the images could show -> images of every split that show it; empty for images with masks.
        labels: lines for the recipe that name the values of masks of several classes; empty where labels are given.
    """

    domain: str
    images: int
    patients: int
    splits: dict[Split, int]
    sizes: dict[str, int]
    foreground: float | None
    findings: dict[str, dict[Split, int]]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Attributes:
        findings: in the order of the files.
        summaries: one a domain that could be listed.
    """

    findings: tuple[Finding, ...]
    summaries: tuple[Summary, ...]

    @property
    def failed(self) -> bool:
        """True where there is an error among the findings."""
        return any(finding.level == "error" for finding in self.findings)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The findings by kind: of one level, in words that differ in their numbers alone; in their order."""
        return tuple(Group(tuple(alike)) for alike in _alike(self.findings))

    @property
    def whole(self) -> bool:
        """True where the lines of the groups say all that the findings say."""
        return all(group.whole for group in self.groups)

    def count(self, level: Level) -> int:
        """Returns how many errors or warnings there are."""
        return sum(group.count for group in self.groups if group.level == level)

    def to_csv(self) -> str:
        """Returns one row a finding: level, file, problem, detail, count, fix."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["level", "file", "problem", "detail", "count", "fix"])
        for finding in self.findings:
            row = (finding.level, finding.file, finding.problem, finding.detail, str(finding.count), finding.fix)
            writer.writerow(printable(cell) for cell in row)
        return text.getvalue()


def _alike(findings: Iterable[Finding]) -> Iterable[list[Finding]]:
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.level, kind_of(finding.problem)), []).append(finding)
    return found.values()


def _sentence(problem: str, count: str, detail: str) -> str:
    return f"{problem.rstrip('.')}{count}{f': {detail}' if detail else ''}."


def kind_of(problem: str) -> str:
    """Returns what two problems have in common that differ in their numbers alone, those of classes excepted.

    >>> kind_of("holds the label 3 in 40 pixels.")
    'holds the label … in … pixels.'
    """
    return _NUMBER.sub(_ANY, problem)


def common(problems: Iterable[str]) -> str:
    """Returns problems of one kind as one: numbers that differ become "…".

    >>> common(["holds the label 3 in 40 pixels.", "holds the label 3 in 7 pixels."])
    'holds the label 3 in … pixels.'
    """
    parts = zip(*(_NUMBER.split(problem) for problem in problems), strict=True)
    return "".join(same[0] if len(set(same)) == 1 else _ANY for same in parts)


def first_of(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are.

    >>> first_of(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    mark = "; " if any("," in name for name in names[:SHOWN]) else ", "
    return mark.join(names[:SHOWN]) + more
