"""What is shipped is never the slower of a network and its form for inference."""

import math
import time

import pytest
import torch
from torch import Tensor

from medarts.networks import shipping
from medarts.networks.folded import FoldedNetwork
from medarts.networks.network import TrainedNetwork
from medarts.networks.registry import build_network
from medarts.networks.shipping import shipped
from medarts.recipe.models import UNetSettings
from medarts.spaces.reading import load


def unet(width: int = 4, depth: int = 3) -> TrainedNetwork:
    torch.manual_seed(0)
    return build_network(UNetSettings(width=width, depth=depth), in_channels=1, outputs=1)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms for inference take 20 ms more, as on a machine without a fast kernel."""
    forward = FoldedNetwork.forward

    def late(self: FoldedNetwork, x_bchw: Tensor, head: str | None = None) -> list[Tensor]:
        time.sleep(0.02)
        return forward(self, x_bchw, head)

    monkeypatch.setattr(FoldedNetwork, "forward", late)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks themselves take long."""
    monkeypatch.setattr(shipping, "_best_seconds", lambda network, form, image: (1.0, shipping.CLEARLY_SLOWER))


@pytest.mark.usefixtures("slow")
def test_a_form_that_is_slower_is_not_shipped() -> None:
    network = unet().train()
    found = shipped(network, in_channels=1, size=16)
    assert found is network
    assert not network.training


@pytest.mark.usefixtures("fast")
def test_a_form_that_is_as_fast_is_shipped() -> None:
    network, x = unet(), torch.rand(2, 1, 16, 16)
    found = shipped(network, in_channels=1, size=16)
    assert isinstance(found, FoldedNetwork)
    with torch.inference_mode():
        torch.testing.assert_close(found(x)[-1], network(x)[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("slow")
def test_precision_does_not_depend_on_time() -> None:
    """In bf16 the network itself would give other scores."""
    assert isinstance(shipped(unet(), in_channels=1, size=16, dtype=torch.bfloat16), FoldedNetwork)


def test_passes_that_are_long_are_few() -> None:
    class Long(torch.nn.Module):
        heads, passes = ("last",), 0

        def forward(self, x_bchw: Tensor, head: str) -> None:
            self.passes += 1
            time.sleep(shipping.ENOUGH_SECONDS / 3)

    one, other = Long(), Long()
    shipping._best_seconds(one, other, torch.rand(1))  # type: ignore[arg-type]
    assert one.passes == other.passes == 2


def shortest(run: TrainedNetwork, x: Tensor, best: float) -> float:
    start = time.perf_counter()
    run(x, run.heads[-1])
    return min(best, time.perf_counter() - start)


@pytest.mark.parametrize("width", [12, 24])
def test_a_unet_of_any_width_is_not_slower_as_shipped(width: int) -> None:
    """These took 7 and 13 times as long: 96 and 192 channels were packed for images of another size."""
    network = unet(width, depth=5).eval()
    found, x = shipping.for_inference(network), torch.rand(1, 1, 64, 64)
    of_network = of_form = math.inf
    with torch.inference_mode():
        for _ in range(12):
            of_network, of_form = shortest(network, x, of_network), shortest(found, x, of_form)
    assert of_form < 1.3 * of_network


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_narrow_weaved_network_is_not_slower_as_shipped(norm: str) -> None:
    genotype = load("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=5)
    network = build_network(genotype, in_channels=1, outputs=1, norm=norm).eval()  # type: ignore[arg-type]
    found, x = shipping.for_inference(network), torch.rand(1, 1, 64, 64)
    of_network = of_form = math.inf
    with torch.inference_mode():
        for _ in range(8):
            of_network, of_form = shortest(network, x, of_network), shortest(found, x, of_form)
    assert of_form < 1.3 * of_network
