"""Matrices, contrasts and verdicts, held against what is counted by hand from synthetic scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medarts.comparison.paired import ALPHA, flip_p, holm
from medarts.config import parse
from medarts.config.study_sections import Study
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.evaluation.findings import FindingScores, Predictions
from medarts.evaluation.mask_scores import ImageScore, Scores
from medarts.evaluation.statistics import bootstrap_interval
from medarts.study.claims import verdict_of
from medarts.study.generalization import Claim, Differing, Generalization, MissingRun, MissingTest, Pooled, Side
from medarts.study.generalize import put_together
from medarts.study.measures import Scored
from medarts.study.sides import makers_of_searches, makers_of_trainings
from medarts.study.words import means_words
from medarts.system.randomness import seed_of

DRAWS = 200
SEARCHED: dict[str, Any] = {"mix": ["a", "b"], "on-a": ["a"], "on-b": ["b"]}


def study_of(
    networks: Mapping[str, Any], groups: Sequence[Any], *, domains: str = "abc", external: Sequence[str] = ()
) -> Study:
    """A study whose data sets need not be there; networks are searched on a list of them, else of a model's name."""
    recipe = parse(
        {
            "data": {"sources": [{"kind": "folder", "path": f"/nowhere/{name}", "name": name} for name in domains]},
            "evaluation": {"bootstrap": DRAWS},
        }
    )
    entries = [
        {"name": name, **({"searched_on": given} if isinstance(given, list) else {"model": given})}
        for name, given in networks.items()
    ]
    trained_on = [group if isinstance(group, dict) else {"data": list(group)} for group in groups]
    content = {"recipe": recipe, "networks": entries, "trained_on": trained_on, "external": list(external)}
    return Study.model_validate(content)


def masks(domain: str, dice: Sequence[float], *, patients: Sequence[str] | None = None) -> Scores:
    """Scores of one run: a value an image, and by default a patient an image."""
    people = patients or [f"p{number}" for number in range(len(dice))]
    images = [
        ImageScore(f"i{number}", domain, person, 1, "foreground", {"dice": value, "jaccard": value, "hd95": 1.0})
        for number, (person, value) in enumerate(zip(people, dice, strict=True))
    ]
    return Scores("test", "best", "last", images=images)


def runs_on(group: str, network: str, domain: str, *seeds: Sequence[float]) -> Scored:
    return Scored(group, network, domain, tuple(masks(domain, dice) for dice in seeds), tuple(range(len(seeds))))


def around(mean: float, *, images: int = 20, spread: float = 0.05, seed: int = 0) -> list[float]:
    """Values whose mean is exact to rounding."""
    values = np.random.default_rng(seed).normal(0, spread, images)
    return list(mean + values - values.mean())


def claim(found: Generalization, about: str) -> Claim:
    return next(claim for claim in found.claims if claim.about == about)


def searches(gains: Mapping[str, float], **options: Any) -> Claim:
    """The claim of searches of a study in which the mix is better than both others by a gain on each data set."""
    study = study_of(SEARCHED, "abc")
    given = [
        runs_on(domain, name, domain, around(0.8 + (gains[domain] if name == "mix" else 0), seed=seed))
        for domain in "abc"
        for seed, name in enumerate(SEARCHED)
    ]
    return claim(put_together(study, given, kinds={}, **options), "search")


