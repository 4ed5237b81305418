"""Scores of a trained classifier: files, thresholds, other data sets, and agreement with the network that was saved."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks import nets

from medarts.config import Recipe, SourceSettings, apply_overrides, make_source, parse, to_yaml
from medarts.config.data import IGNORE
from medarts.config.reading import deciding_values, fingerprint
from medarts.data.opening import open_data, open_manifest
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, RunError
from medarts.evaluation.evaluate import current_scores, evaluate
from medarts.evaluation.scores import Scores, excluded
from medarts.evaluation.scoring import grad_cam
from medarts.evaluation.summary import ALL, MEAN_OF_FINDINGS, wide
from medarts.profiling.plan import plan
from medarts.reporting.page import write_report
from medarts.spaces.darts import Darts, DartsSettings
from medarts.system.randomness import seed_torch
from medarts.terminal import show_scores
from medarts.training.trained import load_network
from medarts.training.trainer import start_training

FINDINGS = ("disc", "bar", "bright")
FILES = ["examples.npz", "scores.csv", "scores.json", "summary.csv"]


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def accept_data(run: RunDirectory) -> None:
    """Has a run take the data that are there now for those that it was trained on."""
    run.write_json("run.json", run.facts | {"data_fingerprint": open_manifest(run.recipe.data, needs=()).fingerprint()})


@pytest.fixture
def recipe(finding_recipe: Recipe) -> Recipe:
    changes = ("train.optimizer=adamw", "train.lr=0.01", "train.schedule=cosine", "space.drop_path_prob=0")
    return changed(finding_recipe, *changes)


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDirectory:
    """A training run of two epochs, with an auxiliary head, which evaluation does not see."""
    seed_torch(0, "genotype")
    settings = changed(recipe, "space.auxiliary=true")
    assert isinstance(settings.space, DartsSettings)
    space = Darts(settings.space, in_channels=1, outputs=3, supernet=settings.search.supernet)
    supernet = space.supernet(settings.search.stages[0], None)
    return start_training(recipe, supernet.derive(recipe.derive, name="small", provenance={}), tmp_path / "run")


def table(path: Path, name: str) -> SourceSettings:
    return make_source(kind="table", path=path, name=name)


def logits_of(run: RunDirectory, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a split, from the saved network and one image after the other."""
    network, store = load_network(run).eval(), open_data(run.recipe.data, needs=())
    positions = store.indices(store.manifest.of_split(split))
    with torch.no_grad():
        logits = [network(torch.from_numpy(store.images[[position]]).float())[0] for position in positions]
    return torch.stack(logits).numpy(), np.asarray(store.targets[positions])


class Predictions:
    """What a table says of images and findings."""

    def __init__(self, scores: Scores) -> None:
        logits, labels, images = wide(scores.table)
        self.findings = tuple(logits.columns)
        self.logits, self.labels = logits.to_numpy(), labels.to_numpy()
        self.probabilities = 1 / (1 + np.exp(-self.logits / scores.calibration.temperature))
        self.keys, self.domains, self.patients = ([*images[name]] for name in ("image", "dataset", "patient"))


def value_of(scores: Scores, name: str, metric: str = "auroc") -> float:
    summary = scores.summary
    return float(summary[(summary["class"] == name) & (summary["metric"] == metric)]["value"].iloc[-1])


def thresholds_of(scores: Scores, rule: str) -> list[float]:
    return [scores.calibration.thresholds[rule][name] for name in FINDINGS]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def pairs_in_order(scores: np.ndarray, labels: np.ndarray) -> float:
    """The area under the ROC curve as the share of pairs in the right order, ties counting half."""
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    return sum(1.0 if yes > no else 0.5 if yes == no else 0.0 for yes, no in pairs) / len(pairs)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_scores_agree_with_the_saved_network(run):
    scores = evaluate(run.path)
    assert (scores.split, scores.checkpoint, Predictions(scores).findings) == ("test", "best", FINDINGS)
    logits, labels = logits_of(run, "test")
    assert logits.shape == (8, 3)
    np.testing.assert_allclose(Predictions(scores).logits, logits, atol=1e-5)
    np.testing.assert_array_equal(Predictions(scores).labels, labels)
    assert sorted(Predictions(scores).patients) == sorted(f"p{number // 2}" for number in range(24, 32))
    assert set(Predictions(scores).domains) == {"films"}
    assert scores.draws == 100


