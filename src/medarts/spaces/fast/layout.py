"""Two views of the same memory: images as BCHW, channels-last, for convolutions, and as BHWC for everything else."""

from torch import Tensor


def split_channels(x_bhwc: Tensor, parts: int) -> Tensor:
    """Returns BHWMC: the channels of M parts that lie beside each other."""
    b, h, w, c = x_bhwc.shape
    return x_bhwc.reshape(b, h, w, parts, c // parts)


def to_bhwc(x_bchw: Tensor) -> Tensor:
    """Returns a view; contiguous where x is channels-last."""
    return x_bchw.permute(0, 2, 3, 1)


def to_bchw(x_bhwc: Tensor) -> Tensor:
    """Returns a view; channels-last where x is contiguous."""
    return x_bhwc.permute(0, 3, 1, 2)
