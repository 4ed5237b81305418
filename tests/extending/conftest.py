"""The code of the pages on extending, imported as modules of a user, and a small data set to use it on."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medarts import from_arrays, registry
from medarts.data.store import ImageStore
from medarts.spaces.darts import Darts
from medarts.spaces.nas_wdan import NasWdan

PAGES = Path(__file__).parents[2] / "docs" / "extending"
REGISTRIES = (
    registry.spaces, registry.models, registry.losses, registry.metrics, registry.sources, registry.relaxations,
    registry.regularizers, registry.selections, registry.criteria,
)  # fmt: skip

RECIPE: dict[str, Any] = {
    "space": {"name": "nas-wdan", "init_channel": 4, "double_down_channel": False},
    "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0},
    "train": {"epochs": 1, "batch": 4},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports the code of a page as a module, in an empty folder; what it registers is forgotten afterwards."""
    before = {each: each.names() for each in REGISTRIES}
    offered: list[Any] = [*NasWdan.operations.values(), *Darts.operations.values()]
    for operations in offered:
        monkeypatch.setattr(operations, "_builders", dict(operations._builders))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    imported = []

    def load(name: str) -> Any:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        module = f"my_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
        imported.append(module)
        return importlib.import_module(module)

    yield load
    for module in imported:
        sys.modules.pop(module, None)
    for each, names in before.items():
        for name in {*each.names()} - {*names}:
            each.remove(name)


@pytest.fixture
def discs() -> ImageStore:
    """Bright discs on noise with their masks, in memory; two images a patient."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    centres, radii = generator.uniform(10, 22, (2, 30, 1, 1)), generator.uniform(4, 9, (30, 1, 1))
    masks = (y - centres[0]) ** 2 + (x - centres[1]) ** 2 < radii**2
    images = generator.integers(0, 60, masks.shape) + 150 * masks
    return from_arrays(images.astype(np.uint8), masks, patients=[n // 2 for n in range(30)])


@pytest.fixture
def quick_costs(monkeypatch: pytest.MonkeyPatch, nothing_exported: None) -> None:
    """Leaves out what comparisons spend most time on: exports, peak memory in a process a network, and timed passes."""
    monkeypatch.setattr("medarts.profiling.cost.peak_of_inference_mb", lambda *_, **__: 1.0)
    monkeypatch.setattr("medarts.comparison.costs.REPEATS", 2)
    monkeypatch.setattr("medarts.comparison.costs.usual_threads", lambda: (1,))
    monkeypatch.setattr("medarts.api._PASSES", 2)
