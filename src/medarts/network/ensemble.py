"""Several networks of one architecture as one: the mean of their probabilities.

An ensemble gives logits, as any network does: those whose probabilities are the mean of the probabilities of its
members. So all that takes a network takes an ensemble, and it is exported as one graph.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.network import FindingNetwork, InferenceForm, Network


def mean_logits(logits: Sequence[Tensor], *, exclusive: bool) -> Tensor:
    """Returns the logits of the mean of probabilities, computed from logarithms, so that none becomes infinite.

    Args:
        logits: of every member, equal in shape, outputs in axis 1.
        exclusive: whether probabilities are a softmax over the outputs; else each output has its own sigmoid.

    >>> two = [torch.tensor([[-2.0]]), torch.tensor([[1.0]])]
    >>> torch.sigmoid(mean_logits(two, exclusive=False)) - torch.stack(two).sigmoid().mean(0) < 1e-6
    tensor([[True]])
    """
    every = torch.stack(list(logits))
    if exclusive:
        return torch.logsumexp(F.log_softmax(every, 2), 0) - math.log(len(every))
    # log p - log(1 - p), in both of which the number of members cancels.
    return torch.logsumexp(-F.softplus(-every), 0) - torch.logsumexp(-F.softplus(every), 0)


def ensemble_of(members: Sequence[Network], *, exclusive: bool) -> Network:
    """Returns the ensemble of networks of one architecture; see `mean_logits`."""
    if isinstance(members[0], FindingNetwork):
        return FindingEnsemble(cast("Sequence[FindingNetwork]", members))
    return MaskEnsemble(members, exclusive=exclusive)


class _Members(Network):
    """What all ensembles have of their members."""

    members: nn.ModuleList

    @property
    def first(self) -> Network:
        """The first member; the others are built alike."""
        return cast(Network, self.members[0])

    def check_size(self, size: int) -> None:
        """Refuses images that the members cannot take."""
        self.first.check_size(size)

    def smallest_map(self, size: int) -> int:
        """Returns the height and width of the smallest feature maps of the members."""
        return self.first.smallest_map(size)

    def lay_out_again(self) -> None:
        """Lays out the weights of all members."""
        for member in self.members:
            cast(Network, member).lay_out_again()


class _MaskMembers(_Members):
    """The forward pass of ensembles for masks."""

    exclusive: bool

    @property
    def heads(self) -> tuple[str, ...]:
        """Those of the members."""
        return self.first.heads

    def forward_heads(self, x_bchw: Tensor, heads: Sequence[str] | None = None) -> list[Tensor]:
        """Returns the logits of heads, early to last, each of the mean of the members' probabilities."""
        of_members = [cast(Network, member).forward_heads(x_bchw, heads) for member in self.members]
        return [mean_logits(of_head, exclusive=self.exclusive) for of_head in zip(*of_members, strict=True)]


class MaskEnsemble(_MaskMembers):
    """An ensemble of networks for masks.

    Args:
        members: of one architecture, at least one.
        exclusive: see `mean_logits`.
    """

    def __init__(self, members: Sequence[Network], *, exclusive: bool) -> None:
        super().__init__()
        self.members, self.exclusive = nn.ModuleList(members), exclusive

    def inference_form(self, dtype: torch.dtype) -> InferenceForm | None:
        """Returns the ensemble of the inference forms of the members; None where they have none."""
        forms = [cast(Network, member).inference_form(dtype) for member in self.members]
        present = [form for form in forms if form is not None]
        return EnsembleForm(present, exclusive=self.exclusive) if len(present) == len(forms) else None


class EnsembleForm(_MaskMembers, InferenceForm):
    """An ensemble for masks laid out for inference.

    Args:
        members: the inference forms of its members.
        exclusive: see `mean_logits`.
    """

    def __init__(self, members: Sequence[InferenceForm], *, exclusive: bool) -> None:
        super().__init__(members[0].dtype)
        self.members, self.exclusive = nn.ModuleList(members), exclusive


class FindingEnsemble(_Members, FindingNetwork):
    """An ensemble of networks for findings. Its feature maps are those of all members, one after the other.

    Args:
        members: of one architecture, at least one.
    """

    def __init__(self, members: Sequence[FindingNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def features(self, x_bchw: Tensor) -> Tensor:
        """Returns the last feature maps of all members, joined along the channels."""
        return torch.cat([cast(FindingNetwork, member).features(x_bchw) for member in self.members], 1)

    def classify(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits of the mean of the members' probabilities, (B, F)."""
        parts = features_bchw.chunk(len(self.members), 1)
        members = zip(self.members, parts, strict=True)
        return mean_logits([cast(FindingNetwork, one).classify(part) for one, part in members], exclusive=False)
