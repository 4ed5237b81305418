"""What run.json says, and whether it says it as medarts writes it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medarts.errors import RunError

FORMAT = 1
"""Of run.json; raise it when what a run holds changes."""

KINDS = ("search", "train")


def check_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuses facts of another format, and such as medarts does not write.

    Args:
        path: the file that they stand in.
        facts: its content.

    Raises:
        RunError: names the file and the key.
    """
    _check_format(path, facts)
    for name, fits in _NEEDED.items():
        if name not in facts:
            raise RunError(f"{path} is damaged: it lacks {name}.", fix="Copy the run again.")
        if not fits(facts[name]):
            raise damaged_facts(path, name)
    for name, fits in _OPTIONAL.items():
        if name in facts and not fits(facts[name]):
            raise damaged_facts(path, name)


def damaged_facts(path: Path, name: str) -> RunError:
    """Returns the error of a key of run.json whose value medarts does not write."""
    return RunError(f"{path} is damaged: {name}.", fix="Copy the run again.")


def _check_format(path: Path, facts: Mapping[str, Any]) -> None:
    fix = "Start a new run."
    if "format" not in facts:
        if not {"kind", "recipe_fingerprint"} <= facts.keys():  # which all runs have had
            raise RunError(f"{path} is damaged: it lacks format.", fix="Copy the run again.")
        raise RunError(f"{path} has no format number, as runs of earlier versions of medarts.", fix=fix)
    found = facts["format"]
    if not _is_whole(found):
        raise damaged_facts(path, "format")
    if found != FORMAT:
        raise RunError(f"{path} has format {found}, but this medarts reads format {FORMAT}.", fix=fix)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and (
        "threads" not in value or (_is_whole(value["threads"]) and value["threads"] >= 0)
    )


def _are_changes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_change, value))


def _is_change(value: Any) -> bool:
    if not (isinstance(value, dict) and {"field", "before", "after", "place", "time"} <= value.keys()):
        return False
    place = value["place"]
    is_place = place is None or (isinstance(place, list) and len(place) > 1 and all(map(_is_whole, place)))
    return is_place and _is_name(value["field"]) and _is_text(value["time"])


_NEEDED: dict[str, Callable[[Any], bool]] = {
    "kind": lambda value: value in KINDS,
    "name": _is_name,
    "created": _is_text,
    "medarts": _is_text,
    "recipe": _is_mapping,
    "recipe_fingerprint": _is_text,
    "data_fingerprint": _is_text,
    "finished": lambda value: isinstance(value, bool),
    "files": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
}
"""What every run.json says."""

_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "environment": _is_environment,
    "network": _is_name,
    "weights_fingerprint": lambda value: value is None or isinstance(value, str),
    "changes": _are_changes,
}
"""What it says of some runs."""
