"""Successive halving as a function of numbers, without trainings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medarts.errors import RecipeError
from medarts.pool.halving import best, check_keep, epochs_of, most_candidates, sizes

RUNGS = st.lists(st.integers(1, 50), min_size=1, max_size=5, unique=True).map(sorted)
KEEP = st.floats(0.05, 0.95)


def test_a_third_goes_on() -> None:
    assert sizes(27, 3, 1 / 3) == [27, 9, 3]
    assert epochs_of(27, (2, 6, 12), 1 / 3) == 27 * 2 + 9 * 4 + 3 * 6
    assert sizes(8, 1, 0.5) == [8]  # one rung is plain training of all


@given(candidates=st.integers(1, 500), rungs=RUNGS, keep=KEEP)
def test_every_rung_has_candidates_and_no_more_than_the_one_before(
    candidates: int, rungs: list[int], keep: float
) -> None:
    numbers = sizes(candidates, len(rungs), keep)
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == candidates
    assert numbers[-1] >= 1
    assert epochs_of(candidates, rungs, keep) <= candidates * rungs[-1]


@given(epochs=st.integers(1, 2000), rungs=RUNGS, keep=KEEP)
def test_as_many_candidates_as_the_epochs_allow(epochs: int, rungs: list[int], keep: float) -> None:
    number = most_candidates(epochs, rungs, keep)
    assert number == 0 or epochs_of(number, rungs, keep) <= epochs
    assert epochs_of(number + 1, rungs, keep) > epochs


def test_of_equal_ones_the_first_goes_on() -> None:
    assert best({"c": 0.5, "a": 0.7, "b": 0.7, "d": 0.9}, 2) == ["d", "a"]
    assert best({"a": 0.5}, 3) == ["a"]


def test_a_share_that_would_leave_none() -> None:
    check_keep(16, 3, 0.33, field="search.select.candidates")
    check_keep(1, 3, 0.5, field="search.select.candidates")
    with pytest.raises(RecipeError, match=r"keep 0\.1 leaves none of 3 candidates after rung 2\. Raise it, or here"):
        check_keep(30, 3, 0.1, field="here")