def test_auroc_is_that_of_the_table_on_disk(run):
    scores = evaluate(run.path)
    rows = rows_of(run.path / "scores" / "test" / "scores.csv")
    assert len(rows) == 8 * 3 * 3
    areas = []
    for name in FINDINGS:
        logits, labels, probabilities = (
            np.array([float(row["value"]) for row in rows if (row["class"], row["metric"]) == (name, metric)])
            for metric in ("logit", "label", "probability")
        )
        np.testing.assert_allclose(probabilities, sigmoid(logits / scores.calibration.temperature), rtol=1e-9)
        areas.append(pairs_in_order(logits, labels))
        assert value_of(scores, name) == pytest.approx(areas[-1])
    assert value_of(scores, MEAN_OF_FINDINGS) == pytest.approx(np.mean(areas))


def test_validation_auroc_of_the_best_epoch_is_found_again(run):
    """Evaluation on the validation set must tell what training told of the weights it kept."""
    assert value_of(evaluate(run.path, split="val"), MEAN_OF_FINDINGS) == pytest.approx(
        run.read_json("summary.json")["best_score"]
    )


def test_thresholds_and_temperature_come_from_validation(run):
    scores = evaluate(run.path)
    logits, labels = logits_of(run, "val")
    probabilities = sigmoid(logits / scores.calibration.temperature)

    def loss(temperature: float) -> float:
        p = sigmoid(logits / temperature)
        return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())

    grid = np.geomspace(0.1, 10, 400)
    best = grid[np.argmin([loss(temperature) for temperature in grid])]
    assert scores.calibration.temperature == pytest.approx(best, rel=0.02)
    for column in range(3):
        values, truth = probabilities[:, column], labels[:, column] == 1

        def youden(threshold: float, values=values, truth=truth) -> float:
            return (values[truth] >= threshold).mean() + (values[~truth] < threshold).mean()

        threshold = thresholds_of(scores, "youden")[column]
        assert youden(threshold - 1e-6) == pytest.approx(max(youden(value - 1e-6) for value in [*values, 2]))
        sensitive = thresholds_of(scores, "sensitive")[column]
        assert (values[truth] >= sensitive - 1e-6).mean() >= 0.9
        assert (values[truth] >= sensitive + 1e-6).mean() < 0.9
    others = evaluate(run.path, split="train")
    assert others.calibration.temperature == pytest.approx(scores.calibration.temperature)
    for rule in ("youden", "sensitive"):
        np.testing.assert_allclose(thresholds_of(others, rule), thresholds_of(scores, rule), atol=1e-9)
    called = Predictions(scores).probabilities[:, 0] >= thresholds_of(scores, "youden")[0]
    truth = Predictions(scores).labels[:, 0] == 1
    assert value_of(scores, "disc", "youden_sensitivity") == pytest.approx(called[truth].mean())
    assert value_of(scores, "disc", "youden_specificity") == pytest.approx((~called[~truth]).mean())


def test_files(run):
    scores = evaluate(run.path)
    folder = run.path / "scores" / "test"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    again = Scores.read(folder)
    pd.testing.assert_frame_equal(again.table, scores.table)
    pd.testing.assert_frame_equal(again.summary, scores.summary)
    content = json.loads((folder / "scores.json").read_text())
    assert (content["split"], content["checkpoint"], content["task"]) == ("test", "best", "classification")
    assert content["calibration"]["sensitivity"] == 0.9


