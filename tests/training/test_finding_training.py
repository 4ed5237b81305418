"""Training on findings: a darts network and CheXNet learn, resume to the same bytes, and refuse what does not fit."""

import json
from pathlib import Path

import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, RecipeError, RunError
from medarts.models.chexnet import CheXNet, CheXNetSettings
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts.network import DartsNetwork
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.system.randomness import seed_torch
from medarts.tasks import ClassificationTask
from medarts.training.trained import load_network
from medarts.training.trainer import Training, resume_training, start_training, try_training

CHEXNET = CheXNetSettings()

FINDINGS = ("disc", "bar", "bright")
WEIGHT = "frame.classifier.weight"


class Killed(BaseException):
    """Ends a training between two steps, as ``kill -9`` does: nothing more is written."""


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def derived(recipe: Recipe, *changes: str) -> Genotype:
    """Returns what is derived from an untrained supernet."""
    recipe = changed(recipe, *changes)
    seed_torch(0, "genotype")
    assert isinstance(recipe.space, DartsSettings)
    space = Darts(recipe.space, in_channels=1, outputs=3, supernet=recipe.search.supernet)
    supernet = space.supernet(recipe.search.stages[0], None)
    return supernet.derive(recipe.derive, name="small", provenance={})


@pytest.fixture
def genotype(finding_recipe: Recipe) -> Genotype:
    return derived(finding_recipe)


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress of training that darts networks receive, epoch by epoch."""
    told: list[float] = []
    at = DartsNetwork.at

    def noted(network: DartsNetwork, value: float) -> None:
        told.append(value)
        at(network, value)

    monkeypatch.setattr(DartsNetwork, "at", noted)
    return told


def kill_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """Lets the next training end behind that step."""
    ordinary = Training._step

    def killed(job):
        ordinary(job)
        if job.position == (epoch, step):
            monkeypatch.setattr(Training, "_step", ordinary)
            raise Killed

    monkeypatch.setattr(Training, "_step", killed)


def records(run: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_equal_runs(run: RunDirectory, other: RunDirectory) -> None:
    for name in ("metrics.jsonl", "summary.json"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert files(run.checkpoints) == files(other.checkpoints)  # names and bytes, state and averages too


# What is trained


def test_a_stack_learns_findings(finding_recipe, tmp_path):
    changes = ("train.epochs=10", "train.optimizer=adamw", "train.lr=0.01", "train.schedule=cosine", "train.ema=0.8")
    recipe = changed(finding_recipe, *changes)
    run = start_training(recipe, derived(recipe, "space.init_channel=8", "space.drop_path_prob=0"), tmp_path / "run")
    found = records(run)
    assert found[-1]["train_loss"] < 0.7 * found[0]["train_loss"]
    assert max(record["val_auroc"] for record in found) > 0.85
    for record in found:
        assert list(record["val_auroc_by_finding"]) == list(FINDINGS)
        assert record["val_auroc"] == pytest.approx(sum(record["val_auroc_by_finding"].values()) / 3)
    summary = run.read_json("summary.json")
    assert summary["score"] == "auroc"
    assert summary["best_score"] == max(record["val_auroc"] for record in found)


def test_what_a_run_of_a_genotype_says_of_itself(finding_recipe, genotype, tmp_path):
    recipe = changed(finding_recipe, "train.epochs=1", "space.layers=9", "train.model={name: chexnet, weights: /w.pt}")
    run = start_training(recipe, genotype, tmp_path / "run")
    assert (run.facts["network"], run.facts["kind"], run.facts["finished"]) == ("small", "train", True)
    assert load_genotype(run.path) == genotype
    assert run.recipe.data.findings == FINDINGS
    assert isinstance(run.recipe.space, DartsSettings)
    assert run.recipe.space.layers == 4  # that of the genotype, not that of the recipe
    assert run.recipe.train.model is None
    network = load_network(run)
    assert isinstance(network, DartsNetwork)
    best = checkpoint.load(run.checkpoints, "best").weights
    assert all(torch.equal(tensor, best[name]) for name, tensor in network.state_dict().items())
    assert network.frame.classifier.weight.shape[0] == 3


def test_what_a_run_of_chexnet_says_of_itself(finding_recipe, tmp_path, small_densenet):
    recipe = changed(finding_recipe, "train.epochs=1")
    run = start_training(recipe, CHEXNET, tmp_path / "run")
    assert (run.facts["network"], run.recipe.train.model, run.facts["finished"]) == ("chexnet", CHEXNET, True)
    assert run.recipe.data.findings == FINDINGS
    assert not (run.path / "genotype.json").exists()
    network = load_network(run)
    assert isinstance(network, CheXNet)
    assert network.densenet.class_layers.out.weight.shape[0] == 3
    assert recipe.train.model is None


def test_the_whole_chexnet_is_trained(finding_recipe, tmp_path):
    """Once without a smaller one: a step, and its size in the checkpoint."""
    run = start_training(changed(finding_recipe, "train.epochs=1", "train.batch=16"), CHEXNET, tmp_path / "run")
    parameters = sum(parameter.numel() for parameter in load_network(run).parameters())
    assert parameters == 6_968_206 - 2 * 64 * 7 * 7 - 11 * 1025  # one channel of three, 3 outputs of 14


def test_a_choice_of_findings_is_trained(finding_recipe, tmp_path, small_densenet):
    recipe = changed(finding_recipe, "train.epochs=1", "data.findings=[bright, disc]")
    run = start_training(recipe, CHEXNET, tmp_path / "run")
    assert list(records(run)[0]["val_auroc_by_finding"]) == ["bright", "disc"]
    assert run.recipe.data.findings == ("bright", "disc")
    assert load_network(run).densenet.class_layers.out.weight.shape[0] == 2


# How it is trained


def test_drop_path_grows_from_zero_and_the_auxiliary_head_is_weighed(finding_recipe, tmp_path, progress, monkeypatch):
    heads, loss = set(), ClassificationTask.loss

    def noted(task, outputs, mixture):
        heads.add((len(outputs), torch.is_grad_enabled(), task.auxiliary_weight))
        return loss(task, outputs, mixture)

    monkeypatch.setattr(ClassificationTask, "loss", noted)
    recipe = changed(finding_recipe, "train.epochs=4", "train.batch=16", "train.auxiliary_weight=0.25")
    start_training(recipe, derived(recipe, "space.auxiliary=true"), tmp_path / "run")
    assert progress == [0, 0.25, 0.5, 0.75]
    assert heads == {(2, True, 0.25), (1, False, 0.25)}  # validation has the last head alone


RESUMED = {
    "plateau": ("train.plateau_epochs=1", "train.lr=1e-9", "train.lr_min=0"),
    "adamw-ema-mixing": ("train.optimizer=adamw", "train.lr=1e-3", "train.ema=0.9", "train.mixing.alpha=0.4"),
    "parts": ("train.accumulate=2", "train.loss=weighted_bce", "train.schedule=cosine"),
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_a_resumed_stack_equals_an_uninterrupted_one(finding_recipe, tmp_path, monkeypatch, progress, changes):
    """With drop-path, whose draws and growth go on, and with the auxiliary head."""
    recipe = changed(finding_recipe, "train.epochs=3", "train.batch=8", *changes)
    genotype = derived(recipe, "space.drop_path_prob=0.5", "space.auxiliary=true")
    whole = start_training(recipe, genotype, tmp_path / "whole" / "run")
    assert any(name.startswith("frame.auxiliary") for name in checkpoint.load(whole.checkpoints, "last").weights)

    progress.clear()
    kill_at(monkeypatch, 2, 1)
    with pytest.raises(Killed):
        start_training(recipe, genotype, tmp_path / "broken" / "run")
    broken = RunDirectory.open(tmp_path / "broken" / "run")
    assert len(records(broken)) == 2
    assert not broken.facts["finished"]
    assert_equal_runs(whole, resume_training(broken.path))
    assert progress == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])


def test_drop_path_changes_what_is_learnt(finding_recipe, tmp_path):
    """Or the test above would hold without it; in the first epoch there is none."""
    recipe = changed(finding_recipe, "train.epochs=2", "train.batch=8")
    without, strong = (
        records(start_training(recipe, derived(recipe, f"space.drop_path_prob={p}"), tmp_path / str(p)))
        for p in (0.0, 0.5)
    )
    assert without[0] == strong[0]
    assert without[1]["train_loss"] != strong[1]["train_loss"]


# CheXNet from weights


def test_training_starts_from_a_file_that_a_resumed_run_does_not_need(
    finding_recipe, tmp_path, monkeypatch, small_densenet
):
    torch.manual_seed(5)
    source = CheXNet(in_channels=1, outputs=3).state_dict()
    torch.save(source, tmp_path / "w.pt")
    recipe = changed(finding_recipe, "train.batch=8", "train.lr=1e-6", "train.lr_min=0", "train.epochs=3")
    from_file = CheXNetSettings(weights=tmp_path / "w.pt")
    whole = start_training(recipe, from_file, tmp_path / "whole" / "run")
    trained = checkpoint.load(whole.checkpoints, "last").weights
    for name, tensor in source.items():
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-4)
    moved = [name for name, tensor in source.items() if not torch.equal(trained[name], tensor)]
    assert moved
    fresh = start_training(recipe, CHEXNET, tmp_path / "fresh")
    first = "densenet.features.conv0.weight"
    assert (checkpoint.load(fresh.checkpoints, "last").weights[first] - source[first]).abs().max() > 1e-2

    kill_at(monkeypatch, 0, 1)  # before there is a checkpoint: the file is still needed, and is read again
    with pytest.raises(Killed):
        start_training(recipe, from_file, tmp_path / "early" / "run")
    torch.save({name: -tensor for name, tensor in source.items()}, tmp_path / "other.pt")
    with pytest.raises(RunError, match=r"initial weights of .*run have changed"):
        resume_training(tmp_path / "early" / "run", [f"train.model.weights={tmp_path / 'other.pt'}"])
    assert_equal_runs(whole, resume_training(tmp_path / "early" / "run"))

    kill_at(monkeypatch, 1, 1)
    with pytest.raises(Killed):
        start_training(recipe, from_file, tmp_path / "broken" / "run")
    (tmp_path / "w.pt").unlink()
    resumed = resume_training(tmp_path / "broken" / "run")
    assert_equal_runs(whole, resumed)
    assert resumed.recipe.train.model.weights == tmp_path / "w.pt"  # it says where it came from
    assert torch.equal(
        load_network(resumed).state_dict()[first], checkpoint.load(whole.checkpoints, "best").weights[first]
    )
    with pytest.raises(RecipeError, match=r"There is no file of weights .*w\.pt"):
        start_training(recipe, from_file, tmp_path / "again")
    assert not (tmp_path / "again").exists()


# What is refused


def test_what_does_not_fit_leaves_nothing_behind(finding_recipe, small_recipe, genotype, tmp_path, small_densenet):
    out = tmp_path / "run"
    masks = load_genotype("alpha0_5_stage1_nodouble_deep_ep80")
    with pytest.raises(RecipeError, match=r"ep80 is a network for segmentation, but the data are for classification"):
        start_training(finding_recipe, masks, out)
    with pytest.raises(RecipeError, match=r"chexnet is a network for classification, but the data are for segm.*Train"):
        start_training(small_recipe, CHEXNET, out)
    for network in (genotype, CHEXNET):
        with pytest.raises(RecipeError, match=r"train\.norm is group, but \w+ has batch norms\. Leave it out"):
            start_training(changed(finding_recipe, "train.norm=group"), network, out)
        for batch, parts in ((1, 1), (4, 4), (7, 4)):
            single = changed(finding_recipe, f"train.batch={batch}", f"train.accumulate={parts}")
            says = rf"train\.batch {batch} in {parts} parts and data\.size 32 a norm of the network sees one pixel"
            with pytest.raises(RecipeError, match=says):
                start_training(single, network, out)
        with pytest.raises(RecipeError, match=r"size 16 is too small .*Use 32 or more"):
            start_training(changed(finding_recipe, "data.size=16"), network, out)
    with pytest.raises(RecipeError, match=r"train\.loss 'dice' is a loss of masks, not of findings"):
        start_training(changed(finding_recipe, "train.loss=dice"), genotype, out)
    with pytest.raises(DataError, match=r"training set are 16, fewer than a batch of 17"):
        start_training(changed(finding_recipe, "train.batch=17"), genotype, out)
    assert not out.exists()


def test_one_image_of_more_pixels_can_be_normalised(finding_recipe, genotype, tmp_path):
    """The refusal is for what batch norm cannot do, and for nothing else."""
    recipe = changed(finding_recipe, "train.batch=1", "data.size=33")
    assert try_training(recipe, genotype, steps=1).images_at_once == 1


def test_findings_that_cannot_be_scored_are_refused(finding_recipe, genotype, table_data: Path, tmp_path):
    table = table_data / "labels.csv"
    header, *rows = table.read_text().splitlines()
    everything = [row[: -len("0,0,0")] + "1,1,1" if ",val," in row else row for row in rows]
    table.write_text("\n".join([header, *everything]) + "\n")
    with pytest.raises(DataError, match=r"both present and absent among the validation images"):
        start_training(finding_recipe, genotype, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_corrected_labels_are_another_data_set(finding_recipe, table_data: Path, tmp_path, small_densenet):
    run = start_training(changed(finding_recipe, "train.epochs=1"), CHEXNET, tmp_path / "run")
    table = table_data / "labels.csv"
    table.write_text(table.read_text().replace("film_00.png,p0,train,0,0,0", "film_00.png,p0,train,0,0,1"))
    with pytest.raises(RunError, match=r"data of .*run have changed"):
        resume_training(run.path)
