"""Foreground of 2 % is learned, in training and in a search, from heads that begin at its share."""

import json
from pathlib import Path

import numpy as np
import pytest

from medarts.config import Recipe, parse
from medarts.data.arrays import data_section, from_arrays
from medarts.data.store import ImageStore
from medarts.nas.search import start_search
from medarts.spaces.genotype import load_genotype
from medarts.tasks import SegmentationTask
from medarts.training.trainer import start_training

SIZE = 32


@pytest.fixture(scope="module")
def store() -> ImageStore:
    """A bright disc of 21 pixels in every image, and a dark one that does not count."""
    generator = np.random.default_rng(0)
    grid = np.mgrid[:SIZE, :SIZE]

    def disc() -> np.ndarray:
        middle = generator.uniform(4, SIZE - 4, (2, 1, 1))
        return np.hypot(*(grid - middle)) < 2.6

    masks = np.stack([disc() for _ in range(96)])
    dark = np.stack([disc() for _ in masks]) & ~masks
    images = 0.4 + 0.05 * generator.normal(size=masks.shape) + 0.3 * masks - 0.3 * dark
    assert 0.019 < masks.mean() < 0.022
    return from_arrays(images.clip(0, 1), masks, fractions=(0.2, 0.1))


def recipe_of(store: ImageStore) -> Recipe:
    return parse(
        {
            "data": data_section(store),
            "space": {"init_channel": 4, "double_down_channel": False, "intermediate_nodes": 1},
            "search": {
                "stages": [{"depth": 3, "epochs": 4, "batch": 4}],
                "arch_after": 1,
                "lr": 0.2,  # four epochs are few for the published one
                "loss": "bce_dice",
            },
            "train": {"epochs": 6, "batch": 4},
            "compute": {"device": "cpu", "threads": 1},
        }
    )


def last_epoch(run: Path) -> dict:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_a_search_and_a_training_learn_rare_foreground(store, tmp_path, monkeypatch):
    recipe = recipe_of(store)
    searched = start_search(recipe, tmp_path / "search", data=store).path
    assert last_epoch(searched)["val_found_by_domain"]["arrays"] > 0.5
    genotype = load_genotype(searched)
    trained = last_epoch(start_training(recipe, genotype, tmp_path / "run", data=store).path)
    monkeypatch.setattr(SegmentationTask, "begin", lambda *_: None)
    blind = last_epoch(start_training(recipe, genotype, tmp_path / "blind", data=store).path)
    assert trained["val_dice"] > 0.5
    assert blind["val_dice"] < 0.1
