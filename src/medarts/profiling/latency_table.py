"""The latency of networks of a space before they are built: the sum of their pieces, each timed once on a machine.

A piece, such as an operation at one width and one size, is exported and timed in ONNX Runtime, in turns with the
reference (``medarts.profiling.reference``), and kept in the user's cache folder. The table fills on demand.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medarts.config import NormName
from medarts.deploy.engines import OnnxRuntimeEngine
from medarts.deploy.graphs import modules_to_onnx
from medarts.profiling.reference import keep_ms, kept_ms, measured_latencies
from medarts.spaces import space_of
from medarts.spaces.genotype import Genotype
from medarts.spaces.pieces import Piece

COPIES = 4
"""Of a piece in one graph."""

TIMED_TOGETHER, REPEATS = 8, 20
"""Pieces that take turns, and turns. What they work in fills the caches about as a network does: one piece alone would
have all of its memory in the innermost cache, and fifty would push each other out of all."""

AT_ONCE = 48
"""Pieces that are exported together: most of the time of an export does not depend on the size of the graph."""


class LatencyTable:
    """The latency of pieces on this machine.

    Args:
        threads: of the CPU.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads
        self._known: dict[Piece, float] = {}

    def latency_of(self, piece: Piece) -> float:
        """Returns the milliseconds of a piece."""
        return self.latencies([piece])[piece]

    def latencies(self, pieces: Iterable[Piece]) -> dict[Piece, float]:
        """Returns the milliseconds of pieces; those that are not known yet are measured together, which is quicker."""
        wanted = list(dict.fromkeys(pieces))
        missing = [piece for piece in wanted if piece not in self._known]
        kept = kept_ms([piece.key for piece in missing if piece.lasts], threads=self.threads)
        self._known |= {piece: kept[piece.key] for piece in missing if piece.key in kept}
        missing = [piece for piece in missing if piece not in self._known]
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            measured = dict(zip(some, self._measured(some), strict=True))
            keep_ms({piece.key: ms for piece, ms in measured.items() if piece.lasts}, threads=self.threads)
            self._known |= measured
        return {piece: self._known[piece] for piece in wanted}

    def _measured(self, pieces: Sequence[Piece]) -> list[float]:
        """Returns the milliseconds of pieces: what COPIES of one take beyond one, in one graph, side by side.

        So what a pass takes beside its graph does not count, which is as much as a small operation takes. What a
        network has once is timed as it is.
        """
        modules = [piece.build().eval() for piece in pieces]
        models = modules_to_onnx(modules, [piece.shapes for piece in pieces])
        # Of operations that read the same state, ONNX Runtime runs the ReLU once: so they do in a network. Of copies
        # without weights it would run one.
        shared = [any(True for _ in module.parameters()) for module in modules]
        passes = [
            _pass_of(side_by_side(model, copies, shared=are), self.threads)
            for model, are in zip(models, shared, strict=True)
            for copies in (1, COPIES)
        ]
        times = [
            latency.ms
            for start in range(0, len(passes), 2 * TIMED_TOGETHER)
            for latency in measured_latencies(
                passes[start : start + 2 * TIMED_TOGETHER], threads=self.threads, repeats=REPEATS
            )
        ]
        return [
            one if piece.is_once else max(more - one, 0.0) / (COPIES - 1)
            for piece, one, more in zip(pieces, times[::2], times[1::2], strict=True)
        ]


def side_by_side(model: Any, copies: int, *, shared: bool) -> Any:
    """Returns copies of an ONNX model as one, each with its own weights and outputs.

    Args:
        model: what is copied.
        copies: how many there are.
        shared: whether all read the same inputs.
    """
    from onnx.compose import add_prefix

    whole = add_prefix(model, "copy0_")
    inputs = [each.name for each in model.graph.input]
    for number in range(1, copies):
        graph = add_prefix(model, f"copy{number}_").graph
        if shared:
            first = {f"copy{number}_{name}": f"copy0_{name}" for name in inputs}
            for node in graph.node:
                node.input[:] = [first.get(name, name) for name in node.input]
        else:
            whole.graph.input.extend(graph.input)
        whole.graph.node.extend(graph.node)
        whole.graph.initializer.extend(graph.initializer)
        whole.graph.output.extend(graph.output)
    return whole


def _pass_of(model: Any, threads: int) -> Callable[[], object]:
    """Returns a pass of random inputs through an ONNX model."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=threads)
    generator = np.random.default_rng(0)
    given = {
        name: generator.random([length or 1 for length in engine.shapes[name]], np.float32) for name in engine.inputs
    }
    return partial(engine.run_named, given)


def predict(
    genotype: Genotype,
    *,
    in_channels: int,
    outputs: int,
    size: int,
    norm: NormName | None = None,
    table: LatencyTable | None = None,
) -> float | None:
    """Returns the expected milliseconds of one image, exported; None where the space does not name its pieces.

    Args:
        genotype: with its width.
        in_channels: channels of the images.
        outputs: outputs of the network.
        size: height and width of the images.
        norm: kind of all norms. Default: that of the network's paper.
        table: of the machine. Default: that of one thread.

    Raises:
        GenotypeError: the genotype does not fit its space.
    """
    pieces = space_of(genotype).pieces(genotype, in_channels=in_channels, outputs=outputs, size=size, norm=norm)
    if pieces is None:
        return None
    ms = (table or LatencyTable()).latencies(pieces)
    return sum(number * ms[piece] for piece, number in pieces.items())
