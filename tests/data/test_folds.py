"""Folds: who is held out when."""

from pathlib import Path

import pytest
from tests.conftest import write_folder_data

from medarts.config import SPLITS, DataSettings, parse
from medarts.data.folds import assign_folds, divided_into
from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.opening import open_manifest
from medarts.data.store import open_store
from medarts.errors import DataError, RecipeError


def manifest(**patients: int) -> Manifest:
    """Data sets with numbers of patients, each with two images in one split."""
    samples = [
        Sample(f"{n}-{image}", Path("x"), Path("y"), f"p{n}", domain, "train")
        for domain, number in patients.items()
        for n in range(number)
        for image in range(2)
    ]
    return Manifest(tuple(samples), {domain: ReadingRules() for domain in patients})


def splits(of: Manifest, fold: int, folds: int, fraction: float = 0.1) -> Manifest:
    return divided_into(of, folds, fold=fold, fractions=dict.fromkeys(of.domains, fraction), seed=0)


@pytest.mark.parametrize(("folds", "patients"), [(5, 23), (2, 4), (10, 10)])
def test_every_patient_is_held_out_once_and_in_one_split_of_every_fold(folds: int, patients: int) -> None:
    held = []
    for fold in range(1, folds + 1):
        found = splits(manifest(a=patients), fold, folds)
        of_patient = {}
        for sample in found.samples:
            assert of_patient.setdefault(sample.patient, sample.split) == sample.split
        counts = [[*of_patient.values()].count(split) for split in SPLITS]
        assert min(counts) > 0
        assert counts[2] in (patients // folds, -(-patients // folds))
        held += [patient for patient, split in of_patient.items() if split == "test"]
    assert sorted(held) == sorted({sample.patient for sample in manifest(a=patients).samples})


def test_folds_depend_on_seed_and_patients_alone() -> None:
    names = [f"p{n}" for n in range(40)]
    assert assign_folds(names, folds=4, seed=0) == assign_folds(reversed(names), folds=4, seed=0)
    assert assign_folds(names, folds=4, seed=0) != assign_folds(names, folds=4, seed=1)


def test_small_data_sets_are_dealt_on_so_that_no_fold_is_empty() -> None:
    several = manifest(a=2, b=2, c=2)
    assert all(splits(several, fold, 3).of_split("test").samples for fold in (1, 2, 3))


def test_validation_takes_other_patients_in_other_folds() -> None:
    chosen = [
        {sample.patient for sample in splits(manifest(a=40), fold, 4, 0.2).of_split("val").samples}
        for fold in (1, 2, 3, 4)
    ]
    assert [len(of) for of in chosen] == [8] * 4
    assert len(set.union(*chosen)) > 16


@pytest.mark.parametrize(("folds", "patients"), [(5, 4), (2, 3)])
def test_too_few_patients_are_refused(folds: int, patients: int) -> None:
    with pytest.raises(DataError, match=f"{patients} patients cannot be divided into {folds} folds"):
        splits(manifest(a=patients), 1, folds)


def settings(folder: Path, **data: int) -> DataSettings:
    return parse({"data": {"sources": [{"kind": "folder", "path": str(folder)}], "size": 16, **data}}).data


def test_folds_replace_the_splits_of_the_data_and_share_the_stored_images(tmp_path: Path) -> None:
    folder, cache = write_folder_data(tmp_path / "d"), tmp_path / "cache"
    divided = settings(folder, folds=3).model_copy(update={"cache": cache})
    everything = open_manifest(divided, needs=("test",))
    assert {sample.split for sample in everything.samples} == {"test"}
    open_store(everything, divided)
    stored = sorted(path.name for path in cache.glob("v*"))
    prints = set()
    for fold in (1, 2, 3):
        data = divided.of_fold(fold)
        one = open_manifest(data, needs=SPLITS)
        assert [sample.split for sample in open_store(one, data).manifest.samples] == [s.split for s in one.samples]
        prints.add(one.fingerprint())
    assert len(prints) == 3
    assert sorted(path.name for path in cache.glob("v*")) == stored, "images were read again"


def test_what_has_one_training_set_takes_no_folds(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.folds is 3.*data\.fold=1"):
        open_manifest(settings(write_folder_data(tmp_path / "d"), folds=3), needs=("train",))


@pytest.mark.parametrize(
    ("data", "words"), [({"fold": 1}, "there are no folds"), ({"folds": 3, "fold": 4}, "there are 3 folds")]
)
def test_a_fold_is_one_of_the_folds(data: dict[str, int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        settings(Path("/data/x"), **data)
