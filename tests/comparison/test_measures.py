"""Scores of several networks: equal to hand computation and to known answers."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from medarts.comparison.design import RANDOM, Design, contrasts_of, repeated
from medarts.comparison.measures import Measures, mean_measured, measures_of
from medarts.comparison.overall import differences_table
from medarts.comparison.overlays import most_differing
from medarts.errors import RunError
from medarts.evaluation.stats import bootstrap_means, jackknife_interval, left_out_means, percentile_interval
from medarts.metrics.ranking import auroc

DRAWS = 300
Rows = list[tuple[object, ...]]


def table_of(networks: dict[str, list[Rows]]) -> pd.DataFrame:
    """By network and seed rows of (dataset, image, patient, dice, hd95), then class and truth where they matter."""
    rows = [
        (network, seed, dataset, image, patient, *(more or ("class 1", "present")), metric, value)
        for network, of_seeds in networks.items()
        for seed, of in enumerate(of_seeds)
        for dataset, image, patient, dice, hd95, *more in of
        for metric, value in (("dice", dice), ("jaccard", dice / (2 - dice)), ("precision", 0.5), ("hd95", hd95))
    ]
    columns = ["network", "seed", "dataset", "image", "patient", "class", "truth", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def measures(networks: dict[str, list[Rows]]) -> Measures:
    return measures_of(table_of(networks), draws=DRAWS, seed=0)


def random_rows(seed: int, *, shift: float = 0.0, patients: int = 12) -> Rows:
    """A data set with three images of every patient, and a smaller one; both have a patient 1."""
    generator = np.random.default_rng(seed)
    places = [(dataset, i) for dataset, images in (("a", 3 * patients), ("b", 9)) for i in range(images)]
    return [
        (dataset, f"{i:02d}", str(i // 3), float(generator.uniform(0.3, 0.8) + shift), float(generator.uniform(1, 9)))
        for dataset, i in places
    ]


def test_seeds_and_data_sets_by_hand():
    places = [("a", "1", "p"), ("a", "2", "p"), ("a", "3", "q"), ("b", "1", "p"), ("b", "2", "r")]
    one = [(*place, dice, 2.0) for place, dice in zip(places, (0.9, 0.7, 0.2, 0.5, 0.1), strict=True)]
    hd95 = (2.0, math.nan, 2.0, 6.0, math.nan)
    rows = zip(places, (0.7, 0.5, 0.0, 0.7, 0.3), hd95, strict=True)
    two = [(*place, dice, distance) for place, dice, distance in rows][::-1]  # in another order
    flat = [(*place, 0.4, math.nan) for place in places]
    found = measures({"net": [one, two], "flat": [flat, flat]})
    assert [metric.name for metric in found.metrics] == ["dice", "jaccard", "hd95"]  # those that are compared
    assert (found.patients, len(found.images), found.datasets) == (4, 5, ("a", "b"))
    net = found.measured("net")
    first, second = (0.9 + 0.7 + 0.2) / 3, (0.5 + 0.1) / 2
    assert net["dice"].by_seed[0] == pytest.approx((first + second) / 2)
    assert net["dice"].mean == pytest.approx(np.mean(net["dice"].by_seed))
    assert net["hd95"].mean == pytest.approx(((2 + 2 + 2) / 3 + (4 + 2) / 2) / 2)
    assert (net["hd95"].undefined, math.isnan(found.measured("flat")["hd95"].mean)) == (2, True)
    contrast = found.contrast("net", "flat")
    assert contrast.mean == pytest.approx(net["dice"].mean - 0.4)
    assert contrast.sides["net"].sum(axis=1) == pytest.approx(net["dice"].by_seed)
    assert contrast.shares.sum() == pytest.approx(1)
    assert [*contrast.sets] == ["a", "a", "b", "b"]


def test_intervals_are_a_bootstrap_or_with_few_patients_a_jackknife():
    rows = [row for row in random_rows(0) if row[0] == "a"]
    values, patients = [row[3] for row in rows], [str(row[2]) for row in rows]
    many = measures({"net": [rows]}).measured("net")["dice"]
    assert many.interval() == pytest.approx(
        percentile_interval(bootstrap_means(values, patients, draws=DRAWS, seed=(0, 0)))
    )
    few = measures({"net": [rows[:12]]}).measured("net")["dice"]
    expected = jackknife_interval(np.mean(values[:12]), [left_out_means(values[:12], patients[:12])], limits=(0, 1))
    assert few.interval() == pytest.approx(expected)
    alone = measures({"net": [rows[:3]]}).measured("net")["dice"]
    assert all(map(math.isnan, alone.interval()))


def test_classes_without_examples_are_left_out_and_named():
    rows = [
        (*row, f"class {n}", "present" if (row[0], n) == ("a", 1) else "empty")
        for row in random_rows(1)
        for n in (1, 2)
    ]
    found = measures({"net": [rows]})
    assert found.excluded == {"a": ("class 2",), "b": ("class 1", "class 2")}
    assert found.datasets == ("a",)
    assert found.measured("net")["dice"].mean == pytest.approx(
        np.mean([row[3] for row in rows if row[-1] == "present"])
    )
    with pytest.raises(RunError, match="No image shows a class"):
        measures({"net": [[(*row[:-1], "empty") for row in rows]]})


def test_a_mean_over_data_sets_gives_each_the_same_weight():
    one, two = (measures({"net": [random_rows(n)]}).measured("net")["dice"] for n in (2, 3))
    mean = mean_measured({"x": one, "y": two})
    assert mean.mean == pytest.approx((one.mean + two.mean) / 2)
    assert len(mean.left_out) == 4
    assert mean.drawn.std() < max(one.drawn.std(), two.drawn.std())  # their draws are independent


def findings(networks: dict[str, np.ndarray], labels: np.ndarray, patients: list[str]) -> pd.DataFrame:
    """Logits (seeds, images, findings) by network."""
    rows = [
        (
            network,
            seed,
            "x",
            f"i{image:02d}",
            patients[image],
            f"f{finding}",
            "unknown" if math.isnan(truth) else "present" if truth else "empty",
            metric,
            value,
        )
        for network, of_seeds in networks.items()
        for seed, logits in enumerate(of_seeds)
        for (image, finding), truth in np.ndenumerate(labels)
        for metric, value in (("label", float(truth)), ("logit", float(logits[image, finding])), ("probability", 0.5))
    ]
    columns = ["network", "seed", "dataset", "image", "patient", "class", "truth", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def ranked(images: int, *, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.stack([np.arange(images) % 2, np.arange(images) // 2 % 2, np.ones(images, dtype=int)], axis=1)
    logits = {
        name: labels * gain + generator.normal(size=(2, images, 3)) for name, gain in (("one", 2.0), ("two", 1.0))
    }
    return logits, labels


def test_areas_are_means_over_findings_and_seeds():
    logits, counts = ranked(20)
    labels = counts.astype(float)
    labels[[0, 3, 8], 0] = labels[[4, 9], 1] = labels[5, 2] = math.nan  # which are ignored
    found = measures_of(findings(logits, labels, [f"p{i}" for i in range(20)]), draws=DRAWS, seed=0)
    known = ~np.isnan(labels)
    areas = {
        name: [[auroc(run[known[:, f], f], labels[known[:, f], f]) for f in (0, 1)] for run in of]
        for name, of in logits.items()
    }
    one = found.measured("one")
    assert list(one)[:2] == ["auroc", "average_precision"]
    assert found.excluded == {"x": ("f2",)}
    assert (one["auroc"].undefined, one["auroc"].by_seed) == (1, pytest.approx(np.mean(areas["one"], axis=1)))
    contrast = found.contrast("one", "two")
    assert contrast.mean == pytest.approx(np.mean(areas["one"]) - np.mean(areas["two"]))
    assert contrast.sides["one"].sum(axis=1) == pytest.approx(np.mean(areas["one"], axis=1))
    assert -contrast.sides["two"].sum(axis=1) == pytest.approx(np.mean(areas["two"], axis=1))
    low, high = one["auroc"].interval()
    assert low < one["auroc"].mean < high


def test_terms_of_an_area_change_their_sign_where_networks_exchange_their_ranks():
    """In all exchanges of whole patients, the areas counted anew are those of the terms."""
    logits, labels = ranked(8, seed=1)
    patients = [f"p{image // 2}" for image in range(8)]  # two images each
    one, two = (np.argsort(np.argsort(logits[name][:1], axis=1), axis=1).astype(float) for name in ("one", "two"))
    found = measures_of(findings({"one": one, "two": two}, labels, patients), draws=10, seed=0)
    terms = found.contrast("one", "two").terms

    def difference(exchanged: tuple[bool, ...]) -> float:
        swap = np.repeat(exchanged, 2)[:, None]
        a, b = np.where(swap, two[0], one[0]), np.where(swap, one[0], two[0])
        return float(np.mean([auroc(a[:, f], labels[:, f]) - auroc(b[:, f], labels[:, f]) for f in (0, 1)]))

    for exchanged in itertools.product([False, True], repeat=4):
        assert difference(exchanged) == pytest.approx(np.where(exchanged, -1, 1) @ terms)


def test_findings_that_all_or_no_image_shows_cannot_be_ranked():
    logits, labels = ranked(6)
    with pytest.raises(RunError, match="All images of x, or none, show every finding"):
        measures_of(findings(logits, np.ones_like(labels), [f"p{i}" for i in range(6)]), draws=DRAWS, seed=0)


def test_images_that_differ_most_are_of_several_patients():
    spreads = {"1": 0.9, "2": 0.8, "3": 0.7, "4": 0.6, "5": 0.0, "6": 0.5}
    rows = [
        ("a", image, "q" if image == "6" else "p", network, value)
        for image, spread in spreads.items()
        for network, value in (("x", 0.05), ("y", 0.05 + spread))
    ]
    chosen = most_differing(pd.DataFrame(rows, columns=["dataset", "image", "patient", "network", "value"]))
    assert [*chosen.image] == ["1", "2", "3", "6"]  # three of a patient, none without a difference
    assert [*chosen.spread] == pytest.approx([0.9, 0.8, 0.7, 0.5])


def test_several_searches_and_random_networks_stand_for_further_ones():
    """Three searches of two trainings each, two random networks like the first, and a U-Net."""
    shifts = {"s1": 0.10, "s2": 0.14, "s3": 0.06, "r1": 0.0, "r2": 0.02, "unet": 0.05}
    networks = {
        name: [random_rows(10 * place + seed, shift=shift) for seed in (0, 1)]
        for place, (name, shift) in enumerate(shifts.items())
    }
    found = measures(networks)
    searches = [("s1", "s2", "s3", "unfinished"), ("x", "y"), ("s1", "x")]
    controls = {"s1": ("r1", "r2", "gone")}
    design = Design(controls, repeated(searches))
    contrasts = contrasts_of(found, reference="unet", design=design)
    search = "4 searches: s1, s2, s3, unfinished without unfinished"  # what was averaged
    assert [*contrasts["reference"]] == [(name, "unet") for name in shifts if name != "unet"]
    means = {name: found.measured(name)["dice"].mean for name in shifts}
    random = contrasts["random"]["s1", RANDOM]
    assert random.mean == pytest.approx(means["s1"] - (means["r1"] + means["r2"]) / 2)
    assert {name: len(side) for name, side in random.sides.items()} == {"s1": 2, RANDOM: 2}
    assert [*contrasts["methods"]] == [(search, "unet"), (search, RANDOM)]
    several = contrasts["methods"][search, "unet"]
    mean = np.mean([means[name] for name in ("s1", "s2", "s3")])
    assert several.mean == pytest.approx(mean - means["unet"])
    assert {name: len(side) for name, side in several.sides.items()} == {search: 3, "unet": 2}
    assert several.sides[search].sum(axis=1) == pytest.approx([means[name] for name in ("s1", "s2", "s3")])
    against_random = contrasts["methods"][search, RANDOM]
    assert against_random.mean == pytest.approx(mean - (means["r1"] + means["r2"]) / 2)

    # A search is not compared with the mean of itself and its repeats, nor with that of its repeats alone.
    of_search = contrasts_of(found, reference="s1", design=design)["methods"]
    assert [*of_search] == [(search, RANDOM)]
    assert of_search[search, RANDOM].mean == pytest.approx(against_random.mean)
    assert contrasts_of(found, reference="s1", design=Design(methods=design.methods))["methods"] == {}


def test_methods_that_several_networks_stand_for_are_compared_with_each_other():
    """Two searches of two methods, a random network twice, and a U-Net."""
    shifts = {"p1": 0.10, "p2": 0.14, "q1": 0.06, "q2": 0.02, "r1": 0.0, "r2": 0.02, "unet": 0.05}
    networks = {
        name: [random_rows(10 * place + seed, shift=shift) for seed in (0, 1)]
        for place, (name, shift) in enumerate(shifts.items())
    }
    found, design = measures(networks), Design(methods={"p": ("p1", "p2"), "q": ("q1", "q2"), "r": ("r1", "r2", "r3")})
    means = {name: found.measured(name)["dice"].mean for name in shifts}
    of_methods = {"p": ("p1", "p2"), "q": ("q1", "q2"), "r without r3": ("r1", "r2")}
    contrasts = contrasts_of(found, reference="p", design=design)
    assert [*contrasts["methods"]] == [("q", "r without r3"), ("q", "p"), ("r without r3", "p")]
    assert contrasts["pairs"] == {}
    for (one, other), contrast in contrasts["methods"].items():
        expected = [np.mean([means[name] for name in of_methods[of]]) for of in (one, other)]
        assert contrast.mean == pytest.approx(expected[0] - expected[1])
        assert [len(side) for side in contrast.sides.values()] == [2, 2], "searches, not trainings"
        assert contrast.seeds == 2
    # The reference is the mean of its searches; these are not compared with themselves.
    assert [*contrasts["reference"]] == [(name, "p") for name in ("q1", "q2", "r1", "r2", "unet")]
    unet = contrasts["reference"]["unet", "p"]
    assert unet.mean == pytest.approx(means["unet"] - (means["p1"] + means["p2"]) / 2)
    assert {name: len(side) for name, side in unet.sides.items()} == {"unet": 2, "p": 2}
    of_network = contrasts_of(found, reference="unet", design=design)["methods"]
    assert [*of_network][3:] == [("p", "unet"), ("q", "unet"), ("r without r3", "unet")]


def test_methods_are_tested_against_the_reference_that_was_given_and_other_pairs_apart():
    """Two searches of three methods, one of them with random networks like it, and a U-Net."""
    names = ("p1", "p2", "q1", "q2", "r1", "r2", "unet", "like")
    networks = {name: [random_rows(place, shift=0.02 * place)] for place, name in enumerate(names)}
    methods = {"p": ("p1", "p2", "p3"), "q": ("q1", "q2"), "r": ("r1", "r2")}
    found, design = measures(networks), Design(methods=methods, controls={"q1": ("like",)})
    every = [("q", "r"), ("q", "p without p3"), ("r", "p without p3"), ("q", RANDOM)]
    contrasts = contrasts_of(found, reference="p", design=design, reference_is_given=True)
    assert [*contrasts["methods"]] == [("q", "p without p3"), ("r", "p without p3"), ("q", RANDOM)]
    assert [*contrasts["pairs"]] == every
    assert [*contrasts_of(found, reference="p", design=design)["methods"]] == every
    # The correction is for what stands together.
    tables = {
        family: differences_table(of, family=family, group="g", metric="dice", seed=0)
        for family, of in contrasts.items()
    }
    least = tables["methods"].p.min()
    assert [tables[family].p_corrected.min() for family in ("methods", "pairs")] == pytest.approx(
        [3 * least, 4 * least]
    )
    of_network = contrasts_of(found, reference="unet", design=design, reference_is_given=True)
    against = [("p without p3", "unet"), ("q", "unet"), ("r", "unet")]
    assert {*of_network["methods"]} == {*against, ("q", RANDOM)}
    assert len(of_network["pairs"]) == 3 + 4
    # All pairs are with the reference: nothing is shown twice.
    two = Design(methods={"p": ("p1", "p2"), "q": ("q1", "q2")})
    alone = contrasts_of(found, reference="p", design=two, reference_is_given=True)
    assert ([*alone["methods"]], alone["pairs"]) == ([("q", "p")], {})
