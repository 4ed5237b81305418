"""Rules that choose a network, tried on a table: what they gain over a random choice, and what they pay in epochs.

A rule sees the validation Dice of trainings that it pays for. What it chose is judged by the test Dice of a training
with another seed, so that luck of one training does not count as gain (the winner's curse), or by that of the training
it saw, for those who keep that very network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

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
        low: lower end of its 95 % interval, by bootstrap over the genotypes of the table.
        high: upper end.
        trainings: what the rule pays for, in whole trainings, mean over pools.
    """

    gain: float
    low: float
    high: float
    trainings: float


def simulate(
    table: Table, rule: Rule, *, candidates: int, retrained: bool = True, budget: int | None = None,
    resamples: int = 200, pools: int = 50, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Returns what a rule gains on random pools of a table.

    A random training of each genotype is seen. The interval is over genotypes, which are resampled; a resample that
    has one twice draws from it more often.

    Args:
        table: the table.
        rule: the rule.
        candidates: genotypes in a pool.
        retrained: judge by a training with another seed than the one seen. Genotypes with at least two seeds take part.
            Otherwise all take part, and the training seen is judged, by images that the rule has not seen.
        budget: only genotypes of this budget. Default: all, each pool of one budget.
        resamples: of the bootstrap.
        pools: drawn from each resample.
        seed: of everything random here.

    Raises:
        MedartsError: the table has fewer such genotypes in a budget than a pool has candidates.

        outcome = simulate(read_table(folder), lambda trials: max(trials.candidates, key=...), candidates=16)
    """
    generator = np.random.default_rng(seed)
    judge = 1 if retrained else 0  # place among the seeds in random order, of which the first is seen
    able = [number for number in table.networks.index if len(table.seeds_of(number)) > judge]
    budgets = [budget] if budget is not None else sorted({int(table.networks["budget"][number]) for number in able})
    groups = [[number for number in able if table.networks["budget"][number] == each] for each in budgets]
    fewest = min(map(len, groups), default=0)
    if fewest < candidates:
        raise MedartsError(
            f"The table has {fewest} genotypes of a budget with {'two seeds' if retrained else 'a training'}, and "
            f"{candidates} candidates are wanted.",
            fix="Ask for fewer candidates, or train more seeds.",
        )
    test = {number: {seed: table.test_dice(number, seed) for seed in table.seeds_of(number)} for number in able}
    means, paid = [], []
    for _ in range(resamples):
        drawn = [np.unique(generator.choice(group, len(group)), return_counts=True) for group in groups]
        gains = []
        for place in range(pools):
            numbers, counts = drawn[place % len(groups)]
            size = min(candidates, len(numbers))
            pool = generator.choice(numbers, size, replace=False, p=counts / counts.sum())
            order = {int(number): [*map(int, generator.permutation(table.seeds_of(number)))] for number in pool}
            trials = Trials(table, [*order], {number: seeds[0] for number, seeds in order.items()})
            chosen = rule(trials)
            chance = np.mean([test[number][seeds[judge]] for number, seeds in order.items()])
            gains.append(test[chosen][order[chosen][judge]] - chance)
            paid.append(trials.spent)
        means.append(float(np.mean(gains)))
    low, high = np.quantile(means, [0.025, 0.975])
    return Outcome(float(np.mean(means)), float(low), float(high), float(np.mean(paid)))
