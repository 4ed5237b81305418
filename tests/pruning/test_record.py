"""pruning.json of a run, read."""

import json
from pathlib import Path
from typing import Any

import pytest

from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.pruning.record import FILE, read_record

SIZE = {"parameters": 200, "flops": 4000, "channels": {"stem": 8}}
STEP = {"kept": 0.5, "size": SIZE, "before": 0.8, "cut": 0.4, "cut_seconds": 1.0}
RECORD: dict[str, Any] = {
    "network": "unet",
    "weights": "0" * 16,
    "method": {"name": "l1"},
    "keep": {"flops": 0.5},
    "score": "dice",
    "original": 0.8,
    "size": SIZE,
    "steps": [STEP],
}


def test_a_record_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(RECORD))
    assert read_record(RunDirectory(tmp_path)).last.size.channels == {"stem": 8}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [{**STEP, "kept": "half"}]}, "steps.0.kept"),
        ({"size": {**SIZE, "flops": 0}}, "size.flops"),
        ({"size": {**SIZE, "parameters": -1}}, "size.parameters"),
        ({"size": {**SIZE, "channels": {"stem": 0}}}, "size.channels.stem"),
    ],
)
def test_a_damaged_record_names_the_value(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    (tmp_path / FILE).write_text(json.dumps({**RECORD, **changes}))
    with pytest.raises(RunError, match=rf"pruning.json is damaged: {where}\."):
        read_record(RunDirectory(tmp_path))
