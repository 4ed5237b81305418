"""Findings of one kind are one line."""

import csv
import io

import pytest

from medarts.data.examination import Examination, Finding


def of(*findings: Finding) -> Examination:
    return Examination(findings, ())


def problems(*texts: str) -> Examination:
    return of(*(Finding("error", f"{n}.png", text, "Fix it.") for n, text in enumerate(texts)))


def test_equal_findings_are_counted_and_the_first_three_named():
    found = problems(*["The mask is empty."] * 5)
    (group,) = found.groups
    assert group.line == "The mask is empty (5): 0.png, 1.png, 2.png and 2 more. Fix it."
    assert not found.whole
    assert problems(*["The mask is empty."] * 3).whole


def test_one_finding_keeps_its_line():
    found = of(Finding("warning", "a.csv", "row left out", "Write it.", detail="x ('y')"))
    assert found.groups[0].line == "a.csv: row left out: x ('y'). Write it."
    assert found.whole


def test_numbers_that_differ_do_not_part_a_kind():
    found = problems(
        "holds the label 3 in 40 pixels, 12.5 %.", "holds the label 3 in 7 pixels, 2 %.", "The mask is empty."
    )
    assert [group.line for group in found.groups] == [
        "holds the label 3 in … pixels, … % (2): 0.png, 1.png. Fix it.",
        "2.png: The mask is empty. Fix it.",
    ]
    assert not found.whole  # the numbers stand in the file alone


def test_levels_and_classes_part_kinds():
    found = of(
        Finding("error", "a", "Class 1 vanishes at 32.", "f"),
        Finding("error", "b", "Class 2 vanishes at 32.", "f"),
        Finding("warning", "c", "Class 1 vanishes at 32.", "f"),
        Finding("error", "d", "Class 12 vanishes at 32.", "f"),
    )
    assert len(found.groups) == 4


def test_a_common_file_stands_before_and_details_are_the_names():
    rows = (
        Finding("error", "t.csv", "bad value", "Fix.", f"row {n}, column x", count) for n, count in ((2, 10), (3, 1))
    )
    found = of(*rows)
    assert found.groups[0].line == "t.csv: bad value (11): row 2, column x; row 3, column x. Fix."
    assert (found.count("error"), found.count("warning")) == (11, 0)


def test_the_file_has_every_finding_and_no_byte_that_cannot_be_written():
    found = of(*(Finding("error", f"l\udce9{n}.png", "a, b", "Fix.", "\x1b[31m") for n in range(9)))
    text = found.to_csv()
    text.encode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["file"] for row in rows] == [f"l\\xe9{n}.png" for n in range(9)]
    assert {row["detail"] for row in rows} == {"\\x1b[31m"}
    assert {(row["level"], row["problem"], row["count"], row["fix"]) for row in rows} == {
        ("error", "a, b", "1", "Fix.")
    }


@pytest.mark.parametrize("count", [0, 1])
def test_an_examination_fails_by_its_errors(count):
    levels = ["warning", *["error"] * count]
    assert of(*(Finding(level, "a", "b", "c") for level in levels)).failed == bool(count)
