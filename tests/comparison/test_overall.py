"""Means and ranks over several data sets, where not all networks have a score on all of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from medarts.comparison.costs import on_pareto_front
from medarts.comparison.design import Design, contrasts_of
from medarts.comparison.measures import measures_of
from medarts.comparison.overall import OVERALL, Found, overall_tables, shared_sets
from medarts.evaluation.stats import mean_over_sets


def scored(**sets: str) -> pd.DataFrame:
    """Data sets with the networks, a letter each, that have a score there."""
    return pd.DataFrame({name: pd.Series(0.5, index=[*networks], dtype=float) for name, networks in sets.items()})


def test_the_largest_whole_table_counts():
    assert shared_sets(scored(a="xyz", b="xyz", c="xyz")) == ("a", "b", "c")
    assert shared_sets(scored(few="x", a="xyz", b="xyz")) == ("a", "b")
    # x lacks one set; without x there are 3 x 3 cells, without the set 2 x 4, and 9 > 8.
    assert shared_sets(scored(a="wxyz", b="wyz", c="wxyz")) == ("a", "b", "c")
    assert shared_sets(scored(a="xy", b="x")) == ("a", "b")  # of tables of one size that with more sets
    assert shared_sets(scored(a="xy", b="")) == ("a",)
    assert shared_sets(scored(a="")) == shared_sets(pd.DataFrame()) == ()


def found(group: str, networks: Sequence[str], *, patients: int, seed: int) -> Found:
    """A group of one data set whose reference is the first network."""
    generator = np.random.default_rng(seed)
    rows = [
        (network, 0, group, f"i{image}", f"p{image}", "lesion", "present", metric, value)
        for place, network in enumerate(networks)
        for image in range(patients)
        for value in [float(generator.uniform(0.4, 0.6) + 0.1 * place)]
        for metric in ("dice", "jaccard")
    ]
    columns = ["network", "seed", "dataset", "image", "patient", "class", "truth", "metric", "value"]
    measures = measures_of(pd.DataFrame(rows, columns=columns), draws=100, seed=seed)
    contrasts = {(one, networks[0]): measures.contrast(one, networks[0]) for one in networks[1:]}
    measured = {network: measures.measured(network) for network in networks}
    return Found(group, measures, measured, networks[0], {"reference": contrasts, "random": {}})


def test_means_ranks_and_differences_over_data_sets():
    sets = [found("a", "wxyz", patients=12, seed=1), found("b", "wxy", patients=14, seed=2)]
    sets.append(found("one", "wxyz", patients=1, seed=3))  # one patient: it does not count
    tables = overall_tables(sets)
    networks = tables["networks"][0]
    assert {*networks.group} == {OVERALL}
    dice = networks[networks.metric == "dice"].set_index("network")
    assert [*dice.index] == ["w", "x", "y"]  # z has no score on b
    scores = np.array([[one.measured[name]["dice"].mean for one in sets[:2]] for name in "wxy"])
    assert [*dice["mean"]] == pytest.approx(scores.mean(axis=1))
    assert [*dice["rank"]] == pytest.approx(np.mean([rankdata(-of) for of in scores.T], axis=0))
    assert {*dice.patients} == {26}
    differences = pd.concat(tables["differences"])
    assert [*differences.network] == ["x", "y"]
    expected = mean_over_sets({one.group: one.contrasts["reference"]["x", "w"] for one in sets[:2]}).difference()
    row = differences.iloc[0]
    assert (row.difference, row.p) == pytest.approx((expected.mean, expected.p))
    assert row.p_corrected >= row.p
    assert overall_tables(sets[:1]) == {"networks": [], "differences": []}


def test_pairs_of_methods_count_on_all_sets_also_where_one_lacks_the_reference():
    names = ("p1", "p2", "q1", "q2", "r1", "r2")
    methods = {name: (f"{name}1", f"{name}2") for name in "pqr"}

    def on(group: str, networks: tuple[str, ...], reference: str | None) -> Found:
        one = found(group, networks, patients=12, seed=ord(group))
        contrasts = contrasts_of(
            one.measures,
            reference=reference or networks[0],
            design=Design(methods=methods),
            reference_is_given=reference is not None,
        )
        return replace(one, contrasts=contrasts)

    def sides(family: str, *sets: Found) -> list[tuple[str, str]]:
        table = pd.concat(overall_tables(sets)["differences"])
        of = table[table.family == family]
        return [*zip(of.network, of.reference, strict=True)]

    whole, other, lacking = on("a", names, "p"), on("b", names, "p"), on("c", names[2:], None)
    assert sides("methods", whole, other) == [("q", "p"), ("r", "p")]
    assert sides("pairs", whole, other) == [("q", "r"), ("q", "p"), ("r", "p")]
    for sets in ((whole, lacking), (lacking, whole)):
        assert sides("methods", *sets) == []
        assert sides("pairs", *sets) == [("q", "r")]
    two = on("d", names[:4], "p")
    assert sides("pairs", whole, two) == [], "those with the reference are not shown twice"
    assert sides("methods", whole, two) == [("q", "p")]


def test_the_front_allows_for_the_spread_of_latencies():
    networks = {
        "fast": (0.80, 10.0, 1.0),
        "same": (0.80, 10.4, 1.0),  # within half a range: as fast and as good
        "worse": (0.70, 10.4, 1.0),
        "slow": (0.80, 12.0, 1.0),
        "best": (0.90, 30.0, 1.0),
        "undefined": (np.nan, 1.0, 0.1),
    }
    frame = pd.DataFrame(networks, index=["score", "latency_ms_1", "latency_spread_ms_1"]).T
    front = on_pareto_front(frame)
    assert [*frame.index[front]] == ["fast", "same", "best"]


def test_a_lucky_search_is_lucky_on_all_data_sets():
    """Searches that differ alike on both sets differ as much in the mean; trainings on each set are independent."""
    rows = [
        (network, seed, group, f"i{image}", f"p{image}", "lesion", "present", metric, value)
        for network, luck in {"s1": 0.02, "s2": -0.02, "unet": 0.0}.items()
        for group in "ab"
        for seed in (0, 1)
        for image in range(12)
        for value in [float(np.random.default_rng((image, ord(group))).uniform(0.4, 0.5) + luck)]
        for metric in ("dice", "jaccard")
    ]
    columns = ["network", "seed", "dataset", "image", "patient", "class", "truth", "metric", "value"]
    table, sets = pd.DataFrame(rows, columns=columns), []
    for group in "ab":
        measures = measures_of(table[table.dataset == group], draws=100, seed=0)
        contrasts = contrasts_of(measures, reference="unet", design=Design(methods={"s": ("s1", "s2")}))
        measured = {network: measures.measured(network) for network in measures.networks}
        sets.append(Found(group, measures, measured, "unet", contrasts))
    differences = pd.concat(overall_tables(sets)["differences"])
    ((_, of_both),) = differences[differences.family == "methods"].iterrows()
    of_one = sets[0].contrasts["methods"]["s", "unet"].difference()
    assert of_both.high - of_both.low == pytest.approx(of_one.high - of_one.low, rel=0.02)
    (single,) = differences[(differences.family == "reference") & (differences.network == "s1")].itertuples()
    assert single.high - single.low < (of_both.high - of_both.low) / 3
