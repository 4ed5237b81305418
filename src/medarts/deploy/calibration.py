"""The calibration that a run keeps: read with its network, made by ``medarts.evaluation.calibrating``."""

from typing import Any

from medarts.deploy.info import Calibration
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import RunDirectory
from medarts.engine.facts import check_signed, signed
from medarts.errors import RunError
from medarts.training.trained import checkpoint_of

FORMAT = 1
"""Raise it when something else is fitted."""


def kept_calibration(run: RunDirectory, *, head: str | None = None) -> Calibration | None:
    """Returns what was fitted for the best checkpoint of a run; None where nothing was, or for other weights.

    Nothing but the run is looked at: images that have changed are refused where they are read.

    Raises:
        RunError: the run has no checkpoint yet.
    """
    name = file_of(head)
    if not (run.path / name).is_file():
        return None
    made_of = _made_of(run)
    try:
        content = run.read_json(name)
        check_signed(content)
    except (RunError, ValueError):  # cut or edited: it can be made again
        return None
    if any(content.get(key) != value for key, value in made_of.items()):
        return None
    return Calibration(temperature=content["temperature"], thresholds=content["thresholds"])


def keep_calibration(run: RunDirectory, calibration: Calibration, *, head: str | None = None) -> None:
    """Writes what was fitted for the best checkpoint into a run, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    run.write_json(file_of(head), signed({**_made_of(run), **calibration.model_dump(mode="json")}))


def file_of(head: str | None) -> str:
    """Returns the name of the file in which the calibration of a head is kept.

    >>> file_of(None), file_of("4,0")
    ('calibration.json', 'calibration-4,0.json')
    """
    return "calibration.json" if head is None else f"calibration-{head.replace('/', '_')}.json"


def _made_of(run: RunDirectory) -> dict[str, Any]:
    """Returns all that a calibration depends on."""
    return {
        "format": FORMAT,
        "images": run.facts["data_fingerprint"],
        "weights": of_weights(checkpoint_of(run).weights),
        "sensitivity": run.recipe.evaluation.sensitivity,
    }
