"""A benchmark and a generalisation of several seeds give the frozen numbers; see ``freeze.py``."""

from collections.abc import Callable

import freeze
import pytest

PIPELINE = "benchmark"


@pytest.mark.parametrize("section", freeze.SECTIONS)
def test_results_are_the_frozen_ones(compare: Callable[[str], str], section: str) -> None:
    assert compare(section) == ""