def test_matrix_of_networks_retrained():
    study = study_of({"mix": ["a", "b"], "hand": "unet", "other": "unetpp", "never": "r2unet"}, ["a", "b", "c", "ab"])
    given = [
        runs_on("a", "mix", "a", [0.6, 0.8], [0.8, 1.0]),
        runs_on("b", "mix", "b", [0.5, 0.5]),
        runs_on("c", "mix", "c", [0.1, 0.3]),
        runs_on("a", "hand", "a", [0.7, 0.9]),  # the mean of both seeds of mix
        runs_on("b", "hand", "b", [0.9, 0.7]),
        runs_on("a", "other", "a", [0.2, 0.4]),
        runs_on("b", "other", "b", [0.8, 0.8]),
        runs_on("a-b", "mix", "a", [0.0, 0.0]),  # is of no group of one data set
        runs_on("a", "hand", "c", [0.0, 0.0]),  # was not trained on it
    ]
    matrix = put_together(study, given, kinds={}).retrained
    assert (matrix.groups, matrix.shared) == (("a", "b", "c"), ("a", "b"))
    mix, hand, other, never = matrix.rows
    assert [row.network for row in matrix.rows] == ["mix", "hand", "other", "never"]
    assert mix.cells["a"].mean == pytest.approx(0.8)
    assert mix.cells["a"].by_seed == pytest.approx((0.7, 0.9))
    assert {row.planned for row in matrix.rows} == {("a", "b", "c")}
    assert (hand.cells["c"], never.cells) == (None, {"a": None, "b": None, "c": None})
    assert [row.mean.mean for row in (mix, hand, other)] == pytest.approx([0.65, 0.8, 0.55])
    assert [row.rank for row in (mix, hand, other)] == [(1.5 + 3) / 2, (1.5 + 1.5) / 2, (3 + 1.5) / 2]
    assert (never.mean, never.rank) == (None, None)


def test_intervals_are_those_over_patients():
    study = study_of({"hand": "unet"}, ["a"])
    dice, people = around(0.7, images=12), [f"p{number // 3}" for number in range(12)]
    given = [Scored("a", "hand", "a", (masks("a", dice, patients=people),), (0,))]
    cell = put_together(study, given, kinds={}).retrained.rows[0].cells["a"]
    expected = bootstrap_interval(dice, people, draws=DRAWS, seed=(seed_of(0, "a"), 0))
    assert (cell.low, cell.high) == pytest.approx(expected)
    assert cell.low < cell.mean < cell.high


def test_matrix_of_groups_and_data_sets():
    study = study_of(
        {"hand": "unet", "other": "unetpp"},
        ["a", "ab", {"data": "b", "networks": "other"}, {"data": ["a", "c"], "networks": "hand"}],
        domains="xabc",
        external=["x"],
    )
    given = [runs_on("a", "hand", "b", [0.2, 0.4]), runs_on("a-b", "hand", "x", [0.5, 0.7])]
    found = put_together(study, given, kinds={})
    assert [domain.name for domain in found.domains] == ["a", "b", "c", "x"]
    assert [(domain.images, domain.patients) for domain in found.domains] == [(0, 0), (2, 2), (0, 0), (2, 2)]
    (matrix,) = found.trained  # other has no score
    assert (matrix.network, [row.group for row in matrix.rows]) == ("hand", ["a", "a-b", "a-c"])
    alone, both, without_b = matrix.rows
    assert alone.marks == {"a": "own", "b": "unseen", "c": "unseen", "x": "external"}
    assert both.marks == {"a": "part of the mix", "b": "part of the mix", "c": "unseen", "x": "external"}
    assert without_b.marks["b"] == "unseen"
    assert (alone.cells["b"].mean, both.cells["x"].mean, both.cells["b"]) == (pytest.approx(0.3), 0.6, None)


def test_contrasts_of_searches():
    study = study_of({**SEARCHED, "hand": "unet"}, ["a", "b", "c", "ab"])
    given = [
        runs_on(group, name, domain, around(0.5 + 0.1 * place, seed=place))
        for group, domain in (("a", "a"), ("b", "b"), ("c", "c"), ("a-b", "a"))
        for place, name in enumerate(study.names)
        if (group, name) != ("b", "on-b")
    ]
    found = claim(put_together(study, given, kinds={}), "search")
    assert [(one.several, one.single, one.domain, one.relation) for one in found.contrasts] == [
        ("mix", "on-a", "a", "own"),
        ("mix", "on-b", "a", "of the mix"),
        ("mix", "on-a", "b", "of the mix"),
        ("mix", "on-a", "c", "unseen"),
        ("mix", "on-b", "c", "unseen"),
    ]
    assert [one.difference.mean for one in found.contrasts] == pytest.approx([-0.1, -0.2, -0.1, -0.1, -0.2])
    differences = [one.difference for one in found.contrasts]
    assert [one.p_corrected for one in differences] == holm([one.p for one in differences])
    assert all(one.low < one.mean < one.high for one in differences)
    # b has one contrast and weighs as much as c, which has two, and as a.
    assert found.unseen.mean == pytest.approx((-0.2 - 0.1 + (-0.1 - 0.2) / 2) / 3)
    assert (found.unseen.count, found.own.count, found.neither.count) == (4, 1, 2)
    assert found.neither.mean == pytest.approx(-0.15)
    assert (found.unseen.domains, found.neither.domains, found.own.domains) == (("a", "b", "c"), ("c",), ("a",))
    assert found.unseen.left_out == ()
    assert {(one.patients, one.seeds, one.decidable) for one in found.contrasts} == {(20, 1, True)}


