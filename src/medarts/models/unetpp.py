"""U-Net++ (Zhou et al., arXiv 1807.10165): U-Nets nested in each other, which can be cut at each of them.

With the usual widths 64 to 1024, bilinear upsampling without parameters and a head on every nested network it has the
published 36.63 M parameters.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Literal

import torch
from torch import Tensor, nn

from medarts.config.section import Flag
from medarts.models import register_model
from medarts.models.baseline import BaselineNetwork, WidthAndDepth, biases_of, widths_of
from medarts.models.blocks import double_conv, norm_maker
from medarts.network.layers import Norm


class UNetPPSettings(WidthAndDepth):
    """U-Net++ (arXiv 1807.10165).

    Attributes:
        deep_supervision: a head on every nested network, at any of which it can be cut; otherwise on the last alone.
    """

    name: Literal["unetpp"] = "unetpp"
    deep_supervision: Flag = True


@register_model("unetpp", settings=UNetPPSettings, task="segmentation", width="width")
class UNetPP(BaselineNetwork):
    """See the module.

    Node (i, j) lies at level i, 1/2^i of the input's resolution; it reads all nodes (i, 0..j-1) and the upsampled
    node (i+1, j-1). Head "j", from "1" to "depth - 1", reads node (0, j) and needs the nodes with i + j at most its
    own: a U-Net of depth j + 1.
    """

    def __init__(
        self, settings: UNetPPSettings, *, in_channels: int = 3, outputs: int = 1, norm: Norm | None = None
    ) -> None:
        last = settings.depth - 1
        ends = tuple(range(1, last + 1)) if settings.deep_supervision else (last,)
        super().__init__(settings.depth, [str(end) for end in ends])
        self.ends = ends
        widths, make_norm = widths_of(settings.width, settings.depth), norm_maker(norm)
        self.pool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear")
        self.nodes = nn.ModuleDict()
        for level, width in enumerate(widths):
            for place in range(settings.depth - level):
                above = widths[level - 1] if level else in_channels
                read = place * width + widths[level + 1] if place else above
                self.nodes[_key(level, place)] = double_conv(read, width, make_norm=make_norm)
        self.head_convs = nn.ModuleDict({str(end): nn.Conv2d(widths[0], outputs, 1) for end in self.ends})
        self._lay_out()

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The biases of the heads."""
        return biases_of(self.head_convs.values())

    def take_away(self, parts: Sequence[str], heads: Sequence[str] | None = None) -> None:
        """Takes heads away, and the nodes that only later heads need; smaller images are taken then.

        Raises:
            RunError: there is no such head, or a part is named, which this network has none of.
        """
        names = self._kept_alone(parts, heads)
        kept = [name in names for name in self.heads]
        self.ends = tuple(compress(self.ends, kept))
        self.head_convs = nn.ModuleDict(dict(compress(self.head_convs.items(), kept)))
        self._heads, self.depth = names, self.ends[-1] + 1
        needed = {_key(level, place) for level in range(self.depth) for place in range(self.depth - level)}
        self.nodes = nn.ModuleDict({key: node for key, node in self.nodes.items() if key in needed})

    def _logits(self, x_bchw: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        ends = [self.ends[place] for place in wanted]
        rows: list[list[Tensor]] = [[self.nodes[_key(0, 0)](x_bchw)]]
        logits = []
        for end in range(1, max(ends) + 1):  # the diagonal that ends at node (0, end)
            rows.append([self.nodes[_key(end, 0)](self.pool(rows[-1][0]))])
            for level in range(end - 1, -1, -1):
                row = rows[level]
                read = torch.cat([*row, self.upsample(rows[level + 1][-1])], dim=1)
                row.append(self.nodes[_key(level, end - level)](read))
            if end in ends:
                logits.append(self.head_convs[str(end)](rows[0][-1]))
        return logits


def _key(level: int, place: int) -> str:
    return f"{level}_{place}"
