"""Floating point operations of a pass, by the formulas of PyTorch.

Its own counter imports torch._dynamo, which takes nearly as long as torch itself, and so do most operations on the meta
device. Here the usual ones get their shapes without it; all others run as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it without types
    """Counts the operations of convolutions and matrix products while it is entered, 2 per multiply-add.

    Attributes:
        total: operations counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False, as PyTorch would import torch._dynamo to keep it from compiling this class."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns what an operation returns; counts it, or those that it consists of."""
        named = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        out = _of_known_shape(func, args, named)
        if out is NotImplemented and formula is None:
            with self:
                out = func.decompose(*args, **named)
        if out is NotImplemented:
            out = func(*args, **named)
        if formula is not None:
            self.total += formula(*args, **named, out_val=out)
        return out


def _of_known_shape(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Returns the result of an operation on the meta device.

    NotImplemented where its shape is not known here, also because the operands do not fit: PyTorch words that error.
    """
    operands = [each for each in args if isinstance(each, Tensor)] or [*(args[0] if func is aten.cat.default else ())]
    if not operands or not all(each.is_meta for each in operands) or "out" in named:
        return NotImplemented
    if func in _SHAPES:
        shape = _SHAPES[func](*args, **named)
    elif torch.Tag.pointwise in func.tags and len(func._schema.returns) == 1:
        shape = _broadcast([each.shape for each in operands])
    else:
        return NotImplemented
    if shape is None:
        return NotImplemented
    return args[0] if func._schema.is_mutable else operands[0].new_empty(shape)


Shape = Sequence[int] | None


def _broadcast(shapes: Sequence[Sequence[int]]) -> Shape:
    # torch.broadcast_shapes imports SymPy.
    aligned = [*zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)][::-1]
    return [max(sizes) for sizes in aligned] if all(len({*sizes} - {1}) < 2 for sizes in aligned) else None


def _same(x: Tensor, *_: object, **__: object) -> Shape:
    return x.shape


def _convolved(  # noqa: PLR0917  # as PyTorch passes them
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Shape:
    if x.ndim != 4 or x.shape[1] != weight.shape[0 if transposed else 1] * (1 if transposed else groups):
        return None
    shape = [x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for axis, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        reach, step, pad = dilation[axis] * (kernel - 1), stride[axis], 2 * padding[axis]
        if transposed:
            shape.append((size - 1) * step - pad + reach + output_padding[axis] + 1)
        else:
            shape.append((size + pad - reach - 1) // step + 1)
    return shape if min(shape) > 0 else None


def _max_pooled(  # noqa: PLR0917  # the same
    x_bchw: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Shape:
    if ceil_mode:
        return None
    sides = [both if len(both) == 2 else [*both] * 2 for both in (kernel, stride or kernel, padding, dilation)]
    return [*x_bchw.shape[:2]] + [
        (size + 2 * pad - apart * (window - 1) - 1) // step + 1
        for size, window, step, pad, apart in zip(x_bchw.shape[2:], *sides, strict=True)
    ]


def _average_pooled(
    x_bchw: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    *_: object,
) -> Shape:
    return _max_pooled(x_bchw, kernel, stride, padding, ceil_mode=ceil_mode)


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Shape:
    shapes = [[*each.shape] for each in tensors]
    joined = [*shapes[0]]
    joined[dim] = sum(shape[dim] for shape in shapes)
    for shape in shapes:
        shape[dim] = joined[dim]
    return joined if all(shape == joined for shape in shapes) else None


def _mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, **_: object) -> Shape:
    left_out = {place % x.ndim for place in (range(x.ndim) if dim is None else dim)}
    return [1 if place in left_out else size for place, size in enumerate(x.shape) if keepdim or place not in left_out]


def _product(bias: Tensor, left: Tensor, right: Tensor, **_: object) -> Shape:
    return [left.shape[0], right.shape[1]] if left.shape[1] == right.shape[0] else None


def _resized(x_bchw: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> Shape:
    height, width = size or [int(old * scale) for old, scale in zip(x_bchw.shape[2:], scales or (), strict=True)]
    return [*x_bchw.shape[:2], height, width]


def _resized_bilinearly(
    x_bchw: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None
) -> Shape:
    return _resized(x_bchw, size, scales)


_SHAPES: dict[Any, Callable[..., Shape]] = {
    aten.convolution.default: _convolved,
    aten.addmm.default: _product,
    aten.batch_norm.default: _same,
    aten.group_norm.default: _same,
    aten.instance_norm.default: _same,
    aten.max_pool2d.default: _max_pooled,
    aten.avg_pool2d.default: _average_pooled,
    aten.cat.default: _concatenated,
    aten.mean.dim: _mean,
    aten.upsample_nearest2d.vec: _resized,
    aten.upsample_bilinear2d.vec: _resized_bilinearly,
}
