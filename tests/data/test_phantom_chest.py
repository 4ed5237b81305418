import csv
import functools
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medarts.data.choosing import recognise
from medarts.data.doctor import examine
from medarts.data.phantom import chest_writing, write_chest_phantoms
from medarts.data.phantom.chest import FINDINGS, chest, chest_patient
from medarts.data.sources import chestxray14, open_sources
from medarts.errors import DataError

IMAGES = 200
SIZE = 32
PATIENTS = 10
FILM = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chests")
    write_chest_phantoms(path, seed=5, images=IMAGES, size=SIZE)
    return path


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "Data_Entry_2017_v2020.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _film(number: int, findings: dict[str, float], size: int = FILM) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    patient = chest_patient(np.random.default_rng([number, 0]))
    return chest(patient, findings, np.random.default_rng([number, 1]), size)


@functools.cache
def _usual(number: int, size: int = FILM) -> np.ndarray:
    return _film(number, {}, size)[0]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _labels(row: dict[str, str]) -> set[str]:
    return set(row["Finding Labels"].split("|")) - {"No Finding"}


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_film_within_its_mask_and_little_outside(finding: str) -> None:
    for number in range(PATIENTS):
        film, masks = _film(number, {finding: 0.6})
        change = np.abs(film - _usual(number))
        mask = masks[finding]
        outside = ~ndimage.binary_dilation(mask, iterations=2)
        assert 0.002 < mask.mean() < 0.6
        assert change[mask].mean() > 0.03
        assert change[mask].mean() > 8 * change[outside].mean()


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_simple_measurement_where_a_finding_lies_tells_it_from_other_patients(finding: str) -> None:
    """Brightness at the place of a finding, or its texture, ranks films with it above films without it.

    Films without it, of the same patients and of others, are measured where the finding would lie in them.
    """
    ill, well = [], []
    for number in range(2 * PATIENTS):
        film, masks = _film(number, {finding: 0.6})
        ill.append(_measurement(film, masks[finding], finding))
        _, elsewhere = _film(1000 + number, {finding: 0.6})
        for patient, places in ((number, masks), (1000 + number, elsewhere)):
            well.append(_measurement(_usual(patient), places[finding], finding))
    assert (np.array(ill)[:, None] > np.array(well)).mean() > 0.75


def _measurement(film: np.ndarray, mask: np.ndarray, finding: str) -> float:
    film = (film - film.mean()) / film.std()
    if finding == "Fibrosis":
        fine = film - ndimage.gaussian_filter(film, 1.2)
        return float(fine[mask].std())
    if finding in ("Atelectasis", "Nodule"):
        return float((film - ndimage.gaussian_filter(film, 3))[mask].mean())
    if finding == "Pneumothorax":  # the rim at the wall is darker than the lung within it
        near_border = mask & ~ndimage.binary_erosion(mask, iterations=6)
        towards_wall = np.abs(np.arange(FILM) - FILM / 2) > 0.25 * FILM
        rim = near_border & towards_wall
        return float(film[mask & ~near_border].mean() - film[rim].mean())
    bright = float(film[mask].mean())
    return -bright if finding in ("Emphysema", "Hernia") else bright


def test_more_severe_findings_show_more() -> None:
    usual = [_usual(number, 48) for number in range(4)]
    for finding in FINDINGS:
        changes = []
        for severity in (0.0, 0.5, 1.0):
            films = [_film(number, {finding: severity}, 48)[0] for number in range(4)]
            changes.append(np.mean([np.abs(film - bare).sum() for film, bare in zip(films, usual, strict=True)]))
        assert changes[0] < changes[1] < changes[2], finding


def test_findings_stand_side_by_side() -> None:
    film, masks = _film(3, dict.fromkeys(FINDINGS, 0.5))
    assert set(masks) == set(FINDINGS)
    assert film.shape == (FILM, FILM)
    assert film.min() >= 0
    assert film.max() <= 1
    assert all(mask.dtype == np.bool_ and mask.shape == (FILM, FILM) and mask.any() for mask in masks.values())


def test_a_finding_stays_in_its_place_on_all_films_of_a_patient() -> None:
    for number in range(PATIENTS):
        patient = chest_patient(np.random.default_rng(number))
        places = []
        for visit in range(2):
            _, masks = chest(patient, {"Mass": 0.7}, np.random.default_rng([number, visit]), FILM)
            places.append(np.array(ndimage.center_of_mass(masks["Mass"])) / FILM)
        assert np.abs(places[0] - places[1]).max() < 0.2


def test_it_looks_like_a_chest() -> None:
    """Lungs darker than heart, belly and shoulders, air outside darker still; the heart lies more to the left."""
    films = np.stack([_usual(number) for number in range(20)])
    mean = films.mean(0)
    lungs = (mean[22:36, 14:20].mean() + mean[22:36, 44:50].mean()) / 2
    assert lungs < mean[24:44, 30:34].mean() - 0.3
    assert lungs < mean[58:62, 20:44].mean() - 0.3
    assert mean[:3, :6].mean() < lungs
    assert mean[34:40, 36:44].mean() > mean[34:40, 20:28].mean() + 0.05
    assert films.mean((1, 2)).std() > 0.03  # exposure varies


