"""The pieces of a network of nas-wdan, of which its latency is the sum: see ``medarts.spaces.pieces``."""

from collections import Counter
from collections.abc import Mapping
from functools import partial

from medarts.network.layers import Norm
from medarts.spaces.genotype import NONE, Genotype
from medarts.spaces.nas_wdan.frame import STEM_CHANNELS, FullSizeHead, Head, make_stem
from medarts.spaces.nas_wdan.genotypes import check, paths_of
from medarts.spaces.nas_wdan.lattice import STEM, all_paths, lattice_inputs, reaching, size_at
from medarts.spaces.nas_wdan.lattice import head_nodes as nodes_with_heads
from medarts.spaces.nas_wdan.operations import (
    OPERATIONS,
    OperationSettings,
    Transition,
    make_operation,
    preprocess,
    set_of_edge,
)
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import operation_key
from medarts.spaces.pieces import Piece, Resized, joined, summed

IDENTITY = "identity"
"""Is a ReLU alone, which runs once for all who read a state."""


def pieces(genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm) -> Counter[Piece]:
    """Returns the pieces of the network with its last head alone, and how many there are of each.

    Raises:
        GenotypeError: the genotype does not fit the space.
    """
    settings = check(genotype)
    (last,) = nodes_with_heads(settings.depth, deep_supervision=False)
    paths = reaching(paths_of(genotype), (last,))
    nodes, at = settings.intermediate_nodes, partial(size_at, length=size, stem_stride=settings.stem_stride)
    channels = {node: nodes * settings.widths[node.level] for node in paths} | {STEM: settings.stem_channels}
    of_operations = OperationSettings(affine=True, norm=norm, shuffle_groups=settings.shuffle_groups)
    found = Counter(
        [
            stem_piece(in_channels, settings.stem_channels, size, norm, stride=settings.stem_stride),
        ]
    )
    if settings.full_size_head:
        head = full_size_head_piece(
            channels[last], settings.stem_channels // 2, outputs, size=at(last.level), image=size, norm=norm
        )
    else:
        head = head_piece(channels[last], outputs, size=at(last.level), image=size)
    found[head] += 1
    for node, transitions in paths.items():
        own, c = at(node.level), settings.widths[node.level]
        for transition in transitions:
            s0, s1 = lattice_inputs(node, transition)
            found[preprocess_piece(channels[s1], c, size=at(s1.level), norm=norm)] += 1
            if s0 in channels:
                found[preprocess_piece(channels[s0], c, size=own, norm=norm)] += 1
            for edges in genotype.cells[transition]:
                present = [(name, state) for name, state in edges if state != 0 or s0 in channels]
                for name, state in present:
                    given = at(s1.level) if state == 1 else own
                    if name != IDENTITY:
                        found[
                            operation_piece(set_of_edge(transition, state), name, c, size=given, of=of_operations)
                        ] += 1
            found[joined(nodes, c, own)] += 1
        if len(transitions) > 1:
            found[summed(nodes * c, own)] += len(transitions) - 1
    return found


def operation_pieces(
    lattice: LatticeSettings, operations: Mapping[str, tuple[str, ...]], *, size: int, norm: Norm
) -> dict[str, Counter[Piece]]:
    """Returns the piece of every operation of a set in the cells of a level, by `operation_key`.

    Args:
        lattice: of the supernet.
        operations: set -> its candidates, for sets that have others than the published.
        size: height and width of the images.
        norm: kind of all norms.
    """
    of = OperationSettings(affine=True, norm=norm, shuffle_groups=lattice.shuffle_groups)
    found = {}
    for node, transitions in all_paths(lattice.depth).items():
        for kind in {set_of_edge(transition, state) for transition in transitions for state in (0, 1)}:
            given = size_at(lattice_inputs(node, kind)[1].level, length=size, stem_stride=lattice.stem_stride)
            for name in operations.get(kind, OPERATIONS[kind].published):
                if name not in (NONE, IDENTITY):
                    piece = operation_piece(kind, name, lattice.widths[node.level], size=given, of=of)
                    found[operation_key(kind, name, node.level)] = Counter([piece])
    return found


def operation_piece(kind: Transition, name: str, channels: int, *, size: int, of: OperationSettings) -> Piece:
    """Returns one operation on one edge.

    Args:
        kind: its set: down, normal or up.
        name: of the operation.
        channels: that it takes and gives.
        size: height and width of what it takes.
        of: what all operations of the network share.
    """
    return Piece(
        f"nas-wdan {kind} {name}, {of.norm} norm, {of.shuffle_groups} groups",
        ((channels, size, size),),
        partial(make_operation, kind, name, channels, of),
        lasts=name in OPERATIONS[kind].published,
    )


def preprocess_piece(in_channels: int, channels: int, *, size: int, norm: Norm) -> Piece:
    """Returns the 1x1 convolution through which a cell takes an input."""
    return Piece(
        f"nas-wdan input to {channels}, {norm} norm",
        ((in_channels, size, size),),
        partial(preprocess, in_channels, channels, affine=True, norm=norm),
    )


def stem_piece(in_channels: int, channels: int, size: int, norm: Norm, *, stride: int) -> Piece:
    """Returns the stem."""
    to = "" if channels == STEM_CHANNELS else f" to {channels}"
    return Piece(
        f"nas-wdan stem{to}{'' if stride == 2 else f' of stride {stride}'}, {norm} norm",
        ((in_channels, size, size),),
        partial(make_stem, in_channels, channels, affine=True, norm=norm, stride=stride),
        is_once=True,
    )


def head_piece(channels: int, outputs: int, *, size: int, image: int) -> Piece:
    """Returns the head with the resize of its logits to the size of the image."""
    return Piece(
        f"nas-wdan head of {outputs} at {image}",
        ((channels, size, size),),
        lambda: Resized(Head(channels, outputs), image),
        is_once=True,
    )


def full_size_head_piece(
    channels: int, fine_channels: int, outputs: int, *, size: int, image: int, norm: Norm
) -> Piece:
    """Returns the head that works at the size of the image."""
    return Piece(
        f"nas-wdan head of {outputs} at full size, {norm} norm",
        ((channels, size, size), (fine_channels, image, image)),
        partial(FullSizeHead, channels, fine_channels, outputs, upsampling=image // size, affine=True, norm=norm),
        is_once=True,
    )
