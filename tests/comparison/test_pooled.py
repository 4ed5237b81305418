"""Differences taken together: their tests, their means over networks and over data sets."""

import itertools
import math

import numpy as np
import pytest

from medarts.comparison.controls import Control, controls_of
from medarts.comparison.paired import Measured
from medarts.comparison.pooled import (
    Paired,
    counting_sets,
    differences_of,
    mean_measured,
    mean_of_pairs,
    mean_over_sets,
)


def pair(*contributions: float, drawn: list[float] | None = None) -> Paired:
    """A difference of which every patient adds so much."""
    mean = math.fsum(contributions)
    return Paired(Measured(mean, (), drawn=np.array(drawn or [mean] * 40), undefined=0), np.array(contributions))


def test_differences_are_corrected_for_those_that_were_tested():
    drawn = [0.0, 0.1, 0.2] * 20
    pairs = {"b": pair(0.1, 0.2, 0.3, drawn=drawn), "c": pair(0.4), "d": None, "e": pair(-0.1, -0.2, -0.3, 0.5)}
    of = differences_of(pairs, seed=0)
    assert [*of] == ["b", "c", "d", "e"]
    assert (of["b"].mean, of["b"].low, of["b"].high) == pytest.approx((0.6, 0.0, 0.2))
    assert (of["b"].p, of["b"].p_corrected) == (0.25, 0.5)
    assert of["e"].p == of["e"].p_corrected > 0.5
    assert (of["c"].p, of["c"].p_corrected) == (None, None)  # of one patient
    assert of["d"] is None
    assert differences_of({}, seed=0) == {}


def test_a_mean_of_differences_changes_its_sign_by_patient():
    one, two = pair(0.3, 0.1, -0.2, drawn=[0.1, 0.3]), pair(0.1, 0.3, 0.4, drawn=[0.5, 0.9])
    mean = mean_of_pairs([one, two])
    assert mean.measured.mean == pytest.approx(0.5)
    assert mean.measured.drawn == pytest.approx([0.3, 0.6])
    assert mean.contributions == pytest.approx([0.2, 0.2, 0.1])


def test_a_mean_over_data_sets_is_tested_over_all_of_their_patients():
    one, two = pair(0.2, 0.1, 0.1), pair(0.02, -0.04, 0.1, 0.03)
    mean = mean_over_sets({"one": one, "two": two})
    assert mean.measured.mean == pytest.approx((0.4 + 0.11) / 2)
    assert mean.patients == 7
    sums = [
        abs(np.dot(signs[:3], one.contributions) / 2 + np.dot(signs[3:], two.contributions) / 2)
        for signs in itertools.product((-1, 1), repeat=7)
    ]
    assert mean.difference(seed=0).p == np.mean(np.array(sums) >= 0.255 - 1e-9)


def test_draws_of_data_sets_are_independent():
    """Draws of one order, as those of data sets of equal size are, would make the interval of a mean too wide."""
    drawn = np.random.default_rng(0).normal(0, 1, 4000)
    mean = mean_measured({name: Measured(0.0, (), drawn=drawn.copy(), undefined=1) for name in "abcd"})
    assert mean.drawn.std() == pytest.approx(0.5, abs=0.03)
    assert mean.undefined == 4


def test_means_do_not_depend_on_the_order_of_data_sets():
    generator = np.random.default_rng(1)
    sets = {name: pair(*generator.normal(0.1, 1, 20), drawn=[*generator.normal(0, 1, 50)]) for name in "abc"}
    one, other = (mean_over_sets({name: sets[name] for name in names}).difference(seed=0) for names in ("abc", "bca"))
    assert (one.low, one.high, one.p) == pytest.approx((other.low, other.high, other.p), abs=1e-12)


def test_data_sets_that_count():
    assert counting_sets({"a": 1, "b": 1}) == ("a", "b")
    assert counting_sets({"a": 1, "b": 2}) == ("b",)


def test_a_network_is_compared_with_those_drawn_like_it_that_are_there():
    differences = {
        ("ours", "r-1"): pair(0.1, 0.1, 0.1, 0.1, 0.1, 0.1),
        ("ours", "r-2"): pair(0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
        ("ours", "r-3"): None,  # no seed in common
        ("mix", "m-1"): pair(0.1, -0.1, 0.1, -0.1, 0.1, -0.1),
    }
    likes = {"ours": ("r-1", "r-2", "r-3", "r-4", "elsewhere"), "mix": ("m-1",), "absent": ("r-1",), "alone": ("x",)}
    controls, pairs = controls_of(
        likes,
        trained=("ours", "mix", "alone", "r-1", "r-2", "r-3", "m-1"),
        planned=("ours", "mix", "alone", "r-1", "r-2", "r-3", "r-4", "m-1", "absent", "x"),
        paired=lambda one, other: differences[one, other],
        seed=0,
    )
    ours, mix = controls
    assert (ours.network, ours.drawn, ours.planned) == ("ours", ("r-1", "r-2"), 4)
    assert ours.difference.mean == pytest.approx(1.2)  # of 0.6 and 1.8
    assert (ours.difference.p, ours.difference.p_corrected) == (2 / 64, 4 / 64)  # two were tested
    assert (mix.drawn, mix.difference.p_corrected) == (("m-1",), 1.0)
    assert [*pairs] == ["ours", "mix"]
    assert pairs["ours"].contributions == pytest.approx([0.2] * 6)
    assert isinstance(ours, Control)