def test_a_large_heart_raises_the_cardiothoracic_ratio_above_one_half() -> None:
    for number in range(PATIENTS):
        patient = chest_patient(np.random.default_rng(number))
        assert sum(patient.anatomy.heart) / (2 * patient.anatomy.width) < 0.5
        film, masks = _film(number, {"Cardiomegaly": 1.0})
        columns = np.flatnonzero(masks["Cardiomegaly"].any(0))
        assert columns.max() - columns.min() > 0.35 * FILM  # it grows to both sides of the old heart
        assert film[masks["Cardiomegaly"]].mean() > _usual(number)[masks["Cardiomegaly"]].mean()


def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        write_chest_phantoms(tmp_path / name, seed=seed, images=25, size=32)
    assert _digest(tmp_path / "one") == _digest(tmp_path / "same") != _digest(tmp_path / "other")


def test_the_files_have_the_layout_of_the_download(folder: Path, rows: list[dict[str, str]]) -> None:
    header = (folder / "Data_Entry_2017_v2020.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert len(rows) == IMAGES
    assert {item.name for item in (folder / "images").iterdir()} == {row["Image Index"] for row in rows}
    for row in rows:
        assert row["Image Index"] == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}.png"
        assert _labels(row) <= set(FINDINGS) < set(chestxray14.FINDINGS)
    with Image.open(folder / "images" / rows[0]["Image Index"]) as image:
        assert (image.mode, image.size) == ("L", (SIZE, SIZE))


def test_the_lists_keep_patients_whole(folder: Path, rows: list[dict[str, str]]) -> None:
    lists = [(folder / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")]
    patients = [{name[:8] for name in names} for names in lists]
    assert sorted(lists[0] + lists[1]) == sorted(row["Image Index"] for row in rows)
    assert not patients[0] & patients[1]
    assert len(patients[1]) / len(patients[0] | patients[1]) == pytest.approx(0.25, abs=0.01)
    assert set(Counter(row["Patient ID"] for row in rows).values()) == {1, 2, 3, 4, 5, 6}


def test_the_real_reader_and_the_doctor_accept_them(folder: Path, rows: list[dict[str, str]]) -> None:
    source = write_chest_phantoms(folder, seed=5, images=IMAGES, size=SIZE)
    manifest = open_sources((source,))
    found = {sample.image.name: set(sample.findings) for sample in manifest.samples}
    assert found == {row["Image Index"]: _labels(row) for row in rows}
    assert not examine(recognise(folder)).failed


def test_findings_are_as_frequent_and_come_together_as_in_life() -> None:
    films = [
        set(film)
        for number in range(4000)
        for film in chest_writing._course(np.random.default_rng([number, 3]), 1 + number % 6)
    ]
    share = {name: np.mean([name in film for film in films]) for name in FINDINGS}
    assert 0.05 < min(share.values()) <= max(share.values()) < 0.25
    assert 0.4 < np.mean([not film for film in films]) < 0.6
    assert np.mean([len(film) > 1 for film in films]) > 0.15
    ill = [film for film in films if film]
    for one, other in (("Effusion", "Cardiomegaly"), ("Effusion", "Edema"), ("Pneumothorax", "Emphysema")):
        with_other = np.mean([one in film for film in ill if other in film])
        assert with_other > 1.3 * np.mean([one in film for film in ill if other not in film])


def test_findings_mostly_persist() -> None:
    courses = [list(chest_writing._course(np.random.default_rng([number, 4]), 2)) for number in range(500)]
    kept = [name in second for first, second in courses for name in first]
    assert 0.8 < np.mean(kept) < 0.98


def test_a_second_call_finds_them(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    source = write_chest_phantoms(folder, seed=5, images=IMAGES, size=SIZE)
    assert (source.kind, source.path, source.name) == ("chestxray14", folder, "chest-phantoms")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_writing_that_was_broken_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chest_writing, "_write_table", _break_off)
        with pytest.raises(KeyboardInterrupt):
            write_chest_phantoms(tmp_path / "broken", seed=1, images=25, size=32)
    with pytest.raises(DataError, match="not these phantoms"):
        write_chest_phantoms(tmp_path / "broken", seed=2, images=25, size=32)
    for name in ("broken", "whole"):
        write_chest_phantoms(tmp_path / name, seed=1, images=25, size=32)
    assert _digest(tmp_path / "broken") == _digest(tmp_path / "whole")


def _break_off(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["thesis.doc", "Data_Entry_2017_v2020.csv"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    """Also the true download, whose files have the same names."""
    (tmp_path / name).write_text("years of work")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        write_chest_phantoms(tmp_path, seed=0, images=25, size=32)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "years of work")]


@pytest.mark.parametrize(("images", "size"), [(24, 64), (25, 31)])
def test_too_few_or_too_small_films_are_refused(tmp_path: Path, images: int, size: int) -> None:
    with pytest.raises(DataError, match="25"):
        write_chest_phantoms(tmp_path / "few", seed=0, images=images, size=size)
    assert not (tmp_path / "few").exists()
