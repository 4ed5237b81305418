"""Matrices and contrasts, held against what is computed by hand from synthetic scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medarts.comparison.candidates import Missing
from medarts.comparison.overall import OVERALL
from medarts.config import parse
from medarts.config.study import Study
from medarts.errors import RunError
from medarts.evaluation.stats import holm
from medarts.study.generalize import TABLES, Generalization, Untested, put_together

SEARCHED: dict[str, Any] = {"mix": ["a", "b"], "on-a": ["a"], "on-b": ["b"]}


def study_of(
    networks: Mapping[str, Any], groups: Sequence[Any], *, datasets: str = "abc", external: Sequence[str] = ()
) -> Study:
    """A study whose data sets need not exist; networks are searched on a list of them, else of a model's name."""
    sources = [{"kind": "folder", "path": f"/nowhere/{name}", "name": name} for name in datasets]
    recipe = parse({"data": {"sources": sources}, "evaluation": {"bootstrap": 200}})
    entries = [
        {"name": name, **({"searched_on": given} if isinstance(given, list) else {"model": given})}
        for name, given in networks.items()
    ]
    trained_on = [group if isinstance(group, dict) else {"data": list(group)} for group in groups]
    content = {"recipe": recipe, "networks": entries, "trained_on": trained_on, "external": list(external)}
    return Study.model_validate(content)


