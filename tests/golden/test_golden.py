"""Results are what they were before the code was redesigned; see ``freeze.py`` for when they may be frozen anew.

Search, training, evaluation, comparison, benchmark and generalisation run through the command line on tiny images.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import agreement
import freeze
import reading

SHOWN = 20
SECTIONS = ("images", "genotypes", "weights", "epochs", "image scores", *reading.SECTIONS)


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> "Pipelines":
    """What every pipeline gives, once it was asked for."""
    return Pipelines(tmp_path_factory)


class Pipelines(dict[str, dict[str, Any]]):
    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._folders = folders

    def __missing__(self, name: str) -> dict[str, Any]:
        self[name] = freeze.produce(name, self._folders.mktemp(name))
        return self[name]


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", freeze.PIPELINES)
def test_results_are_the_frozen_ones(produced: "Pipelines", name: str, section: str) -> None:
    found, frozen = produced[name], freeze.read(name)
    lines = agreement.differences(
        section,
        _by_name(found[section]),
        _by_name(frozen[section]),
        same_machine=found["machine"] == frozen["machine"],
    )
    more = f"\n... and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    assert not lines, f"{name}, {section}:\n" + "\n".join(lines[:SHOWN]) + more


def test_parameters_are_the_frozen_ones() -> None:
    assert reading.parameters_by_network() == freeze.read(freeze.PARAMETERS)


# Source: NAS-WDAN and MixSearch, DARTS (arXiv 1806.09055), ChestX-ray14 by DARTS, DenseNet-121 with 14 outputs.
PUBLISHED = {
    "stage1_layer9_110epoch_double_deep_final": 8_111_396,
    "layer7_double_deep": 10_397_912,
    "stage0_double_deep_ep80_newim": 4_362_538,
    "alpha0_5_stage1_double_deep_ep80": 12_758_582,
    "alpha0_5_stage1_nodouble_deep_ep80": 592_904,
    "chestxray14_first_order": 7_341_098,
    "darts_v2": 3_349_342,
    "chexnet": 6_968_206,
    "unet": 34_527_041,
}


def test_frozen_parameters_are_the_published_ones() -> None:
    frozen = freeze.read(freeze.PARAMETERS)
    assert {name: frozen[name] for name in PUBLISHED} == PUBLISHED


def test_numbers_are_told_apart() -> None:
    frozen = {"a": 1.0, "b": None, "c": 2.0}

    def lines(section: str, **changes: float | None) -> list[str]:
        return agreement.differences(section, frozen | changes, frozen, same_machine=True)

    assert lines("means", a=1.0 + 1e-12) == []
    assert lines("means", a=1.0 + 1e-8) == ["a: 1.00000001, frozen 1.0"]
    assert lines("means", b=0.0) == ["b: 0.0, frozen None"]
    assert lines("epochs", a=1.0 + 1e-12) != []
    assert lines("means", d=0.0) == ["d was not there"]
    assert agreement.differences("means", {}, {"a": 1.0}, same_machine=False) == ["a is no longer there"]


def _by_name(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {"all": content}
