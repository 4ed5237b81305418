"""The page of comparisons: every number of the files stands there, and the tables sort."""

import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from matplotlib.text import Text

from medarts.comparison.overall import overall
from medarts.comparison.paired import Measured, least_corrected_p
from medarts.comparison.pairs import Pairs
from medarts.comparison.pooled import Paired, mean_of_pairs
from medarts.comparison.result import Comparison, Missing
from medarts.errors import RunError
from medarts.reporting.comparison import write_comparisons
from medarts.reporting.comparison_plots import plot_latency
from medarts.reporting.comparison_points import Point, points_of
from medarts.reporting.comparison_words import verdict
from medarts.reporting.outlines import SCALE, outline
from medarts.reporting.style import MUTED

Content = dict[str, Any]

# name: kind, mean Dice, parameters, milliseconds on one thread
NETWORKS: dict[str, tuple[str, float, float, float]] = {
    "mixsearch": ("searched", 0.842, 0.81e6, 31),
    "alpha0_5_stage1_double_deep_ep80": ("published", 0.838, 0.83e6, 34),
    "alpha0_5_stage1_nodouble_deep_ep80": ("published", 0.806, 0.06e6, 18),
    "stage1_layer9_110epoch_double_deep_final": ("published", 0.829, 0.52e6, 30),
    "layer7_double_deep": ("published", 0.826, 0.66e6, 27),
    "stage0_double_deep_ep80_newim": ("published", 0.818, 0.29e6, 22),
    "random-1": ("random", 0.833, 0.79e6, 29),
    "random-2": ("random", 0.827, 0.82e6, 33),
    "random-3": ("random", 0.811, 0.80e6, 36),
    "unet": ("made by hand", 0.840, 2.16e6, 38),
    "attention-unet": ("made by hand", 0.846, 2.18e6, 47),
    "multiresunet": ("made by hand", 0.836, 1.95e6, 61),
    "r2unet": ("made by hand", 0.808, 2.45e6, 122),
    "attention-r2unet": ("made by hand", 0.815, 2.47e6, 131),
    "unetpp": ("made by hand", 0.844, 2.30e6, 110),
    "resenc-unet": ("made by hand", 0.853, 6.4e6, 97),
}
REFERENCE = "mixsearch"
SEEDS = (0, 1)
TEST = "Sign-flip permutation of patients, 10,000 draws, two-sided; corrected by Holm over 15 tests."


def make_comparison(
    folder: Path,
    *,
    networks: dict[str, Any] = NETWORKS,
    seed: int = 0,
    images: int = 120,
    size: int = 64,
    shift: float = 0,
    domains: Sequence[str] = ("isic",),
) -> Path:
    """Writes the folder of a comparison on generated images, three of a patient."""
    generator = np.random.default_rng(seed)
    names = [*networks]
    hard = generator.normal(0, 0.06, images)
    scores: dict[str, Any] = {}
    for name, (_, mean, _, _) in networks.items():
        own = generator.normal(0, 0.012)
        of_seeds = mean + shift + own + hard + generator.normal(0, 0.03, (len(SEEDS), images))
        of_seeds -= 0.4 * (generator.random((len(SEEDS), images)) < 0.02)
        scores[name] = np.clip(of_seeds + generator.normal(0, 0.006, (len(SEEDS), 1)), 0, 0.99)
    per_image = {name: values.mean(axis=0) for name, values in scores.items()}
    content = {
        "task": "segmentation",
        "score": "dice",
        "split": "test",
        "reference": REFERENCE,
        "planned_reference": None,
        "domains": [*domains],
        "images": images,
        "patients": images // 3,
        "size": size,
        "metrics": ["dice", "jaccard", "hd95"],
        "test": TEST,
        "definitions": {"dice": "Twice the overlap over the sum of both areas.", "hd95": "In pixels. <b>"},
        "machine": {"processor": "abacus", "cores": 2},
        "networks": [_network(name, networks[name], scores[name], per_image, generator) for name in names],
        "missing": [
            {"name": "r2unet", "seed": 2, "state": "failed", "reason": "DivergedError: the loss became NaN"},
            {"name": "unetpp", "seed": 2, "state": "not begun", "reason": ""},
        ],
        "controls": [],
        "excluded": {},
    }
    _mark_front(content["networks"])
    spread = np.ptp([per_image[name] for name in names], axis=0)
    differing = np.argsort(-spread)[:8]
    content["differing_images"] = [
        {
            "domain": "isic",
            "key": f"ISIC_{n:07d}",
            "patient": f"p{n // 3}",
            "spread": float(spread[n]),
            "values": {name: float(per_image[name][n]) for name in names},
        }
        for n in differing
    ]
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["domain", "key", "patient", *names])
        for n in range(images):
            writer.writerow(["isic", f"ISIC_{n:07d}", f"p{n // 3}", *(per_image[name][n] for name in names)])
    _write_overlays(folder / "overlays.npz", content["differing_images"], names, size=size, generator=generator)
    patients = np.arange(images) // 3
    pairs = {name: _pair(per_image[name] - per_image[REFERENCE], patients) for name in names if name != REFERENCE}
    Pairs(pairs).write(folder / "pairs.npz")
    return folder


