"""Means and ranks over several data sets, where not all networks have a score on all of them."""

import numpy as np
import pytest
from scipy.stats import rankdata

from medarts.comparison.overall import mean_ranks, mean_scores, of_single_sets, overall, shared_sets
from medarts.comparison.paired import Measured, holm
from medarts.comparison.pairs import Pairs
from medarts.comparison.pooled import Paired, mean_over_sets
from medarts.comparison.result import Comparison, MetricScore, NetworkResult


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


def compared(
    seed: int, *, patients: int, networks: str = "wxyz", reference: str = "w", lacking: str = "", domains: int = 1
) -> Comparison:
    """A comparison of networks, of which some have no seed in common with the reference."""
    generator = np.random.default_rng(seed)
    values = {name: generator.normal(0.7 + 0.03 * "wxyz".index(name), 0.05, patients) for name in networks}
    pairs = {}
    for name in set(networks) - {reference, *lacking}:
        shares = (values[name] - values[reference]) / patients
        drawn = generator.choice(shares, (300, patients)).sum(1) if patients > 1 else np.full(300, np.nan)
        pairs[name] = Paired(Measured(float(shares.sum()), (), drawn=drawn, undefined=0), shares)
    return Comparison(
        task="segmentation",
        score="dice",
        split="test",
        reference=reference,
        domains=tuple(map(str, range(domains))),
        images=patients,
        patients=patients,
        size=32,
        metrics=("dice",),
        test="",
        definitions={},
        machine={},
        networks=tuple(result(name, float(values[name].mean())) for name in networks),
        pairs=Pairs(pairs),
    )


def result(name: str, mean: float) -> NetworkResult:
    return NetworkResult(
        name=name,
        kind="random",
        began_from=None,
        seeds=(0,),
        runs=(),
        scores={"dice": MetricScore(mean, None, None, by_seed=(mean,), undefined=0)},
        difference=None,
        parameters=100,
        flops=200,
        latency_ms={1: 5.0},
        latency_spread_ms={1: 0.1},
        memory_mb=30.0,
        training_seconds=60.0,
        front=False,
    )


def test_differences_of_means_are_over_data_sets_of_several_patients():
    sets = {
        "one": compared(0, patients=30),
        "chaos": compared(1, patients=1),
        "two": compared(2, patients=8, lacking="z"),
    }
    found = overall(sets)
    assert (found.sets, found.all_sets, found.uncounted) == (("one", "two"), ("one", "chaos", "two"), ("chaos",))
    assert (found.patients, found.reference) == (38, "w")
    assert [*found.rows] == sorted("wxyz", key=lambda name: -found.rows[name].mean)
    scores = {name: {of.name: of.scores["dice"].mean for of in one.networks} for name, one in sets.items()}
    assert found.rows["y"].mean == pytest.approx((scores["one"]["y"] + scores["two"]["y"]) / 2)
    assert found.rows["y"].mean_of_all == pytest.approx(np.mean([scores[name]["y"] for name in sets]))
    assert found.rows["w"].difference is found.rows["z"].difference is None  # z has no seed in common on "two"
    pairs = [mean_over_sets({name: sets[name].pairs.to_reference[of] for name in ("one", "two")}) for of in "xy"]
    p_values = [pair.difference(seed=0).p for pair in pairs]
    for name, pair, p, corrected in zip("xy", pairs, p_values, holm(p_values), strict=True):
        difference = found.rows[name].difference
        assert difference.mean == pytest.approx(found.rows[name].mean - found.rows["w"].mean)
        assert (difference.low, difference.high) == pair.measured.interval()
        assert difference.low < difference.mean < difference.high
        assert (difference.p, difference.p_corrected) == (p, corrected)


def test_without_several_patients_anywhere_all_data_sets_count():
    found = overall({"a": compared(0, patients=1), "b": compared(1, patients=1)})
    assert (found.sets, found.uncounted) == (("a", "b"), ())
    assert (found.rows["x"].difference.low, found.rows["x"].difference.high) == (None, None)


def test_without_a_common_reference_there_are_no_differences():
    found = overall({"a": compared(0, patients=9), "b": compared(1, patients=9, reference="x")})
    assert found.reference is None
    assert not any(row.difference for row in found.rows.values())
    assert all(row.mean for row in found.rows.values())


def test_mixes_do_not_count_beside_single_data_sets():
    single, mixed = compared(0, patients=9), compared(1, patients=9, domains=2)
    assert of_single_sets({"a": single, "a-b": mixed}) == {"a": single}
    assert of_single_sets({"a-b": mixed}) == {"a-b": mixed}
