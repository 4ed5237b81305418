"""Learning rates as functions of the epoch."""

import math


def cosine(epoch: float, *, epochs: int, start: float, end: float, warmup: int = 0) -> float:
    """Returns the learning rate at ``epoch`` of a cosine from ``start`` to ``end``.

    Args:
        epoch: epochs done, fractions for steps within one.
        epochs: epochs in all.
        start: largest learning rate.
        end: smallest learning rate, reached at ``epochs``.
        warmup: epochs of a linear rise from a tenth of ``start`` before the cosine begins.
    """
    if epoch < warmup:
        return start * (0.1 + 0.9 * epoch / warmup)
    done = (epoch - warmup) / max(1, epochs - warmup)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, done)))
