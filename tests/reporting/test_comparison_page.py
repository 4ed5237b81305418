"""The page of a comparison: numbers of its tables, networks by their kinds, overlays, and what is missing."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Polygon

from medarts import terminal
from medarts.comparison.compare import Comparison
from medarts.comparison.design import METHOD_COLUMNS, RANDOM
from medarts.comparison.overall import OVERALL
from medarts.comparison.overlays import Overlays
from medarts.evaluation.stats import verdict
from medarts.reporting import comparison_tables
from medarts.reporting.comparison import write_comparison
from medarts.reporting.comparison_tables import (
    COLUMNS,
    ONE_SEED,
    ONE_SEED_NOTE,
    Shown,
    latency_table,
    network_frame,
    network_table,
    random_table,
    scores_by_group,
)
from medarts.reporting.pictures import SCALE, outline
from medarts.reporting.pruning import plot_tradeoffs
from medarts.reporting.tables import Column

LONG = "stage1_layer9_110epoch_double_deep_final"
# name: kind, mean Dice, parameters, milliseconds on one thread
NETWORKS: dict[str, tuple[str, float, float, float]] = {
    "mixsearch": ("searched", 0.842, 0.81e6, 31),
    LONG: ("published", 0.829, 0.52e6, 30),
    "random-1": ("random", 0.833, 0.79e6, 29),
    "unet": ("baseline", 0.840, 2.16e6, 38),
    "<b>r2unet</b>": ("baseline", 0.808, 2.45e6, 122),
    "resenc-unet": ("baseline", 0.853, 6.4e6, 97),
    "unet-l1-50": ("pruned", 0.835, 1.1e6, 24),
    "unet-l1-30": ("pruned", 0.822, 0.6e6, 17),
}
FROM = {"unet": "densenet.pth", "unet-l1-50": "unet", "unet-l1-30": "unet"}
PRUNED = {"method": "l1", "settings": '{"steps": 1}', "pruned_from": "unet", "target": "flops"}
REFERENCE = "mixsearch"


def made(groups: Sequence[str] = ("isic",), *, patients: int = 40, size: int = 24) -> Comparison:
    """A comparison of made-up numbers; with several groups also over all of them."""
    generator = np.random.default_rng(0)
    names, shown = [*NETWORKS], [*groups, *[OVERALL] * (len(groups) > 1)]
    networks, seeds, differences, costs, images = [], [], [], [], []
    for group in shown:
        scores = {name: mean + generator.normal(0, 0.01) for name, (_, mean, *_) in NETWORKS.items()}
        ranks = pd.Series(scores).rank(ascending=False)
        for name, (kind, _, parameters, ms) in NETWORKS.items():
            score, count = scores[name], {"patients": patients, "seeds": 2, "rank": ranks[name]}
            values = {"dice": (score, 0), "jaccard": (score - 0.1, 0), "hd95": (9.87, 3)}
            for metric, (value, undefined) in values.items():
                interval = {"low": value - 0.02, "high": value + 0.02, "undefined": undefined}
                networks.append({"group": group, "network": name, "metric": metric, "mean": value, **interval, **count})
            if group != OVERALL:
                for seed, value in enumerate((score - 0.01, score + 0.01)):
                    seeds.append({"group": group, "network": name, "seed": seed, "metric": "dice", "value": value})
            costs.append(
                {
                    "group": group, "network": name, "kind": kind, "began_from": FROM.get(name, ""),
                    **(PRUNED if kind == "pruned" else dict.fromkeys(PRUNED, "")),
                    "parameters": parameters, "flops": 3 * parameters, "latency_ms_1": ms, "latency_ms_2": 0.6 * ms,
                    "latency_spread_ms_1": 1.0, "latency_spread_ms_2": 1.0, "memory_mb": 88.5,
                    "torch_latency_ms_1": 3.1 * ms, "torch_latency_spread_ms_1": 2.0,
                    "inference_form_latency_ms_1": 2.1 * ms if kind == "searched" else np.nan,
                    "inference_form_latency_spread_ms_1": 2.0 if kind == "searched" else np.nan,
                    "training_seconds": 123.0, "search_seconds": np.nan, "front": name in ("random-1", "resenc-unet"),
                }
            )  # fmt: skip
            p = 0.0004 if name == "resenc-unet" else 0.3
            word = "better" if p < 0.05 else "no significant difference"
            tested = {"low": -0.02, "high": 0.03, "p": p, "p_corrected": p, "patients": patients, "seeds": 2}
            pair = {"group": group, "network": name, "metric": "dice", "difference": score - scores[REFERENCE]}
            if name != REFERENCE:
                differences.append({"family": "reference", **pair, "reference": REFERENCE, **tested, "verdict": word})
            else:
                differences.append({"family": "random", **pair, "reference": RANDOM, **tested, "verdict": word})
    differing = pd.DataFrame(
        {"group": "isic", "dataset": "isic", "image": ["i0", "i1"], "patient": "p", "spread": [0.5, 0.4]}
    )
    for image in ("i0", "i1"):
        images += [("isic", "isic", image, "p", name, place / 10) for place, name in enumerate(names)]
    disc = ((np.mgrid[:size, :size] - size / 2) ** 2).sum(0) < (size / 3) ** 2
    predictions = np.stack([np.roll(disc, place, axis=1) for place in range(len(names))])
    overlays = Overlays(
        images=[*generator.integers(0, 256, (2, size, size, 3), dtype=np.uint8)],
        targets=[disc.astype(np.uint8)] * 2,
        predictions=[predictions.astype(np.uint8)] * 2,
    )
    about: dict[str, Any] = {
        "title": "Benchmark of <all>", "note": "A note.", "task": "segmentation", "score": "dice", "split": "test",
        "metrics": {
            "dice": {"title": "Dice", "larger_is_better": True},
            "jaccard": {"title": "IoU", "larger_is_better": True},
            "hd95": {"title": "HD95", "larger_is_better": False},
        },
        "methods": {}, "budget": None,
        "machine": {"processor": "abacus", "cores": 2},
        "groups": {
            group: {
                "datasets": [group], "images": 120, "patients": patients, "size": 64, "reference": REFERENCE,
                "planned_reference": "gone", "excluded": {group: ["class 2"]},
                "networks": {
                    name: {"kind": NETWORKS[name][0], "seeds": [0, 1], "runs": ["a", "b"], "own": []} for name in names
                },
            }
            for group in groups
        } | {"empty": {"networks": {}}},
        "missing": [
            {"group": "isic", "network": "r2unet", "seed": 2, "state": "failed", "reason": "It diverged. <i>"},
            {"group": "empty", "network": "unet", "seed": 0, "state": "not started", "reason": ""},
        ],
    }  # fmt: skip
    return Comparison(
        about, pd.DataFrame(networks), pd.DataFrame(seeds), pd.DataFrame(differences),
        pd.DataFrame(columns=METHOD_COLUMNS), pd.DataFrame(costs),
        pd.DataFrame(images, columns=["group", "dataset", "image", "patient", "network", "value"]), differing,
        overlays={"isic": overlays},
    )  # fmt: skip


def words_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", page, flags=re.S)).split())


def test_every_number_is_on_the_page(tmp_path: Path) -> None:
    comparison = made(("isic", "cvc"))
    comparison.write(tmp_path)
    page = write_comparison(Comparison.read(tmp_path), tmp_path).read_text(encoding="utf-8")
    words = words_of(page)
    for row in comparison.networks.itertuples():
        assert f"{row.mean:.3f}" in words or f"{row.mean:.3g}" in words or row.metric == "hd95"
    for row in comparison.differences.itertuples():
        assert f"{row.difference:+.3f} -0.020 to +0.030" in words
    for text in (
        "<0.001", "no significant difference", "9.87 3 undefined", "ms, 1 thread", "88.5", "searched, reference",
        "random, Pareto front", "all data sets", "mean rank of mixsearch", "Excluded on isic: class 2",
        "(planned: gone, no finished run)", "unet began from densenet.pth", "What the search adds", "abacus",
        "It diverged. <i>", "not started", "Glossary", "ground truth",
    ):  # fmt: skip
        assert text in words, text
    assert "<b>r2unet" not in page
    assert "Benchmark of &lt;all&gt;" in page
    assert not re.search(r"(src|href)=\"https?:", page)  # it opens offline
    for name in re.findall(r'<a href="([^"#]+)"', page):
        assert (tmp_path / name).is_file()


def test_latencies_of_all_backends_stand_side_by_side() -> None:
    table = latency_table(made(), "isic")
    assert [column.title for column in table.columns] == [
        "network", "PyTorch, as built, 1 thread", "PyTorch, inference form, 1 thread", "ONNX Runtime, 1 thread",
        "ONNX Runtime, 2 threads",
    ]  # fmt: skip
    (row,) = [row for row in table.rows if row[0].text == "unet"]
    assert [(cell.text, cell.below) for cell in row[1:4]] == [("118", "± 1.00"), ("–", None), ("38.0", "± 0.500")]


def test_one_group_has_no_section_over_all_of_them(tmp_path: Path) -> None:
    page = write_comparison(made(), tmp_path).read_text(encoding="utf-8")
    assert f"<h2>{OVERALL}</h2>" not in page
    assert page.count('<section id="set-') == 1


def test_methods_and_the_budget_of_all_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = made(("isic", "cvc"))
    about = comparison.about
    about["methods"] = {"pool": ["mixsearch", LONG], "drawn": ["random-1", "unet"]}
    about["budget"] = {"limits": {"latency_ms": 2.4}, "size": 128, "threads": 1}
    for group in about["groups"].values():
        if group["networks"]:
            group["networks"]["unet"]["own"] = ["train.lr=0.002"]
            group["reference"] = "pool"
    row = {"networks": 2, "metric": "dice", "lowest": 0.71, "highest": 0.73, "latency_ms_1": 2.2}
    methods = [
        {"group": group, "method": name, **row, "mean": mean, "deviation": 0.0123, "search_seconds": 3600.0}
        for group in ("isic", OVERALL)
        for name, mean in (("drawn", 0.7123), ("pool", 0.7346))
    ]
    tested = {"metric": "dice", "difference": 0.0222, "low": 0.01, "high": 0.03, "p": 0.01, "p_corrected": 0.01}
    pair = {"family": "methods", "group": "isic", "network": "pool", "reference": "drawn", "patients": 9, "seeds": 2}
    other = {**pair, "family": "pairs", "network": "pool", "reference": "third"}
    rows = [{**one, **tested, "verdict": "better"} for one in (pair, other)]
    differences = pd.concat([comparison.differences, pd.DataFrame(rows)])
    costs = comparison.costs.assign(budget_latency_ms=2.31, search_seconds=120.0)
    made_up = replace(comparison, methods=pd.DataFrame(methods), differences=differences, costs=costs)
    made_up.write(tmp_path)
    page = write_comparison(Comparison.read(tmp_path), tmp_path).read_text(encoding="utf-8")
    words = words_of(page)
    for text in (
        "Budget of all networks: latency, ms ≤ 2.40 (128 × 128 pixels, 1 thread).", "latency, ms (≤ 2.40)", "2.31",
        "baseline, lr=0.002", "mean rank of pool", "(dashed: pool)", "pool isic 0.735 0.012 0.710 to 0.730 2 2.20 60.0",
        "pool SD 0.012 drawn SD 0.012 isic +0.022 +0.010 to +0.030",
        "All pairs of methods", "pool SD 0.012 third isic",
    ):  # fmt: skip
        assert text in words, text
    titles = [column.title for column in network_table(made_up, "isic").columns]
    assert "search, min" in titles
    assert "search, min" not in [column.title for column in network_table(made(), "isic").columns]
    terminal.show_comparison(made_up)
    said = " ".join(capsys.readouterr().out.split())
    assert "isic, differences to pool" in said
    assert "1 pair of methods, p corrected for all of them: differences.csv" in said
    assert "third" not in said
    assert "Budget of all networks: latency, ms ≤ 2.40" in said


def test_a_column_is_one_entry_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Shown(lambda frame: frame.score / (frame.parameters / 1e6), Column("Dice per M", form=".2f"))
    monkeypatch.setattr(comparison_tables, "COLUMNS", [*COLUMNS, own])
    table = network_table(made(), "isic")
    assert table.columns[-1].title == "Dice per M"
    best = network_frame(made(), "isic").iloc[0]
    assert table.rows[0][-1].text == f"{best.score / (best.parameters / 1e6):.2f}"
    titles = [column.title for column in table.columns]
    assert {"Dice", "IoU", "HD95", "ONNX ms, 1 thread", "ONNX ms, 2 threads", "verdict"} <= {*titles}
    assert next(column for column in table.columns if column.title == "HD95").first == "ascending"


def test_what_seeds_differ_by_stands_beside_the_differences(tmp_path: Path) -> None:
    comparison = made()
    shown = network_table(comparison, "isic")
    place = [column.title for column in shown.columns].index("by chance")
    assert [column.title for column in shown.columns][place - 1] == "difference"
    limit = 2.306 * 0.01 * 2**0.5  # t of eight degrees of freedom; the seeds of all eight networks are 0.02 apart
    cells = {row[0].text: row[place].text for row in shown.rows}
    assert cells.pop(REFERENCE) == "–"
    assert {*cells.values()} == {f"{limit:.3f}"}
    line = (
        "isic: 16 trainings with several seeds; seeds alone change the difference of two networks in Dice by up to "
        f"{limit:.3g} (2 seeds)"
    )
    assert line in words_of(write_comparison(comparison, tmp_path).read_text(encoding="utf-8"))
    assert line in "".join(comparison_tables.noise_lines(comparison))
    several = replace(comparison, about=comparison.about | {"methods": {REFERENCE: [REFERENCE, "random-1", "unet"]}})
    limit *= ((1 / 2 + 1 / 6) / (2 / 2)) ** 0.5  # the mean of three networks of two seeds has six trainings
    assert {f"{value:.3f}" for value in network_frame(several, "isic").by_chance.dropna()} == {f"{limit:.3f}"}
    once = replace(comparison, seeds=comparison.seeds[comparison.seeds.seed == 0])
    assert "by chance" not in [column.title for column in network_table(once, "isic").columns]
    assert comparison_tables.noise_lines(once) == []


def test_the_terminal_has_the_same_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "_width", 100)
    terminal.show_comparison(made(("isic", "cvc")), failures=Path("out/failures"))
    said = capsys.readouterr().out
    assert "…" not in said
    words = " ".join(said.split())
    for text in (
        "isic, differences to mixsearch", "all data sets, differences to mixsearch", "The planned reference gone has",
        "isic: excluded from the means: class 2.", "failed: r2unet on isic, seed 2. It diverged. <i>",
        "2 of 34 runs are missing: see out/failures", "resenc-unet", "<0.001",
    ):  # fmt: skip
        assert text in words, text


def test_verdicts_from_one_seed_are_marked_in_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.console, "_width", 160)
    comparison = made(("isic", "cvc"))
    tables = [network_table(comparison, "isic"), random_table(comparison), scores_by_group(comparison)]
    assert [shown.note for shown in tables if shown] == ["", "", ""]  # two seeds
    comparison.differences["seeds"] = 1
    tables = [network_table(comparison, "isic", brief=True), random_table(comparison), scores_by_group(comparison)]
    assert [shown.note for shown in tables if shown] == [ONE_SEED_NOTE] * 3
    shown = network_table(comparison, "isic")
    verdicts = [column.title for column in shown.columns].index("verdict")
    marks = {row[0].text: (row[verdicts].text, row[verdicts].below) for row in shown.rows}
    assert marks["resenc-unet"] == ("better", ONE_SEED)  # the fixed word, and the mark beside it
    assert marks[REFERENCE] == ("–", None)
    words = words_of(write_comparison(comparison, tmp_path).read_text(encoding="utf-8"))
    terminal.show_comparison(comparison)
    for text in (words, " ".join(capsys.readouterr().out.split())):
        assert text.count(ONE_SEED_NOTE) >= 4, text  # isic, cvc, both together, and what the search adds
    assert f"better ({ONE_SEED})" in words


def test_undefined_scores_leave_no_hole(tmp_path: Path) -> None:
    comparison = made()
    comparison.networks.loc[comparison.networks.network == "unet", ["mean", "low", "high"]] = np.nan
    comparison.networks[["low", "high"]] = np.nan  # as of one patient
    comparison.differences[["low", "high", "p", "p_corrected"]] = np.nan
    comparison.differences["verdict"] = verdict(None)
    page = write_comparison(comparison, tmp_path).read_text(encoding="utf-8")
    assert "nan" not in words_of(page).split()
    assert "too few patients to decide" in words_of(page)


@pytest.mark.parametrize("shape", ["disc", "border", "two", "empty"])
def test_outlines_enclose_what_the_mask_has(shape: str) -> None:
    y, x = np.mgrid[:20, :24]
    masks = {
        "disc": (y - 9) ** 2 + (x - 11) ** 2 < 40,
        "border": (y < 5) & (x > 10),
        "two": ((y < 6) & (x < 6)) | ((y > 12) & (x > 15)),
        "empty": y < 0,
    }
    mask = masks[shape]
    path = outline(mask.astype(np.uint8))
    inside = np.zeros_like(mask)
    centres = np.stack([(x.ravel() + 0.5) * SCALE, (y.ravel() + 0.5) * SCALE], axis=1)
    for start, steps in re.findall(r"M([^l]+)l([^z]+)z", path):
        corners = np.cumsum([[*map(int, start.split())], *np.reshape([*map(int, steps.split())], (-1, 2))], axis=0)
        inside ^= Polygon(corners).contains_points(centres).reshape(mask.shape)
    np.testing.assert_array_equal(inside, mask)


def test_pruned_networks_are_plotted_against_their_costs(tmp_path: Path) -> None:
    figure = plot_tradeoffs(network_frame(made(), "isic"), title="Dice")
    latency = figure.axes[0]
    lines = [line for line in latency.lines if len(line.get_xdata()) == 3]
    assert [[*line.get_xdata()] for line in lines] == [[17, 24, 38]]  # 30 %, 50 %, whole
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["l1", "before pruning"]
    page = write_comparison(made(), tmp_path).read_text(encoding="utf-8")
    assert page.count("<h3>Pruned networks</h3>") == 1


def test_lines_are_told_apart_by_what_differs_and_begin_at_what_was_pruned() -> None:
    def row(network: str, cost: float, method: str = "", origin: str = "", **settings: object) -> dict[str, object]:
        costs = {"latency_ms_1": cost, "parameters": cost * 1e6, "flops": cost * 1e9}
        target = settings.pop("target", "flops")
        texts = {"method": method, "pruned_from": origin, "settings": json.dumps(settings), "target": target}
        return {"network": network, "score": 0.8, "low": 0.7, "high": 0.9, "began_from": "unet (ab)", **texts, **costs}

    frame = pd.DataFrame(
        [
            row("unet (a)", 40),
            row("unet (b)", 50),
            row("once", 20, "taylor", "unet (a)", batches=50, steps=1),
            row("in steps", 21, "taylor", "unet (a)", batches=50, steps=2),
            row("twice", 9, "l1", "once", steps=1),
            row("other", 19, "l1", "unet (b)", steps=1),
            row("alone", 18, "fpgm", steps=1),
            row("fast", 17, "fpgm", steps=1, target="latency"),
        ]
    )
    figure = plot_tradeoffs(frame, title="Dice")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "fpgm, target FLOPs", "fpgm, target latency", "l1", "taylor, steps 1", "taylor, steps 2", "before pruning",
    ]  # fmt: skip
    lines = [[*line.get_xdata()] for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    lines = [line for line in lines if len({*line}) > 1]  # without intervals
    assert sorted(lines) == [[9, 20], [19, 50], [20, 40], [21, 40]]


def test_without_pruned_networks_there_is_no_plot_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unet-l1-50", "unet-l1-30"):
        monkeypatch.delitem(NETWORKS, name)
    assert "Pruned networks" not in write_comparison(made(), tmp_path).read_text(encoding="utf-8")
