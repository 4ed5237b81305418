"""What the entries of a study stand for: the architectures of its networks."""

from dataclasses import replace
from functools import partial

from medarts.config.study import NetworkEntry, Study
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.models.registry import Architecture
from medarts.spaces.genotype import Genotype
from medarts.spaces.reading import load as load_genotype
from medarts.spaces.registry import check
from medarts.study.counting import count_parameters
from medarts.study.layout import Layout
from medarts.study.matching import draw_matching, nearest_channel
from medarts.system.console import inform


class Networks:
    """The architectures of a study; those that come of a search can be had once it has finished.

    Args:
        study: the study.
        layout: where its searches are.
        in_channels: channels of its images.
        outputs: outputs of its networks.
    """

    def __init__(self, study: Study, layout: Layout, *, in_channels: int, outputs: int) -> None:
        self._study = study
        self._layout = layout
        self._count = partial(count_parameters, in_channels=in_channels, outputs=outputs)
        self._found: dict[str, dict[str, Architecture] | MedartsError] = {}

    def architecture(self, name: str) -> Architecture:
        """Returns a network of the study; a genotype has the name of the network.

        Raises:
            GenotypeError: the genotype is missing, damaged or unfit for its size, or too few of those drawn fit.
            RunError: a search has not finished.
        """
        entry = self._study.entry_of(name)
        if entry.name not in self._found:
            try:
                self._found[entry.name] = self._resolved(entry)
            except MedartsError as error:  # it takes long to find out, and is said of each of its trainings
                self._found[entry.name] = type(error)(f"{entry.name}: {error.problem}", fix=error.fix)
        found = self._found[entry.name]
        if isinstance(found, MedartsError):
            raise found
        return found[name]

    def _resolved(self, entry: NetworkEntry) -> dict[str, Architecture]:
        if entry.model is not None:
            return {entry.name: entry.model}
        if entry.like is None:
            genotypes = [self._sized(entry, self._given(entry))]
        else:
            like, seed = self._genotype(entry.like), self._study.recipe.seed
            genotypes = list(draw_matching(like, number=len(entry.names), seed=seed, count=self._count))
        for genotype in genotypes:
            check(genotype)
        return {name: replace(genotype, name=name) for name, genotype in zip(entry.names, genotypes, strict=True)}

    def _given(self, entry: NetworkEntry) -> Genotype:
        """Returns the genotype that was read or searched, as it is."""
        if entry.genotype is not None:
            return load_genotype(entry.genotype)
        run = RunDirectory.open(self._layout.search(entry.name).run, kind="search")
        if not run.facts["finished"]:
            raise RunError(f"The search {run.path} has not finished.", fix="Go on with the benchmark.")
        return load_genotype(run.path)

    def _sized(self, entry: NetworkEntry, genotype: Genotype) -> Genotype:
        if entry.init_channel is not None:
            return genotype.with_settings(init_channel=entry.init_channel)
        if entry.parameters is None:
            return genotype
        check(genotype)
        wanted = entry.parameters
        if isinstance(wanted, str):
            wanted = self._count(self.architecture(wanted))
        sized = nearest_channel(genotype, wanted, count=self._count)
        channel, found = sized.settings["init_channel"], self._count(sized)
        line = f"{entry.name}: init_channel {channel} for {found:,} parameters, as {wanted:,} are wanted"
        inform(line)
        return sized

    def _genotype(self, name: str) -> Genotype:
        found = self.architecture(name)
        assert isinstance(found, Genotype)  # a study is refused where others are to be like a model
        return found


def searches_of(study: Study, name: str) -> frozenset[str]:
    """Returns the names of the networks whose searches must have finished before a network is known."""
    entry = study.entry_of(name)
    own = [entry.name] if entry.searched_on is not None else []
    others = [other for other in (entry.like, entry.parameters) if isinstance(other, str)]
    return frozenset(own).union(*(searches_of(study, other) for other in others))
