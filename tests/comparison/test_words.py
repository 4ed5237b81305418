"""What stands beside the numbers of a comparison."""

import pytest

from medarts.comparison.paired import Difference
from medarts.comparison.words import name_test


def named(count: int, *, patients: int, untested: int = 0) -> str:
    found = {f"net-{n}": Difference(0.1, 0.0, 0.2, p=0.5, p_corrected=1.0) for n in range(count)}
    without = {f"none-{n}": None for n in range(untested)}
    return name_test("segmentation", found | without, reference="ours", patients=patients)


@pytest.mark.parametrize(
    ("count", "patients", "said"),
    [
        (18, 6, "No corrected p can be below 0.56: so few patients cannot decide any single comparison."),
        (1, 5, "No p can be below 0.062: so few patients cannot decide any single comparison."),
        (1, 6, "No p can be below 0.031."),
        (18, 600, "No corrected p can be below 0.0018."),
    ],
)
def test_the_least_p_that_can_be_found(count: int, patients: int, said: str) -> None:
    assert named(count, patients=patients, untested=3).endswith(f". {said}")  # those untested are not corrected for


def test_what_was_not_tested() -> None:
    assert named(0, patients=600) == "Nothing was tested: there is only one network."
    assert named(0, patients=1, untested=1) == "Nothing was tested: there is only one patient."
    lacking = "Nothing was tested: no other network has a seed in common with ours."
    assert named(0, patients=9, untested=2) == lacking