def test_contrasts_of_trainings():
    """A mix is held against the parts it is made of alone, on data sets outside of it."""
    study = study_of({"hand": "unet"}, ["a", "b", "c", "ab", "abc"], domains="abcx", external=["x"])
    given = [
        runs_on(group.name, "hand", domain, around(0.4 + 0.1 * len(group.data), seed=place))
        for place, group in enumerate(study.trained_on)
        for domain in study.domains
    ]
    found = claim(put_together(study, given, kinds={}), "training")
    assert {(one.common, one.several, one.single, one.domain, one.relation) for one in found.contrasts} == {
        ("hand", "a-b", "a", "c", "unseen"),
        ("hand", "a-b", "b", "c", "unseen"),
        ("hand", "a-b", "a", "x", "external"),
        ("hand", "a-b", "b", "x", "external"),
        ("hand", "a-b-c", "a", "x", "external"),
        ("hand", "a-b-c", "b", "x", "external"),
        ("hand", "a-b-c", "c", "x", "external"),
    }
    assert found.unseen.mean == pytest.approx((0.1 + (2 * 0.1 + 3 * 0.2) / 5) / 2)
    assert (found.own, found.neither) == (None, None)
    assert found.verdict == "supported"


def test_p_of_three_patients():
    """All 8 flips of the signs: two are as far from 0 as three equal differences."""
    study = study_of({"mix": ["a", "b"], "on-a": ["a"]}, ["b"])
    given = [runs_on("b", "mix", "b", [0.6, 0.7, 0.8]), runs_on("b", "on-a", "b", [0.5, 0.6, 0.7])]
    (one,) = claim(put_together(study, given, kinds={}), "search").contrasts
    assert one.difference.p == one.difference.p_corrected == 0.25
    assert (one.difference.mean, one.difference.low, one.difference.high) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize("patients", [(2,), (4,), (7,), (3, 5)])
def test_of_equal_networks_few_are_told_apart(patients):
    """Where both sides are equally good and patients differ much, a verdict is wrong in at most 5 of 100 studies."""
    study, wrong, studies = study_of(SEARCHED, "abc"[: len(patients)]), 0, 120
    generator = np.random.default_rng(0)
    makers = {"searches": makers_of_searches(study, {}), "trainings": makers_of_trainings(study, {})}
    for _ in range(studies):
        given = []
        for domain, count in zip("abc", patients, strict=False):
            people = [f"p{number // 3}" for number in range(3 * count)]  # three images that resemble each other
            for name in SEARCHED:
                dice = 0.7 + np.repeat(generator.normal(0, 0.1, count), 3) + generator.normal(0, 0.01, 3 * count)
                given.append(Scored(domain, name, domain, (masks(domain, dice, patients=people),), (0,)))
        wrong += claim(put_together(study, given, kinds={}, **makers), "search").verdict != "undecided"
    assert wrong <= 0.05 * studies + 3 * np.sqrt(0.05 * 0.95 * studies)
    if sum(patients) < 6:
        assert wrong == 0  # two of 2^5 flips are above 0.05