def runs_on(group: str, network: str, dataset: str, *seeds: Sequence[float]) -> pd.DataFrame:
    """Scores of masks: a value an image, and a patient an image."""
    rows = [
        (group, network, seed, dataset, f"i{image:02d}", f"p{image:02d}", "lesion", "present", metric, value)
        for seed, dice in enumerate(seeds)
        for image, value in enumerate(dice)
        for metric in ("dice", "jaccard")
    ]
    columns = ["group", "network", "seed", "dataset", "image", "patient", "class", "truth", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def around(mean: float, *, images: int = 20, seed: int = 0) -> list[float]:
    """Values whose mean is exact to rounding."""
    values = np.random.default_rng(seed).normal(0, 0.05, images)
    return list(mean + values - values.mean())


def contrasts(found: Generalization, claim: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The contrasts of a claim, and their means by relation."""
    rows = found.contrasts[found.contrasts.claim == claim]
    return rows[rows.dataset != OVERALL], rows[rows.dataset == OVERALL].set_index("relation")


def searches(gains: Mapping[str, float], **options: Any) -> Generalization:
    """A study of searches in which the mix is better than both others by a gain on each data set."""
    given = [
        runs_on(dataset, name, dataset, around(0.7 + (gain if name == "mix" else 0), seed=seed))
        for dataset, gain in gains.items()
        for seed, name in enumerate(SEARCHED)
    ]
    return put_together(study_of(SEARCHED, "abc"), pd.concat(given), **options)


def test_networks_retrained_on_one_data_set_after_another():
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
    found = put_together(study, pd.concat(given))
    table = found.retrained.set_index(["group", "network"])
    assert len(table) == 3 * 4 + 3
    assert table["mean"]["a", "mix"] == pytest.approx(0.8)
    seeds = found.seeds[(found.seeds.group == "a") & (found.seeds.network == "mix") & (found.seeds.dataset == "a")]
    assert [*seeds.value] == pytest.approx([0.7, 0.9])
    assert np.isnan([table["mean"]["c", "hand"], table["mean"]["a", "never"], table["rank"]["a", "never"]]).all()
    overall = table.loc[OVERALL]
    assert [*overall.index] == ["mix", "hand", "other"]
    assert [*overall["mean"]] == pytest.approx([0.65, 0.8, 0.55])
    assert [*overall["rank"]] == [(1.5 + 3) / 2, (1.5 + 1.5) / 2, (3 + 1.5) / 2]


def test_groups_tested_on_every_data_set():
    groups = ["a", "ab", {"data": "b", "networks": "other"}, {"data": ["a", "c"], "networks": "hand"}]
    study = study_of({"hand": "unet", "other": "unetpp"}, groups, datasets="xabc", external=["x"])
    given = [runs_on("a", "hand", "b", [0.2, 0.4]), runs_on("a-b", "hand", "x", [0.5, 0.7])]
    found = put_together(study, pd.concat(given))
    datasets = found.about["datasets"]
    assert [*datasets] == ["a", "b", "c", "x"]
    assert [(one["images"], one["patients"], one["external"]) for one in datasets.values()] == [
        (0, 0, False), (2, 2, False), (0, 0, False), (2, 2, True)
    ]  # fmt: skip
    table = found.tested.set_index(["group", "network", "dataset"])
    marks = table.mark.loc[:, "hand"]
    assert [*marks["a"]] == ["own", "unseen", "unseen", "external"]
    assert [*marks["a-b"]] == ["part of the mix", "part of the mix", "unseen", "external"]
    assert marks["a-c"]["b"] == "unseen"
    means = table["mean"].loc[:, "hand"]
    assert (means["a", "b"], means["a-b", "x"]) == pytest.approx((0.3, 0.6))
    assert np.isnan(means["a-b", "b"])


def test_contrasts_of_searches():
    study = study_of({**SEARCHED, "hand": "unet"}, ["a", "b", "c", "ab"])
    given = [
        runs_on(group, name, dataset, around(0.5 + 0.1 * place, seed=place))
        for group, dataset in (("a", "a"), ("b", "b"), ("c", "c"), ("a-b", "a"))
        for place, name in enumerate(study.names)
        if (group, name) != ("b", "on-b")
    ]
    found = put_together(study, pd.concat(given))
    single, means = contrasts(found, "search")
    assert [*single[["several", "single", "dataset", "relation"]].itertuples(index=False, name=None)] == [
        ("mix", "on-a", "a", "own"),
        ("mix", "on-b", "a", "of the mix"),
        ("mix", "on-a", "b", "of the mix"),
        ("mix", "on-a", "c", "unseen"),
        ("mix", "on-b", "c", "unseen"),
    ]
    assert [*single.difference] == pytest.approx([-0.1, -0.2, -0.1, -0.1, -0.2])
    assert [*single.p_corrected] == pytest.approx(holm([*single.p]))
    assert ((single.low < single.difference) & (single.difference < single.high)).all()
    # b has one contrast and weighs as much as c, which has two, and as a.
    assert means.difference["not seen by one"] == pytest.approx((-0.2 - 0.1 + (-0.1 - 0.2) / 2) / 3)
    assert (means.difference["own"], means.difference["seen by neither"]) == pytest.approx((-0.1, -0.15))
    assert (means.patients["not seen by one"], means.patients["own"]) == (60, 20)
    assert found.about["planned"] == {"search": 4, "training": 8}


def test_contrasts_of_trainings():
    """A mix is compared with its parts alone, on data sets outside of it."""
    study = study_of({"hand": "unet"}, ["a", "b", "c", "ab", "abc"], datasets="abcx", external=["x"])
    given = [
        runs_on(group.name, "hand", dataset, around(0.4 + 0.1 * len(group.data), seed=place))
        for place, group in enumerate(study.trained_on)
        for dataset in study.domains
    ]
    single, means = contrasts(put_together(study, pd.concat(given)), "training")
    assert {*single[["common", "several", "single", "dataset", "relation"]].itertuples(index=False, name=None)} == {
        ("hand", "a-b", "a", "c", "unseen"),
        ("hand", "a-b", "b", "c", "unseen"),
        ("hand", "a-b", "a", "x", "external"),
        ("hand", "a-b", "b", "x", "external"),
        ("hand", "a-b-c", "a", "x", "external"),
        ("hand", "a-b-c", "b", "x", "external"),
        ("hand", "a-b-c", "c", "x", "external"),
    }
    assert [*means.index] == ["not seen by one"]
    assert means.difference.iloc[0] == pytest.approx((0.1 + (2 * 0.1 + 3 * 0.2) / 5) / 2)
    assert means.verdict.iloc[0] == "better"


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({"a": 0.1, "b": 0.1, "c": 0.1}, "better"),
        ({"a": -0.1, "b": -0.1, "c": -0.1}, "worse"),
        ({"a": 0.004, "b": -0.004, "c": 0.001}, "no significant difference"),
    ],
)
def test_verdicts(gains, verdict):
    _, means = contrasts(searches(gains), "search")
    assert means.verdict["not seen by one"] == verdict


def test_p_of_a_mean_flips_patients_in_all_its_contrasts():
    """Two contrasts on c, and one on b; 2 patients each: 16 flips, of which 2 are as far from 0."""
    given = [
        runs_on("c", "mix", "c", [0.9, 0.8]),
        runs_on("c", "on-a", "c", [0.5, 0.5]),  # +0.4, +0.3
        runs_on("c", "on-b", "c", [0.7, 0.9]),  # +0.2, -0.1
        runs_on("b", "mix", "b", [0.6, 0.6]),
        runs_on("b", "on-a", "b", [0.5, 0.4]),  # +0.1, +0.2
    ]
    _, means = contrasts(put_together(study_of(SEARCHED, "bc"), pd.concat(given)), "search")
    row = means.loc["not seen by one"]
    assert row.difference == pytest.approx(0.3 / 4 + 0.1 / 4 + 0.1 / 4 + 0.2 / 4)
    assert (row.patients, row.p, row.verdict) == (4, 2 / 16, "too few patients to decide")


def test_a_data_set_of_one_patient_is_shown_and_not_counted():
    given = [
        runs_on(dataset, name, dataset, dice)
        for dataset in "abc"
        for seed, name in enumerate(SEARCHED)
        for is_mix in [name == "mix"]
        for dice in [[0.9 - 0.4 * is_mix] if dataset == "c" else around(0.6 + 0.1 * is_mix, seed=seed)]
    ]
    found = put_together(study_of(SEARCHED, "abc"), pd.concat(given))
    overall = found.retrained[found.retrained.group == OVERALL].set_index("network").loc["mix"]
    assert (overall["mean"], overall["rank"], overall.patients) == pytest.approx((0.7, 1.0, 40))
    assert overall.low < 0.7 < overall.high
    single, means = contrasts(found, "search")
    on_c = single[single.dataset == "c"]
    assert [*on_c.difference] == pytest.approx([-0.4, -0.4])
    assert on_c.p.isna().all()
    assert {*on_c.verdict} == {"too few patients to decide"}
    assert (means.difference["not seen by one"], means.patients["not seen by one"]) == (pytest.approx(0.1), 40)
    assert means.verdict["not seen by one"] == "better"


def test_what_else_both_sides_differ_in():
    groups = [
        {"data": "a", "changes": ["train.epochs=12"]},
        {"data": "b", "changes": ["train.epochs=12"]},
        {"data": ["a", "b"], "changes": ["train.epochs=6", "data.sampling=equal"], "seeds": [0, 1]},
    ]
    study = study_of({"hand": "unet"}, groups)
    given = [runs_on(group.name, "hand", "c", around(0.5)) for group in study.trained_on]
    images = {("training", "a"): 100, ("training", "b"): 100, ("training", "a-b"): 200}
    found = put_together(study, pd.concat(given), images=images)
    assert [*found.sides.itertuples(index=False, name=None)] == [
        ("training", "data.sampling", "'equal'", "'by_size'"),
        ("training", "train.epochs", "6", "12"),
        ("training", "training images", "200", "100"),
    ]
    study = study_of(SEARCHED, "c")
    mix, *others = study.networks
    changed = mix.model_copy(update={"changes": ("search.mixing.alpha=0.25", "train.epochs=3"), "parameters": 9})
    study = study.model_copy(update={"networks": (changed, *others)})
    found = put_together(study, pd.concat([runs_on("c", name, "c", around(0.5)) for name in SEARCHED]))
    assert [*found.sides.itertuples(index=False, name=None)] == [
        ("search", "parameters", "9", "not given"),
        ("search", "search.mixing.alpha", "0.25", "0.5"),
    ]
    assert searches({"a": 0.1, "b": 0.1, "c": 0.1}).sides.empty


def test_scores_that_rank_nothing_are_named_with_the_reason():
    empty = runs_on("a", "hand", "b", [0.5, 0.6]).assign(truth="empty")
    found = put_together(study_of({"hand": "unet"}, ["a"]), pd.concat([runs_on("a", "hand", "a", [0.5, 0.6]), empty]))
    assert found.about["datasets"]["b"]["problem"] == "No image shows a class."
    assert found.tested.set_index("dataset")["mean"].notna()["a"]


def test_files(tmp_path: Path):
    nothing = put_together(study_of(SEARCHED, "abc"), pd.DataFrame(columns=["group", "network", "seed", "dataset"]))
    assert (nothing.about["planned"], len(nothing.contrasts)) == ({"search": 4, "training": 0}, 0)
    missing = {"a": [Missing("on-b", 1, "failed", "It diverged.")]}
    untested = [Untested("a", "mix", 0, "x", "No such folder.")]
    found = searches({"a": 0.1, "b": 0.0, "c": 0.1}, missing=missing, untested=untested)
    for one in (nothing, found):
        folder = tmp_path / str(len(one.contrasts))
        one.write(folder)
        again = Generalization.read(folder)
        for name in TABLES:
            pd.testing.assert_frame_equal(getattr(again, name), getattr(one, name), check_dtype=False, check_exact=True)
    assert again.about["missing"][0] == {
        "group": "a", "network": "on-b", "seed": 1, "state": "failed", "reason": "It diverged."
    }  # fmt: skip
    assert again.about["untested"][0]["reason"] == "No such folder."
    (folder / "contrasts.csv").write_bytes((folder / "contrasts.csv").read_bytes()[:-9])
    with pytest.raises(RunError, match=r"contrasts\.csv is damaged .*medarts generalize"):
        Generalization.read(folder)
    (folder / "generalization.json").unlink()
    with pytest.raises(RunError, match=r"generalization\.json does not exist"):
        Generalization.read(folder)