def _pair(of_images: Any, patients: Any) -> Paired:
    """A difference as it is kept, with few draws."""
    shares = np.bincount(patients, weights=of_images) / len(of_images)
    chosen = np.random.default_rng(5).integers(len(shares), size=(200, len(shares)))
    measured = Measured(float(shares.sum()), (), drawn=shares[chosen].sum(axis=1), undefined=0)
    return Paired(measured, shares)


def alone(folder: Path, *, patients: int = 1) -> Path:
    """Makes a comparison one of so few patients: their first ones are all that count."""
    content, pairs = read(folder), Pairs.read(folder / "pairs.npz").to_reference
    content["patients"] = patients
    for network in content["networks"]:
        if patients == 1 and network["difference"]:
            network["difference"] |= {"low": None, "high": None, "p": None, "p_corrected": None}
    write(folder, content)
    few = {name: Paired(pair.measured, pair.contributions[:patients]) for name, pair in pairs.items()}
    Pairs(few).write(folder / "pairs.npz")
    return folder


def forget(folder: Path, name: str) -> None:
    """Takes the difference of a network out of the file of differences."""
    pairs = {**Pairs.read(folder / "pairs.npz").to_reference}
    del pairs[name]
    Pairs(pairs).write(folder / "pairs.npz")


def control(folder: Path, network: str, *drawn: str, planned: int, difference: Content) -> None:
    """Adds what a network is worth against those drawn like it, by differences to the reference."""
    content, pairs = read(folder), Pairs.read(folder / "pairs.npz").to_reference
    content["controls"].append({"network": network, "drawn": [*drawn], "planned": planned, "difference": difference})
    write(folder, content)
    mean = mean_of_pairs([pairs[name] for name in drawn])
    turned = Paired(replace(mean.measured, mean=-mean.measured.mean, drawn=-mean.measured.drawn), -mean.contributions)
    Pairs(pairs, {network: turned}).write(folder / "pairs.npz")


def _network(
    name: str, facts: tuple[str, float, float, float], scores: Any, per_image: dict[str, Any], generator: Any
) -> Content:
    kind, _, parameters, latency = facts
    values = per_image[name]
    error = 1.96 * values.std() / math.sqrt(len(values) / 2)

    def summary(offset: float, scale: float) -> Content:
        by_seed = [float(offset + scale * seed.mean()) for seed in scores]
        mean = float(np.mean(by_seed))
        return {
            "mean": mean,
            "low": mean - abs(scale) * error,
            "high": mean + abs(scale) * error,
            "by_seed": by_seed,
            "undefined": 0,
        }

    difference = None
    if name != REFERENCE:
        of_images = values - per_image[REFERENCE]
        mean, deviation = of_images.mean(), of_images.std() / math.sqrt(len(values) / 2)
        p = math.erfc(abs(mean) / deviation / math.sqrt(2))
        low, high = mean - 1.96 * deviation, mean + 1.96 * deviation
        difference = {"mean": mean, "low": low, "high": high, "p": p, "p_corrected": min(1.0, 15 * p)}
    return {
        "name": name,
        "kind": kind,
        "began_from": None,
        "seeds": [*SEEDS],
        "runs": [f"runs/isic/{name}/seed-{seed}" for seed in SEEDS],
        "scores": {"dice": summary(0, 1), "jaccard": summary(-0.25, 1.15), "hd95": summary(30, -30)},
        "difference": difference,
        "parameters": int(parameters),
        "flops": int(parameters * 2500),
        "latency_ms": {"1": latency * generator.uniform(0.95, 1.05), "2": latency * 0.6},
        "latency_spread_ms": {"1": 0.012 * latency, "2": 0.02 * latency},
        "memory_mb": 180 + latency,
        "training_seconds": 20 * latency,
    }


def _mark_front(networks: list[Content]) -> None:
    """Marks the networks that none exceeds, pair by pair as the definition says it."""
    place = {n["name"]: (n["scores"]["dice"]["mean"], -n["latency_ms"]["1"]) for n in networks}
    for network in networks:
        own = place[network["name"]]
        network["front"] = not any(o != own and o[0] >= own[0] and o[1] >= own[1] for o in place.values())


