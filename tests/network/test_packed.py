"""Convolutions for inference: equal outputs, and oneDNN never rearranges a weight that was packed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from medarts.models import build_network
from medarts.models.resenc_unet import ResEncUNetSettings
from medarts.models.unet import UNetSettings
from medarts.network.inference import for_inference
from medarts.network.packed import WORTH_PACKING, AnyConv, Convolution, Form

LAST = torch.channels_last
FP32, BF16 = Form(torch.float32, LAST), Form(torch.bfloat16, LAST)

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).contiguous(memory_format=LAST)


def expected_of(conv: AnyConv, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.relu(conv(x))


KINDS: dict[str, Callable[[int], AnyConv]] = {
    "dense": lambda c: nn.Conv2d(c, c + 1, 3, padding=1),
    "pointwise": lambda c: nn.Conv2d(c, 2 * c, 1),
    "dilated": lambda c: nn.Conv2d(c, c, 3, stride=2, padding=2, dilation=2),
    "of each channel": lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False),
    "up": lambda c: nn.ConvTranspose2d(c, c + 1, 4, stride=2, padding=1),
    "up, dilated": lambda c: nn.ConvTranspose2d(c, c, 3, stride=2, padding=2, output_padding=1, dilation=2),
    "up, of each channel": lambda c: nn.ConvTranspose2d(c, c, 3, stride=2, padding=1, output_padding=1, groups=c),
}


def make(kind: str, channels: int) -> AnyConv:
    torch.manual_seed(0)
    return KINDS[kind](channels)


@pytest.mark.parametrize("channels", [1, 3, 5, 6, 8, 12, 16, 24, 48, 96])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_equal_whatever_the_shape(kind: str, channels: int) -> None:
    """Shapes that oneDNN is used for and others follow each other, so that weights are packed and unpacked."""
    conv = make(kind, channels)
    fast = Convolution(conv, form=FP32, relu=True)
    shapes = ((1, 4, 4), (8, 16, 12), (1, 4, 4), (2, 8, 8), (1, 64, 48))
    for batch, height, width in shapes:
        x = images(batch, channels, height, width)
        torch.testing.assert_close(fast(x), expected_of(conv, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5, 12, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_in_bf16_are_near(kind: str, channels: int) -> None:
    conv, x = make(kind, channels), images(2, channels, 8, 8)
    found = Convolution(conv, form=BF16, relu=True)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected_of(conv, x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_scale_bias_and_relu(kind: type[AnyConv], packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where oneDNN does not compute: the same without packing."""
    monkeypatch.setattr("medarts.network.packed._can_pack", lambda weight: packs)
    conv, scale, bias = kind(4, 6, 3, stride=2, padding=1, bias=False), torch.randn(6), torch.randn(6)
    x = images(2, 4, 5, 7)
    with torch.inference_mode():
        found = Convolution(conv, form=FP32, scale=scale, bias=bias, relu=True)(x)
        expected = (conv(x) * scale[:, None, None] + bias[:, None, None]).relu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize(
    ("kind", "shape", "is_packed"),
    [
        ("dense", (1, 8, 16, 16), False),  # PyTorch runs single small images without oneDNN, whose calls cost more
        ("dense", (2, 8, 16, 16), True),
        ("dense", (1, 8, 64, 64), True),
        ("dense", (1, 96, 8, 8), True),  # small, but much work
        ("of each channel", (1, 8, 4, 4), True),
        ("up", (1, 8, 4, 4), True),  # a kernel of 4
        ("up, dilated", (4, 8, 16, 16), False),  # no kernel of its own
        ("up, of each channel", (4, 8, 16, 16), False),
    ],
)
def test_weights_are_packed_where_that_gains(kind: str, shape: tuple[int, ...], is_packed: bool) -> None:
    fast = Convolution(make(kind, shape[1]), form=FP32)
    fast(images(*shape))
    assert (fast.packed is not None) is is_packed


@needs_onednn
def test_maps_in_their_own_layout_are_not_convolved_channels_last() -> None:
    fast = Convolution(make("dense", 8), form=Form(torch.float32, torch.contiguous_format))
    assert fast(torch.randn(2, 8, 32, 32)).is_contiguous()
    assert fast.packed is None


@needs_onednn
def test_work_counts_multiply_adds() -> None:
    """64 to 65 channels at 12 and 11 px: 144 * 9 * 64 * 65 = 5.4 million, and 4.5."""
    fast = Convolution(make("dense", 64), form=FP32)
    assert 121 * 9 * 64 * 65 < WORTH_PACKING < 144 * 9 * 64 * 65
    for side, is_packed in ((12, True), (11, False), (12, True)):
        fast(images(1, 64, side, side))
        assert (fast.packed is not None) is is_packed


@needs_onednn
@pytest.mark.parametrize("settings", [UNetSettings(width=12), UNetSettings(width=24), ResEncUNetSettings(width=12)])
def test_onednn_rearranges_no_packed_weight(
    settings: UNetSettings | ResEncUNetSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights that were packed for images of another size are, at every call, by a very slow routine of oneDNN."""
    fast = for_inference(build_network(settings, in_channels=3, outputs=1).eval())
    for side in (64, 96):
        fast(images(1, 3, side, side))
        capfd.readouterr()
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            fast(images(1, 3, side, side))
        calls = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
        assert sum("convolution" in line for line in calls) > 10
        # A blocked layout, such as Acdb48a, into another.
        assert not [line for line in calls if ",reorder," in line and "src:f32::blocked:A" in line]