def test_an_example_of_every_finding_with_its_map(run):
    scores = evaluate(run.path)
    store = open_data(run.recipe.data, needs=())
    position = {sample.key: number for number, sample in enumerate(store.manifest.samples)}
    network = load_network(run).eval()
    with np.load(run.path / "scores" / "test" / "examples.npz") as examples:
        assert examples["images"].shape == (3, 32, 32, 1)
        assert examples["maps"].shape == (3, 32, 32)
        for number, (finding, title) in enumerate(zip(FINDINGS, examples["titles"], strict=True)):
            name, key, probability = str(title).split(" · ")
            place = position[key]
            assert name == finding
            assert store.targets[place].tolist() == [int(other == finding) for other in FINDINGS]  # it shows that alone
            np.testing.assert_array_equal(examples["images"][number], store.images[place].transpose(1, 2, 0))
            row = Predictions(scores).keys.index(key)
            assert probability == f"probability {Predictions(scores).probabilities[row, number]:.2f}"
            image = torch.from_numpy(store.images[[place]]).float()
            expected = grad_cam(network, image, [number])[0].numpy()
            np.testing.assert_allclose(examples["maps"][number], expected, atol=1e-4)


def test_findings_without_an_image_have_no_example(run, table_data):
    table_path = table_data / "labels.csv"
    rows = [row if ",test," not in row else row[: -len("0,0,0")] + "1,0,0" for row in table_path.read_text().split()]
    table_path.write_text("\n".join(rows) + "\n")
    accept_data(run)
    scores = evaluate(run.path)
    assert excluded(scores.table) == {
        "films": {"disc": "no negatives", "bar": "no positives", "bright": "no positives"}
    }
    assert np.isnan(value_of(scores, MEAN_OF_FINDINGS))
    with np.load(run.path / "scores" / "test" / "examples.npz") as examples:
        assert [str(title).split(" · ")[0] for title in examples["titles"]] == ["disc"]
    text = "\n".join(row[: -len("0,0,0")] + "0,0,0" if ",test," in row else row for row in rows) + "\n"
    table_path.write_text(text)
    accept_data(run)
    evaluate(run.path)
    assert not (run.path / "scores" / "test" / "examples.npz").exists()
    assert "disc" in write_report(run.path).read_text(encoding="utf-8")


