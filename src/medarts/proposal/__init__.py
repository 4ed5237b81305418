"""A first recipe for data as people have them: what their files show, and the settings that fit."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medarts.config import Recipe, SourceSettings, Task, apply_overrides, parse
from medarts.data.choosing import renamed
from medarts.data.manifest import Manifest
from medarts.data.naming import images_below
from medarts.data.opening import Survey, findings_in, open_manifest, refuse, survey
from medarts.data.recognising import recognise
from medarts.data.sources import WITHOUT_CLASS, AmbiguousLayoutError
from medarts.engine.timing import Span
from medarts.errors import DataError
from medarts.profiling.load import Load
from medarts.proposal.describing import described_layout
from medarts.proposal.looking import OPENED, Look, look_at
from medarts.proposal.measuring import Measured, epochs_of, measured
from medarts.proposal.settings import Draft, draft_for
from medarts.system.console import counted, progress_bar
from medarts.tasks import NO_BACKGROUND

MINUTES = 60
"""Minutes that a search and a training may take where nothing else is said."""

MOST_QUESTIONS = 2

_ROUNDS = 3

_FEWEST_TIMES, _MOST_TIMES = 0.25, 4.0
"""Times the usual number of epochs that budgets are used for. With fewer steps most networks predict nothing yet."""


@dataclass(frozen=True)
class Question:
    """Something that files do not say.

    Attributes:
        text: the question.
        choices: the possible answers; the first is the usual one.
        needed: without an answer there is an error; else the first choice is taken.
    """

    text: str
    choices: tuple[str, ...]
    needed: bool = False


Ask = Callable[[Question], int | None]
"""Asks a question; returns the number of the choice, None where nobody answers."""


@dataclass(frozen=True)
class Proposal:
    """What was understood of data sets, and a recipe for them.

    Attributes:
        looks: what each data set is.
        draft: the recipe with its reasons.
        recipe: the same, checked.
        answers: questions, and what was taken for an answer.
        times: in seconds, of the search with the reading of all images, and of the training, of all folds; None where
            nothing was measured.
        load: how busy the machine was before it was measured.
        budget: minutes that search and training were to take together.
    """

    looks: tuple[Look, ...]
    draft: Draft
    recipe: Recipe
    answers: tuple[tuple[str, str], ...]
    times: tuple[Span, Span] | None = None
    load: Load | None = None
    budget: float = MINUTES

    @property
    def is_too_long(self) -> bool:
        """Whether even the fewest epochs that make sense take longer than was wanted."""
        return self.times is not None and sum(each.low for each in self.times) > 60 * self.budget

    @property
    def minutes(self) -> tuple[float, float] | None:
        """Expected times of the search and of the training, in minutes; None where they were not measured."""
        return None if self.times is None else (self.times[0].seconds / 60, self.times[1].seconds / 60)


def propose(
    paths: Sequence[Path],
    *,
    ask: Ask,
    task: Task | None = None,
    minutes: float = MINUTES,
    measure: bool = True,
    changes: Sequence[str] = (),
) -> Proposal:
    """Looks at data sets and proposes a recipe.

    Args:
        paths: folders, or lists of images.
        ask: answers what files do not say; at most two questions.
        task: what is to be learned, where a folder has both masks and findings. Default: as recognised.
        minutes: that the search and the training may take together, as measured.
        measure: run some steps to measure the time; otherwise the epochs follow the number of images alone.
        changes: changes of the recipe, such as ``"data.size=96"``.

    Raises:
        DataError: a layout is not known or ambiguous, or files do not fit together.
    """
    answers: list[tuple[str, str]] = []
    sources = _changed(_sources(paths, task, ask, answers), changes)
    looks = _with_patients(_trained_on(_looks(sources, changes), answers), ask, answers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draft, recipe = _drafted(looks, device, 1.0, changes)
    if not measure:
        _check(recipe, looks)
        return Proposal(looks, draft, recipe, tuple(answers))
    load, taken = Load.now(), measured(recipe, looks)  # the load before the trials, which are load themselves
    factor, scaled = 1.0, recipe
    for _ in range(_ROUNDS):  # numbers of epochs have limits, so that time does not follow the factor alone
        spans = _spans(taken, recipe, scaled)
        factor *= 60 * minutes / (spans[0].seconds + spans[1].seconds)
        factor = min(max(factor, _FEWEST_TIMES), _MOST_TIMES)
        draft, scaled = _drafted(looks, device, factor, changes)
    return Proposal(looks, draft, scaled, tuple(answers), _spans(taken, recipe, scaled), load, minutes)


def _check(recipe: Recipe, looks: Sequence[Look]) -> None:
    """Refuses data that no recipe can learn from, which measuring would find."""
    open_manifest(recipe.data.of_fold(1) if recipe.data.is_divided else recipe.data, needs=("train", "val"))
    all_opened = all(look.opened == len(look.manifest.samples) for look in looks)
    if recipe.data.task == "segmentation" and all_opened:
        folders = ", ".join(str(look.settings.path) for look in looks)
        if not any(look.shown for look in looks):
            raise DataError(f"All masks of {folders} are empty.", fix="Add images with objects, or give other masks.")
        if all(look.full == 1 for look in looks) and len(recipe.data.class_names) == 1:
            raise DataError(f"All masks of {folders} are foreground everywhere.", fix=NO_BACKGROUND)


def _spans(taken: Measured, before: Recipe, after: Recipe) -> tuple[Span, Span]:
    """Returns the time of search, with what is done once, and training by a recipe of other numbers of epochs."""
    search, train = (new / old for old, new in zip(epochs_of(before), epochs_of(after), strict=True))
    fixed = taken.reading + taken.drawing
    once = Span(fixed, fixed, fixed)
    return once.plus(taken.search.times(search)), taken.training.times(train)


def _drafted(looks: Sequence[Look], device: str, factor: float, changes: Sequence[str]) -> tuple[Draft, Recipe]:
    draft = draft_for(looks, device=device, factor=factor)
    # Patterns of patients are in the sources already, some of which may have been left out since.
    draft.content = apply_overrides(draft.content, [each for each in changes if not _OF_PATIENTS.match(each)])
    changed = {change.partition("=")[0] for change in changes}
    draft.reasons = {path: reason for path, reason in draft.reasons.items() if path not in changed}
    return draft, parse(draft.content)


def _sources(
    paths: Sequence[Path], task: Task | None, ask: Ask, answers: list[tuple[str, str]]
) -> list[SourceSettings]:
    """Returns the sources of paths, with an answer to what is ambiguous."""
    sources: list[SourceSettings] = []
    for path in paths:
        try:
            found = recognise(path, task=task)
        except AmbiguousLayoutError as ambiguous:
            question = Question(f"Which files of {path} are images and masks?", ambiguous.told, needed=True)
            number = ask(question) if len(answers) < MOST_QUESTIONS else None
            if number is None:
                raise
            found = ambiguous.choices[number]
            answers.append((question.text, question.choices[number]))
        sources += [renamed(source, sources) for source in found]
    if len({source.task for source in sources}) > 1:
        raise DataError(
            "Some of the data have masks, others findings.", fix="Give one kind at a time, or choose with --task."
        )
    return sources


_OF_PATIENTS = re.compile(r"data\.sources\.(\d+)\.patients=")


def _changed(sources: list[SourceSettings], changes: Sequence[str]) -> list[SourceSettings]:
    """Returns the sources with the patterns of patients that are given: splits and folds follow from them."""
    own = [change for change in changes if _OF_PATIENTS.match(change)]
    if not own:
        return sources
    content = {"data": {"sources": [source.model_dump(mode="json") for source in sources]}}
    return [*parse(apply_overrides(content, own)).data.sources]


def _looks(sources: Sequence[SourceSettings], changes: Sequence[str]) -> list[Look]:
    surveys = []
    for source in sources:
        settings = source
        found = survey(settings, findings=findings_in(settings))
        if any(fault.problem == WITHOUT_CLASS for fault in found.faults):  # as published sets have them
            settings = settings.model_copy(update={"absent": "empty"})
            found = survey(settings)
        refuse(settings, found.faults)
        surveys.append((settings, found))
    total = sum(min(len(found.manifest.samples), OPENED) for _, found in surveys)
    with progress_bar("looking", total) as bar:
        looks = [look_at(settings, found, progress=bar.advance) for settings, found in surveys]
    for look, beside in zip(looks, _beside(surveys), strict=True):
        look.doubts += beside
    given = {match[1] for change in changes if (match := _OF_PATIENTS.match(change))}
    for number, look in enumerate(looks):
        if str(number) in given:
            look.patients = None  # nothing is left to ask
        _look_for_overlap(look)
    return looks


def _beside(surveys: Sequence[tuple[SourceSettings, Survey]]) -> Iterator[tuple[str, ...]]:
    """Yields what lies beside the images of folders and is not read, such as a folder of overlays."""
    of_folders = [(settings, found) for settings, found in surveys if settings.kind == "folder"]
    samples = [sample for _, found in of_folders for sample in found.manifest.samples]
    read = {path.parent for sample in samples for path in (sample.image, *sample.more, *sample.masks)}
    read |= {path for _, found in of_folders for doubt in found.doubts for path in (doubt.file, doubt.file.parent)}
    told: set[Path] = set()
    for settings, _ in surveys:
        images = [] if settings.kind != "folder" or settings.path in told else images_below(settings.path).values()
        told.add(settings.path)
        folders = Counter(path.parent for paths in images for path in paths if path.parent not in read)
        names = {folder: folder.relative_to(settings.path).as_posix() for folder in folders}
        yield tuple(
            f"{counted(number, 'image')} in {settings.path if names[folder] == '.' else names[folder]}"
            for folder, number in sorted(folders.items())
        )


def _look_for_overlap(look: Look) -> None:
    """Looks at the other masks, too, where classes are drawn in one file and may overlap in a few images alone."""
    in_one_file = look.draws_objects or bool(look.manifest.rules[look.settings.domain].segments)
    if look.overlap or len(look.names) < 2 or not in_one_file:
        return
    with progress_bar("looking for overlap", len(look.manifest.samples)) as bar:
        for sample in look.manifest.samples:
            if look.overlaps(sample):
                look.overlap = True
                return
            bar.advance()


def _trained_on(looks: list[Look], answers: list[tuple[str, str]]) -> list[Look]:
    """Returns the looks at data sets with training images; the others are for `evaluate` with their own data."""
    kept = [look for look in looks if any(sample.split == "train" for sample in look.manifest.samples)]
    for look in looks if kept else ():
        if look not in kept:
            text = f"{look.settings.domain} has no training images ({described_layout(look)})."
            answers.append((text, "left out of the recipe; medarts evaluate RUN --data scores on it"))
    return kept or looks


def _with_patients(looks: Sequence[Look], ask: Ask, answers: list[tuple[str, str]]) -> tuple[Look, ...]:
    """Returns the looks with patients by names where the answer is that names say them."""
    done: list[Look] = []
    asked = len(answers)
    for look in looks:
        if look.patients is None:
            done.append(look)
            continue
        question = Question(
            f"Do names of {look.settings.domain} say the patient? {look.patients.text}.",
            ("yes, keep the images of a patient in one split", "no, every image is of another patient"),
        )
        number = (ask(question) if asked < MOST_QUESTIONS else 0) or 0
        asked += 1
        answers.append((question.text, question.choices[number]))
        if number == 0:
            settings = look.settings.model_copy(update={"patients": look.patients.pattern})
            done.append(replace(look, settings=settings, manifest=_again(settings, look)))
        else:
            done.append(look)
    return tuple(done)


def _again(settings: SourceSettings, look: Look) -> Manifest:
    """Returns the manifest of a data set by other settings."""
    return survey(settings, findings=look.manifest.findings or None, classes=look.names).manifest
