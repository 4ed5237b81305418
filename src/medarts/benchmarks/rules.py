"""Rules that choose a network, tried on a table: what they gain over a random choice, and what they pay in epochs.

A rule sees the validation Dice of trainings that it pays for. What it chose is judged by the test Dice of a training
with another seed, so that luck of one training does not count as gain (the winner's curse), or by that of the training
it saw, for those who keep that very network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medarts.benchmarks.table import Table
from medarts.errors import MedartsError


@dataclass
class Trials:
    """What a rule may see of its candidates.

    Attributes:
        table: of the costs, which a rule may look at for nothing.
        candidates: numbers of the genotypes it can choose from.
        seeds: of the training that the rule sees, by number.
        epochs: epochs paid for, by number.
    """

    table: Table
    candidates: Sequence[int]
    seeds: dict[int, int]
    epochs: dict[int, int] = field(default_factory=dict)

    def train(self, number: int, epochs: int) -> float:
        """Returns the validation Dice of a candidate after some epochs; those not yet paid for are paid."""
        self.epochs[number] = max(epochs, self.epochs.get(number, 0))
        return float(self.table.curve(number, self.seeds[number])[epochs - 1])

    @property
    def spent(self) -> float:
        """What was paid, in whole trainings."""
        return sum(self.epochs.values()) / self.table.last_epoch


Rule = Callable[[Trials], int]
"""Chooses one of the candidates, by number."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule is worth.

    Attributes:
        gain: of test Dice over a random choice, mean over pools.
        low: lower end of its 95 % interval over the genotypes of the table.
        high: upper end.
        trainings: what the rule pays for, in whole trainings, mean over pools.
    """

    gain: float
    low: float
    high: float
    trainings: float


def simulate(
    table: Table, rule: Rule, *, candidates: int, retrained: bool = True, budget: int | None = None,
    pools: int = 10_000, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Returns what a rule gains on random pools of a table.

    A random training of each genotype is seen. Pools are drawn from each budget in turn. The interval is over
    genotypes, by the jackknife of a U-statistic (Arvesen, Ann. Math. Statist. 1969): what the mean over pools would be
    without each genotype is that over the pools in which it is not.

    Args:
        table: the table.
        rule: the rule.
        candidates: genotypes in a pool.
        retrained: judge by a training with another seed than the one seen. Genotypes with at least two seeds take part.
            Otherwise all take part, and the training seen is judged, by images that the rule has not seen.
        budget: only genotypes of this budget. Default: all, each pool of one budget.
        pools: drawn at random, of all budgets together.
        seed: of everything random here.

    Raises:
        MedartsError: a budget of the table has no more such genotypes than a pool has candidates.

        outcome = simulate(read_table(folder), lambda trials: max(trials.candidates, key=...), candidates=16)
    """
    generator = np.random.default_rng(seed)
    judge = 1 if retrained else 0  # place among the seeds in random order, of which the first is seen
    able = [number for number in table.networks.index if len(table.seeds_of(number)) > judge]
    budgets = [budget] if budget is not None else sorted({int(table.networks["budget"][number]) for number in able})
    groups = [[number for number in able if table.networks["budget"][number] == each] for each in budgets]
    fewest = min(map(len, groups), default=0)
    if fewest <= candidates:
        raise MedartsError(
            f"The table has {fewest} genotypes of a budget with {'two seeds' if retrained else 'a training'}; pools of "
            f"{candidates} candidates need more.",
            fix="Ask for fewer candidates, or train more seeds.",
        )
    test = {number: {seed: table.test_dice(number, seed) for seed in table.seeds_of(number)} for number in able}

    gains: list[list[float]] = [[] for _ in groups]
    chosen_from: list[list[list[bool]]] = [[] for _ in groups]
    paid = []
    for place in range(pools):
        at = place % len(groups)
        pool = generator.choice(groups[at], candidates, replace=False)
        order = {int(number): [*map(int, generator.permutation(table.seeds_of(number)))] for number in pool}
        trials = Trials(table, [*order], {number: seeds[0] for number, seeds in order.items()})
        chosen = rule(trials)
        chance = np.mean([test[number][seeds[judge]] for number, seeds in order.items()])
        gains[at].append(float(test[chosen][order[chosen][judge]] - chance))
        chosen_from[at].append([number in order for number in groups[at]])
        paid.append(trials.spent)
    means = [float(np.mean(of_group)) for of_group in gains]
    spreads = [
        _jackknife_variance(np.array(of_group), np.array(members))
        for of_group, members in zip(gains, chosen_from, strict=True)
    ]
    error = float(np.sqrt(np.sum(spreads))) / len(groups)
    reach = float(stats.t.ppf(0.975, sum(map(len, groups)) - len(groups))) * error
    gain = float(np.mean(means))
    return Outcome(gain, gain - reach, gain + reach, float(np.mean(paid)))


def _jackknife_variance(gains: NDArray[np.float64], members: NDArray[np.bool_]) -> float:
    """Returns the variance of the mean gain of pools, from that of the pools without each genotype.

    Args:
        gains: (pools,).
        members: (pools, genotypes), which are in a pool.
    """
    absent = ~members
    without = (gains @ absent) / absent.sum(0)
    genotypes = len(without)
    return float((genotypes - 1) / genotypes * ((without - without.mean()) ** 2).sum())
