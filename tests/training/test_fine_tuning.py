"""Fine-tuning: what is taken over, what is replaced, how fast it learns, and that it resumes like any training."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import medarts as library
from medarts.config import apply_overrides, parse
from medarts.config.reading import deciding_values, fingerprint
from medarts.engine import checkpoint
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, RunError
from medarts.training.trained import load_network, trained_of
from medarts.training.trainer import Training, resume_training

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (16, 32, 32)).astype(np.uint8)
BINARY, SEVERAL = GREY > 128, np.digitize(GREY, (80, 160))
LABELS = np.stack([np.arange(16) % 2, np.arange(16) // 2 % 2], 1)
RECIPE: dict[str, Any] = {
    "train": {"epochs": 1, "batch": 4, "lr": 0.02, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}
FINDINGS: dict[str, Any] = {
    **RECIPE,
    "space": {"name": "darts"},
    "train": {"epochs": 1, "batch": 4, "lr": 0.02},
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained U-Net of one class."""
    return library.train(None, RECIPE, data=(GREY, BINARY), out=tmp_path_factory.mktemp("masks") / "run")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained derived network of two findings, with an auxiliary head."""
    genotype = library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=True)
    out = tmp_path_factory.mktemp("findings") / "run"
    return library.train(genotype, FINDINGS, data=(GREY, LABELS), out=out)


def initial(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.path / "initial.safetensors")


def contents(run: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "summary.json", "initial.safetensors")
    checkpoints = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in [*(run / name for name in names), *checkpoints]}


def begun_with(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Collects the weights with which trainings begin."""
    found: list[dict[str, torch.Tensor]] = []
    set_up = Training.set_up

    def noted(job: Training) -> None:
        found.append({name: tensor.clone() for name, tensor in job.network.state_dict().items()})
        set_up(job)

    monkeypatch.setattr(Training, "set_up", noted)
    return found


def test_every_weight_is_taken_over_where_the_outputs_are_the_same(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = begun_with(monkeypatch)
    run = library.train(initial=masks, data=(GREY, BINARY), out=tmp_path / "tuned", changes="seed=7")
    wanted = load_network(masks).state_dict()
    assert all(torch.equal(found[0][name], wanted[name]) for name in wanted)
    assert run.facts["weights_fingerprint"] == of_weights(wanted)
    assert run.facts["initial"] == {"network": "unet", "tensors": len(wanted), "replaced": []}
    assert of_weights(initial(run)) == of_weights(wanted)
    assert run.recipe.train.model == masks.recipe.train.model


def test_another_number_of_classes_replaces_the_head_alone(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = begun_with(monkeypatch)
    changes = ["train.loss=ce_dice"]
    run = library.train(initial=masks.path, data=(GREY, SEVERAL), changes=changes, out=tmp_path / "tuned")
    before = load_network(masks).state_dict()
    replaced = run.facts["initial"]["replaced"]
    assert {before[name].shape[0] for name in replaced} == {1}
    assert {found[0][name].shape[0] for name in replaced} == {3}
    assert 0 < len(replaced) < 4
    assert all(torch.equal(found[0][name], before[name]) for name in before if name not in replaced)
    assert replaced[0] in capsys.readouterr().err
    assert library.load(run).predict(GREY[0]).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("names", "replaces"), [(("finding 1", "finding 2"), False), (("mass", "nodule"), True), (("a", "b", "c"), True)]
)
def test_other_findings_replace_all_heads(
    findings: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], replaces: bool
) -> None:
    found = begun_with(monkeypatch)
    labels = np.stack([LABELS[:, number % 2] for number in range(len(names))], 1)
    data = library.from_arrays(GREY, labels, findings=names)
    run = library.train(initial=findings, data=data, out=tmp_path / "tuned", changes="seed=7")
    before, replaced = trained_of(findings).weights, run.facts["initial"]["replaced"]
    assert len(replaced) == (4 if replaces else 0)  # weight and bias, of the last and of the auxiliary head
    for name, tensor in before.items():
        assert (name in replaced) != (found[0][name].shape == tensor.shape and torch.equal(found[0][name], tensor))
    assert library.load(run).info.outputs == names


def test_the_learning_rate_is_a_tenth_of_the_recipes(masks: RunDirectory, tmp_path: Path) -> None:
    def rate(run: RunDirectory) -> float:
        return float(json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["lr"])

    tuned = library.train(initial=masks, data=(GREY, BINARY), out=tmp_path / "a")
    half = library.train(initial=masks, data=(GREY, BINARY), changes="train.finetune_lr=0.5", out=tmp_path / "b")
    assert rate(tuned) == pytest.approx(0.1 * rate(masks), rel=1e-12)
    assert rate(half) == pytest.approx(0.5 * rate(masks), rel=1e-12)
    assert tuned.recipe.train.lr == masks.recipe.train.lr
    again = library.train(initial=tuned, data=(GREY, BINARY), out=tmp_path / "c")
    assert rate(again) == rate(tuned)  # by its own recipe, whose rate was not changed


