import hashlib
from pathlib import Path

import numpy as np
import pytest

from medarts.data.choosing import recognise
from medarts.data.doctor import examine
from medarts.data.manifest import Manifest
from medarts.data.phantom import write_phantoms
from medarts.data.reading import read_pair
from medarts.data.sources import open_sources
from medarts.errors import DataError

IMAGES = 30
SIZE = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantoms")
    write_phantoms(path, seed=3, images=IMAGES, size=SIZE)
    return path


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return open_sources(write_phantoms(folder, seed=3, images=IMAGES, size=SIZE))


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
    write_phantoms(tmp_path / "other", seed=4, images=IMAGES, size=SIZE)
    assert _digest(tmp_path / "again") == _digest(folder)
    assert _digest(tmp_path / "other" / "isic") != _digest(folder / "isic")


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


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(DataError, match=r"thesis\.doc"):
        write_phantoms(tmp_path, seed=0, images=IMAGES, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="25"):
        write_phantoms(tmp_path / "few", seed=0, images=3, size=SIZE)


def _dice(guess: np.ndarray, masks: np.ndarray) -> float:
    both = (guess & masks).sum((1, 2))
    return float(np.mean(2 * both / (guess.sum((1, 2)) + masks.sum((1, 2)))))