def test_labels_that_are_ignored_are_in_no_score(recipe, table_data, tmp_path):
    """Their images stay, with what the network predicts for them; in a mixed training, too."""
    lines = (table_data / "labels.csv").read_text().splitlines()
    for number in (3, 9, 18, 27, 30):  # of all splits
        cells = lines[number].split(",")
        lines[number] = ",".join([*cells[:3], "-1", *cells[4:]])
    (table_data / "labels.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="uncertain: negative"):
        open_manifest(recipe.data, needs=())
    doubtful = changed(recipe, "data.sources.0.uncertain=ignore", "train.mixing.alpha=0.3")
    space = Darts(doubtful.space, in_channels=1, outputs=3, supernet=doubtful.search.supernet)
    supernet = space.supernet(doubtful.search.stages[0], None)
    genotype = supernet.derive(doubtful.derive, name="small", provenance={})
    run = start_training(doubtful, genotype, tmp_path / "doubtful")
    scores = evaluate(run.path)
    logits, labels = logits_of(run, "test")
    known = labels[:, 0] != IGNORE
    assert (len(known), known.sum()) == (8, 6)
    assert value_of(scores, "disc") == pairs_in_order(logits[known, 0], labels[known, 0])
    assert value_of(scores, "bar") == pairs_in_order(logits[:, 1], labels[:, 1])
    rows = rows_of(run.path / "scores" / "test" / "scores.csv")
    ignored = [row for row in rows if row["truth"] == "unknown"]
    assert [(row["metric"], row["value"] == "") for row in ignored[:3]] == [
        ("label", True), ("logit", False), ("probability", False)
    ]  # fmt: skip
    assert {row["image"] for row in ignored} == {"films/film_26", "films/film_29"}
    assert Scores.read(run.path / "scores" / "test").table.equals(scores.table)
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "disc" in page


def test_all_images_whatever_their_split(run):
    scores = evaluate(run.path, split="all")
    assert len(Predictions(scores).keys) == 32
    assert (run.path / "scores" / "all" / "scores.json").exists()
    assert scores.calibration.temperature == pytest.approx(evaluate(run.path).calibration.temperature)


def test_another_table_with_the_same_findings(run, table_data, tmp_path):
    """In other columns and with more of them; thresholds and temperature stay those of the run's own validation."""
    other = tmp_path / "other"
    shutil.copytree(table_data, other)
    _, *rows = (other / "labels.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    lines = [
        f"{image},{patient},test,{bright},1,{disc},{1 - int(bar)}" for image, patient, _, disc, bar, bright in cells
    ]
    (other / "labels.csv").write_text("\n".join(["image,patient,split,bright,new,disc,bar", *lines]) + "\n")
    own = evaluate(run.path)
    scores = evaluate(run.path, sources=(table(other, "elsewhere"),))
    assert [path.name[:15] for path in sorted((run.path / "scores").iterdir())] == ["test", "test-elsewhere-"]
    assert set(Predictions(scores).domains) == {"elsewhere"}
    assert Predictions(scores).findings == FINDINGS
    assert scores.calibration.temperature == own.calibration.temperature
    np.testing.assert_array_equal(thresholds_of(scores, "youden"), thresholds_of(own, "youden"))
    row_of = {key: row for row, key in enumerate(Predictions(scores).keys)}
    assert len(row_of) == 32
    rows_there = [row_of[key] for key in Predictions(own).keys]
    np.testing.assert_allclose(Predictions(scores).logits[rows_there], Predictions(own).logits, atol=1e-5)
    labels = Predictions(scores).labels[rows_there]
    np.testing.assert_array_equal(labels[:, [0, 2]], Predictions(own).labels[:, [0, 2]])
    np.testing.assert_array_equal(labels[:, 1], 1 - Predictions(own).labels[:, 1])

    both = evaluate(run.path, sources=(table(table_data, "films"), table(other, "elsewhere")))
    assert {*both.summary["dataset"]} == {"films", "elsewhere", ALL}


def test_a_table_that_lacks_a_finding_of_the_run_is_scored_by_the_others(run, table_data, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(table_data, other)
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("disc,bar,bright", "disc,bars,bright"))
    sources = (table(other, "elsewhere"),)
    scores = evaluate(run.path, sources=sources)
    assert f"{other} says nothing of bar: its images have no scores of that. Not looked for: bars." in said(capsys)
    assert excluded(scores.table) == {"elsewhere": {"bar": "no labels"}}
    own = evaluate(run.path)
    assert [value_of(scores, name) for name in ("disc", "bright")] == [
        value_of(own, name) for name in ("disc", "bright")
    ]
    assert np.isnan(value_of(scores, "bar"))
    assert value_of(scores, MEAN_OF_FINDINGS) == np.mean([value_of(own, name) for name in ("disc", "bright")])
    show_scores(scores)
    assert "elsewhere: excluded from the means: bar (no labels)." in " ".join(capsys.readouterr().out.split())
    assert "no labels" in write_report(run.path).read_text(encoding="utf-8")
    assert current_scores(run, "test", sources=sources).equals(scores.table)
    with pytest.raises(DataError, match=r"has no finding 'bar'"):  # what is learned has to be known
        open_manifest(run.recipe.data.model_copy(update={"sources": sources}), needs=())


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_bf16_is_close_to_fp32(run):
    exact = evaluate(run.path)
    rounding = changed(run.recipe, "compute.precision=bf16")
    (run.path / "recipe.yaml").write_text(to_yaml(rounding))
    with pytest.raises(RunError, match=r"recipe\.yaml was edited .*compute\.precision: 'fp32' -> 'bf16'"):
        evaluate(run.path)
    about = {"recipe": deciding_values(rounding), "recipe_fingerprint": fingerprint(rounding)}
    run.write_json("run.json", run.facts | about)
    rounded = evaluate(run.path)
    difference = np.abs(Predictions(rounded).logits - Predictions(exact).logits).max()
    assert 0 < difference < 0.05 * max(1.0, np.abs(Predictions(exact).logits).max())
    assert Predictions(rounded).logits.dtype == np.float64


def test_the_report_shows_the_scores(run):
    evaluate(run.path)
    evaluate(run.path, split="val")
    page = write_report(run.path).read_text(encoding="utf-8")
    for section in ("scores-test", "scores-val", "genotype"):
        assert f'id="{section}"' in page
    for words in ("mean AUROC, test", "AUROC", "average precision", *FINDINGS):
        assert words in page
    assert "<th>HD95</th>" not in page


def test_what_cannot_be_evaluated(run, folder_data, table_data, tmp_path):
    with pytest.raises(DataError, match=r"images of blobs are for segmentation, but the network is for classification"):
        evaluate(run.path, sources=(make_source(kind="folder", path=folder_data, name="blobs"),))
    other = tmp_path / "other"
    shutil.copytree(table_data, other)
    text = (other / "labels.csv").read_text()
    (other / "labels.csv").write_text(text.replace("disc,bar,bright", "mass,bars,other"))
    with pytest.raises(DataError, match=r"elsewhere has no finding 'disc'\. Valid here: bars, mass, other"):
        evaluate(run.path, sources=(table(other, "elsewhere"),))
    with pytest.raises(RunError, match=r"no head '2,0'.*last"):
        evaluate(run.path, head="2,0")
    (table_data / "labels.csv").write_text(text.replace(",test,", ",val,"))
    accept_data(run)
    with pytest.raises(DataError, match=r"No image of films is in the split 'test'"):
        evaluate(run.path)
    assert not (run.path / "scores").exists()
    assert evaluate(run.path, split="val", head="last").split == "val"


def test_a_network_for_masks_is_not_scored_by_findings(small_recipe, table_data, tmp_path):
    run = RunDirectory.create(tmp_path / "masks", small_recipe, kind="train", data_fingerprint="")
    with pytest.raises(DataError, match=r"images of films are for classification, but the network is for segm.*masks"):
        evaluate(run.path, sources=(table(table_data, "films"),))


# Plan


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials of test_plan run in processes of their own; here their answer counts."""
    monkeypatch.setattr("medarts.profiling.plan.in_new_process", lambda attempt: attempt())
    monkeypatch.setattr("medarts.profiling.plan.STEPS", 1)


@pytest.mark.parametrize("gradient", ["first_order", "second_order"])
def test_plan_of_findings(finding_recipe, tmp_path, in_this_process, gradient):
    planned = plan(changed(finding_recipe, f"search.gradient={gradient}"))
    (stage,) = planned.stages
    assert stage.parameters > planned.training.parameters > 0
    assert min(stage.seconds, stage.memory_mb, planned.training.seconds, planned.training.memory_mb) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "films"]


def test_plan_of_a_recipe_with_a_model_tries_that_model(finding_recipe, in_this_process, monkeypatch):
    few = {"init_features": 8, "growth_rate": 8, "block_config": (1, 1, 1, 1)}
    monkeypatch.setattr(nets, "DenseNet121", lambda **about: nets.DenseNet(**(about | few)))
    planned = plan(changed(finding_recipe, "train.model=chexnet"))
    network = nets.DenseNet(spatial_dims=2, in_channels=1, out_channels=3, **few)
    assert planned.training.parameters == sum(parameter.numel() for parameter in network.parameters())
