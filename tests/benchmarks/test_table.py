"""The table of trained networks and the rules that are tried on it."""

import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from medarts.benchmarks import Table, Trials, read_table, simulate
from medarts.benchmarks.table import GENOTYPES, TRAININGS
from medarts.errors import MedartsError
from medarts.spaces import load_genotype

EPOCHS = 6
QUALITY = np.linspace(0.5, 0.7, 12)
"""True Dice of each genotype; its number is its rank."""


def write_table(folder: Path, *, noise: float = 0.0, seeds: int = 2) -> None:
    generator = np.random.default_rng(0)
    genotype = json.loads(load_genotype("alpha0_5_stage1_nodouble_deep_ep80").to_json())
    lines = [
        {"number": number, "genotype": genotype, "budget": 8, "flops": 100 - number, "parameters": 10}
        for number in range(len(QUALITY))
    ]
    (folder / GENOTYPES).write_text("\n".join(map(json.dumps, lines)))
    trainings = []
    for seed in range(seeds):
        for number, quality in enumerate(QUALITY):
            for name in ("isic", "cvc"):
                end = quality + noise * generator.standard_normal()
                curve = [end * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)]
                trainings.append(
                    {
                        "number": number, "set": name, "seed": seed, "train_loss": curve, "val_loss": curve,
                        "val_dice": curve, "test_dice": end, "seconds": 1.0,
                    }
                )  # fmt: skip
    (folder / TRAININGS).write_text("\n".join(map(json.dumps, trainings)))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    write_table(tmp_path)
    return read_table(tmp_path)


def best_after(epochs: int):
    return lambda trials: max(trials.candidates, key=lambda number: trials.train(number, epochs))


def test_a_table_has_a_row_for_each_genotype_training_and_epoch(table: Table) -> None:
    assert len(table.networks) == len(QUALITY)
    assert len(table.trainings) == 2 * 2 * len(QUALITY)
    assert len(table.epochs) == EPOCHS * len(table.trainings)
    assert table.seeds_of(3) == (0, 1)
    assert table.curve(3, 1) == pytest.approx(QUALITY[3] * np.arange(1, EPOCHS + 1) / EPOCHS)
    assert table.networks.loc[0, "cells"] == sum(len(kept.transitions) for kept in table.genotypes[0].paths)


def test_a_rule_that_sees_the_end_gains_what_the_best_of_the_pool_has_more(table: Table) -> None:
    outcome = simulate(table, best_after(EPOCHS), candidates=4)
    # Of 4 of 12 equally spaced values, without replacement: the expected rank of the best is 4 (12 + 1) / 5 of 12.
    expected = (4 * 13 / 5 - 6.5) * (QUALITY[1] - QUALITY[0])
    assert outcome.gain == pytest.approx(expected, abs=0.002)
    assert outcome.low < outcome.gain < outcome.high
    assert outcome.trainings == 4.0


def test_a_random_choice_gains_nothing_and_costs_nothing(table: Table) -> None:
    outcome = simulate(table, lambda trials: trials.candidates[0], candidates=4)
    assert outcome.low < 0 < outcome.high
    assert outcome.trainings == 0


def test_luck_of_the_training_that_was_seen_is_no_gain(tmp_path: Path) -> None:
    write_table(tmp_path, noise=1.0)  # five times what the genotypes differ by
    outcome = simulate(read_table(tmp_path), best_after(EPOCHS), candidates=8)
    assert outcome.gain < 0.5  # the best of 8 trainings itself is 1.0 above their mean


def test_the_training_that_was_seen_can_judge_itself(tmp_path: Path) -> None:
    write_table(tmp_path, noise=1.0, seeds=1)
    outcome = simulate(read_table(tmp_path), best_after(EPOCHS), candidates=8, retrained=False)
    luck = read_table(tmp_path).trainings.groupby("number")["test_dice"].mean().sort_values(ascending=False)
    # The best of 8 of 12: with chance comb(11 - rank, 7) / comb(12, 8) that of each rank.
    best = sum(comb(11 - rank, 7) / comb(12, 8) * value for rank, value in enumerate(luck))
    assert outcome.gain == pytest.approx(best - luck.mean(), abs=0.02)
    assert outcome.trainings == 8.0


def test_epochs_are_paid_once(table: Table) -> None:
    trials = Trials(table, [0, 1], {0: 0, 1: 0})
    trials.train(0, 2)
    trials.train(0, 3)
    trials.train(1, 3)
    assert trials.spent == 1.0


def test_too_few_genotypes_for_a_pool(table: Table) -> None:
    with pytest.raises(MedartsError, match="12 genotypes of a budget with two seeds; pools of 16 candidates"):
        simulate(table, best_after(1), candidates=16)


def test_one_seed_is_not_enough(tmp_path: Path) -> None:
    write_table(tmp_path, seeds=1)
    with pytest.raises(MedartsError, match="0 genotypes"):
        simulate(read_table(tmp_path), best_after(1), candidates=2)


def test_a_training_of_an_unknown_genotype(tmp_path: Path) -> None:
    write_table(tmp_path)
    path = tmp_path / TRAININGS
    path.write_text(path.read_text() + "\n" + json.dumps({"number": 99, "set": "isic", "seed": 0}))
    with pytest.raises(MedartsError, match="trainings of number 99"):
        read_table(tmp_path)
