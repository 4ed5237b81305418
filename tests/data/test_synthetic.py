"""Synthetic images: the real readers take them, they can be learned, and interrupted writing goes on."""

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medarts.data import synthetic
from medarts.data.doctor import examine
from medarts.data.manifest import Manifest
from medarts.data.opening import open_sources
from medarts.data.reading import read_pair
from medarts.data.recognising import recognise
from medarts.data.synthetic import write_chest_phantoms, write_phantoms
from medarts.data.synthetic.chest import FINDINGS, chest, patient, seen
from medarts.errors import DataError

IMAGES = 30
SIZE = 48
FILMS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantoms")
    write_phantoms(path, seed=3, images=IMAGES, size=SIZE)
    return path


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return open_sources(write_phantoms(folder, seed=3, images=IMAGES, size=SIZE))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chests")
    write_chest_phantoms(path, seed=5, images=FILMS, size=32)
    return path


@pytest.fixture(scope="module")
def rows(films: Path) -> list[dict[str, str]]:
    with (films / "Data_Entry_2017_v2020.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _pairs(manifest: Manifest, domain: str) -> list[tuple[np.ndarray, np.ndarray]]:
    samples = [sample for sample in manifest.samples if sample.domain == domain]
    return [read_pair(sample, manifest.rules[domain], channels=3)[:2] for sample in samples]


def test_the_same_seed_gives_the_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", seed=3, images=IMAGES, size=SIZE)
    assert _digest(tmp_path / "again") == _digest(folder)
    for write in (write_phantoms, write_chest_phantoms):
        for seed in (1, 2):
            write(tmp_path / write.__name__ / str(seed), seed=seed, images=25, size=32)
        images = [sorted((tmp_path / write.__name__ / str(seed)).rglob("*.*g")) for seed in (1, 2)]
        assert all(one.read_bytes() != other.read_bytes() for one, other in zip(*images, strict=False))


def test_the_real_readers_find_every_image_in_whole_groups(manifest: Manifest) -> None:
    for domain in manifest.domains:
        samples = [sample for sample in manifest.samples if sample.domain == domain]
        assert len(samples) == IMAGES
        assert {sample.split for sample in samples} == {"train", "val", "test"}
        splits: dict[str, set[str]] = {}
        for sample in samples:
            splits.setdefault(sample.patient, set()).add(sample.split)
        assert all(len(found) == 1 for found in splits.values())


def test_the_doctor_finds_no_error(folder: Path) -> None:
    for name in ("isic", "cvc", "chaos"):
        assert not examine(recognise(folder / name)).failed


def test_every_mask_holds_a_target_of_plausible_size(manifest: Manifest) -> None:
    for domain in manifest.domains:
        shares = [mask.mean() for _, mask in _pairs(manifest, domain)]
        assert min(shares) > 0.003
        assert max(shares) < 0.5
        assert np.std(shares) > 0.01  # sizes vary


def test_the_domains_look_different(manifest: Manifest) -> None:
    colours = {d: np.mean([image.mean((0, 1)) for image, _ in _pairs(manifest, d)], 0) for d in manifest.domains}
    names = list(colours)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(colours[one] - colours[other]).max() > 0.08


def test_a_threshold_segments_badly_and_the_best_place_guess_too(manifest: Manifest) -> None:
    """The masks cannot be had from one intensity threshold, nor from where targets usually lie."""
    for domain in manifest.domains:
        pairs = _pairs(manifest, domain)
        grey = np.stack([image.mean(2) for image, _ in pairs])
        masks = np.stack([mask > 0 for _, mask in pairs])
        guesses = [grey < t for t in np.linspace(0.1, 0.9, 17)] + [grey > t for t in np.linspace(0.1, 0.9, 17)]
        place = masks.mean(0)
        guesses += [np.broadcast_to(place > t, masks.shape) for t in (0.2, 0.35, 0.5)]
        assert max(_dice(guess, masks) for guess in guesses) < 0.8


def test_target_and_surroundings_differ_where_they_meet(manifest: Manifest) -> None:
    """The masks can be learned: inside and outside differ on average, image by image."""
    for domain in manifest.domains:
        gaps = []
        for image, mask in _pairs(manifest, domain):
            inside, outside = image[mask > 0].mean(0), image[mask == 0].mean(0)
            gaps.append(np.abs(inside - outside).max())
        assert np.mean(gaps) > 0.05


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_film_and_the_more_severe_the_more(finding: str) -> None:
    changes = []
    for severity in (0.1, 0.5, 1.0):
        films = [_film(number, {finding: severity}) - _film(number, {}) for number in range(5)]
        changes.append([np.abs(film).max() for film in films])
        assert min(changes[-1]) > 0.06  # four times the noise
        assert max((np.abs(film) > 0.03).mean() for film in films) < 0.35
    assert np.mean(changes[0]) < np.mean(changes[2])


def test_findings_show_together() -> None:
    film = _film(3, dict.fromkeys(FINDINGS, 0.5))
    assert film.shape == (SIZE, SIZE)
    assert 0 <= film.min() < film.max() <= 1


def test_findings_are_frequent_enough_to_be_learned_and_mostly_persist() -> None:
    patients = [patient(np.random.default_rng(number)) for number in range(1000)]
    assert 0.35 < np.mean([not person.findings for person in patients]) < 0.45
    for name in FINDINGS:
        assert 0.15 < np.mean([name in person.findings for person in patients]) < 0.3
    assert np.mean([len(person.findings) > 1 for person in patients]) > 0.25
    generator = np.random.default_rng(0)
    films = [(person, seen(person, generator)) for person in patients]
    shown = [name in film for person, film in films for name in person.findings]
    assert 0.8 < np.mean(shown) < 0.98


def test_x_rays_have_the_layout_of_the_download(films: Path, rows: list[dict[str, str]]) -> None:
    header = (films / "Data_Entry_2017_v2020.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert len(rows) == FILMS
    assert {item.name for item in (films / "images").iterdir()} == {row["Image Index"] for row in rows}
    for row in rows:
        assert row["Image Index"] == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}.png"
    assert set(Counter(row["Patient ID"] for row in rows).values()) == {1, 2, 3, 4, 5, 6}
    with Image.open(films / "images" / rows[0]["Image Index"]) as image:
        assert (image.mode, image.size) == ("L", (32, 32))


def test_the_lists_keep_patients_whole(films: Path, rows: list[dict[str, str]]) -> None:
    lists = [(films / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")]
    patients = [{name[:8] for name in names} for names in lists]
    assert sorted(lists[0] + lists[1]) == sorted(row["Image Index"] for row in rows)
    assert not patients[0] & patients[1]
    assert len(patients[1]) / len(patients[0] | patients[1]) == pytest.approx(0.25, abs=0.02)


def test_the_real_reader_and_the_doctor_accept_the_x_rays(films: Path, rows: list[dict[str, str]]) -> None:
    manifest = open_sources((write_chest_phantoms(films, seed=5, images=FILMS, size=32),))
    found = {sample.image.name: set(sample.findings) for sample in manifest.samples}
    assert found == {row["Image Index"]: set(row["Finding Labels"].split("|")) - {"No Finding"} for row in rows}
    assert not examine(recognise(films)).failed


def test_a_second_call_finds_them(films: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in films.rglob("*")}
    source = write_chest_phantoms(films, seed=5, images=FILMS, size=32)
    assert (source.kind, source.path, source.name) == ("chestxray14", films, "chest-phantoms")
    assert {path: path.stat().st_mtime_ns for path in films.rglob("*")} == before


@pytest.mark.parametrize("write", [write_phantoms, write_chest_phantoms])
def test_interrupted_writing_goes_on(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_write_table", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "broken", seed=1, images=25, size=32)
    with pytest.raises(DataError, match="not these synthetic images"):
        write(tmp_path / "broken", seed=2, images=25, size=32)
    for name in ("broken", "whole"):
        write(tmp_path / name, seed=1, images=25, size=32)
    assert _digest(tmp_path / "broken") == _digest(tmp_path / "whole")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("write", [write_phantoms, write_chest_phantoms])
@pytest.mark.parametrize("name", ["thesis.doc", "Data_Entry_2017_v2020.csv"])
def test_a_folder_of_something_else_is_refused_and_left_alone(write: Any, tmp_path: Path, name: str) -> None:
    """Also the true download, whose files have the same names."""
    (tmp_path / name).write_text("years of work")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        write(tmp_path, seed=0, images=25, size=32)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "years of work")]


@pytest.mark.parametrize("write", [write_phantoms, write_chest_phantoms])
@pytest.mark.parametrize(("images", "size"), [(24, 64), (25, 31)])
def test_too_few_or_too_small_images_are_refused(write: Any, tmp_path: Path, images: int, size: int) -> None:
    with pytest.raises(DataError, match="25"):
        write(tmp_path / "few", seed=0, images=images, size=size)
    assert not (tmp_path / "few").exists()


def _film(number: int, findings: dict[str, float]) -> np.ndarray:
    person = patient(np.random.default_rng([number, 0]))
    return chest(person, findings, np.random.default_rng([number, 1]), SIZE)


def _dice(guess: np.ndarray, masks: np.ndarray) -> float:
    both = (guess & masks).sum((1, 2))
    return float(np.mean(2 * both / (guess.sum((1, 2)) + masks.sum((1, 2)))))