def test_p_of_all_contrasts_flips_patients_in_all_of_them():
    """Two contrasts on c, and one on b; 2 patients each: 16 flips, of which 2 are as far from 0."""
    study = study_of(SEARCHED, "bc")
    given = [
        runs_on("c", "mix", "c", [0.9, 0.8]),
        runs_on("c", "on-a", "c", [0.5, 0.5]),  # +0.4, +0.3
        runs_on("c", "on-b", "c", [0.7, 0.9]),  # +0.2, -0.1
        runs_on("b", "mix", "b", [0.6, 0.6]),
        runs_on("b", "on-a", "b", [0.5, 0.4]),  # +0.1, +0.2
    ]
    found = claim(put_together(study, given, kinds={}), "search")
    shares = np.array([0.3 / 2 / 2, 0.1 / 2 / 2, 0.1 / 2 / 2, 0.2 / 2 / 2])
    assert found.unseen.mean == pytest.approx(shares.sum())
    assert (found.unseen.patients, found.unseen.p) == (4, 2 / 16)
    assert "4 patients" in found.words[1]
    assert "It rests on 4 patients, of whom no p can be below 0.125: they cannot decide it." in found.words


def test_what_else_both_sides_differ_in_is_told():
    groups = [
        {"data": "a", "changes": ["train.epochs=12"]},
        {"data": "b", "changes": ["train.epochs=12"]},
        {"data": ["a", "b"], "changes": ["train.epochs=6", "data.sampling=equal"], "seeds": [0, 1]},
    ]
    study = study_of({"hand": "unet"}, groups)
    given = [
        runs_on(group.name, "hand", "c", around(0.5 + 0.1 * place)) for place, group in enumerate(study.trained_on)
    ]
    images = {"a": 100, "b": 90, "a-b": 190}
    found = claim(put_together(study, given, kinds={}, trainings=makers_of_trainings(study, images)), "training")
    assert found.differing == (Differing("data.sampling", "'equal'", "'by_size'"), Differing("train.epochs", "6", "12"))
    assert found.sides == (Side("a-b", 6, 190), Side("a", 12, 100), Side("b", 12, 90))
    assert (
        "Besides the data sets, both sides differ in data.sampling: 'equal' and 'by_size'; train.epochs: 6 and 12; "
        "the side of several sets first."
    ) in found.words
    told = "Epochs and training images: a-b 6 x 190 = 1,140; a 12 x 100 = 1,200; b 12 x 90 = 1,080."
    assert told in found.words


def test_what_else_searches_differ_in_is_told():
    study = study_of(SEARCHED, "c")
    mix, *others = study.networks
    changed = mix.model_copy(update={"changes": ("search.mixing.alpha=0.25", "train.epochs=3"), "parameters": 9})
    study = study.model_copy(update={"networks": (changed, *others)})
    given = [runs_on("c", name, "c", around(0.5)) for name in SEARCHED]
    found = claim(put_together(study, given, kinds={}), "search")
    assert found.differing == (
        Differing("parameters", "9", "not given"),
        Differing("search.mixing.alpha", "0.25", "0.5"),
    )
    same = claim(put_together(study_of(SEARCHED, "c"), given, kinds={}), "search")
    assert same.differing == ()
    assert "Besides" not in " ".join(same.words)


def test_what_is_planned_is_told_from_what_is_not():
    study = study_of(SEARCHED, "ac")
    nothing = claim(put_together(study, [], kinds={}), "search")
    assert (nothing.verdict, nothing.planned) == (None, 3)
    assert nothing.words[0].endswith("this study cannot tell yet, as runs or tests are missing.")
    assert nothing.words[1] == "It plans 3 differences of that kind."
    given = [runs_on("c", name, "c", around(0.5)) for name in SEARCHED if name != "on-b"]
    some = claim(put_together(study, given, kinds={}), "search")
    assert "Of the 3 differences that the study plans there, 2 are missing." in some.words
    lacking = claim(put_together(study_of({"on-a": ["a"]}, "ac"), [], kinds={}), "search")
    assert (lacking.verdict, lacking.planned) == (None, 0)


