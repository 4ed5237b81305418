"""The page of a generalization: verdicts, heat maps, and what is missing."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medarts import terminal
from medarts.comparison.overall import OVERALL
from medarts.reporting.comparison_tables import claim_verdict
from medarts.reporting.generalization import Scale, write_generalization
from medarts.study.contrasts import CONTRAST_COLUMNS
from medarts.study.generalize import Generalization

CONTRASTS = [
    ("search", "b", "mix", "alone", "b", "of the mix", 0.021, 0.004, 0.039, 0.0151, 0.0302, 10, 2, "better"),
    ("search", "a", "mix", "alone", "a", "own", -0.013, np.nan, np.nan, 0.25, 0.25, 3, 1, "too few patients to decide"),
    ("search", "", "", "", OVERALL, "not seen by one", 0.0211, 0.005, 0.038, 0.016, 0.016, 10, 1, "better"),
]


def made() -> Generalization:
    """A generalization of made-up numbers."""

    def row(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.011, "high": mean + 0.012, "undefined": 0, "patients": 9, "seeds": 1}

    retrained = [
        {"group": "a", "network": "alone", **row(0.811), "rank": 2.0},
        {"group": "b", "network": "alone", **row(0.7), "rank": 2.0},
        {"group": "a", "network": "mix", **row(0.832), "rank": 1.0},
        {"group": "b", "network": "mix", **row(0.721), "rank": 1.0},
        {"group": "a", "network": "<b>hand</b>", **row(0.790), "rank": 3.0},
        {"group": "b", "network": "<b>hand</b>", **row(np.nan), "rank": np.nan},
        {"group": OVERALL, "network": "alone", **row(0.756), "rank": 2.0},
        {"group": OVERALL, "network": "mix", **row(0.777), "rank": 1.0},
    ]
    tested = [
        {"group": "a", "network": "mix", "dataset": "a", "mark": "own", **row(0.832)},
        {"group": "a", "network": "mix", "dataset": "b", "mark": "unseen", **row(0.401)},
        {"group": "a", "network": "mix", "dataset": "x", "mark": "external", **row(np.nan)},
        {"group": "both", "network": "mix", "dataset": "a", "mark": "part of the mix", **row(0.844)},
        {"group": "both", "network": "mix", "dataset": "b", "mark": "part of the mix", **row(0.733)},
        {"group": "both", "network": "mix", "dataset": "x", "mark": "external", **row(0.502)},
    ]
    datasets = {"a": (False, 1200, 300, ""), "b": (False, 30, 10, ""), "x": (True, 7, 7, "It says nothing.")}
    about = {
        "title": "Generalisation in <out>",
        "note": "Small & made up.",
        "task": "segmentation",
        "score": "dice",
        "title_of_score": "Dice",
        "datasets": {
            name: dict(zip(("external", "images", "patients", "problem"), of, strict=True)) | {"excluded": ["class 2"]}
            for name, of in datasets.items()
        },
        "groups": {"a": ["a"], "b": ["b"], "both": ["a", "b"]},
        "networks": {
            "alone": {"kind": "searched", "searched_on": ["a"]},
            "mix": {"kind": "searched", "searched_on": ["a", "b"]},
            "<b>hand</b>": {"kind": "baseline", "searched_on": []},
        },
        "planned": {"search": 1, "training": 0},
        "missing": [{"group": "b", "network": "<b>hand</b>", "seed": 1, "state": "failed", "reason": "It diverged."}],
        "untested": [{"group": "a", "network": "mix", "seed": 0, "dataset": "x", "reason": "No such folder."}],
    }
    return Generalization(
        about,
        tested=pd.DataFrame(tested),
        seeds=pd.DataFrame(columns=["group", "network", "dataset", "seed", "value"]),
        retrained=pd.DataFrame(retrained),
        contrasts=pd.DataFrame(CONTRASTS, columns=CONTRAST_COLUMNS),
        sides=pd.DataFrame([("search", "train.epochs", "6", "12")], columns=["claim", "field", "several", "single"]),
    )


EXPECTED = (
    "Searched on several data sets: better", "Trained on several data sets: not in this study",
    "+0.021 +0.004 to +0.039", "0.030", "of the mix", "own", "train.epochs",
    "0.811", "0.832", "0.401", "0.844", "0.502", "0.777",
    "searched on a, b", "It diverged.", "No such folder.", "It says nothing.", "Small & made up.", "tests (external)",
)  # fmt: skip


def test_every_number_is_on_the_page(tmp_path: Path) -> None:
    made().write(tmp_path)
    page = write_generalization(Generalization.read(tmp_path), tmp_path).read_text(encoding="utf-8")
    words = " ".join(unescape(re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", page, flags=re.S)).split())
    for text in EXPECTED:
        assert text in words, text
    assert "nan" not in words.split()
    assert "<b>hand" not in page
    assert not re.search(r"(src|href)=\"https?:", page)
    for name in re.findall(r'<a href="([^"#]+)"', page):
        assert (tmp_path / name).is_file()


def test_an_empty_study_has_a_page(tmp_path: Path) -> None:
    found = made()
    for table in (found.retrained, found.tested):
        table[["mean", "low", "high"]] = np.nan
    empty = replace(found, contrasts=found.contrasts[:0], sides=found.sides[:0])
    page = write_generalization(empty, tmp_path).read_text(encoding="utf-8")
    assert "Searched on several data sets: missing runs" in page
    assert 'id="retrained"' not in page


def test_the_terminal_has_the_same_tables(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_generalization(made())
    words = " ".join(capsys.readouterr().out.split())
    for text in (
        "Searched on several data sets, against one: better",
        "Trained on several data sets, against one: not in this study",
        "a: excluded from the scores: class 2.",
        "failed: <b>hand</b> on b, seed 1. It diverged.",
        "not tested on x: mix on a, seed 0. No such folder.",
        "0.777",
    ):
        assert text in words, text


def test_the_verdict_on_a_claim_is_marked_where_it_is_of_one_seed() -> None:
    found = made()
    verdicts = [claim_verdict(replace(found, contrasts=found.contrasts.assign(seeds=n)), "search") for n in (1, 2)]
    assert verdicts == ["better (one seed)", "better"]


def test_one_network_that_fails_does_not_take_the_colours_of_the_others() -> None:
    shades = [*np.linspace(-0.02, 0.02, 30), -0.7]
    scale = Scale.around_zero("Dice", shades)
    assert 0.015 < scale.high < 0.05
    assert scale.ends
    assert scale.tint(-0.7)[1] == scale.tint(-scale.high)[1] == pytest.approx(0.55)
