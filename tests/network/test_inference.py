"""What is shipped is never the slower of a network and its form for inference."""

import math
import time

import pytest
import torch
from torch import Tensor

from medarts.models import build_network
from medarts.models.folded import FoldedNetwork
from medarts.models.unet import UNetSettings
from medarts.network import Network, inference
from medarts.network.inference import shipped
from medarts.spaces.genotype import load_genotype as load


def unet(width: int = 4, depth: int = 3) -> Network:
    torch.manual_seed(0)
    return build_network(UNetSettings(width=width, depth=depth), in_channels=1, outputs=1)


def work(seconds: float) -> None:
    """Keeps the processor busy."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms for inference take 5 ms of the processor more, as on a machine without a fast kernel."""
    forward = FoldedNetwork.forward

    def late(self: FoldedNetwork, x_bchw: Tensor, head: str | None = None) -> Tensor | list[Tensor]:
        work(0.005)
        return forward(self, x_bchw, head)

    monkeypatch.setattr(FoldedNetwork, "forward", late)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks themselves take long."""
    monkeypatch.setattr(inference, "_best_seconds", lambda network, form, image: (1.0, inference.CLEARLY_SLOWER))


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
        torch.testing.assert_close(found(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("slow")
def test_precision_does_not_depend_on_time() -> None:
    """In bf16 the network itself would give other scores."""
    assert isinstance(shipped(unet(), in_channels=1, size=16, dtype=torch.bfloat16), FoldedNetwork)


class Timed(torch.nn.Module):
    """A network that does nothing but to keep the processor busy, and then to wait."""

    heads = ("last",)

    def __init__(self, seconds: float, waits: float = 0.0) -> None:
        super().__init__()
        self.seconds, self.waits, self.passes = seconds, waits, 0

    def forward(self, x_bchw: Tensor, head: str) -> None:
        self.passes += 1
        work(self.seconds)
        time.sleep(self.waits)


def best_seconds(network: Timed, form: Timed) -> tuple[float, float]:
    return inference._best_seconds(network, form, torch.rand(1))


@pytest.mark.parametrize(
    ("of_network", "of_form", "passes"),
    [
        (0.003, 0.001, 4),  # one that warms up, and a few turns
        (0.030, 0.025, 2),  # long ones tell enough in one turn
        (0.025, 0.030, 4),  # but not that the form is to be dropped
    ],
)
def test_as_many_passes_as_tell_enough(
    of_network: float, of_form: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "ENOUGH_SECONDS", 0.06)
    network, form = Timed(of_network), Timed(of_form)
    found = best_seconds(network, form)
    assert network.passes == form.passes == passes
    assert found == pytest.approx((of_network, of_form), rel=0.15)


def test_a_form_that_is_a_little_slower_gets_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "ENOUGH_SECONDS", 0.06)
    network, form = Timed(0.002), Timed(0.0025)
    best_seconds(network, form)
    assert network.passes > 8


@pytest.mark.skipif(not inference._IS_FINE, reason="the processor's time is counted in long steps here")
def test_other_work_on_the_machine_does_not_count() -> None:
    """A form that waits for the processor is not slower for that."""
    of_network, of_form = best_seconds(Timed(0.004), Timed(0.002, waits=0.01))
    assert of_form < of_network


def shortest(run: Network, x: Tensor, best: float) -> float:
    start = time.process_time()
    run(x, run.heads[-1])
    return min(best, time.process_time() - start)


@pytest.mark.parametrize("width", [12, 24])
def test_a_unet_of_any_width_is_not_slower_as_shipped(width: int) -> None:
    """These took 7 and 13 times as long: 96 and 192 channels were packed for images of another size."""
    network = unet(width, depth=5).eval()
    found, x = inference.for_inference(network), torch.rand(1, 1, 64, 64)
    of_network = of_form = math.inf
    with torch.inference_mode():
        for _ in range(8):
            of_network, of_form = shortest(network, x, of_network), shortest(found, x, of_form)
    assert of_form < 1.3 * of_network


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_narrow_nas_wdan_network_is_not_slower_as_shipped(norm: str) -> None:
    genotype = load("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=5)
    network = build_network(genotype, in_channels=1, outputs=1, norm=norm).eval()
    found, x = inference.for_inference(network), torch.rand(1, 1, 64, 64)
    of_network = of_form = math.inf
    with torch.inference_mode():
        for _ in range(8):
            of_network, of_form = shortest(network, x, of_network), shortest(found, x, of_form)
    assert of_form < 1.3 * of_network