def test_supported():
    found = searches({"a": 0.1, "b": 0.1, "c": 0.1})
    assert found.verdict == "supported"
    assert (found.unseen.count, found.unseen.better, found.unseen.worse) == (4, 4, 0)
    text = " ".join(found.words)
    assert found.words[0].endswith("supported by these data.")
    assert "is 0.100 Dice better on average" in text
    assert "of 4 differences 4 are better and none is worse beyond chance" in text
    assert "one seed" in text


def test_refuted():
    found = searches({"a": -0.1, "b": -0.1, "c": -0.1})
    assert found.verdict == "refuted"
    assert found.words[0].endswith("refuted by these data, which say the opposite.")
    assert "is 0.100 Dice worse on average" in found.words[1]
    assert "of 4 differences none is better and 4 are worse" in found.words[1]


def test_undecided():
    found = searches({"a": 0.004, "b": -0.004, "c": 0.001})
    assert found.verdict == "undecided"
    assert found.unseen.low < 0 < found.unseen.high
    assert found.unseen.p > 0.05
    assert found.words[0].endswith("undecided by these data.")
    assert "no proof that both are equal" in found.words[2]


def test_a_mean_that_does_not_hold_everywhere_says_so():
    found = searches({"a": 0.3, "b": 0.3, "c": -0.1})
    assert found.verdict == "supported"
    assert (found.unseen.better, found.unseen.worse) == (2, 2)
    assert "It does not hold everywhere: 2 of the differences point the other way." in found.words
    assert found.neither.worse == 2


@pytest.mark.parametrize(
    ("mean", "p", "better", "worse", "verdict"),
    [
        (0.1, 0.01, 3, 1, "supported"),
        (0.1, 0.01, 0, 0, "supported"),
        (0.1, 0.01, 1, 2, "undecided"),
        (0.1, 0.05, 3, 0, "undecided"),
        (0.1, None, 0, 0, "undecided"),
        (-0.1, 0.01, 0, 1, "refuted"),
        (-0.1, 0.01, 2, 1, "undecided"),
    ],
)
def test_verdicts(mean, p, better, worse, verdict):
    counts = {"count": 9, "patients": 99, "better": better, "worse": worse, "undecidable": 0}
    pooled = Pooled(("c",), (), **counts, mean=mean, low=0.0, high=0.2, p=p)
    assert verdict_of(pooled) == verdict


def test_nothing_of_the_kind():
    study = study_of({"on-a": ["a"], "hand": "unet"}, ["a", "b"])
    found = put_together(study, [runs_on("b", "on-a", "b", [0.5, 0.6])], kinds={})
    assert [claim.verdict for claim in found.claims] == [None, None]
    assert [len(claim.contrasts) for claim in found.claims] == [0, 0]
    for one in found.claims:
        assert one.words[0].endswith("this study cannot tell.")
        assert one.words[1].startswith("This takes")


def test_one_patient_is_not_tested():
    study = study_of(SEARCHED, "c")
    given = [runs_on("c", name, "c", [0.5 + 0.1 * place]) for place, name in enumerate(SEARCHED)]
    found = claim(put_together(study, given, kinds={}), "search")
    assert found.verdict == "undecided"
    assert (found.unseen.p, found.unseen.low, found.contrasts[0].difference.p_corrected) == (None, None, None)
    assert "It rests on 1 patient, so that nothing can be tested." in found.words
    assert (found.unseen.domains, found.unseen.left_out, found.unseen.undecidable) == (("c",), (), 2)
    assert "none of 2 differences can be beyond chance by itself" in found.words[1]
    assert found.words[2] == "That is no proof that both are equal."  # there is no interval