def _write_overlays(path: Path, rows: list[Content], names: list[str], *, size: int, generator: Any) -> None:
    y, x = np.mgrid[:size, :size] / size
    images, targets, predictions = [], [], []
    for row in rows:
        centre, radii = generator.uniform(0.35, 0.65, 2), generator.uniform(0.15, 0.38, 2)
        angles = np.arctan2(y - centre[0], x - centre[1])
        distance = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
        target = distance < 1 + 0.12 * np.sin(5 * angles)
        skin = np.asarray([0.86, 0.68, 0.58]) - 0.05 * generator.random((size, size, 1))
        lesion = 0.45 / (1 + np.exp(12 * (distance - 1)))
        images.append((skin - lesion[..., None] * [0.8, 1.0, 0.9]).clip(0, 1))
        targets.append(target)
        of_networks = []
        for name in names:
            grown = 1 + (1 - row["values"][name]) * generator.choice([-1, 1]) * (1 + 0.5 * np.sin(3 * angles))
            of_networks.append(distance < grown + 0.03 * np.sin(7 * angles + generator.uniform(0, 6)))
        predictions.append(of_networks)
    np.savez_compressed(
        path,
        images=np.asarray(images, np.float32),
        targets=np.asarray(targets, np.uint8),
        predictions=np.asarray(predictions, np.uint8),
        networks=np.asarray(names),
    )


def read(folder: Path) -> Content:
    content: Content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    return content


def write(folder: Path, content: Content) -> None:
    (folder / "comparison.json").write_text(json.dumps(content), encoding="utf-8")


def few(*names: str) -> dict[str, Any]:
    return {name: NETWORKS[name] for name in (REFERENCE, *names)}


