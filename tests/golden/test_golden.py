"""Parameters of all networks are the frozen ones, which are the published ones; and the comparison sees differences."""

import agreement
import freeze
import reading


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


def test_sections_that_another_machine_cannot_compare_are_skipped_not_passed() -> None:
    skipped = [section for section in freeze.SECTIONS if not agreement.is_comparable(section, same_machine=False)]
    assert sorted(skipped) == sorted(agreement.ONLY_HERE)
    assert all(agreement.is_comparable(section, same_machine=True) for section in freeze.SECTIONS)
    assert agreement.differences("ranks", {"a": 1.0}, {"a": 2.0}, same_machine=False) != []


def test_only_what_is_named_and_differs_is_frozen_anew() -> None:
    frozen = {"images": "0", "means": {"a": 1.0, "b": 2.0, "gone": 3.0}, "intervals": {"a": 1.0, "ab": 2.0, "b": 3.0}}
    found = {"images": "1", "means": {}, "intervals": {"a": 1.0 + 1e-12, "ab": 2.5, "b": 3.5, "another": 4.0}}
    intervals = {"a": 1.0, "ab": 2.5, "b": 3.0, "another": 4.0}
    assert freeze.thawed(found, frozen, sections=["intervals"], only="^a") == frozen | {"intervals": intervals}
    assert freeze.thawed(found, frozen, sections=["means"], only="gone")["means"] == {"a": 1.0, "b": 2.0}
