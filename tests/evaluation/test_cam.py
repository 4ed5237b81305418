"""The maps equal those of other computations, and show evidence where it is."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.evaluation.scoring import grad_cam
from medarts.network import FindingNetwork

FINDINGS = 3


class Tiny(FindingNetwork):
    """A convolutional classifier; ``head`` makes logits of the means of its last maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2)
        )
        self.head = head

    def check_size(self, size: int) -> None:
        raise NotImplementedError

    def smallest_map(self, size: int) -> int:
        raise NotImplementedError

    def features(self, x_bchw: Tensor) -> Tensor:
        maps: Tensor = self.body(x_bchw)
        return maps.relu()

    def classify(self, features_bchw: Tensor) -> Tensor:
        logits: Tensor = self.head(features_bchw.mean((2, 3)))
        return logits

    def forward(self, x_bchw: Tensor, head: str | None = None, *, all_heads: bool = False) -> list[Tensor]:
        return [self.classify(self.features(x_bchw))]


class Spots(FindingNetwork):
    """Sees two findings, bright and dark places, in maps eight times smaller than the image."""

    check_size = Tiny.check_size
    smallest_map = Tiny.smallest_map
    forward = Tiny.forward

    def features(self, x_bchw: Tensor) -> Tensor:
        small = F.avg_pool2d(x_bchw, 8)
        return torch.cat([small, 1 - small], dim=1)

    def classify(self, features_bchw: Tensor) -> Tensor:
        bright, dark = features_bchw.square().mean((2, 3)).T
        return torch.stack([bright - dark, dark], dim=1)


def tiny(*, deep: bool) -> Tiny:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, FINDINGS)) if deep else nn.Linear(8, FINDINGS)
    network = Tiny(head)
    network.body[1].running_mean.uniform_(-0.1, 0.1)
    return network.eval()


def images(count: int = 4) -> Tensor:
    return torch.rand((count, 1, 33, 41), generator=torch.Generator().manual_seed(1))


def scaled(maps_bhw: Tensor) -> Tensor:
    return maps_bhw / maps_bhw.amax((1, 2), keepdim=True)


def test_behind_means_and_a_linear_head_it_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: there the gradient of a map's every place is its weight in the head over the places."""
    network, finding = tiny(deep=False), [0, 2, 1, 1]
    with torch.no_grad():
        maps, weights = network.features(images()), network.head.weight[finding]
        activation = torch.einsum("bc,bchw->bhw", weights, maps).relu()
    assert (activation.amax((1, 2)) > 0).all()
    large = F.interpolate(activation[:, None], size=(33, 41), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(grad_cam(network, images(), finding), scaled(large))


@pytest.mark.parametrize("finding", [[0, 1, 2, 0], [2, 2, 1, 1]])
def test_it_equals_the_maps_of_monai(finding: Sequence[int]) -> None:
    from monai.visualize import GradCAM

    class Plain(nn.Module):
        """The network as monai wants it: logits alone, the last maps those of a module."""

        def __init__(self, network: Tiny) -> None:
            super().__init__()
            self.body, self.last, self.head = network.body, nn.ReLU(), network.head

        def forward(self, x_bchw: Tensor) -> Tensor:
            logits: Tensor = self.head(self.last(self.body(x_bchw)).mean((2, 3)))
            return logits

    network = tiny(deep=True)
    oracle = GradCAM(Plain(network), target_layers="last", postprocessing=lambda maps: maps)
    pairs = zip(images(), finding, strict=True)
    expected = torch.cat([oracle(image[None], class_idx=index)[0] for image, index in pairs])
    highest = expected.amax((1, 2), keepdim=True)
    assert (highest > 0).any()
    torch.testing.assert_close(grad_cam(network, images(), finding), expected / torch.where(highest > 0, highest, 1))


def test_the_map_is_where_the_evidence_is() -> None:
    x = torch.full((2, 1, 64, 64), 0.5)
    x[:, :, 40:48, 8:16] = 1.0
    x[:, :, 8:16, 48:56] = 0.0
    bright, dark = grad_cam(Spots(), x, [0, 1])
    assert bright.shape == (64, 64)
    assert int(bright.argmax()) in {y * 64 + c for y in range(40, 48) for c in range(8, 16)}
    assert int(dark.argmax()) in {y * 64 + c for y in range(8, 16) for c in range(48, 56)}
    assert bright.max() == dark.max() == 1
    assert bright.min() >= 0


def test_every_image_is_seen_alone() -> None:
    network, finding = tiny(deep=True), [0, 2, 1, 1]
    together = grad_cam(network, images(), finding)
    for number, (image, index) in enumerate(zip(images(), finding, strict=True)):
        torch.testing.assert_close(together[number], grad_cam(network, image[None], [index])[0])


def test_a_map_without_evidence_is_zero() -> None:
    network = tiny(deep=False)
    nn.init.constant_(network.head.weight, -1.0)
    assert torch.equal(grad_cam(network, images(), [0] * 4), torch.zeros(4, 33, 41))


def test_the_network_is_left_as_it_was_though_run_in_evaluation_mode() -> None:
    network = tiny(deep=True)
    expected = grad_cam(network, images(), [0, 1, 2, 0])
    network.train()
    network.body[0].eval()
    mean = network.body[1].running_mean.clone()
    torch.testing.assert_close(grad_cam(network, images(), [0, 1, 2, 0]), expected)
    assert network.training
    assert network.body[1].training
    assert not network.body[0].training
    assert torch.equal(network.body[1].running_mean, mean)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_of_the_caller_may_be_off(mode: type[torch.no_grad] | type[torch.inference_mode]) -> None:
    network = tiny(deep=True)
    expected = grad_cam(network, images(), [0, 1, 2, 0])
    with mode():
        found = grad_cam(network, images(), [0, 1, 2, 0])
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_as_many_findings_as_images_are_asked_for() -> None:
    with pytest.raises(ValueError, match="1 findings for 4 images"):
        grad_cam(tiny(deep=False), images(), [0])
    with pytest.raises(IndexError):
        grad_cam(tiny(deep=False), images(1), [FINDINGS])