def test_a_data_set_of_one_patient_is_shown_and_not_counted():
    """Nor does it take the interval from the means over all others."""
    study = study_of(SEARCHED, "abc")
    given = [
        runs_on(domain, name, domain, dice)
        for domain in "abc"
        for seed, name in enumerate(SEARCHED)
        for dice in [[0.9 - 0.4 * (name == "mix")] if domain == "c" else around(0.6 + 0.1 * (name == "mix"), seed=seed)]
    ]
    result = put_together(study, given, kinds={})
    matrix, found = result.retrained, claim(result, "search")
    assert (matrix.groups, matrix.shared, matrix.left_out) == (("a", "b", "c"), ("a", "b"), ("c",))
    mix = matrix.rows[0]
    assert (mix.cells["c"].mean, mix.mean.mean, mix.rank) == pytest.approx((0.5, 0.7, 1.0))
    assert mix.mean.low < 0.7 < mix.mean.high
    assert means_words(matrix) == (
        "Means and ranks are over a, b, of the networks that have a score on all of them. "
        "c has 1 patient: it is shown, and not counted in means and ranks."
    )
    on_c = [one for one in found.contrasts if one.domain == "c"]
    assert [one.difference.mean for one in on_c] == pytest.approx([-0.4, -0.4])
    assert {(one.patients, one.decidable, one.difference.p_corrected) for one in on_c} == {(1, False, None)}
    assert (found.unseen.domains, found.unseen.left_out, found.unseen.patients) == (("a", "b"), ("c",), 40)
    assert (found.unseen.count, found.planned, found.neither) == (2, 4, None)
    assert found.unseen.mean == pytest.approx(0.1)
    assert found.unseen.low < 0.1 < found.unseen.high
    assert (found.verdict, found.unseen.p < 0.001) == ("supported", True)
    assert "c has 1 patient: its differences are shown, and not counted." in found.words
    assert not any("missing" in word for word in found.words)


@pytest.mark.parametrize("lacking", ["", "on-b"])
def test_a_data_set_of_one_patient_is_named_once(lacking):
    """It is the own set of one search, and of the mix to the other, where that has a score there."""
    study = study_of(SEARCHED, "abc")
    given = [
        runs_on(domain, name, domain, [0.5] if domain == "a" else around(0.6, seed=seed))
        for domain in "abc"
        for seed, name in enumerate(SEARCHED)
        if (domain, name) != ("a", lacking)
    ]
    found = claim(put_together(study, given, kinds={}), "search")
    assert (found.unseen.domains, found.own.domains) == (("b", "c"), ("b",))
    assert (found.unseen.left_out, found.own.left_out) == (((), ("a",)) if lacking else (("a",), ()))
    assert found.words.count("a has 1 patient: its differences are shown, and not counted.") == 1
    assert (None in (found.own.low, found.own.p)) is False


def test_what_patients_are_too_few_to_decide_is_told():
    """With 5 patients no p is below 2 / 32, with 6 none of two below 2 * 2 / 64."""
    study = study_of(SEARCHED, "abc")

    def of(images: Mapping[str, int]) -> Claim:
        given = [
            runs_on(domain, name, domain, [0.6 + 0.01 * place + 0.1 * (name == "mix") for place in range(count)])
            for domain, count in images.items()
            for name in SEARCHED
        ]
        return claim(put_together(study, given, kinds={}), "search")

    some = of({"b": 5, "c": 20})
    assert [(one.domain, one.decidable) for one in some.contrasts] == [
        ("b", False),
        ("b", False),
        ("c", True),
        ("c", True),
    ]
    assert (some.unseen.count, some.unseen.better, some.unseen.undecidable) == (3, 2, 1)
    assert "of 3 differences 2 are better and none is worse beyond chance" in some.words[1]
    assert some.words[1].endswith("; 1 cannot be, as patients are too few.")
    assert "Single differences on b (5 patients) cannot be decided by themselves." in some.words
    assert "the one difference cannot be beyond chance by itself, as patients are too few" in " ".join(some.words)
    every = of({"c": 6})
    assert (every.verdict, every.unseen.p < ALPHA, every.unseen.undecidable) == ("supported", True, 2)
    assert "none of 2 differences can be beyond chance by itself" in every.words[1]
    assert "Single differences" not in " ".join(every.words)
    assert [one.decidable for one in of({"c": 7}).contrasts] == [True, True]  # 2 * 2 / 128


