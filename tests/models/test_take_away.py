"""Heads that are taken away from baselines, with what only they need."""

import copy

import pytest
import torch
from torch import Tensor

from medarts import create_model
from medarts.errors import RunError
from medarts.network import Network
from medarts.network.inference import for_inference

SEVERAL = ("unetpp", "attention-unet", "resenc-unet")


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_a_cut_after_an_early_head_leaves_its_logits_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    whole = create_model(name, width=4, depth=5).eval()
    x = torch.rand(2, 3, 32, 32)
    expected = whole(x, all_heads=True)
    for last in range(1, len(whole.heads)):
        cut = copy.deepcopy(whole)
        cut.take_away((), whole.heads[:last])
        assert cut.heads == whole.heads[:last]
        assert all(torch.equal(a, b) for a, b in zip(cut(x, all_heads=True), expected, strict=False))
        assert torch.equal(cut(x), expected[last - 1])
        left, before = cut.state_dict(), whole.state_dict()
        assert left.keys() < before.keys()
        assert sum(map(torch.numel, left.values())) < sum(map(torch.numel, before.values()))
        assert modules_run(cut, x) == {key.rpartition(".")[0] for key, _ in cut.named_parameters()}
        form = for_inference(cut)
        torch.testing.assert_close(form(x), expected[last - 1], atol=1e-4, rtol=1e-4)


def modules_run(net: Network, x: Tensor) -> set[str]:
    """Returns the modules with weights that the heads need."""
    ran: set[str] = set()
    for key, module in net.named_modules():
        if [*module.parameters(recurse=False)]:
            module.register_forward_hook(lambda *_, key=key: ran.add(key))
    net(x, all_heads=True)
    return ran


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_early_heads_can_go_alone(name: str) -> None:
    torch.manual_seed(0)
    net = create_model(name, width=4, depth=5).eval()
    x = torch.rand(1, 3, 32, 32)
    expected, heads = net(x, all_heads=True), net.heads
    net.take_away((), heads[1:])
    assert net.heads == heads[1:]
    assert all(torch.equal(a, b) for a, b in zip(net(x, all_heads=True), expected[1:], strict=True))


def test_a_cut_nested_network_is_one_of_less_depth() -> None:
    deep, small = create_model("unetpp", width=4, depth=5), create_model("unetpp", width=4, depth=3)
    deep.take_away((), ("1", "2"))
    assert [(key, each.shape) for key, each in deep.state_dict().items() if "nodes" not in key] == [
        (key, each.shape) for key, each in small.state_dict().items() if "nodes" not in key
    ]
    assert deep.state_dict().keys() >= small.state_dict().keys()
    assert deep.smallest_map(12) == 3
    deep.check_size(12)


@pytest.mark.parametrize(("name", "options"), [("unet", {"width": 4}), ("darts_v2", {"init_channel": 2})])
def test_networks_of_one_head_have_nothing_to_take_away(name: str, options: dict[str, int]) -> None:
    with torch.device("meta"):
        net = create_model(name, **options)
    assert net.removable_parts == ()
    net.take_away((), net.heads)
    with pytest.raises(RunError, match=r"'encoder'|no parts"):
        net.take_away(("encoder",))
    with pytest.raises(RunError, match="no head '1/2'"):
        net.take_away((), ("1/2",))
