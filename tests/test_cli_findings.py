"""The command line with findings: models beside genotypes, phantoms, the doctor's tables, and one line for errors."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from medarts.config import Recipe, apply_overrides, parse, to_yaml
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.models.chexnet import CheXNet
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts.text import to_text
from medarts.spaces.genotype import load_genotype

pytestmark = pytest.mark.usefixtures("nothing_rendered")

PUBLISHED = "chestxray14_first_order"
SMALL = ("train.epochs=1", "train.batch=8", "evaluation.bootstrap=100", "data.size=32")


@pytest.fixture
def recipe_file(finding_recipe: Recipe, tmp_path: Path) -> Path:
    content = finding_recipe.model_dump(mode="json")
    recipe = parse(apply_overrides(content, ["search.stages.0.epochs=1", "search.stages.0.batch=8", *SMALL]))
    (tmp_path / "rays.yaml").write_text(to_yaml(recipe))
    return tmp_path / "rays.yaml"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, nothing_exported: None) -> None:
    """Nothing is exported, latencies are of two passes on one thread, memory, in its own process, is not measured."""
    monkeypatch.setattr("medarts.system.console.SECONDS_A_LINE", float("inf"))  # a busy machine would tell progress
    from medarts.profiling.cost import measure_costs

    few = {"threads": (1,), "repeats": 2, "memory": False}
    monkeypatch.setattr(
        "medarts.profiling.named.measure_costs", lambda networks, **about: measure_costs(networks, **{**about, **few})
    )


def refused(answer: tuple[int, str, str], *parts: str) -> None:
    """Holds that a command failed with one line that has these parts."""
    status, output, errors = answer
    assert (status, output) == (1, "")
    assert errors.startswith("medarts: ")
    assert errors.count("\n") == 1, errors
    assert errors == errors.rstrip() + "\n", "spaces at the end"
    for part in parts:
        assert part in errors


# --- cost -------------------------------------------------------------------------------------------------------


def test_cost_of_chexnet(medarts, quick):
    status, output, errors = medarts("cost", "chexnet", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(output)
    assert found["parameters"] == 6_968_206
    assert (found["in_channels"], found["outputs"], found["size"]) == (3, 14, 224)
    assert found["flops"] / 2e9 == pytest.approx(2.83, abs=0.02)  # multiply-adds of a DenseNet-121
    assert found["timings"]["torch"][0]["median_ms"] > 0
    assert [*found["timings"]] == ["torch", "onnxruntime"]  # it has no form of its own for inference
    status, output, _ = medarts("cost", "chexnet", "--size", "32", "--outputs", "3", "--in-channels", "1")
    assert status == 0
    assert "with 1 channel, 3 outputs, images of 32 x 32" in output
    assert f"{6_968_206 - 2 * 64 * 49 - 11 * 1025:,}" in output
    assert "as shipped" not in output


@pytest.mark.parametrize(("name", "published"), [(PUBLISHED, (7_341_098, 14, 224)), ("darts_v2", (3_349_342, 10, 32))])
def test_cost_of_a_stack_is_that_of_the_published_network(medarts, quick, name, published):
    """Also the outputs and the size that it was published with."""
    found = json.loads(medarts("cost", name, "--json")[1])
    assert (found["parameters"], found["outputs"], found["size"]) == published
    assert found["in_channels"] == 3
    smaller = json.loads(medarts("cost", name, "--json", "--size", "32", "--init-channel", "4")[1])
    assert smaller["parameters"] < found["parameters"] / 20
    fewer = json.loads(medarts("cost", name, "--json", "--size", "32", "--outputs", "1", "--init-channel", "4")[1])
    _, outputs, _ = published
    reductions = {14: 3, 10: 2}[outputs]
    inputs = 4 * 4 * 2**reductions  # four nodes of C doubled by every reduction
    assert smaller["parameters"] - fewer["parameters"] == (outputs - 1) * (inputs + 1)


def test_costs_that_are_refused(medarts):
    refused(medarts("cost", "chexnet", "--size", "31"), "size 31 is too small for CheXNet", "Use 32 or more")
    refused(medarts("cost", "chexnet", "--init-channel", "8"), "chexnet has no init_channel")
    refused(medarts("cost", "chexnet", "--outputs", "0"), "outputs is 0", "Use 1 to 200")
    refused(medarts("cost", "chexnot"), "no network 'chexnot'")
    refused(medarts("cost", PUBLISHED, "--size", "31"), "size 31 is too small", "Use 32 or more")
    refused(medarts("cost", PUBLISHED, "--init-channel", "1"), "init_channel is 1. Use 2 to 1,024.")


# --- phantoms ---------------------------------------------------------------------------------------------------


def test_phantoms_of_findings(medarts, tmp_path):
    words = ("phantoms", "rays", "--task", "classification", "--images", "30", "--size", "32", "--seed", "3")
    assert medarts(*words) == (0, "chestxray14: rays\n", "")
    assert len(list((tmp_path / "rays" / "images").iterdir())) == 30
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rays").rglob("*")}
    assert medarts(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rays").rglob("*")} == before
    status, output, _ = medarts("doctor", "rays")
    assert status == 0
    assert "images that show" in output
    assert "0 errors" in output
    refused(medarts("phantoms", "rays", "--task", "classification", "--images", "31"), "rays")
    refused(medarts("phantoms", "few", "--task", "classification", "--images", "9"), "images is 9. Use 25 to 100,000.")


def test_phantoms_of_masks(medarts, tmp_path):
    status, output, errors = medarts("phantoms", "blobs", "--images", "25", "--size", "32")
    assert (status, errors) == (0, "")
    assert [line.split(":")[0] for line in output.splitlines()] == ["isic", "cvc", "chaos"]
    assert all(Path(line.split(": ")[1]).is_dir() for line in output.splitlines())


# --- doctor -----------------------------------------------------------------------------------------------------


def test_doctor_counts_the_findings_of_a_table(medarts, table_data, recipe_file):
    for word in (table_data, recipe_file):
        status, output, _ = medarts("doctor", word)
        assert status == 0
        assert "films: images that show" in output.replace("\n", " ")
        lines = {line.split("│")[1].strip(): line for line in output.splitlines() if line.count("│") > 3}
        for name in ("disc", "bar", "bright"):
            assert [cell.strip() for cell in lines[name].split("│")[2:5]] == ["8", "4", "4"]
    (table_data / "films" / "film_03.png").unlink()
    status, output, _ = medarts("doctor", table_data)
    assert status == 1
    assert "film_03.png" in output


# --- runs -------------------------------------------------------------------------------------------------------


def test_the_pipeline_with_findings(medarts, recipe_file, table_data, tmp_path, quick):
    """search, train what it found and the one line of it, evaluate, show."""
    assert medarts("search", recipe_file)[:2] == (0, "runs/rays\n")
    searched = RunDirectory.open(tmp_path / "runs" / "rays", kind="search")
    assert medarts("report", "runs/rays")[:2] == (0, "runs/rays/report.html\n")
    assert {"parameters", "outputs"} <= set(searched.read_json("cost.json"))
    assert searched.read_json("cost.json")["outputs"] == 3
    genotype = load_genotype(searched.path)
    line = (searched.path / "genotype.txt").read_text()
    assert line == to_text(genotype) + "\n"

    assert medarts("train", "runs/rays", "space.drop_path_prob=0.1")[:2] == (0, "runs/rays-films\n")
    trained = RunDirectory.open(tmp_path / "runs" / "rays-films", kind="train")
    assert isinstance(trained.recipe.space, DartsSettings)
    assert trained.recipe.space.drop_path_prob == 0.1

    Path("found.txt").write_text(line)
    words = ("train", "--genotype", "found.txt", "--recipe", recipe_file, "space.layers=4", "--init-channel", "4")
    assert medarts(*words, "--data", "films")[:2] == (0, "runs/found-films\n")
    of_line = load_genotype(Path("runs/found-films"))
    assert of_line.cells == genotype.cells
    assert (of_line.settings["layers"], of_line.settings["init_channel"]) == (4, 4)

    status, output, _ = medarts("evaluate", "runs/rays-films")
    assert status == 0
    for word in ("AUROC", "disc", "bright", "mean of findings"):
        assert word in output
    status, output, _ = medarts("evaluate", "runs/rays-films", "--data", table_data, "--split", "val")
    assert status == 0
    assert [*trained.path.glob("scores/val-films-????????/scores.csv")]

    status, output, _ = medarts("show", "found.txt", "--out", "pictures")
    assert status == 0
    assert line.strip() in output
    drawn = [Path(row) for row in output.splitlines() if row.endswith((".svg", ".png"))]
    assert drawn
    assert all(path.stat().st_size > 0 for path in drawn)


def test_train_chexnet_from_weights(medarts, table_data, small_densenet, quick, tmp_path):
    torch.manual_seed(3)
    source = CheXNet(in_channels=3, outputs=3).state_dict()
    torch.save(source, "w.pt")
    still = ("train.model.weights=w.pt", "train.lr=1e-7", "train.lr_min=0", f"data.cache={tmp_path / 'cache'}")
    words = ("train", "--model", "chexnet", "--data", table_data, *SMALL, "compute.device=cpu", *still)
    assert medarts(*words)[:2] == (0, "runs/chexnet-films\n")
    run = RunDirectory.open(tmp_path / "runs" / "chexnet-films", kind="train")
    assert (run.facts["network"], run.recipe.train.model.weights) == ("chexnet", tmp_path / "w.pt")
    assert run.recipe.data.augmentation.flip == "horizontal"  # what is published for these data
    trained = checkpoint.load(run.checkpoints, "last").weights
    first = "densenet.features.conv0.weight"
    torch.testing.assert_close(trained[first], source[first], rtol=0, atol=1e-5)
    assert not (run.path / "genotype.json").exists()
    assert not (run.path / "genotype.txt").exists()
    found = json.loads(medarts("cost", "runs/chexnet-films", "--json")[1])
    assert (found["outputs"], found["size"]) == (3, 32)
    assert medarts("train", "--resume", "runs/chexnet-films")[0] == 0
    status, output, _ = medarts("evaluate", "runs/chexnet-films")
    assert status == 0
    assert "bright" in output


def test_a_recipe_can_name_the_model(medarts, recipe_file, small_densenet, quick):
    content = yaml.safe_load(recipe_file.read_text())
    content["train"]["model"] = "chexnet"
    recipe_file.write_text(yaml.safe_dump(content))
    assert medarts("train", "--recipe", recipe_file)[:2] == (0, "runs/chexnet-films\n")
    # A genotype goes before it.
    words = ("train", "--recipe", recipe_file, "--genotype", PUBLISHED, "space.layers=4", "--init-channel", "2")
    assert medarts(*words)[:2] == (0, f"runs/{PUBLISHED}-films\n")
    run = RunDirectory.open(Path("runs") / f"{PUBLISHED}-films")
    assert (run.facts["network"], run.recipe.train.model) == (PUBLISHED, None)


def test_trainings_that_are_refused(medarts, recipe_file, table_data, folder_data, tmp_path):
    model = ("train", "--model", "chexnet")
    refused(medarts(*model), "no data to train on", "--data FOLDER")
    refused(medarts("train", "--model", "chexnot", "--data", table_data), "chexnot", "Did you mean 'chexnet'?")
    refused(medarts(*model, "--genotype", PUBLISHED, "--data", table_data), "do not fit together")
    refused(medarts(*model, "--resume", "runs/x"), "do not fit together")
    refused(medarts(*model, "--data", folder_data), "chexnet is a network for classification")
    refused(medarts(*model, "--recipe", recipe_file, "--init-channel", "8"), "chexnet has no settings of a search")
    refused(medarts(*model, "--recipe", recipe_file, "space.layers=8"), "chexnet has no settings of a search space")
    refused(
        medarts(*model, "--recipe", recipe_file, "train.model.weights=no.pt"), "There is no file of weights", "no.pt"
    )
    refused(
        medarts(*model, "--recipe", recipe_file, "train.model.weights=$NOT_SET/w.pt"),
        "train.model.weights uses $NOT_SET",
    )
    refused(medarts("train", "--recipe", recipe_file), "No network to train is given", "--model NAME")
    refused(medarts("train", "--recipe", recipe_file, "train.model.weights=w.pt"), "train.model", "name")
    unet = (*model[:2], "unet", "--data", folder_data, "train.model.weights=w.pt")
    refused(medarts(*unet), "train.model.weights is not a key")
    darts = ("train", "--genotype", PUBLISHED)
    refused(medarts(*darts, "--data", folder_data), f"{PUBLISHED} is a network for classification")
    refused(medarts(*darts, "--recipe", recipe_file, "space.layer=8"), "space.layer is not a key", "'layers'")
    refused(medarts(*darts, "--recipe", recipe_file, "space.layers=3"), "layers 3, too few for the chest stem")
    refused(medarts(*darts, "--recipe", recipe_file, "space.intermediate_nodes=3"), "fix its intermediate_nodes")
    refused(medarts(*darts, "--recipe", recipe_file, "train.norm=group"), "train.norm is group", "Leave it out")
    Path("broken.txt").write_text("Genotype(normal=[('sep_conv_3x3', 0)])")
    refused(medarts("train", "--genotype", "broken.txt", "--data", table_data), "broken.txt lacks the field")
    assert not (tmp_path / "runs").exists()


def test_searches_that_are_refused(medarts, recipe_file, table_data, tmp_path):
    words = ("search", recipe_file)
    refused(medarts(*words, "space.search_chanel=8"), "space.search_chanel is not a key", "'search_channel'")
    refused(medarts(*words, "search.loss=dice"), "search.loss 'dice' is a loss of masks")
    refused(medarts(*words, "search.stages.0.depth=3"), "too few cells for the reductions behind the chest stem")
    refused(medarts(*words, "data.findings=[disk]"), "no finding 'disk'", "Did you mean 'disc'?")
    refused(medarts(*words, "search.gradient=second_order", "compute.precision=bf16"), "second_order", "precision=fp32")
    refused(medarts(*words, "evaluation.batch=1"), "the last cell sees one pixel", "larger batches")
    refused(medarts(*words, "data.size=16"), "The size 16 is too small for the network", "32 or more")
    (table_data / "films" / "film_03.png").unlink()
    refused(medarts(*words), "film_03.png", "partial: true")
    assert not (tmp_path / "runs").exists()


def test_changes_stand_wherever_one_writes_them(medarts, recipe_file, small_densenet, quick, tmp_path):
    search = tmp_path / "s"
    assert medarts("search", str(recipe_file), "--out", str(search), "search.lr=0.01")[0] == 0
    words = ("train", str(search), "--model", "chexnet", "train.lr=0.01", "--out", str(tmp_path / "t"), "seed=3")
    assert medarts(*words)[0] == 0
    recipe = RunDirectory.open(tmp_path / "t").recipe
    assert (recipe.train.model.name, recipe.train.lr, recipe.search.lr, recipe.seed) == ("chexnet", 0.01, 0.01, 3)
