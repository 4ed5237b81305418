"""What the files of this folder share: each runs a pipeline once and compares it section by section."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import agreement
import freeze

SHOWN = 20


@pytest.fixture(scope="module")
def compare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs the ``PIPELINE`` of a module; the differences of a section to the frozen numbers, as text.

    On another machine, tests of the sections that cannot be compared there are skipped.
    """
    name = request.module.PIPELINE
    found, frozen = freeze.produce(name, tmp_path_factory.mktemp(name)), freeze.read(name)

    def compare(section: str) -> str:
        same_machine = found["machine"] == frozen["machine"]
        if not agreement.is_comparable(section, same_machine=same_machine):
            pytest.skip(f"{section} can be compared on the machine of the frozen numbers only")
        lines = agreement.differences(
            section, _by_name(found[section]), _by_name(frozen[section]), same_machine=same_machine
        )
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        return "\n".join([*lines[:SHOWN], *more])

    return compare


def _by_name(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {"all": content}
