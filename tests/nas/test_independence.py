"""The search knows no space and no task: whoever adds one of them does not touch it."""

import ast
from pathlib import Path
from types import ModuleType

import pytest

from medarts.nas import gradients, search

KNOWN_TO_OTHERS = (
    "medarts.spaces.nas_wdan",
    "medarts.spaces.darts",
    "medarts.models",
    "medarts.data.sources",
)


def imported(module: ModuleType) -> set[str]:
    """Returns the full names of what the source of a module imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", [search, gradients], ids=["search", "gradients"])
def test_the_search_imports_no_space_and_no_task(module):
    names = imported(module)
    assert any(name.startswith("medarts.") for name in names)
    assert [name for name in names if f"{name}.".startswith(tuple(f"{known}." for known in KNOWN_TO_OTHERS))] == []


@pytest.mark.parametrize("module", [search, gradients], ids=["search", "gradients"])
def test_the_search_names_no_space_and_no_task(module):
    """Nor does it ask which one it has."""
    text = Path(module.__file__).read_text(encoding="utf-8").lower()
    words = ("nas-wdan", "nas_wdan", "spaces.darts", "segmentation", "classification", "dice", "auroc")
    assert [word for word in words if word in text] == []