def test_what_the_mixed_search_had_seen_is_told():
    def told(domains: str, searched: Mapping[str, Any] = SEARCHED) -> str:
        study = study_of(searched, domains, domains="abcd")
        given = [runs_on(domain, name, domain, around(0.5)) for domain in domains for name in searched]
        words = claim(put_together(study, given, kinds={}), "search").words
        (found,) = (word for word in words if "had seen" in word and "%" not in word)
        return found

    serves = (
        ": the verdict is on whether one search serves several data sets, not on whether it carries over to new ones."
    )
    assert told("ab") == f"The mixed search had seen all of these 2 data sets{serves}"
    assert told("b") == f"The mixed search had seen this data set{serves}"
    assert told("c") == "Neither search had seen this data set."
    assert told("cd") == "Neither search had seen any of these 2 data sets."
    assert told("abc") == "The mixed search had seen 2 of these 3 data sets (a, b); neither had seen c."
    several = {"ab": ["a", "b"], "bc": ["b", "c"], "on-a": ["a"]}
    assert told("bc", several) == (
        "In 3 of these 4 differences the mixed search had seen the data set; in the others neither had."
    )


def test_seeds_that_both_sides_have_are_told():
    """The most seeds of a training say nothing of the differences, which are over those that both sides have."""
    study = study_of({"hand": "unet"}, ["a", "b", "ab"])

    def of(on_a: int, on_b: int, mixed: int) -> Claim:
        given = [
            runs_on(group, "hand", "c", *(around(0.5 + 0.01 * seed, seed=seed) for seed in range(count)))
            for group, count in (("a", on_a), ("b", on_b), ("a-b", mixed))
        ]
        return claim(put_together(study, given, kinds={}), "training")

    unknown = "intervals and tests do not know how much one training differs from the next."
    single, some, several, many = of(3, 3, 1), of(3, 1, 3), of(3, 2, 3), of(2, 2, 3)
    assert [[one.seeds for one in found.contrasts] for found in (single, some, several, many)] == [
        [1, 1],
        [3, 1],
        [3, 2],
        [2, 2],
    ]
    assert single.words[-1] == f"Every difference is over one seed, so {unknown}"
    assert some.words[-1] == f"Of 2 differences 1 is over one seed: its {unknown}"
    assert several.words[-1].startswith("Every difference is over 2 to 3 seeds. Intervals and tests are over patients;")
    assert many.words[-1].startswith("Every difference is over 2 seeds.")


def test_p_of_a_contrast_is_that_of_its_contributions():
    study, generator = study_of({"mix": ["a", "b"], "on-a": ["a"]}, "b"), np.random.default_rng(0)
    mix, single = (list(generator.normal(0.6, 0.1, 30)) for _ in range(2))
    given = [runs_on("b", "mix", "b", mix), runs_on("b", "on-a", "b", single)]
    found = claim(put_together(study, given, kinds={}), "search")
    by_patient = dict(zip((f"p{number}" for number in range(30)), np.array(mix) - np.array(single), strict=True))
    expected = flip_p(np.array([by_patient[name] for name in sorted(by_patient)]) / 30, seed=0)
    assert found.contrasts[0].difference.p == found.unseen.p == pytest.approx(float(expected))


def findings(domain: str, logits: Sequence[Sequence[float]], labels: Sequence[Sequence[int]]) -> FindingScores:
    count = len(logits)
    predictions = Predictions(
        keys=[f"i{number}" for number in range(count)],
        domains=[domain] * count,
        patients=[f"p{number}" for number in range(count)],
        logits=np.asarray(logits, dtype=float),
        labels=np.asarray(labels),
    )
    names = ("disc", "bar")
    return FindingScores.of(predictions, predictions, findings=names, split="test", checkpoint="best", sensitivity=0.9)


def finding_study() -> Study:
    sources = [{"kind": "table", "path": f"/nowhere/{name}", "name": name} for name in "ab"]
    recipe = parse({"data": {"sources": sources}, "evaluation": {"bootstrap": DRAWS}})
    networks = [{"name": "mix", "searched_on": ["a", "b"]}, {"name": "on-a", "searched_on": ["a"]}]
    return Study.model_validate({"recipe": recipe, "networks": networks, "trained_on": [{"data": ["b"]}]})


