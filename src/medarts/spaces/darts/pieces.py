"""The pieces of a network of darts, of which its latency is the sum: see ``medarts.spaces.pieces``."""

from collections import Counter
from functools import partial

from torch import Tensor, nn

from medarts.network.layers import pooled_logits
from medarts.spaces.darts.frame import STEM_MULTIPLIER, make_stem, positions
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.operations import IN_NETWORK, OPERATIONS, Kind, make_operation, preprocess, stride_of
from medarts.spaces.darts.settings import DartsSettings, Stem
from medarts.spaces.darts.supernet import operation_key
from medarts.spaces.genotype import NONE, Genotype
from medarts.spaces.pieces import Piece, joined

SKIP = "skip_connect"
"""Costs nothing where it keeps the size."""


class Classifier(nn.Module):
    """Global average pooling and a linear layer.

    Args:
        channels: of the feature maps.
        outputs: logits of an image.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)

    def forward(self, features_bchw: Tensor) -> Tensor:
        """Returns the logits (B, F)."""
        return pooled_logits(self.linear, features_bchw)


def pieces(genotype: Genotype, *, in_channels: int, outputs: int, size: int) -> Counter[Piece]:
    """Returns the pieces of the network, and how many there are of each.

    Raises:
        GenotypeError: the genotype does not fit the space.
    """
    settings = check(genotype)
    nodes = settings.intermediate_nodes
    found = Counter([stem_piece(settings.stem, in_channels, settings.init_channel, size=size)])
    s0_size = s1_size = _halved(size, 2 if settings.stem == "chest" else 0)
    last = settings.init_channel
    for position in positions(
        settings.stem, layers=settings.layers, init_channel=settings.init_channel, intermediate_nodes=nodes
    ):
        c = last = position.channels
        found[preprocess_piece(position.s0_channels, c, size=s0_size, halve=position.reduction_before)] += 1
        found[preprocess_piece(position.s1_channels, c, size=s1_size)] += 1
        own = _halved(s1_size, position.kind == "reduce")
        for edges in genotype.cells[position.kind]:
            for name, state in edges:
                stride = stride_of(position.kind, state)
                if name != SKIP or stride == 2:
                    given = s1_size if state < 2 else own
                    found[operation_piece(position.kind, name, c, size=given, stride=stride)] += 1
        found[joined(nodes, c, own)] += 1
        s0_size, s1_size = s1_size, own
    found[classifier_piece(nodes * last, outputs, size=s1_size)] += 1
    return found


def operation_pieces(settings: DartsSettings, *, size: int) -> dict[str, Counter[Piece]]:
    """Returns the pieces of every operation of a kind of cell and stride in the whole network, by `operation_key`."""
    found: dict[str, Counter[Piece]] = {}
    given = _halved(size, 2 if settings.stem == "chest" else 0)
    for position in positions(
        settings.stem,
        layers=settings.layers,
        init_channel=settings.init_channel,
        intermediate_nodes=settings.intermediate_nodes,
    ):
        kind, own = position.kind, _halved(given, position.kind == "reduce")
        for stride in {stride_of(kind, state) for state in (0, 2)}:
            for name in settings.operations.get(kind, OPERATIONS[kind].published):
                if name == NONE or (name == SKIP and stride == 1):
                    continue
                piece = operation_piece(
                    kind, name, position.channels, size=given if stride == 2 else own, stride=stride
                )
                found.setdefault(operation_key(kind, name, stride), Counter())[piece] += 1
        given = own
    return found


def operation_piece(kind: Kind, name: str, channels: int, *, size: int, stride: int) -> Piece:
    """Returns one operation on one edge.

    Args:
        kind: of the cell, normal or reduce.
        name: of the operation.
        channels: that it takes and gives.
        size: height and width of what it takes.
        stride: 1, or 2, which halves the size.
    """
    return Piece(
        f"darts {name}, stride {stride}",
        ((channels, size, size),),
        partial(make_operation, kind, name, channels, stride=stride, settings=IN_NETWORK),
        lasts=name in OPERATIONS[kind].published,
    )


def preprocess_piece(in_channels: int, channels: int, *, size: int, halve: bool = False) -> Piece:
    """Returns what a cell takes an input through; ``halve`` where that has twice the size of the other."""
    return Piece(
        f"darts input to {channels}{', halved' if halve else ''}",
        ((in_channels, size, size),),
        partial(preprocess, in_channels, channels, settings=IN_NETWORK, halve=halve),
    )


def stem_piece(stem: Stem, in_channels: int, init_channel: int, *, size: int) -> Piece:
    """Returns the stem."""
    channels = STEM_MULTIPLIER * init_channel
    return Piece(
        f"darts {stem} stem to {channels}",
        ((in_channels, size, size),),
        partial(make_stem, stem, in_channels, channels, settings=IN_NETWORK),
        is_once=True,
    )


def classifier_piece(channels: int, outputs: int, *, size: int) -> Piece:
    """Returns the pooling and the classifier."""
    return Piece(
        f"darts classifier of {outputs}",
        ((channels, size, size),),
        partial(Classifier, channels, outputs),
        is_once=True,
    )


def _halved(size: int, times: int) -> int:
    """Returns height and width after some halvings, which round up."""
    return -(-size // (1 << times))
