"""What a comparison has to know of its networks beside their runs, and the contrasts that follow from it.

Several networks can stand for one method: those of searches that differ in their seed alone, as what holds for these is
to hold for further searches, and random genotypes of a space. Their spread then counts as that of seeds does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pandas as pd

from medarts.comparison.measures import Measures
from medarts.evaluation.stats import Contrast, as_repeats, mean_of_contrasts

RANDOM = "random of its size"
"""What a searched network is compared with beside the reference: the mean of random networks sampled like it, or within
the same budget."""

Contrasts = dict[str, dict[tuple[str, str], Contrast]]
"""By family of tests the contrasts of networks, by what is compared with what."""


@dataclass(frozen=True)
class Budget:
    """The budget that all networks were scaled to.

    Attributes:
        limits: by the names of `medarts.profiling.budget.BudgetCost.amounts`.
        size: height and width of the image, in pixels.
        threads: of the CPU.
        amounts: by network what it was measured to cost.
    """

    limits: Mapping[str, float]
    size: int
    threads: int
    amounts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Design:
    """What is known of the networks of a comparison.

    Attributes:
        controls: by network the names of the random networks sampled like it, or within the same budget.
        methods: by name the networks that stand for one method, at least two of each.
        own: by network the changes of the recipe that its trainings alone have, as key.path=value.
        search_seconds: by network how long its search took to choose it, see `medarts.pool.result.Compute`.
        budget: of all networks; None where there was none.
    """

    controls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    methods: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    search_seconds: Mapping[str, float] = field(default_factory=dict)
    budget: Budget | None = None

    def members(self, name: str, there: Sequence[str]) -> tuple[str, ...]:
        """Returns the networks that a name stands for: itself, or those of a method, as far as they are there."""
        return tuple(one for one in self.methods.get(name, (name,)) if one in there)

    def methods_of(self, there: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Returns the methods of which at least two networks are there, with these; names say which are not."""
        found = {}
        for name, planned in self.methods.items():
            several = self.members(name, there)
            if len(several) > 1:
                lacking = [one for one in planned if one not in several]
                found[f"{name} without {', '.join(lacking)}" if lacking else name] = several
        return found


def repeated(searches: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Returns searches that were repeated with other seeds, by a name that says what is averaged."""
    return {f"{len(names)} searches: {', '.join(names)}": tuple(names) for names in searches}


def contrasts_of(measures: Measures, *, reference: str, design: Design, reference_is_given: bool = False) -> Contrasts:
    """Returns all contrasts of a group by the families of tests, see `Comparison.differences`.

    Args:
        measures: of the networks; others are left out.
        reference: the network, or the method, with which all others are compared.
        design: what is known of the networks.
        reference_is_given: whether the question is how methods compare with the reference; otherwise it is how they
            compare with each other.
    """
    names = measures.networks
    of_reference = design.members(reference, names)
    found: Contrasts = {"reference": {}, "random": {}, "methods": {}, "pairs": {}}

    def add(family: str, several: Sequence[str], name: str, others: Sequence[str], against: str) -> None:
        of_all = mean_of_contrasts([measures.contrast(one, other) for one in several for other in others])
        found[family][name, against] = as_repeats(as_repeats(of_all, several, name=name), others, name=against)

    for one in names:
        if one not in of_reference:
            add("reference", [one], one, of_reference, reference)
    for network, sampled in design.controls.items():
        usable = [one for one in sampled if one in names]
        if usable and network in names:
            add("random", [network], network, usable, RANDOM)
    there = design.methods_of(names)
    reference_last = sorted(there.items(), key=lambda method: method[1] == of_reference)
    for (name, several), (against, others) in combinations(reference_last, 2):
        if not {*several} & {*others}:
            add("methods", several, name, others, against)
    for name, several in there.items():
        # It would be compared with a mean that holds itself, or a second time.
        if not {*several} & {*of_reference} and reference not in design.methods:
            add("methods", several, name, of_reference, reference)
        random = [one for network in several for one in design.controls.get(network, ()) if one in names]
        if random:
            add("methods", several, name, random, RANDOM)
    if reference_is_given:
        asked = {RANDOM, reference, *(name for name, several in there.items() if several == of_reference)}
        every = found["methods"]
        found["methods"] = {sides: one for sides, one in every.items() if sides[1] in asked}
        found["pairs"] = every if len(every) > len(found["methods"]) else {}
    return found


METHOD_COLUMNS = (
    *("group", "method", "networks", "metric", "mean", "deviation", "lowest", "highest", "latency_ms_1"),
    "search_seconds",
)


def methods_table(networks: pd.DataFrame, costs: pd.DataFrame, design: Design, *, metric: str) -> pd.DataFrame:
    """Returns a row for each method on each group: the mean of its networks and how far these are apart.

    Args:
        networks: the table of scores of networks.
        costs: the table of costs.
        design: what is known of the networks.
        metric: the main score.
    """
    scores = networks[networks.metric == metric].set_index(["group", "network"])["mean"]
    of_networks = costs.set_index(["group", "network"])
    rows = []
    for group in networks.group.unique():
        for name, several in design.methods_of([*scores[group].index]).items():
            means = scores[group][[*several]]
            about = of_networks.loc[group].loc[[*several]]
            rows.append(
                {
                    "group": group,
                    "method": name,
                    "networks": len(several),
                    "metric": metric,
                    "mean": means.mean(),
                    "deviation": means.std(ddof=1),
                    "lowest": means.min(),
                    "highest": means.max(),
                    "latency_ms_1": about.latency_ms_1.mean(),
                    "search_seconds": about.search_seconds.mean(),
                }
            )
    return pd.DataFrame(rows, columns=METHOD_COLUMNS)
