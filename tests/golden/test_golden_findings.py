"""Search, training, evaluation and comparison of networks for findings give the frozen numbers; see ``freeze.py``."""

from collections.abc import Callable

import freeze
import pytest

PIPELINE = "findings"


@pytest.mark.parametrize("section", freeze.SECTIONS)
def test_results_are_the_frozen_ones(compare: Callable[[str], str], section: str) -> None:
    assert compare(section) == ""