def test_findings():
    """Of the four pairs of an image with and one without a finding, mix ranks (4, 3) and on-a (2, 4) as it should."""
    labels = [[1, 1], [1, 0], [0, 1], [0, 0]]
    mix = findings("b", [[3, 3], [2, 2], [1, 1], [0, 0]], labels)
    single = findings("b", [[2, 5], [1, 0], [2, 4], [1, 1]], labels)
    given = [Scored("b", "mix", "b", (mix,), (0,)), Scored("b", "on-a", "b", (single,), (0,))]
    found = put_together(finding_study(), given, kinds={})
    assert (found.task, found.score) == ("classification", "auroc")
    assert [row.cells["b"].mean for row in found.retrained.rows] == pytest.approx([(1 + 0.75) / 2, (0.5 + 1) / 2])
    (one,) = claim(found, "search").contrasts
    assert one.difference.mean == pytest.approx(0.125)
    assert 0 < one.difference.p <= 1
    assert "mean AUROC" in claim(found, "search").words[1]


def test_a_data_set_without_findings_says_nothing():
    scores = findings("b", [[3.0, 2.0], [1.0, 0.0]], [[0, 0], [0, 0]])
    found = put_together(finding_study(), [Scored("b", "mix", "b", (scores,), (0,))], kinds={})
    assert found.retrained.rows[0].cells == {"b": None}
    assert "none, show every finding" in next(domain.problem for domain in found.domains if domain.name == "b")


def test_what_networks_were_searched_on(tmp_path):
    """A search from elsewhere counts where its data sets are known; the study need not have run it."""
    study = study_of(SEARCHED, "a")
    found = put_together(study, [], kinds={"on-a": "published"})
    assert [network.searched_on for network in found.networks] == [("a", "b"), ("a",), ("b",)]
    assert [network.kind for network in found.networks] == ["searched", "published", "searched"]
    entries = []
    for name, domains in (("known", "ab"), ("unknown", "az")):
        sources = [{"kind": "folder", "path": "/nowhere", "name": domain} for domain in domains]
        recipe = parse({"data": {"sources": sources}})
        RunDirectory.create(tmp_path / name, recipe, kind="search", data_fingerprint="")
        entries.append({"name": name, "genotype": str(tmp_path / name)})
    entries += [{"genotype": "layer7_double_deep"}, {"random": 2, "like": "known"}]
    content = {"recipe": study.recipe, "networks": entries, "trained_on": [{"data": "a"}]}
    networks = put_together(Study.model_validate(content), [], kinds={}).networks
    assert [(network.name, network.kind, network.searched_on) for network in networks] == [
        ("known", "searched", ("a", "b")),
        ("unknown", "searched", ()),
        ("layer7_double_deep", "published", ()),
        ("random-1", "random", ()),
        ("random-2", "random", ()),
    ]


def test_file(tmp_path: Path):
    study = study_of({**SEARCHED, "hand": "unet"}, ["a", "b", "c", "ab"], domains="abcx", external=["x"])
    given = [
        runs_on(group.name, name, domain, around(0.5 + 0.05 * place, seed=place), around(0.6, seed=place + 9))
        for group in study.trained_on
        for place, name in enumerate(study.names)
        for domain in study.domains
        if name != "on-b"
    ]
    missing = [MissingRun("a", "on-b", 1, "failed", "It diverged.")]
    untested = [MissingTest("a", "hand", 0, "x", "No such folder.")]
    found = put_together(study, given, kinds={}, missing=missing, untested=untested)
    found.write(tmp_path / "new" / "generalization.json")
    assert Generalization.read(tmp_path / "new" / "generalization.json") == found


def test_files_that_cannot_be_read(tmp_path: Path):
    path = tmp_path / "generalization.json"
    with pytest.raises(RunError, match="does not exist"):
        Generalization.read(path)
    for text in ("{", "{}", '{"task": "cooking"}'):
        path.write_text(text)
        with pytest.raises(RunError, match=r"generalization\.json cannot be read"):
            Generalization.read(path)
