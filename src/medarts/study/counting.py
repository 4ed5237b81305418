"""Trainable parameters of networks, counted fast enough for thousands of genotypes.

A network of hundreds of operations takes long to build, but few of them differ. Each is built once, without memory,
and counted wherever a genotype has it; the frames of the spaces say where that is.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from medarts.models.registry import Architecture, build_network, without_weights
from medarts.spaces.genotype import Genotype
from medarts.spaces.stack import genotypes as stack
from medarts.spaces.stack import operations as of_stack
from medarts.spaces.stack.frame import Place, StackFrame
from medarts.spaces.weave import genotypes as weave
from medarts.spaces.weave import lattice
from medarts.spaces.weave import operations as of_weave
from medarts.spaces.weave.frame import WeaveFrame


def count_parameters(architecture: Architecture, *, in_channels: int, outputs: int) -> int:
    """Returns the number of trainable parameters of a network; it does not depend on the kind of its norms.

    Args:
        architecture: a genotype, or the settings of a network made by hand.
        in_channels: channels of the images.
        outputs: outputs of the network.

    Raises:
        GenotypeError: the genotype does not fit its space.
    """
    if not isinstance(architecture, Genotype):
        return _built(lambda: build_network(without_weights(architecture), in_channels=in_channels, outputs=outputs))
    count = _count_weave if architecture.space == weave.SPACE else _count_stack
    return count(architecture, in_channels, outputs)


def _built(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        module = build()
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _count_weave(genotype: Genotype, in_channels: int, outputs: int) -> int:
    settings = weave.check(genotype)
    of_cells: list[int] = []

    def count_cell(move: of_weave.Move, s0: int | None, s1: int, channels: int) -> nn.Module:
        held = s0 is not None or settings.absent_edges  # the edges that read s0
        names = [name for node in genotype.cells[move] for name, state in node if state != 0 or held]
        of_cells.extend(_weave_operation(name, channels, settings.shuffle_groups) for name in names)
        of_cells.extend(_weave_input(read, channels) for read in (s0, s1) if read is not None)
        return nn.Identity()

    frame = _built(
        lambda: WeaveFrame(
            paths=weave.paths_of(genotype),
            heads=lattice.heads(settings.depth, deep_supervision=settings.deep_supervision),
            make_cell=count_cell,
            widths=settings.widths,
            intermediate_nodes=settings.intermediate_nodes,
            in_channels=in_channels,
            outputs=outputs,
            affine=True,
        )
    )
    return frame + sum(of_cells)


def _count_stack(genotype: Genotype, in_channels: int, outputs: int) -> int:
    settings = stack.check(genotype)
    of_cells: list[int] = []

    def count_cell(place: Place) -> nn.Module:
        c = place.channels
        of_cells.append(_stack_input(place.s0_channels, c, place.reduction_before))
        of_cells.append(_stack_input(place.s1_channels, c, False))
        for node in genotype.cells[place.kind]:
            of_cells.extend(_stack_operation(name, c, of_stack.stride_of(place.kind, state)) for name, state in node)
        return nn.Identity()

    frame = _built(
        lambda: StackFrame(
            settings.stem,
            layers=settings.layers,
            init_channel=settings.init_channel,
            intermediate_nodes=settings.intermediate_nodes,
            make_cell=count_cell,
            in_channels=in_channels,
            outputs=outputs,
            settings=of_stack.IN_NETWORK,
            auxiliary=settings.auxiliary,
        )
    )
    return frame + sum(of_cells)


@cache
def _weave_operation(name: str, channels: int, shuffle_groups: int) -> int:
    settings = of_weave.OperationSettings(affine=True, shuffle_groups=shuffle_groups)
    return _built(lambda: of_weave.make_operation(name, channels, settings))


@cache
def _weave_input(in_channels: int, channels: int) -> int:
    return _built(lambda: of_weave.preprocess(in_channels, channels, affine=True))


@cache
def _stack_operation(name: str, channels: int, stride: int) -> int:
    return _built(lambda: of_stack.make_operation(name, channels, stride=stride, settings=of_stack.IN_NETWORK))


@cache
def _stack_input(in_channels: int, channels: int, halve: bool) -> int:
    return _built(lambda: of_stack.preprocess(in_channels, channels, settings=of_stack.IN_NETWORK, halve=halve))
