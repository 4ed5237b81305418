"""What the baselines for masks have in common: sizes that they take, heads that can be used alone, their frame."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medarts.config.section import Channels, Whole
from medarts.errors import RecipeError, RunError, quoted
from medarts.network import LAST, InferenceForm, Network
from medarts.registry import Settings

Depth = Annotated[Whole, Field(ge=2, le=8)]
"""Resolutions of a baseline, as in its settings."""


class WidthAndDepth(Settings):
    """The settings of a baseline that doubles its channels where it halves its maps.

    Attributes:
        width: channels at full resolution.
        depth: resolutions, each half of the one before.
    """

    width: Channels = 64
    depth: Depth = 5


class BaselineNetwork(Network):
    """A network that halves images ``depth - 1`` times and gives masks.

    Args:
        depth: resolutions.
        head_names: names of the heads, early to last; a head that is the only one is called "last".
    """

    def __init__(self, depth: int, head_names: Sequence[str]) -> None:
        super().__init__()
        self.depth = depth
        self._heads = tuple(head_names) if len(head_names) > 1 else (LAST,)

    @property
    def divisor(self) -> int:
        """What divides the height and width of images."""
        return int(2 ** (self.depth - 1))

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last."""
        return self._heads

    def check_size(self, size: int) -> None:
        """Refuses images that cannot be halved down to the lowest resolution.

        Raises:
            RecipeError: ``size`` is not a positive multiple of ``divisor``.
        """
        if size < 1 or size % self.divisor:
            below = max(0, size // self.divisor * self.divisor)
            times = "once" if self.depth == 2 else f"{self.depth - 1} times"
            raise RecipeError(
                f"The size {size} cannot be halved {times}, as a network of depth {self.depth} does.",
                fix=f"Use {f'{below} or ' if below else ''}{below + self.divisor}.",
            )

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the lowest resolution."""
        return size // self.divisor

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads, each BKHW at the size of the input, in fp32 at least.

        Parts that they do not need are not run.
        """
        wanted = range(len(self.heads)) if heads is None else [self.heads.index(head) for head in heads]
        return [_resized(logits, x_bchw.shape[-2:]) for logits in self._logits(x_bchw, wanted)]

    def inference_form(self, dtype: torch.dtype) -> InferenceForm:
        """Returns the network laid out for inference on a CPU."""
        from medarts.models.folded import FoldedNetwork

        return FoldedNetwork(self, dtype=dtype)

    def _kept_alone(self, parts: Sequence[str], heads: Sequence[str] | None) -> tuple[str, ...]:
        """Returns the heads that stay in a network that has no parts to take away.

        Raises:
            RunError: a part is named, or there is no such head.
        """
        if parts:
            raise RunError(
                f"The network has no part {quoted(parts[0])} that can be taken away.", fix="Take heads away instead."
            )
        return self._kept(heads)

    @abstractmethod
    def _logits(self, x_bchw: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Returns the logits of heads, by their places in ``heads``, each at the size of the maps that it reads."""


class EncoderDecoder(BaselineNetwork):
    """An encoder that halves its maps, and a decoder that doubles them and reads the encoder's on its way.

    Args:
        encoder: one stage a level, from full resolution down; all but the first halve what they read.
        decoder: one step a level, from the last but one up; takes (maps of the level below, the encoder's maps of its
            own level) and gives maps of its own level.
        widths: channels that the decoder gives at every level, from full resolution down.
        head_levels: levels with a head, from low to full resolution; named by their scales, "1/4", "1/2", "1".
        outputs: channels of the logits.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        *,
        widths: Sequence[int],
        head_levels: Sequence[int] = (0,),
        outputs: int,
    ) -> None:
        assert len(encoder) == len(decoder) + 1
        assert head_levels[-1] == 0
        super().__init__(len(encoder), [_scale(level) for level in head_levels])
        self.head_levels = tuple(head_levels)
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.head_convs = nn.ModuleList(nn.Conv2d(widths[level], outputs, 1) for level in head_levels)
        self._lay_out()

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """The biases of the heads."""
        return biases_of(self.head_convs)

    def take_away(self, parts: Sequence[str], heads: Sequence[str] | None = None) -> None:
        """Takes heads away, and the upper steps of the decoder where the last of them went.

        Raises:
            RunError: there is no such head, or a part is named, which this network has none of.
        """
        names = self._kept_alone(parts, heads)
        kept = [name in names for name in self.heads]
        self.head_levels = tuple(compress(self.head_levels, kept))
        self.head_convs = nn.ModuleList(compress(self.head_convs, kept))
        self.decoder = self.decoder[: self.depth - 1 - self.head_levels[-1]]
        self._heads = names

    def _logits(self, x_bchw: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        skips, x = [], x_bchw
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        head_of = {self.head_levels[place]: self.head_convs[place] for place in wanted}
        logits = []
        for step in self.decoder:
            x = step(x, skips.pop())
            if len(skips) in head_of:
                logits.append(head_of[len(skips)](x))
            if len(logits) == len(wanted):
                break
        return logits


def biases_of(convs: Iterable[nn.Module]) -> tuple[nn.Parameter, ...]:
    """Returns the biases of convolutions that give logits."""
    return tuple(cast(nn.Parameter, conv.bias) for conv in convs)


def widths_of(width: int, depth: int) -> tuple[int, ...]:
    """Returns the channels of every level, from full resolution down: doubled at each."""
    return tuple(width * 2**level for level in range(depth))


def _scale(level: int) -> str:
    return f"1/{2**level}" if level else "1"


def _resized(logits_bkhw: Tensor, size: Sequence[int]) -> Tensor:
    logits = logits_bkhw.float() if logits_bkhw.dtype.itemsize < 4 else logits_bkhw
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear")
