"""The count against PyTorch's own; shapes against those of the operations; what is not imported."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medarts.models import architecture_named, build_network, without_weights
from medarts.profiling.flops import FlopCounter

BASELINES = ("unet", "attention-unet", "multiresunet", "r2unet", "unetpp", "resenc-unet", "mednext")
NAMES = (*BASELINES, "layer7_double_deep", "darts_v2", "chestxray14_first_order")


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    with torch.device("meta"):
        network = build_network(without_weights(architecture_named(name)), in_channels=3, outputs=2).eval()
    with torch.inference_mode(), FlopCounter() as counter:
        logits = network(meta(1, 3, 64, 64))
    with torch.inference_mode(), FlopCounterMode(display=False) as oracle:
        expected = network(meta(1, 3, 64, 64))
    assert logits.shape == expected.shape
    assert counter.total == oracle.get_total_flops() > 0


OPERATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: F.conv2d(x, meta(8, 2, 3, 5), stride=(2, 1), padding=(1, 0), dilation=2, groups=2),
    lambda x: F.conv_transpose2d(x, meta(4, 3, 2, 3), stride=2, padding=1, output_padding=1, groups=2),
    lambda x: F.conv3d(x[None], meta(3, 2, 1, 1, 1)),
    lambda x: F.linear(x.mean((2, 3)), meta(5, 4), meta(5)),
    lambda x: x.mean(-1, keepdim=True) + x,
    lambda x: torch.cat([x, x[:, :1]], dim=1),
    lambda x: torch.cat([x, x], dim=-2),
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.max_pool2d(x, (2, 1)),
    lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    lambda x: F.interpolate(x, scale_factor=2),
    lambda x: F.interpolate(x, size=(7, 5), mode="bilinear"),
    lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    lambda x: F.instance_norm(x) * meta(9, 1),
    lambda x: x.relu_().add_(meta(1)),
    lambda x: torch.add(x, 1, out=meta(2, 4, 9, 11)),
    lambda x: x.flatten(1).softmax(1),
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_shapes_are_those_of_the_operations(operation: Callable[[Tensor], Tensor]) -> None:
    with torch.inference_mode():
        expected = operation(meta(2, 4, 9, 11))
        with FlopCounter():
            assert operation(meta(2, 4, 9, 11)).shape == expected.shape


@pytest.mark.parametrize(
    "operation",
    [
        lambda: F.conv2d(meta(1, 3, 8, 8), meta(4, 2, 3, 3)),
        lambda: F.conv2d(meta(1, 3, 2, 2), meta(4, 3, 3, 3)),
        lambda: meta(2, 3) + meta(2, 4),
        lambda: torch.cat([meta(1, 2, 4, 4), meta(1, 2, 5, 4)], dim=1),
        lambda: F.linear(meta(2, 3), meta(5, 4), meta(5)),
    ],
)
def test_operands_that_do_not_fit_are_errors(operation: Callable[[], Tensor]) -> None:
    with torch.inference_mode(), FlopCounter(), pytest.raises(Exception, match=r"size|channel|dim"):
        operation()


def test_numbers_on_the_cpu_are_computed() -> None:
    x = torch.rand(1, 2, 4, 4)
    with torch.inference_mode(), FlopCounter() as counter:
        y = F.conv2d(x, torch.ones(1, 2, 1, 1)).relu()
    assert counter.total == 2 * 2 * 16
    assert y.allclose(x.sum(1, keepdim=True))


def test_counting_does_not_import_the_compiler() -> None:
    code = (
        "import sys; from medarts import cost;"
        "cost('unet', 'layer7_double_deep', size=64, outputs=1, repeats=0);"
        "assert not {'torch._dynamo', 'sympy'} & {*sys.modules}, 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
