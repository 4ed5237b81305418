"""Running statistics after a cut: the mean over batches, of every norm that is run, and of nothing else."""

from types import SimpleNamespace

import torch
from torch import nn

from medarts import create_model
from medarts.config import Recipe
from medarts.pruning.recalibration import recalibrate

BATCHES = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(number)) for number in range(3)]


def training(accumulate: int = 1) -> SimpleNamespace:
    """What gives three batches."""
    recipe = Recipe.model_validate(
        {"data": {"sources": [{"kind": "folder", "path": "x"}]}, "train": {"accumulate": accumulate, "batch": 4}}
    )
    batches = SimpleNamespace(
        order=lambda *_, **__: None, training=lambda _, step, **__: SimpleNamespace(images=BATCHES[step])
    )
    return SimpleNamespace(recipe=recipe, training=batches, steps=len(BATCHES))


def test_statistics_are_the_means_over_batches() -> None:
    network = create_model("unet", width=4, depth=2)
    first = network.encoder[0][0]
    maps = torch.stack([first.conv(batch) for batch in BATCHES])
    weights = {name: tensor.clone() for name, tensor in network.named_parameters()}
    recalibrate(training(), network)
    assert torch.allclose(first.norm.running_mean, maps.mean((0, 1, 3, 4)), atol=1e-6)
    assert torch.allclose(first.norm.running_var, maps.transpose(1, 2).flatten(2).var(2).mean(0), atol=1e-6)
    assert not any(module.training for module in network.modules())
    assert first.norm.momentum == nn.BatchNorm2d(1).momentum
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.named_parameters())


def test_fewer_batches() -> None:
    network = create_model("unet", width=4, depth=2)
    first = network.encoder[0][0]
    recalibrate(training(), network, batches=2)
    maps = torch.stack([first.conv(batch) for batch in BATCHES[:2]])
    assert torch.allclose(first.norm.running_mean, maps.mean((0, 1, 3, 4)), atol=1e-6)


def test_statistics_of_single_steps_are_taken_too() -> None:
    network = create_model("r2unet", width=4, depth=2)
    norm = network.get_submodule("encoder.0.recurrent.0.norm")
    recalibrate(training(accumulate=2), network)
    assert norm.running_mean.shape[0] > 1
    assert all(row.abs().max() > 0 for row in norm.running_mean)


def test_an_auxiliary_head_that_is_not_run_keeps_its_statistics() -> None:
    network = create_model("darts_v2", init_channel=4, layers=3, auxiliary=True)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    recalibrate(training(), network)
    changed = {name for name, tensor in network.named_buffers() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith("auxiliary") for name in changed)


def test_networks_without_statistics_stay_as_they_are() -> None:
    network = create_model("unet", width=4, depth=2, norm="group")
    recalibrate(SimpleNamespace(), network)
    assert not network.training
