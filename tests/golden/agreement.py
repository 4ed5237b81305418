"""Whether numbers are the frozen ones: all of them on a machine that rounds alike, and roughly on others."""

import math
from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
"""Of scores and comparisons on the machine of the frozen numbers. Weights, genotypes and epochs are equal there."""

EXACT = ("images", "genotypes", "weights", "epochs", "counts")

# On other processors and other versions of torch, sums are rounded otherwise, and over some steps of training this
# grows: to 0.002 of a loss and 0.09 of a Dice where the kernels were those of SSE4.1. A learning rate higher by 1 % is
# still seen: it changes training losses by 0.03. Validation losses also hang on the running statistics of batch norms,
# which after some steps are those of few images: the U-Net's was higher by 0.05 with the kernels of another AVX-512.
ELSEWHERE = {"weights": 1e-3, "losses": 1e-2, "validation losses": 0.1, "scores": 0.15}
ONLY_HERE = ("image scores", "p values", "intervals", "ranks")
"""Sections that cannot be compared on another machine; tests of them are skipped there."""


def is_comparable(section: str, *, same_machine: bool) -> bool:
    """Returns whether the numbers of a section can be compared with the frozen ones on this machine."""
    return same_machine or section not in ONLY_HERE


def differences(section: str, found: Mapping[str, Any], frozen: Mapping[str, Any], *, same_machine: bool) -> list[str]:
    """Returns a line for every number of a section that is not the frozen one; none where all are."""
    lines = [f"{name} is no longer there" for name in sorted(frozen.keys() - found.keys())]
    lines += [f"{name} was not there" for name in sorted(found.keys() - frozen.keys())]
    for name in sorted(frozen.keys() & found.keys()):
        if not _agree(section, name, found[name], frozen[name], same_machine=same_machine):
            lines.append(f"{name}: {_shown(found[name], frozen[name])}")
    return lines


def _agree(section: str, name: str, found: Any, frozen: Any, *, same_machine: bool) -> bool:
    if section in ("images", "genotypes") or (same_machine and section in EXACT):
        return bool(found == frozen)
    if section == "weights":
        near = math.isclose(found["norm"], frozen["norm"], rel_tol=ELSEWHERE["weights"])
        return bool(near and found["numbers"] == frozen["numbers"])
    if same_machine:
        return _near(found, frozen, ROUNDING)
    if name.endswith(("undefined", "best_epoch")) or "/seed " in name or "hd95" in name:
        return True
    return _near(found, frozen, ELSEWHERE[_kind(section, name)])


def _kind(section: str, name: str) -> str:
    """Returns how a number is compared on another machine."""
    if section == "epochs" and name.endswith("val_loss"):
        return "validation losses"
    return "losses" if section == "epochs" and name.endswith(("loss", "lr")) else "scores"


def _near(found: Any, frozen: Any, tolerance: float) -> bool:
    if found is None or frozen is None:
        return found is frozen
    return math.isclose(found, frozen, rel_tol=tolerance, abs_tol=tolerance)


def _shown(found: Any, frozen: Any) -> str:
    if isinstance(found, dict) and "tensors" in found:
        before, now = frozen["tensors"].split(), found["tensors"].split()
        alike = len({*before} & {*now})
        return f"{alike} of {len({*before})} tensors are the same, norm {found['norm']!r}, frozen {frozen['norm']!r}"
    return f"{found!r}, frozen {frozen!r}"
