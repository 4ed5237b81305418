"""The networks of a study: read, searched or sampled, and sized: to its budget, or to a number of parameters."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch

from medarts.config import DataSettings
from medarts.config.study import NetworkEntry, Study
from medarts.engine.directory import RunDirectory
from medarts.errors import GenotypeError, MedartsError, RunError
from medarts.models import Architecture, build_network, without_weights
from medarts.models.pruned import FILE as STRUCTURE
from medarts.profiling.cost import count_parameters
from medarts.registry import Settings
from medarts.spaces import random_genotype, space_settings
from medarts.spaces.genotype import Genotype, load_genotype
from medarts.study.fitting import Fitting
from medarts.study.jobs import Layout
from medarts.system.console import inform
from medarts.system.files import exists

Count = Callable[[Genotype], int]
"""Genotype -> trainable parameters of its network."""

TOLERANCE = 0.05
"""Relative difference of parameters that a sampled genotype may have."""

DRAWS = 2000
"""Samples for one network before it is given up."""

SEEDS = 1_000_000
"""Seeds of samples that belong to a seed of a study."""


def parameters_of(architecture: Architecture, *, in_channels: int, outputs: int) -> int:
    """Returns the number of trainable parameters of a network, which is built without memory."""
    with torch.device("meta"):
        network = build_network(without_weights(architecture), in_channels=in_channels, outputs=outputs)
    return count_parameters(network)


def nearest_channel(genotype: Genotype, parameters: int, count: Count) -> Genotype:
    """Returns a genotype at the even C with which its parameters are nearest to a number.

    Args:
        genotype: the genotype; every group of its grouped convolutions stays whole.
        count: returns the parameters of a genotype, which grow with C.
    """
    step = math.lcm(2, int(genotype.settings.get("shuffle_groups", 1)))

    def at(number: int) -> Genotype:
        return genotype.with_settings(init_channel=step * number)

    largest = 1
    while count(at(largest)) < parameters:
        largest *= 2
    above = 1 + bisect_left(range(1, largest + 1), parameters, key=lambda number: count(at(number)))
    return min((at(number) for number in (above - 1, above) if number), key=lambda each: abs(count(each) - parameters))


def sample_matching(like: Genotype, *, number: int, seed: int, count: Count) -> Iterator[Genotype]:
    """Samples genotypes from the space of another until as many have its number of parameters, within 5 %.

    Args:
        like: the other; gives settings and number of parameters.
        seed: of a study. The first genotypes are the same for every `number`.

    Yields:
        The genotypes; the provenance of each holds its seed.
    """
    wanted, found = count(like), 0
    for draw in range(DRAWS * number):
        genotype = random_genotype(like, seed=SEEDS * seed + draw)
        if abs(count(genotype) - wanted) <= TOLERANCE * wanted:
            found += 1
            yield genotype
            if found == number:
                return
    raise GenotypeError(
        f"Of {DRAWS * number} genotypes sampled like '{like.name}' only {found} have its {wanted:,} parameters within "
        f"{TOLERANCE:.0%}; {number} are needed.",
        fix="Sample fewer, or like a network with less extreme operations.",
    )


class Networks:
    """The architectures of a study; a searched one is available once its search has finished."""

    def __init__(self, study: Study, layout: Layout, data: DataSettings) -> None:
        self._study = study
        self._layout = layout
        self._count = partial(parameters_of, in_channels=data.in_channels, outputs=data.outputs)
        self._fitting = Fitting(study.recipe.model_copy(update={"data": data}), layout.sized)
        self._found: dict[str, Architecture | MedartsError] = {}

    def keep(self) -> None:
        """Writes what the budget of the study has made of the networks, those to come included."""
        if self._fitting.is_needed:
            self._fitting.keep()

    def architecture(self, name: str) -> Architecture:
        """Returns a network of the study; a genotype has the name of the network.

        Raises:
            GenotypeError: the genotype is missing, damaged or unfit for its size, or too few samples fit.
            BudgetError: it has no width within the budget of the study.
        """
        entry = self._study.entry_of(name)
        if name not in self._found:
            # Random networks are drawn together.
            names = entry.names if entry.random is not None else (name,)
            try:
                resolved = self._resolved(entry, name)
            except MedartsError as error:  # sampling takes long, and the error belongs to each of its trainings
                called = entry.name if entry.random is not None else name
                named = type(error)(f"{called}: {error.problem}", fix=error.fix)
                self._found |= dict.fromkeys(names, named)
            else:
                self._found |= zip(names, resolved, strict=True)
        found = self._found[name]
        if isinstance(found, MedartsError):
            raise found
        return found

    def model(self, name: str) -> Settings | None:
        """Returns a baseline of the study, see `architecture`; None for a genotype."""
        if self._study.entry_of(name).model is None:
            return None
        return cast(Settings, self.architecture(name))

    def _resolved(self, entry: NetworkEntry, name: str) -> list[Architecture]:
        if entry.model is not None:
            return [self._fitting.sized(name, entry.model) if self._fitting.is_needed else entry.model]
        if entry.random is None:
            genotypes = [self._sized(entry, name, self._given(entry, name))]
        elif entry.like is None:
            genotypes = self._fitting.sampled(entry)
        else:
            like = self.architecture(entry.like)
            assert isinstance(like, Genotype)  # a study that samples like a model is refused
            seed = self._study.recipe.seed
            genotypes = list(sample_matching(like, number=len(entry.names), seed=seed, count=self._count))
        for genotype in genotypes:
            space_settings(genotype)
        names = [name] if entry.random is None else entry.names
        return [replace(genotype, name=own) for own, genotype in zip(names, genotypes, strict=True)]

    def _given(self, entry: NetworkEntry, name: str) -> Genotype:
        """Returns the genotype that was read or searched, as it is."""
        if entry.genotype is not None:
            if exists(Path(entry.genotype) / STRUCTURE):
                raise GenotypeError(
                    f"{entry.genotype} holds a pruned network, which a study cannot train from scratch.",
                    fix="Name its genotype.json to train the whole network, and prune the runs of the study.",
                )
            return load_genotype(entry.genotype)
        run = RunDirectory.open(self._layout.search(name).run, kind="search")
        if not run.facts["finished"]:
            raise RunError(f"The search {run.path} has not finished.", fix="Continue the benchmark.")
        return load_genotype(run.path)

    def _sized(self, entry: NetworkEntry, name: str, genotype: Genotype) -> Genotype:
        if self._fitting.is_needed:
            return self._fitting.sized(name, genotype)
        if entry.init_channel is not None:
            return genotype.with_settings(init_channel=entry.init_channel)
        if entry.parameters is None:
            return genotype
        space_settings(genotype)
        wanted = entry.parameters
        if isinstance(wanted, str):
            wanted = self._count(self.architecture(wanted))
        sized = nearest_channel(genotype, wanted, count=self._count)
        channel, found = sized.settings["init_channel"], self._count(sized)
        inform(f"{name}: init_channel {channel} gives {found:,} parameters ({wanted:,} requested)")
        return sized


def searches_of(study: Study, name: str) -> frozenset[str]:
    """Returns the names of the networks whose searches must have finished before a network is known."""
    entry = study.entry_of(name)
    own = [name] if entry.searched_on is not None else []
    others = [other for other in (entry.like, entry.parameters) if isinstance(other, str)]
    return frozenset(own).union(*(searches_of(study, other) for other in others))


def search_behind(entry: NetworkEntry) -> RunDirectory | None:
    """Returns the search that an entry takes its genotype from; None where it is unknown."""
    if entry.genotype is None:
        return None
    path = Path(entry.genotype)
    folder = path.parent if path.name == "genotype.json" else path
    if not (folder / "run.json").is_file():
        return None
    run = RunDirectory.open(folder)
    return run if run.facts["kind"] == "search" else None
