import pytest
import torch

from medarts.models import create_model
from medarts.pruning.units import cut, examine, find_units, half_of_each, masked, small_image
from medarts.registry import models
from medarts.spaces import zoo

TINY = {"chexnet": {}, "multiresunet": {"width": 6, "depth": 3}, "resenc-unet": {"width": 4, "depth": 4}}


def tiny(name):
    settings = {"init_channel": 4} if name in zoo() else TINY.get(name, {"width": 4, "depth": 3})
    return create_model(name, outputs=2, **settings)


def disturbed(network):
    """Returns a network whose scales, shifts and statistics are no longer those that it began with."""
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand_like(tensor))
    return network


@pytest.mark.parametrize("name", [*models.names(), *zoo()])
def test_the_cut_network_computes_what_the_masked_one_does(name):
    torch.manual_seed(0)
    network = disturbed(tiny(name)).eval()
    image = small_image(network, 3)
    found = examine(network, image)
    removals = half_of_each(found.units, seed=1)
    with torch.no_grad(), masked(network, found.units, removals):
        expected = network(image, all_heads=True)
    before = sum(parameter.numel() for parameter in network.parameters())
    cut(network, removals, image)
    assert sum(parameter.numel() for parameter in network.parameters()) < 0.5 * before
    outputs = network(image, all_heads=True)
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other, rtol=0, atol=1e-5 * float(other.abs().max()))
    sum(output.square().mean() for output in outputs).backward()
    assert not {unit.name for unit in find_units(network, image)} & found.fixed.keys()
