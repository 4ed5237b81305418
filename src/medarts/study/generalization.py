"""How well networks carry over to other data sets: the two matrices, the verdicts, and the file they are kept in."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from medarts.comparison.candidates import Kind
from medarts.comparison.paired import Difference
from medarts.comparison.result import MetricScore
from medarts.config import Task
from medarts.errors import RunError
from medarts.system.files import read_whole, write_whole

Mark = Literal["own", "part of the mix", "unseen", "external"]
"""How a data set tested stands to those trained on: the only one, one of several, not among them, never trained on."""

Relation = Literal["own", "of the mix", "unseen", "external"]
"""How the data set of a contrast stands to its two sides: the single side has seen it, only the side of several sets
has, neither has, or neither has and nothing in the study was trained on it."""

Verdict = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True, slots=True)
class Domain:
    """A data set.

    Attributes:
        name: of the data set.
        external: whether it is only ever tested on.
        images: those that were scored: of the test split, or all of an external data set; 0 where nothing was.
        patients: of these images.
        problem: why its scores say nothing of the networks; empty where they do.
        excluded: the classes that no image shows, or the findings that all or none show, which are left out of scores.
    """

    name: str
    external: bool
    images: int
    patients: int
    problem: str
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Data sets that networks are trained on together.

    Attributes:
        name: of the group.
        domains: its data sets.
    """

    name: str
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the study.

    Attributes:
        name: of the network.
        kind: where it comes from.
        searched_on: data sets of the study that it was searched on, in the study or in a search that this names; empty
            for all other networks, published ones among them.
    """

    name: str
    kind: Kind
    searched_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetrainedRow:
    """A network, trained and tested on one data set after another.

    Attributes:
        network: its name.
        cells: by group of one data set the score on the test images of that data set; None where there is none.
        planned: groups that the study trains it on; where one of them has no score, that is missing.
        mean: over the groups of `Retrained.shared`; None where it does not have all of them.
        rank: mean of its ranks there, 1 for the highest score, equal scores sharing the mean of their ranks.
    """

    network: str
    cells: dict[str, MetricScore | None]
    planned: tuple[str, ...]
    mean: MetricScore | None
    rank: float | None


@dataclass(frozen=True, slots=True)
class Retrained:
    """Networks against the data sets that they are retrained on.

    Attributes:
        groups: columns, the groups of one data set.
        shared: those that means and ranks are over; see ``medarts.comparison.overall.shared_sets``.
        left_out: those that they are not over because one patient was tested, while on others there were several.
        rows: the networks, as they stand in the study.
    """

    groups: tuple[str, ...]
    shared: tuple[str, ...]
    left_out: tuple[str, ...]
    rows: tuple[RetrainedRow, ...]


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """A network trained on a group, tested on every data set.

    Attributes:
        group: what it was trained on.
        cells: by data set the score; None where it is missing.
        marks: by data set how it stands to the group.
    """

    group: str
    cells: dict[str, MetricScore | None]
    marks: dict[str, Mark]


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, trained on one group after another.

    Attributes:
        network: its name.
        rows: the groups, as they stand in the study.
    """

    network: str
    rows: tuple[TrainedRow, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Several data sets against one, on the same images; `Claim.differing` tells what else both sides differ in.

    Attributes:
        common: what both sides share: the group they are retrained on (searches), or the network (trainings); and
            the seeds of their trainings, of which those that both have are compared.
        several: the side of several data sets: the network searched on them, or the group trained on.
        single: the side of one data set.
        domain: the data set tested.
        relation: how that stands to both sides.
        patients: tested there.
        seeds: number of those that both sides were trained with, which the difference is over.
        difference: score of the side of several sets minus that of the single one, corrected for all of the claim.
        decidable: whether its corrected p can be below `ALPHA`, were every contrast of the claim as clear as the number
            of its patients allows; False where it is not tested.
    """

    common: str
    several: str
    single: str
    domain: str
    relation: Relation
    patients: int
    seeds: int
    difference: Difference
    decidable: bool


@dataclass(frozen=True, slots=True)
class Pooled:
    """Contrasts taken together.

    Attributes:
        domains: their data sets.
        left_out: data sets whose contrasts are not in it because one patient was tested, while on others there were
            several.
        count: number of contrasts.
        patients: number of patients of their data sets.
        better: contrasts in which the side of several sets is better beyond chance.
        worse: contrasts in which it is worse beyond chance.
        undecidable: contrasts in which it can be neither, whatever the scores; see `Contrast.decidable`.
        mean: mean difference, every data set with the same weight, and in it every contrast.
        low: lower end of its interval over patients; None where undefined.
        high: upper end.
        p: two-sided, of both sides being equally good; None with one patient.
    """

    domains: tuple[str, ...]
    left_out: tuple[str, ...]
    count: int
    patients: int
    better: int
    worse: int
    undecidable: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class Differing:
    """What both sides of some contrasts differ in, besides their data sets.

    Attributes:
        field: of a recipe, or of the network's entry in the study.
        several: its value for the side of several data sets.
        single: its value for the single one.
    """

    field: str
    several: str
    single: str


@dataclass(frozen=True, slots=True)
class Side:
    """How much a side of contrasts has seen.

    Attributes:
        name: of the network searched, or of the group trained on.
        epochs: of the recipe; of a search in all of its stages.
        images: training images; None where they are not known.
    """

    name: str
    epochs: int
    images: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What the study says of a claim: that several data sets generalise better than one.

    Attributes:
        about: what is done with several sets, the search of a network or its training.
        verdict: by the contrasts on data sets that the single side has not seen; None where there is no such contrast.
        planned: contrasts on such data sets that the study plans; those that are not in `contrasts` are missing.
        contrasts: all pairs of which both sides have a score.
        differing: what their sides differ in besides the data sets; empty for nothing else.
        sides: the sides, with what each has seen.
        unseen: those on which the verdict rests, together; None where there is none.
        own: those on the data set that the single side has seen, together; None where there is none.
        neither: of `unseen` those on data sets that the side of several sets has not seen either, where these are some
            and not all; else None.
        words: the verdict in sentences.
    """

    about: Literal["search", "training"]
    verdict: Verdict | None
    planned: int
    contrasts: tuple[Contrast, ...]
    differing: tuple[Differing, ...]
    sides: tuple[Side, ...]
    unseen: Pooled | None
    own: Pooled | None
    neither: Pooled | None
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MissingRun:
    """A run of the study that has not been trained to its end.

    Attributes:
        group: what it should train on.
        network: its network.
        seed: its seed.
        state: what became of it.
        reason: why, where that is known.
    """

    group: str
    network: str
    seed: int
    state: Literal["failed", "unfinished", "not begun"]
    reason: str


@dataclass(frozen=True, slots=True)
class MissingTest:
    """A finished run that could not be scored on a data set.

    Attributes:
        group: what it was trained on.
        network: its network.
        seed: its seed.
        domain: the data set.
        reason: why.
    """

    group: str
    network: str
    seed: int
    domain: str
    reason: str


@dataclass(frozen=True)
class Generalization:
    """How well the networks of a study carry over to other data sets.

    Attributes:
        task: what the networks do.
        score: the score in all cells.
        note: the remark of the study.
        domains: the data sets, external ones last.
        groups: what is trained on.
        networks: the networks.
        retrained: networks against the data sets that they are retrained on.
        trained: for every network trained on several groups, groups against the data sets tested.
        claims: that several data sets generalise better than one, of the search and of the training.
        missing: runs that have not been trained to their end.
        untested: finished runs that could not be scored on a data set.
        definitions: what the numbers mean.
    """

    task: Task
    score: Literal["dice", "auroc"]
    note: str
    domains: tuple[Domain, ...]
    groups: tuple[Group, ...]
    networks: tuple[Network, ...]
    retrained: Retrained
    trained: tuple[Trained, ...]
    claims: tuple[Claim, ...]
    missing: tuple[MissingRun, ...]
    untested: tuple[MissingTest, ...]
    definitions: dict[str, str]

    def write(self, path: Path) -> None:
        """Writes everything as JSON, whole or not at all; undefined values are null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Generalization":
        """Reads what `write` wrote.

        Raises:
            RunError: the file is missing or is not one that `write` wrote.
        """
        fix = "Make it again: medarts generalize."
        try:
            return TypeAdapter(cls).validate_python(json.loads(read_whole(path)))
        except FileNotFoundError as error:
            raise RunError(f"{path} does not exist.", fix=fix) from error
        except (ValidationError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{path} cannot be read: {reason}", fix=fix) from error