class Page(HTMLParser):
    """What stands on a page: its tables, sections and the size of its pictures; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open = text, list[str]()
        self.sections: list[str] = []
        self.tables: list[list[list[tuple[str, str | None]]]] = []
        self.ids: list[str] = []
        self.uses: list[str] = []
        self.paths: list[dict[str, str | None]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "section":
            self.sections.append(values["id"] or "")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"th", "td"}:
            self.tables[-1][-1].append(("", values.get("data-value")))
        if tag not in {"meta", "wbr", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag == "use" and (values.get("href") or "").startswith("#set"):
            self.uses.append((values["href"] or "")[1:])
        if tag == "path" and values.get("class") in {"truth", "predicted"}:
            self.paths.append(values)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"th", "td"} & set(self.open):
            text, value = self.tables[-1][-1].pop()
            self.tables[-1][-1].append((text + data, value))

    def column(self, title: str, table: int = 0) -> dict[str, tuple[str, str | None]]:
        """The cells of a column by the name of the row."""
        header, *rows = self.tables[table]
        place = [text for text, _ in header].index(title)
        return {row[0][1] or "": row[place] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_comparison(tmp_path_factory.mktemp("comparisons") / "isic")


@pytest.fixture(scope="module")
def page_file(folder: Path) -> Path:
    target = folder.parent / "report.html"
    assert write_comparisons({"isic & more": folder}, target, title="Sixteen <networks>", note="A note.") == target
    return target


@pytest.fixture(scope="module")
def page(page_file: Path) -> Page:
    return Page(page_file.read_text(encoding="utf-8"))


def test_the_table_holds_every_number(page: Page, folder: Path) -> None:
    content = read(folder)
    scores = {n["name"]: n["scores"]["dice"] for n in content["networks"]}
    shown = page.column("Dice")
    assert [*shown] == sorted(scores, key=lambda name: -scores[name]["mean"])
    for name, (text, value) in shown.items():
        assert float(value or "") == scores[name]["mean"]
        assert text == "{mean:.3f}{low:.3f} to {high:.3f}".format(**scores[name])
    for network in content["networks"]:
        name = network["name"]
        for title, expected in (
            ("parameters, M", network["parameters"]),
            ("GFLOPs", network["flops"]),
            ("ms, 1 thread", network["latency_ms"]["1"]),
            ("ms, 2 threads", network["latency_ms"]["2"]),
            ("memory, MB", network["memory_mb"]),
            ("training, minutes", network["training_seconds"]),
        ):
            assert float(page.column(title)[name][1] or "") == expected
        difference = network["difference"]
        p = page.column("corrected p")[name]
        assert p == ("–", "") if difference is None else float(p[1] or "") == difference["p_corrected"]
    assert page.column("training, minutes")["unet"][0] == "12.7"
    assert page.column("parameters, M")["unet"][0] == "2.16"
    assert page.column("parameters, M")["alpha0_5_stage1_nodouble_deep_ep80"][0] == "0.0600"
    assert page.column("ms, 2 threads")["r2unet"][0] == "73.2range 2.44"
    assert page.column("kind")["random-1"] == ("random", "random")
    low, high = sorted(scores["unet"]["by_seed"])
    assert page.column("range of seeds")["unet"][0] == f"{low:.3f}–{high:.3f}"


def test_the_page_opens_offline_and_is_small(page: Page) -> None:
    # Addresses of pictures and styles; none may lead elsewhere.
    assert not re.search(r"https?://|url\((?!#)|@import|<link|<script src", page.text)
    assert len(page.text) < 1.2e6


def test_text_of_users_is_escaped(page: Page) -> None:
    assert "Sixteen &lt;networks&gt;" in page.text
    assert "isic &amp; more" in page.text
    assert "In pixels. &lt;b&gt;" in page.text


def test_what_is_missing_is_said_with_its_reason(page: Page) -> None:
    assert "r2unet, seed 2: failed. DivergedError: the loss became NaN" in page.text
    assert "not begun, by network and seed: unetpp (2)<" in page.text
    assert TEST in page.text


def test_every_image_is_there_once_and_outlined_for_every_network(page: Page) -> None:
    assert page.text.count("data:image/jpeg;base64,") == 8
    assert len([path for path in page.paths if path["class"] == "truth"]) == 8
    assert len([path for path in page.paths if path["class"] == "predicted"]) == 8 * len(NETWORKS)
    assert len(page.uses) == 2 * 8 * len(NETWORKS)
    assert set(page.uses) <= set(page.ids)
    own = [name for name in page.ids if name.startswith("set-")]
    assert len(own) == len(set(own)) == 1 + 2 * 8
    assert "predicts with the run of its lowest seed, while the score below is its mean over the seeds." in page.text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.text)
    assert captions[0] == "true outline"
    assert captions[1].startswith(f"<b>{REFERENCE}</b> 0.")


def test_runs_in_folders_of_any_name_are_kept_and_shown(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "comparison")
    comparison = Comparison.read(folder)
    first, *others = comparison.networks
    odd = replace(first, runs=("runs/a <b> & 'c' #1/caf\udce9\x1b",))
    replace(comparison, networks=(odd, *others)).write(folder)
    assert Comparison.read(folder).networks[0].runs == odd.runs
    page = write_comparisons({"isic": folder}, tmp_path / "report.html", title="x").read_text(encoding="utf-8")
    assert r"runs/a &lt;b&gt; &amp; &#39;c&#39; #1/caf\xe9\x1b" in page


def test_what_is_left_out_of_the_means_is_named(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "comparison")
    path = folder / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"excluded": {"isic": ["class <2>"]}}))
    page = write_comparisons({"isic": folder}, tmp_path / "report.html", title="x").read_text(encoding="utf-8")
    assert "isic: left out of the means, as no image shows it: class &lt;2&gt;." in page


def test_files_beside_the_page_are_linked(page: Page) -> None:
    assert 'href="isic/networks.csv"' not in page.text  # not written in this test
    assert 'href="isic/comparison.json"' in page.text


def test_several_data_sets_have_a_summary(tmp_path: Path) -> None:
    sets = {
        "isic": make_comparison(tmp_path / "isic", networks=few("unet", "unetpp"), seed=1),
        "cvc": make_comparison(tmp_path / "cvc", networks=few("unet"), seed=2, shift=-0.1),
    }
    for number, (name, path) in enumerate(sets.items()):
        content = read(path)
        for network in content["networks"]:
            mean = {"mixsearch": (0.80, 0.70), "unet": (0.84, 0.70), "unetpp": (0.9, 0)}[network["name"]][number]
            network["scores"]["dice"]["mean"] = mean
            latency = {"mixsearch": 10, "unet": 30, "unetpp": 50}[network["name"]] + 10 * number
            network |= {"latency_ms": {"1": latency}, "latency_spread_ms": {"1": 1.0}}
            if network["difference"]:
                network["difference"] |= {"mean": mean - 0.8, "p_corrected": 0.01 if name == "isic" else 0.2}
        write(path, content)
    target = tmp_path / "report.html"
    page = Page(write_comparisons(sets, target, title="Two sets").read_text(encoding="utf-8"))
    assert page.sections == ["summary", "set-1", "set-2"]
    means = {name: float(value) if value else None for name, (_, value) in page.column("mean").items()}
    assert means == {"unet": pytest.approx(0.77), "mixsearch": pytest.approx(0.75), "unetpp": None}
    # Ranks are among those on both sets: 1 and 1.5 for unet, 2 and 1.5 for the reference.
    assert page.column("mean rank")["unet"] == ("1.2", "1.25")
    assert page.column("mean rank")["mixsearch"] == ("1.8", "1.75")
    assert page.column("ms, 1 thread")["unet"] == ("35.0range 1.00", "35.0")
    assert "Costs are means over the data sets, each of which has measurements of its own." in page.text
    assert page.column("better, worse than mixsearch")["unet"][0] == "1, 0of 2"
    assert page.column("better, worse than mixsearch")["unetpp"][0] == "1, 0of 1"
    assert "for lack of a score on some data set: unetpp." in page.text
    assert "mixsearch is on the Pareto front" in page.text
    assert (
        "Of 3 comparisons with another network on one data set, corrected within each data set, mixsearch wins 0 "
        "beyond chance, loses 2, and 1 stays open."
    ) in page.text


def test_a_data_set_of_few_networks_does_not_cost_the_others_their_mean(tmp_path: Path) -> None:
    networks = few("unet", "unetpp", "r2unet")
    sets = {
        "isic": make_comparison(tmp_path / "isic", networks=networks, seed=1),
        "cvc": make_comparison(tmp_path / "cvc", networks=networks, seed=2),
        "nuclei": make_comparison(tmp_path / "nuclei", networks=few("unet"), seed=3),
    }
    target = tmp_path / "report.html"
    page = Page(write_comparisons(sets, target, title="Left out").read_text(encoding="utf-8"))
    assert all(value for _, value in page.column("mean").values())
    assert len(page.column("mean")) == 4
    assert "Means and ranks leave out nuclei, where many networks have no score." in page.text


def test_the_mean_over_data_sets_is_tested(tmp_path: Path) -> None:
    networks = few("unet", "unetpp", "r2unet")
    sets = {
        "isic": make_comparison(tmp_path / "isic", networks=networks, seed=1),
        "chaos": alone(make_comparison(tmp_path / "chaos", networks=networks, seed=2)),
        "cvc": make_comparison(tmp_path / "cvc", networks=networks, seed=3, images=60),
    }
    target = tmp_path / "report.html"
    page = Page(write_comparisons(sets, target, title="Three sets").read_text(encoding="utf-8"))
    given = {name: Comparison.read(path) for name, path in sets.items()}
    means = {
        network.name: np.mean([network.scores["dice"].mean, given["cvc"].networks[place].scores["dice"].mean])
        for place, network in enumerate(given["isic"].networks)
    }
    assert {name: float(value or "") for name, (_, value) in page.column("mean").items()} == pytest.approx(means)
    rows = overall(given).rows
    tested = []
    for name in ("unet", "unetpp", "r2unet"):
        text, value = page.column("difference to mixsearch")[name]
        found = rows[name].difference
        assert found is not None
        pairs = [given[one].pairs.to_reference[name] for one in ("isic", "cvc")]
        assert float(value or "") == found.mean == pytest.approx(np.mean([pair.measured.mean for pair in pairs]))
        assert text == f"{found.mean:+.3f}{found.low:+.3f} to {found.high:+.3f}"
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.mean < found.high
        assert page.column("corrected p")[name][1] == str(found.p_corrected)
        tested.append((found.p, found.p_corrected))
    smallest, *_, largest = sorted(tested)
    assert smallest[1] == pytest.approx(min(1, 3 * smallest[0]))
    assert largest[1] >= largest[0]
    assert page.column("difference to mixsearch")[REFERENCE] == ("–", "")
    assert "chaos has 1 patient: it is shown, and not counted in means, ranks and tests over data sets." in page.text
    assert page.column("chaos")["unet"][1]
    assert "3 were not tested." in page.text  # those on chaos
    assert "in mean Dice beyond chance (corrected p below 0.05): unet and r2unet are worse." in page.text


def test_a_search_is_compared_with_random_networks_like_it(tmp_path: Path) -> None:
    names = ("random-1", "random-2", "unet")
    sets = {
        "isic": make_comparison(tmp_path / "isic", networks=few(*names), seed=1),
        "cvc": make_comparison(tmp_path / "cvc", networks=few(*names), seed=3, images=60),
    }
    told = {"mean": 0.0112, "low": 0.002, "high": 0.0204, "p": 0.012, "p_corrected": 0.012}
    control(sets["isic"], REFERENCE, "random-1", "random-2", planned=3, difference=told)
    unsure = {"mean": -0.02, "low": -0.05, "high": 0.01, "p": 0.2, "p_corrected": 0.2}
    control(sets["cvc"], REFERENCE, "random-1", planned=1, difference=unsure)
    text = write_comparisons(sets, tmp_path / "report.html", title="Random").read_text(encoding="utf-8")
    said = unescape(text)
    assert (
        "The search's own contribution: mixsearch is 0.011 Dice better than 2 of the 3 random genotypes of its size on "
        "average (95 % interval +0.002 to +0.020, p 0.012)."
    ) in said
    assert "mixsearch is 0.020 Dice worse than 1 random genotype of its size" in said
    assert "-0.050 to +0.010, p 0.200: not beyond chance)" in said
    (pooled,) = overall({name: Comparison.read(path) for name, path in sets.items()}).controls
    pairs = [Comparison.read(path).pairs.of_controls[REFERENCE] for path in sets.values()]
    assert pooled.difference.mean == pytest.approx(np.mean([pair.measured.mean for pair in pairs]))
    assert (pooled.fewest, pooled.most, pooled.patients) == (1, 2, 60)
    verb = "worse" if pooled.difference.mean < 0 else "better"
    assert (
        f"The search's own contribution over isic and cvc: mixsearch is {abs(pooled.difference.mean):.3f} Dice "
        f"{verb} than 1 to 2 random genotypes of its size on average (95 % interval "
    ) in said


def test_groups_of_several_data_sets_are_not_counted(tmp_path: Path) -> None:
    both = make_comparison(tmp_path / "both", networks=few("unet"), seed=3, domains=("isic", "cvc"))
    sets = {
        "isic": make_comparison(tmp_path / "isic", networks=few("unet"), seed=1),
        "isic-cvc": both,
        "cvc": make_comparison(tmp_path / "cvc", networks=few("unet"), seed=2),
    }
    for path in sets.values():  # measured once
        content = read(path)
        for network in content["networks"]:
            network["latency_ms"] = {"1": NETWORKS[network["name"]][3]}
        write(path, content)
    target = tmp_path / "report.html"
    failed = {"nuclei": [Missing("unet", 0, "failed", "no <space> left"), Missing("unet", 1, "not begun", "")]}
    page = Page(write_comparisons(sets, target, title="Mixed", without_runs=failed).read_text(encoding="utf-8"))
    assert page.sections == ["summary", "set-1", "set-2", "set-3", "none-1"]
    header = [text for text, _ in page.tables[0][0]]
    assert header[1:7] == ["mean", "difference to mixsearch", "corrected p", "mean rank", "isic", "cvc"]
    assert page.column("better, worse than mixsearch")["unet"][0].endswith("of 2")
    assert "<b>240</b><span>images of 2 data sets</span>" in page.text
    assert "Of 2 comparisons with another network on one data set, corrected within each data set," in page.text
    assert "shown by themselves and not counted here: isic-cvc." in page.text
    assert "Costs were measured once" in page.text
    assert "No run has finished, so there is nothing to compare." in page.text
    assert "unet, seed 0: failed. no &lt;space&gt; left" in page.text
    alone = Page(write_comparisons({"isic-cvc": both}, target, title="Mix alone").read_text(encoding="utf-8"))
    assert alone.sections == ["set-1"]


def test_classification_has_no_pictures(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "rays", networks=few("unet", "unetpp"))
    content = read(path)
    content |= {"task": "classification", "score": "auroc", "metrics": ["auroc", "average_precision"]}
    content |= {"differing_images": []}
    for network in content["networks"]:
        dice = network["scores"].pop("dice")
        network["scores"] = {"auroc": dice, "average_precision": {**dice, "mean": 0.2}}
    write(path, content)
    (path / "overlays.npz").unlink()
    (path / "images.csv").unlink()
    page = Page(write_comparisons({"rays": path}, tmp_path / "r.html", title="Rays").read_text(encoding="utf-8"))
    assert page.column("average precision")["unet"][1] == "0.2"
    assert "AUROC against latency" in page.text
    assert "Image by image" not in page.text
    assert "Where they differ most" not in page.text


def test_undefined_scores_leave_a_dash(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp"))
    content = read(path)
    unet = next(n for n in content["networks"] if n["name"] == "unet")
    nothing = {"mean": None, "low": None, "high": None, "by_seed": [], "undefined": 120}
    unet["scores"] = dict.fromkeys(unet["scores"], nothing)
    unet |= {"front": False, "difference": None}
    write(path, content)
    forget(path, "unet")
    rows = (path / "images.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("unet")
    cells = [row.split(",") for row in rows[1:]]
    without = [",".join("nan" if place == column else text for place, text in enumerate(row)) for row in cells]
    (path / "images.csv").write_text("\n".join([rows[0], *without]) + "\n", encoding="utf-8")
    page = Page(write_comparisons({"isic": path}, tmp_path / "r.html", title="x").read_text(encoding="utf-8"))
    assert page.column("Dice")["unet"] == ("–120 undefined", "")
    assert [*page.column("Dice")][-1] == "unet"
    assert page.column("difference to mixsearch")["unet"] == ("–", "")
    assert "Not tested, for lack of patients, scores or common seeds: unet." in page.text


def test_folders_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no comparison to show"):
        write_comparisons({}, tmp_path / "r.html", title="x")
    with pytest.raises(RunError, match=r"comparison\.json does not exist"):
        write_comparisons({"a": tmp_path}, tmp_path / "r.html", title="x")
    sets = {name: make_comparison(tmp_path / name, networks=few("unet"), images=6) for name in ("a", "b")}
    content = read(sets["b"])
    for network in content["networks"]:
        network["scores"]["auroc"] = network["scores"].pop("dice")
    write(sets["b"], content | {"score": "auroc"})
    with pytest.raises(RunError, match="a is compared by dice and b by auroc"):
        write_comparisons(sets, tmp_path / "r.html", title="x")
    assert not (tmp_path / "r.html").exists()


def browse(target: Path, script: str, *, width: int) -> Any:
    """Opens a page in a browser, so many pixels wide, runs a script there, and returns what it returns.

    The page stands in a frame, as windows have a least width.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    report = f"parent.document.documentElement.dataset.found = JSON.stringify((() => {{ {script} }})());"
    page = target.read_text(encoding="utf-8").replace("</body>", f"<script>{report}</script></body>")
    frame = f'<iframe style="border: 0; width: {width}px; height: 800px" srcdoc="{escape(page)}"></iframe>'
    opened = target.with_name("opened.html")
    opened.write_text(f"<!DOCTYPE html><html><body>{frame}</body></html>", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    profile = f"--user-data-dir={target.parent / 'profile'}"
    command = [browser, *options, profile, "--dump-dom", opened.resolve().as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found
    return json.loads(unescape(found[1]))


def test_a_click_sorts_and_nothing_is_wider_than_a_phone(page_file: Path, folder: Path) -> None:
    """In one visit: clicks on headers of a number, of one with missing values, and of words."""
    script = """
      const table = document.querySelector("table.sortable");
      const found = [];
      for (const title of ["ms, 1 thread", "ms, 1 thread", "corrected p", "corrected p", "network"]) {
        const header = [...table.tHead.rows[0].cells].find((cell) => cell.textContent === title);
        header.querySelector("button").click();
        const sorted = [...table.querySelectorAll("[aria-sort]")].map((cell) => [cell.textContent, cell.ariaSort]);
        found.push({ sorted, names: [...table.tBodies[0].rows].map((row) => row.cells[0].dataset.value) });
      }
      const page = document.documentElement;
      const scatters = [...document.querySelectorAll(".wide svg, .narrow svg")].map((one) => one.clientWidth);
      return { found, scatters, width: page.scrollWidth };
    """
    content = browse(page_file, script, width=390)
    latency = {n["name"]: n["latency_ms"]["1"] for n in read(folder)["networks"]}
    up, down, p_up, p_down, names = content["found"]
    assert up == {"sorted": [["ms, 1 thread", "ascending"]], "names": sorted(latency, key=lambda n: latency[n])}
    assert down == {"sorted": [["ms, 1 thread", "descending"]], "names": up["names"][::-1]}
    assert p_up["names"][-1] == p_down["names"][-1] == REFERENCE  # it has no p value
    assert p_up["sorted"] == [["corrected p", "ascending"]]
    assert names["names"][0] == "alpha0_5_stage1_double_deep_ep80"
    assert content["width"] == 390
    wide, narrow = content["scatters"]
    assert wide == 0  # not shown
    assert 300 < narrow <= 390


def judged(folder: Path, found: dict[str, tuple[float, float | None]]) -> list[str]:
    """The sentences where networks differ from the reference by so much, with such corrected p values."""
    content = read(folder)
    for network in content["networks"]:
        if network["name"] != REFERENCE:
            mean, p = found[network["name"]]
            network["difference"] |= {"mean": mean, "p_corrected": p}
    write(folder, content)
    return verdict(Comparison.read(folder))


def test_the_verdict_says_what_is_beyond_chance_and_what_is_not(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp", "r2unet", "random-1"))
    names = [n.name for n in Comparison.read(folder).networks if n.name != REFERENCE]
    one_each = judged(folder, dict(zip(names, [(0.02, 0.049), (-0.02, 0.01), (0.01, 0.05), (-0.3, None)], strict=True)))
    better, worse = names[:2]
    assert one_each[1] == (
        f"2 of 4 networks differ from mixsearch beyond chance (corrected p below 0.05): {better} is better; "
        f"{worse} is worse."
    )
    assert "Between mixsearch and the other one these images do not decide" in one_each[2]
    assert one_each[3] == f"Not tested, for lack of patients, scores or common seeds: {names[3]}."
    nothing = judged(folder, dict.fromkeys(names, (0.01, 0.3)))
    assert nothing[1].startswith("None of the 4 other networks differs from mixsearch beyond chance")
    assert "which is not a proof that they are equal" in nothing[2]
    untested = judged(folder, dict.fromkeys(names, (0.01, None)))
    assert not any("beyond chance" in sentence for sentence in untested)


def test_so_few_patients_that_nothing_can_be_decided(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp", "r2unet"))
    alone(folder, patients=7)  # 3 * 2 / 128 is below 0.05
    assert not any("Too few" in sentence for sentence in verdict(Comparison.read(folder)))
    alone(folder, patients=6)
    sentences = verdict(Comparison.read(folder))
    least = least_corrected_p(6, comparisons=3)
    assert least == pytest.approx(0.09375)
    assert sentences[1] == (
        "Too few patients to decide any single comparison with mixsearch: with 6 patients and 3 comparisons no "
        "corrected p can be below 0.094."
    )
    assert not any("do not decide" in s or "beyond chance" in s for s in sentences)
    other = make_comparison(tmp_path / "cvc", networks=few("unet"), seed=2)
    page = write_comparisons({"isic": folder, "cvc": other}, tmp_path / "r.html", title="x").read_text(encoding="utf-8")
    assert "; 3 could not be decided: too few patients." in page
    assert Page(page).column("better, worse than mixsearch")["unet"][0].endswith("of 1")  # not on the data set of six


def test_the_verdict_says_who_began_from_trained_weights(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp"))
    content = read(folder)
    assert not any("trained weights" in sentence for sentence in verdict(Comparison.read(folder)))
    content["networks"][1]["began_from"] = "densenet121.pth"
    write(folder, content)
    said = "unet began from trained weights (densenet121.pth), the others from scratch."
    assert said in verdict(Comparison.read(folder))
    sets = {"isic": folder, "cvc": make_comparison(tmp_path / "cvc", networks=few("unet", "unetpp"), seed=2)}
    page = write_comparisons(sets, tmp_path / "r.html", title="x").read_text(encoding="utf-8")
    assert page.count(said) == 2  # in the summary too


def test_the_verdict_names_who_is_ahead_on_the_front(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp"))
    content = read(folder)
    for network, mean, latency in zip(content["networks"], (0.8, 0.8, 0.9), (20, 10, 50), strict=True):
        network["scores"]["dice"]["mean"], network["latency_ms"]["1"] = mean, latency
        network["latency_spread_ms"]["1"] = 1.0
        network["front"] = network["name"] != REFERENCE
        network["seeds"] = [0]
    write(folder, content)
    sentences = verdict(Comparison.read(folder))
    assert sentences[0].endswith("mixsearch, the reference, has 0.800 and is 2nd of 3.")
    assert any(
        "is not on the Pareto front" in s and s.endswith(": unet is at least as good and as fast.") for s in sentences
    )
    assert "trained with one seed" in sentences[-1]


def test_the_verdict_says_who_stands_in_and_who_lacks_seeds(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "isic", networks=few("unet", "unetpp"))
    content = read(folder)
    content["planned_reference"] = "ours"
    content["networks"][1]["seeds"], content["networks"][2]["seeds"] = [0], [1, 2]
    write(folder, content)
    sentences = verdict(Comparison.read(folder))
    assert sentences[0] == "The planned reference ours has no finished run; mixsearch instead."
    assert sentences[-1] == (
        "Not all were trained with seeds 0, 1 and 2: mixsearch lacks seed 2; unet lacks seeds 1 and 2; unetpp lacks "
        "seed 0. A mean is over the seeds that a network has; a difference to the reference, over those that both have."
    )
    content["networks"] = [network | {"seeds": [0, 1]} for network in content["networks"]]
    write(folder, content | {"planned_reference": None})
    assert not any("seeds 0" in s or "planned" in s for s in verdict(Comparison.read(folder)))


@pytest.mark.parametrize("narrow", [False, True])
def test_names_of_sixteen_networks_cover_neither_each_other_nor_points(folder: Path, narrow: bool) -> None:
    points = points_of(Comparison.read(folder))
    figure = plot_latency(points, title="Dice", reference=REFERENCE, narrow=narrow)
    axes = figure.axes[0]
    names = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in names] == [str(n) if narrow else p.name for n, p in enumerate(points, 1)]
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text).extents for text in names]
    for number, (left, bottom, right, top) in enumerate(boxes):
        for other in boxes[:number]:
            assert left >= other[2] or right <= other[0] or bottom >= other[3] or top <= other[1]
        for point in points:
            x, y = axes.transData.transform((point.latency_ms, point.score))
            assert not (left < x < right and bottom < y < top)


def test_the_front_is_drawn_in_steps() -> None:
    def point(name: str, score: float, latency: float, *, front: bool) -> Point:
        return Point(name, "random", score, latency, 0.1, 1e6, front)

    points = [
        point("a", 0.9, 30, front=True),
        point("b", 0.7, 10, front=True),
        point("c", 0.6, 100, front=False),
    ]
    lines = plot_latency(points, title="Dice", reference="a").axes[0].get_lines()
    (line,) = [line for line in lines if line.get_color() == MUTED and line.get_marker() == "None"]
    assert [*zip(*line.get_data(), strict=True)] == [(10, 0.7), (30, 0.7), (30, 0.9), (100, 0.9)]


@pytest.mark.parametrize("seed", range(3))
def test_an_outline_encloses_its_mask(seed: int) -> None:
    """The middle of a pixel lies within the path just where the mask is; holes and borders included."""
    noise = np.random.default_rng(seed).random((12, 15))
    smooth = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3
    mask = np.digitize(smooth, [0.5, 0.6])
    y, x = np.mgrid[:12, :15] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * SCALE
    for value in (1, 2):
        inside = np.zeros(mask.size, dtype=bool)
        for part in outline(np.where(mask == value, value, 0)).split("z")[:-1]:
            start, moves = part.removeprefix("M").split("l")
            steps = np.asarray(moves.split(), dtype=int).reshape(-1, 2)
            corners = np.vstack([np.asarray(start.split(), dtype=int), steps]).cumsum(axis=0)
            inside ^= Polygon(np.vstack([corners, corners[:1]])).contains_points(centres)
        np.testing.assert_array_equal(inside.reshape(mask.shape), mask == value)
    both = outline(mask)
    assert both == outline(np.where(mask == 1, 1, 0)) + outline(np.where(mask == 2, 2, 0))
    assert not outline(np.zeros((4, 4), int))