def test_the_factor_counts_in_fingerprints_where_it_is_set(masks: RunDirectory) -> None:
    usual = masks.recipe
    other = parse(apply_overrides(usual.model_dump(mode="json"), ["train.finetune_lr=0.5"]))
    assert "finetune_lr" not in deciding_values(usual)["train"]
    assert deciding_values(other)["train"]["finetune_lr"] == 0.5
    assert fingerprint(usual) != fingerprint(other)
    with pytest.raises(RecipeError, match=r"train\.finetune_lr"):
        parse(apply_overrides(usual.model_dump(mode="json"), ["train.finetune_lr=0"]))


@pytest.mark.parametrize("at", [(0, 1), (1, 1), (1, 2)])
def test_it_resumes_to_the_same_bytes_when_the_source_is_gone(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]
) -> None:
    data = library.from_arrays(GREY, SEVERAL)
    changes = ["train.loss=ce_dice", "train.epochs=2", "train.ema=0.9"]
    whole = library.train(initial=masks, data=data, changes=changes, out=tmp_path / "whole")
    source = shutil.copytree(masks.path, tmp_path / "source")
    step = Training._step

    def interrupted(job: Training) -> None:
        step(job)
        if job.position == at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            library.train(initial=source, data=data, changes=changes, out=tmp_path / "run")
    shutil.rmtree(source)
    resume_training(tmp_path / "run", data=data)
    assert contents(tmp_path / "run") == contents(whole.path)


def test_weights_that_changed_before_the_first_checkpoint_are_refused(
    masks: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = library.from_arrays(GREY, BINARY)

    def interrupted(job: Training) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            library.train(initial=masks, data=data, out=tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run/checkpoints", "last") is None
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:-8]), lambda path: path.unlink()):
        damage(tmp_path / "run/initial.safetensors")
        with pytest.raises(RunError, match=r"initial\.safetensors is missing or damaged"):
            resume_training(tmp_path / "run", data=data)


def test_images_of_other_channels_are_refused(masks: RunDirectory, tmp_path: Path) -> None:
    colour = np.repeat(GREY[..., None], 3, -1)
    with pytest.raises(RecipeError, match=r"takes images of one channel, but the recipe has 3 channels.*in_channels=1"):
        library.train(initial=masks, data=(colour, BINARY), out=tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


def test_another_norm_is_refused(masks: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.norm is group, but .* the norms of its paper\. Leave train\.norm"):
        library.train(initial=masks, data=(GREY, BINARY), changes="train.norm=group", out=tmp_path / "tuned")


def test_a_network_of_the_other_task_is_refused(masks: RunDirectory, tmp_path: Path) -> None:
    for recipe in (None, FINDINGS):
        with pytest.raises(RecipeError, match="unet is a network for segmentation, but the data are for classificat"):
            library.train(None, recipe, initial=masks, data=(GREY, LABELS), out=tmp_path / "tuned")


@pytest.mark.parametrize("change", ["train.model.width=8", "space.init_channel=8", "space={init_channel: 8}"])
def test_a_network_that_is_fine_tuned_is_not_changed(masks: RunDirectory, tmp_path: Path, change: str) -> None:
    with pytest.raises(RecipeError, match=f"{re.escape(change)} would change the network"):
        library.train(initial=masks, data=(GREY, BINARY), changes=change, out=tmp_path / "tuned")


def test_what_is_fine_tuned_is_not_chosen_twice(masks: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="fine-tuned as it is"):
        library.train("unet", RECIPE, initial=masks, data=(GREY, BINARY), out=tmp_path / "tuned")


@pytest.mark.usefixtures("nothing_exported", "nothing_rendered")
def test_a_comparison_holds_it_for_another_network(masks: RunDirectory, tmp_path: Path) -> None:
    run = library.train(initial=masks, data=(GREY, BINARY), out=tmp_path / "tuned")
    found = library.compare([masks, run], data=(GREY, BINARY), split="all", out=tmp_path / "comparison")
    began = dict(zip(found.costs["network"], found.costs["began_from"], strict=True))
    assert began == {"unet (run)": "", "unet (tuned)": f"unet ({run.facts['weights_fingerprint']})"}


def test_the_command_line_fine_tunes(
    folder_data: Path, tmp_path: Path, medarts: Callable[..., tuple[int, str, str]]
) -> None:
    settings = ("data.size=32", "train.epochs=1", "train.batch=4", "compute.device=cpu", "compute.threads=1")
    model = ("train.model.width=4", "train.model.depth=2")
    status, _, error = medarts("train", *settings, *model, "--model", "unet", "--data", folder_data, "--out", "first")
    assert status == 0, error
    status, out, error = medarts("train", "--from", "first", "--data", folder_data, "train.epochs=2")
    assert status == 0, error
    assert out.strip() == str(Path("runs/unet-blobs-fine-tuned"))
    assert "tensors are taken over, heads included" in error
    status, _, error = medarts("train", "--from", "first", "--from", "first")
    assert (status, "--from is given twice" in error) == (1, True)
    status, _, error = medarts("train", "first", "--from", "first")
    assert (status, "These arguments do not fit together" in error) == (1, True)
