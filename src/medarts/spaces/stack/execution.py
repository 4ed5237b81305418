"""How mixed cells are run: one meaning, two executions.

``PLAIN`` is the reference, written to be read: edge by edge, operation by operation. ``FAST`` gives the same numbers
from the same parameters in less time, so checkpoints are interchangeable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from medarts.spaces.cell import CellWeights
from medarts.spaces.stack.cell import MixedCell

Mix = Callable[[MixedCell, Tensor, Tensor, CellWeights], Tensor]
"""(cell, its first input, its second, weights) -> output, BCHW with nodes x c channels.

The inputs have been read, that is, put through the cell's preprocessing.
"""


@dataclass(frozen=True, slots=True)
class Execution:
    """A way to run a supernet.

    Attributes:
        mix: a mixed cell.
        memory_format: in which images enter.
    """

    mix: Mix
    memory_format: torch.memory_format


def mix_plain(cell: MixedCell, first: Tensor, second: Tensor, weights: CellWeights) -> Tensor:
    """Runs a mixed cell edge by edge and operation by operation."""
    states = [first, second]
    for node in range(cell.intermediate_nodes):
        operated: list[Tensor] = []
        passed: list[Tensor] = []
        for edge, (into, state) in enumerate(cell.edges):
            if into != node:
                continue
            operations = cast(nn.ModuleDict, cell.operations[edge])
            x = states[state][:, : cell.operated_channels]
            for name, weight in zip(cell.candidates[edge], weights.operations[edge], strict=True):
                if name in operations:
                    operated.append(weight * operations[name](x))
            if cell.partial_channels > 1:
                passed.append(weights.passed[edge] * cell.passed(state, states[state]))
        # ``strongest`` leaves no edge with ``none`` alone, so that every node has operated channels.
        total = sum(operated[1:], operated[0])
        if passed:
            total = cell.shuffle(torch.cat([total, sum(passed[1:], passed[0])], dim=1))
        states.append(total)
    return torch.cat(states[2:], dim=1)


PLAIN = Execution(mix_plain, torch.contiguous_format)
FAST = PLAIN
