"""The table of random nas-wdan networks: what each costs, and how each of its trainings went, epoch by epoch.

Two files of JSON lines, so that trainings can be added and a change can be read: one line for each genotype with its
costs, and one for each training with its curves. ``benchmarks/table.py`` makes them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medarts.errors import MedartsError
from medarts.spaces.genotype import NONE, Genotype, from_json

GENOTYPES, TRAININGS, SUPERNETS = "genotypes.jsonl", "trainings.jsonl", "supernets.jsonl"
PUBLISHED = "nas_wdan"
"""Folder of the table that comes with the package."""
_KEY = ["number", "set", "seed"]
_CURVES = ["train_loss", "val_loss", "val_dice"]


@dataclass(frozen=True)
class Table:
    """Random genotypes, their costs, and their trainings.

    Attributes:
        genotypes: by number.
        networks: a row for each genotype, by number: ``budget`` (width of the U-Net whose latency it may have), the
            settings of the space (``depth``, ``init_channel``, ...), ``cells`` that its lattice keeps, the number of
            edges with each operation, ``parameters``, ``flops``, ``latency_ms`` and ``latency_ratio`` to that U-Net.
        epochs: a row for each epoch of each training: ``number``, ``set``, ``seed``, ``epoch`` from 1, ``train_loss``,
            ``val_loss``, ``val_dice``.
        trainings: a row for each training: ``number``, ``set``, ``seed``, ``val_dice`` at the end, ``test_dice``,
            ``seconds``.
        supernets: what each of some supernets thinks of the operations of an edge, by its name: ``alphas``, their
            weights, and ``losses``, those of the supernet without them.
    """

    genotypes: Mapping[int, Genotype]
    networks: pd.DataFrame
    epochs: pd.DataFrame
    trainings: pd.DataFrame
    supernets: tuple[Mapping[str, Any], ...] = ()

    @property
    def sets(self) -> tuple[str, ...]:
        """The data sets, in the order of the trainings."""
        return tuple(dict.fromkeys(self.trainings["set"]))

    def on(self, *sets: str) -> "Table":
        """Returns the table with the trainings on some sets alone."""
        epochs, trainings = (rows[rows["set"].isin(sets)] for rows in (self.epochs, self.trainings))
        return replace(self, epochs=epochs, trainings=trainings)

    @property
    def last_epoch(self) -> int:
        """Epochs of a training."""
        return int(self.epochs["epoch"].max())

    def seeds_of(self, number: int) -> tuple[int, ...]:
        """Returns the seeds with which a genotype has been trained on every set of the table; see `on`."""
        return self._seeds.get(number, ())

    def curve(self, number: int, seed: int) -> NDArray[np.float64]:
        """Returns the validation Dice after each epoch, mean over the sets."""
        return self._curves[number, seed]

    def test_dice(self, number: int, seed: int) -> float:
        """Returns the test Dice at the end of the training, mean over the sets."""
        return self._test[number, seed]

    @cached_property
    def _seeds(self) -> dict[int, tuple[int, ...]]:
        sets = self.trainings.groupby(["number", "seed"])["set"].nunique()
        whole = sets[sets == len(self.sets)].index
        return {number: tuple(seed for each, seed in whole if each == number) for number in {n for n, _ in whole}}

    @cached_property
    def _curves(self) -> dict[tuple[int, int], NDArray[np.float64]]:
        mean = self.epochs.groupby(["number", "seed", "epoch"])["val_dice"].mean()
        groups = mean.groupby(level=["number", "seed"])
        return {cast("tuple[int, int]", key): rows.to_numpy() for key, rows in groups}

    @cached_property
    def _test(self) -> dict[tuple[int, int], float]:
        return dict(self.trainings.groupby(["number", "seed"])["test_dice"].mean())


def load_table() -> Table:
    """Returns the table that comes with the package: 120 random nas-wdan networks, trained on ISIC and CVC-ClinicDB.

    ``benchmarks/table.py`` says how it was made. Not all of its trainings are done yet.

    >>> table = load_table()
    >>> len(table.genotypes), sorted(table.sets), table.last_epoch
    (120, ['cvc', 'isic'], 12)
    >>> best = table.trainings.groupby("number")["test_dice"].mean().idxmax()
    >>> sorted(table.genotypes[best].cells)
    ['down', 'normal', 'up']
    """
    return read_table(files(__package__) / PUBLISHED)


def read_table(folder: Traversable) -> Table:
    """Reads a table from its folder.

    Raises:
        MedartsError: a training is of a genotype that is not there.
    """
    networks = _lines(folder / GENOTYPES)
    trainings = _lines(folder / TRAININGS)
    genotypes = {
        line["number"]: from_json(json.dumps(line["genotype"]), origin=f"{GENOTYPES}, number {line['number']}")
        for line in networks
    }
    strange = sorted({line["number"] for line in trainings} - set(genotypes))
    if strange:
        raise MedartsError(
            f"{folder / TRAININGS} has trainings of number {strange[0]}, which {GENOTYPES} has not.",
            fix="Copy both files from the same table.",
        )
    rows = [{**_described(genotypes[line["number"]]), **_without(line, "genotype")} for line in networks]
    epochs = [
        {**{name: line[name] for name in _KEY}, "epoch": epoch, **dict(zip(_CURVES, values, strict=True))}
        for line in trainings
        for epoch, values in enumerate(zip(*(line[name] for name in _CURVES), strict=True), 1)
    ]
    ends = [{**_without(line, *_CURVES), "val_dice": line["val_dice"][-1]} for line in trainings]
    return Table(
        genotypes,
        pd.DataFrame(rows).set_index("number").sort_index(),
        pd.DataFrame(epochs),
        pd.DataFrame(ends),
        tuple(_lines(folder / SUPERNETS)) if (folder / SUPERNETS).is_file() else (),
    )


def _lines(path: Traversable) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _without(line: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in names}


def _described(genotype: Genotype) -> dict[str, Any]:
    """Returns the settings of a genotype, the cells of its lattice, and how many edges have each operation."""
    edges: Sequence[str] = [name for cell in genotype.cells.values() for node in cell for name, _ in node]
    operations = {name: edges.count(name) for name in sorted(set(edges) - {NONE})}
    return {**genotype.settings, "cells": sum(len(kept.transitions) for kept in genotype.paths), **operations}
