"""Means and ranks over several data sets, where not all networks have a score on all of them."""

import numpy as np
import pytest
from scipy.stats import rankdata

from medarts.comparison.overall import mean_ranks, mean_scores, shared_sets


def scored(**sets: str) -> dict[str, dict[str, float]]:
    """Data sets with the networks, a letter each, that have a score there."""
    return {name: dict.fromkeys(networks, 0.5) for name, networks in sets.items()}


def test_the_largest_whole_table_counts():
    assert shared_sets(scored(a="xyz", b="xyz", c="xyz")) == ("a", "b", "c")
    assert shared_sets(scored(few="x", a="xyz", b="xyz")) == ("a", "b")
    # x lacks one set; without x there are 3 x 3 cells, without the set 2 x 4, and 9 > 8.
    assert shared_sets(scored(a="wxyz", b="wyz", c="wxyz")) == ("a", "b", "c")
    assert shared_sets(scored(a="xy", b="x")) == ("a", "b")  # of tables of one size that with more sets
    assert shared_sets(scored(a="xy", b="")) == ("a",)
    assert shared_sets(scored(a="")) == shared_sets({}) == ()


def test_means_and_ranks_are_of_networks_that_have_all_scores():
    generator = np.random.default_rng(0)
    table = generator.integers(5, size=(3, 4)) / 10
    scores = {name: dict(zip("wxyz", map(float, row), strict=True)) for name, row in zip("abc", table, strict=True)}
    del scores["b"]["x"]
    kept = table[:, [0, 2, 3]]
    assert mean_scores(scores, "abc") == pytest.approx(dict(zip("wyz", kept.mean(0), strict=True)))
    ranks = np.mean([rankdata(-row) for row in kept], axis=0)
    assert mean_ranks(scores, "abc") == pytest.approx(dict(zip("wyz", ranks, strict=True)))
    assert [*mean_ranks(scores, "ac")] == [*"wxyz"]
    assert mean_ranks(scores, ()) == mean_scores(scores, ()) == {}
