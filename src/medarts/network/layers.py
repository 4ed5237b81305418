"""Layers that networks of all kinds share."""

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["group", "batch"]
CHANNELS_PER_GROUP = 16


def group_norm(channels: int, *, affine: bool) -> nn.GroupNorm:
    """Returns a GroupNorm with 16 channels a group, or one group where 16 does not divide ``channels``."""
    groups = 1 if channels % CHANNELS_PER_GROUP else channels // CHANNELS_PER_GROUP
    return nn.GroupNorm(groups, channels, affine=affine)


def make_norm(kind: Norm, channels: int, *, affine: bool) -> nn.Module:
    """Returns a norm of a kind: of the groups of each image, or of each channel over the batch."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    return group_norm(channels, affine=affine)


class ChannelShuffle(nn.Module):
    """Interleaves the channels of the groups, so that the next grouped convolution sees all of them."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Returns the same channels in another order."""
        if self.groups == 1:  # nothing to interleave; exported, the copies would keep the norm out of the convolution
            return x_bchw
        b, c, h, w = x_bchw.shape
        return x_bchw.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def pooled_logits(linear: nn.Linear, features_bchw: Tensor) -> Tensor:
    """Returns what a linear layer makes of the means of feature maps, (B, F), in the precision of its weights.

    Also inside autocast: in bf16 the logits of many images would be equal, and could not be ranked.
    """
    device = features_bchw.device.type
    # Meta tensors, with which FLOPs are counted, have no autocast. Where it is off, exported graphs need no part of it.
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if on else nullcontext():
        logits: Tensor = linear(features_bchw.to(linear.weight.dtype).mean((2, 3)))
    return logits
