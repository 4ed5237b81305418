"""What training and evaluation know of any network, whether derived from a genotype or a baseline."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medarts.errors import MedartsError, RecipeError, RunError, did_you_mean, quoted

LAST = "last"
"""Name of the head of a network that has only one."""

AVERAGE = "average"
"""Named like a head: the mean of the logits of all heads."""

_LARGEST = 8192
"""Height and width up to which the smallest images of a network are looked for, in pixels."""


class Network(nn.Module, ABC):
    """A network that is trained from scratch.

    Calling it gives the logits of its last head; the earlier heads of deep supervision are given on request:

        network(images)                  # Tensor: the last head
        network(images, "1/2")           # Tensor: the head of that name; parts that it does not need are not run
        network(images, "average")       # Tensor: the mean of all heads
        network(images, all_heads=True)  # list[Tensor]: every head that counts in the loss, early to last
    """

    _is_laid_out = False

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, early to last."""

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """What every head adds to its logits, one value an output.

        A training from scratch sets them to what the masks show on average, see `medarts.tasks`. The default has none:
        the heads of such a network begin as its constructor made them.
        """
        return ()

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Refuses images of a height and width that the network cannot take.

        Raises:
            RecipeError: it cannot.
        """

    @abstractmethod
    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the smallest feature maps that images of a size lead to."""

    @property
    def small_size(self) -> int:
        """The smallest height and width of images that it takes and that leave more than one pixel of every map."""
        return next(filter(self._leaves_maps_of, range(1, _LARGEST)), _LARGEST)

    def _leaves_maps_of(self, size: int) -> bool:
        try:
            self.check_size(size)
        except MedartsError:
            return False
        return self.smallest_map(size) > 1

    @abstractmethod
    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads, early to last.

        Args:
            x_bchw: images, 0..1.
            heads: names of ``heads`` in their order; None gives all that count in the loss, which in training mode may
                include an auxiliary one that has no name.
        """

    def forward(self, x_bchw: Tensor, head: str | None = None, *, all_heads: bool = False) -> Tensor | list[Tensor]:
        """Returns logits; see the class.

        Raises:
            ValueError: there is no such head.
        """
        # One method serves both forms, as data parallelism and mixed precision wrap ``forward`` alone.
        if all_heads:
            return self.forward_heads(x_bchw)
        if head == AVERAGE:
            return torch.stack(self.forward_heads(x_bchw, self.heads)).mean(0)
        if head is not None and head not in self.heads:
            raise ValueError(f"there is no head {head!r}, only {', '.join(self.heads)}")
        return self.forward_heads(x_bchw, (head or self.heads[-1],))[0]

    @property
    def removable_parts(self) -> tuple[str, ...]:
        """The names of the parts that can be taken away from the network as it is now, each of them alone.

        The others stay removable afterwards only where this property still says so.
        """
        return ()

    def take_away(self, parts: Sequence[str], heads: Sequence[str] | None = None) -> None:
        """Takes parts and heads away, in place, with all that no kept head needs any more.

        The weights of what is left stay, and so do the logits of heads that none of the parts led to.

        Args:
            parts: any that can be taken away one after the other; see ``removable_parts``.
            heads: names of the heads that stay. Default: all.

        Raises:
            RunError: that is not possible; the network is then as it was.
        """
        if parts or self._kept(heads) != self.heads:
            raise RunError(
                f"{type(self).__name__} has no parts or heads that can be taken away.",
                fix="Take channels away instead, with another method.",
            )

    def _kept(self, heads: Sequence[str] | None) -> tuple[str, ...]:
        """Returns the heads that stay, early to last; None stands for all.

        Raises:
            RunError: one of them does not exist, or there is none.
        """
        kept = self.heads if heads is None else tuple(head for head in self.heads if head in heads)
        unknown = sorted({*(heads or ())} - {*kept})
        if unknown:
            raise RunError(f"The network has no head {quoted(unknown[0])}.", fix=did_you_mean(unknown[0], self.heads))
        if not kept:
            raise RunError("No head of the network would be left.", fix=f"Keep one of {', '.join(self.heads)}.")
        return kept

    def head_named(self, head: str | None) -> str:
        """Returns a head that `forward` takes; None gives the last.

        Raises:
            RunError: there is none of that name.
        """
        choices = self.heads if len(self.heads) == 1 else (*self.heads, AVERAGE)
        if head is not None and head not in choices:
            raise RunError(f"The network has no head {quoted(head)}.", fix=did_you_mean(str(head), choices))
        return head or self.heads[-1]

    def inference_form(self, dtype: torch.dtype) -> "InferenceForm | None":
        """Returns a network with equal outputs, up to rounding, that is faster on a CPU; None where there is none.

        Args:
            dtype: in which it computes.
        """
        return None

    def training_form(self) -> "Network":
        """Returns a network that trains the weights of this one faster on a CPU; itself where there is none.

        Outputs, gradients and running statistics are equal, up to rounding.
        """
        return self

    def at(self, progress: float) -> None:
        """Tells a network that changes while it is trained how far training is, from 0 to 1."""

    def lay_out_again(self) -> None:
        """Lays out weights that have been replaced as the network's constructor did with the others."""
        if self._is_laid_out:
            self._lay_out()

    def _lay_out(self) -> None:
        """Lays weights out channels-last, which feature maps then are too; called by constructors at their end.

        On a CPU depthwise convolutions are several times faster like that, and dense ones not slower.
        """
        # PyTorch's annotations do not know that modules take a memory format alone.
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._is_laid_out = True


def check_batch_norms(norm: str | None, name: str) -> None:
    """Refuses other norms than batch norms for a network that has these.

    Raises:
        RecipeError: others were asked for.
    """
    if norm not in (None, "batch"):
        raise RecipeError(f"train.norm is {norm}, but {name} has batch norms.", fix="Leave it out.")


class InferenceForm(Network):
    """A network laid out for inference. It cannot be trained, saved or moved; the network it is made of can.

    Args:
        dtype: in which it computes.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype


class FindingNetwork(Network):
    """A network that classifies an image by its findings, several at once: logits (B, F).

    It classifies the means of its last feature maps, which is what Grad-CAM needs to know. An auxiliary head, where
    one is trained with the network, gives logits in training mode alone.
    """

    @property
    def heads(self) -> tuple[str, ...]:
        """One head: an auxiliary one serves training alone."""
        return (LAST,)

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits, (B, F), as the one item of a list."""
        return [self.classify(self.features(x_bchw))]

    @abstractmethod
    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the last feature maps, BCHW, whose means over height and width are classified."""

    @abstractmethod
    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of feature maps, (B, F)."""
