"""What compared networks were pruned from and how, as columns of the table of costs."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medarts.comparison.candidates import Candidate
from medarts.engine.checkpoint import of_weights
from medarts.models.pruned import Pruned
from medarts.training.trained import trained_of

TEXTS = ("method", "settings", "pruned_from", "target")
"""Columns of text; the others hold numbers."""

_NONE: dict[str, Any] = {**dict.fromkeys(TEXTS, ""), "keep": float("nan"), "kept": float("nan")}


def pruning_columns(candidates: Sequence[Candidate]) -> dict[str, dict[str, Any]]:
    """Returns by network how it was pruned the last time; empty values for one that was not, or was trained since.

    The columns are the method; ``settings``: what else decides the pruning, as JSON; ``pruned_from``: the compared
    network that was pruned, or where that is missing the one that was fine-tuned from the same weights without a cut;
    ``target``: the quantity of which the share ``keep`` was asked for; and the share that was kept, a mean over runs.
    """
    trained, tuned = _trained(candidates), _tuned(candidates)
    return {one.name: _columns(one, [trained, tuned]) if one.records else _NONE for one in candidates}


def _columns(candidate: Candidate, known: Iterable[Mapping[str, set[str]]]) -> dict[str, Any]:
    architecture, record = candidate.architecture, candidate.records[0]
    assert isinstance(architecture, Pruned)
    sources = {one.weights for one in candidate.records}
    origins = (name for prints_of in known for name, prints in prints_of.items() if prints & sources)
    ((target, keep),) = record.keep.items()
    method = dict(record.method)
    others = {name: value for name, value in architecture.history[-1].items() if name not in ("method", "keep")}
    return {
        "method": method.pop("name"),
        "settings": json.dumps(method | others),
        "pruned_from": next(origins, ""),
        "target": target,
        "keep": keep,
        "kept": statistics.mean(one.last.kept for one in candidate.records),
    }


def _trained(candidates: Sequence[Candidate]) -> dict[str, set[str]]:
    """Returns by network the fingerprints of its weights; nothing where no network was pruned."""
    if not any(one.records for one in candidates):
        return {}
    return {one.name: {of_weights(trained_of(run).weights) for run in one.runs} for one in candidates}


def _tuned(candidates: Sequence[Candidate]) -> dict[str, set[str]]:
    """Returns by network the fingerprints of the weights that it was fine-tuned from, other than after a cut."""
    return {
        one.name: {run.facts["weights_fingerprint"] for run in one.runs if "initial" in run.facts}
        for one in candidates
        if not one.records
    }
