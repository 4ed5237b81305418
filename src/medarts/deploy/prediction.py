"""Prediction on files: masks, probabilities, overlays and tables in a folder, which a repeated call continues.

``predictions.csv`` is the record: a source counts as finished when its rows are there, and these are written after
everything else of it. ``sources.jsonl`` says what each source was then, so that one that has changed is predicted
again. ``prediction.json`` says by which network and with which options.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medarts.config.section import is_unset
from medarts.deploy.components import Mask, largest_components
from medarts.deploy.decisions import Rule, check_rule, decide
from medarts.deploy.engines import Engine, Floats, Outputs
from medarts.deploy.history import SOURCES, History, Predicted, state_of
from medarts.deploy.info import ModelInfo
from medarts.deploy.inputs import OVERLAY, Source, check_kind, find
from medarts.deploy.model import Prepared, TrainedModel, check_finite
from medarts.deploy.outputs import check_name, open_outputs
from medarts.deploy.overlays import overlay_png
from medarts.deploy.passes import Mirrored, Windowed
from medarts.deploy.tables import (
    FINDINGS,
    MASKS,
    PREDICTIONS,
    Journal,
    Row,
    finding_rows,
    mask_rows,
    write_errors,
)
from medarts.errors import DataError, EngineError, MedartsError, RecipeError, RunError, check_number
from medarts.system import lock
from medarts.system.console import Bar, console, inform, progress_bar, warn
from medarts.system.files import UNFINISHED, make_folder, read_text, write_whole, writing
from medarts.system.process import InterruptedRunError, Interruption, interruption

RECORD = "prediction.json"

SECONDS_OF_LINES = 60.0
"""Between two lines about the progress in a log."""

_SMALLEST_WINDOW, _LARGEST_WINDOW = 16, 16_384
_MOST_IMAGES = 65_536
_LARGEST_RECORD = 16 * 2**20


Group = list[tuple[Source, Prepared]]
"""Single images for one pass."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is predicted, and how.

    Attributes:
        batch: images, slices or windows in one pass of the network.
        probabilities: write the probabilities of masks too.
        overlay: write the images with the contours of their masks as PNG.
        window: height and width in pixels of the windows in which larger images are predicted; None: whole.
        flip: average the probabilities of each image and its mirrored copies.
        largest: keep only the largest connected component of each class: in space for volumes and DICOM series, else
            in each image.
        decision: the rule by which probabilities become masks, see ``medarts.deploy.decisions``.
    """

    batch: int = 8
    probabilities: bool = False
    overlay: bool = False
    window: int | None = None
    flip: bool = False
    largest: bool = False
    decision: Rule = "threshold"

    def check(self, info: ModelInfo) -> None:
        """Refuses what is out of range, or makes no sense for the task of a network.

        Raises:
            MedartsError: it does.
        """
        check_number("batch", self.batch, low=1, high=_MOST_IMAGES)
        check_number("window", self.window, low=_SMALLEST_WINDOW, high=_LARGEST_WINDOW)
        if info.resize == "patches" and self.window is not None:
            raise RecipeError(
                f"{info.name} was trained on patches, and predicts images in windows of their size, {info.size} px.",
                fix="Leave window out.",
            )
        if info.task == "segmentation":
            check_rule(self.decision, info)
            return
        default = Options()
        for name in ("probabilities", "overlay", "window", "largest", "decision"):
            if getattr(self, name) != getattr(default, name):
                raise RecipeError(
                    f"{info.name} finds no masks, which {name} is for.",
                    fix="Leave it out: the probabilities of findings are in predictions.csv.",
                )


@dataclass(frozen=True)
class Prediction:
    """What a prediction has done.

    Attributes:
        folder: of the results.
        predicted: images, volumes and series that were predicted.
        kept: those that an earlier call had predicted.
        skipped: file and reason of each that could not be predicted.
    """

    folder: Path
    predicted: int
    kept: int
    skipped: tuple[tuple[str, str], ...]


def predict_files(
    model: TrainedModel,
    paths: Sequence[str | Path],
    folder: Path,
    options: Options = Options(),  # frozen
    *,
    force: bool = False,
) -> Prediction:
    """Predicts images, volumes and series, and writes the results into a folder.

    What cannot be read or predicted is reported on standard error and in errors.csv, and skipped. Repeated with the
    same network and options, it continues where it was stopped, tries again what was skipped, and predicts again what
    has changed.

    Args:
        model: the network.
        paths: files, folders, or patterns, see ``medarts.deploy.inputs.find``.
        folder: new, empty, or of the same prediction.
        options: see there.
        force: start over in a folder that holds something else, and overwrite.

    Raises:
        RunError: the folder holds something else, another process writes into it, or it cannot be written.
        InterruptedRunError: Ctrl-C; the same call continues.
        MedartsError: there are no images, or the options do not fit the network.
    """
    options.check(model.info)
    sources = find(paths, leave_out=folder, files=model.info.files)
    _refuse_inputs(sources, folder)
    make_folder(folder)
    with lock.held(folder, "predict"):
        if not force:
            _check_folder(folder, _record(model, options))
        return _Job(model, sources, folder, options).run(anew=force)


class _Steps:
    """Progress in slices: a bar, and in a log, where there is none, a line every now and then.

    Args:
        bar: the bar.
        total: number of slices.
        done: of these, finished before.
    """

    def __init__(self, bar: Bar, total: int, *, done: int) -> None:
        self._bar, self._total, self._done, self._before = bar, total, done, done
        self._began = self._reported = time.monotonic()

    def advance(self, number: int = 1) -> None:
        """Moves on by a number of slices."""
        self._bar.advance(number)
        self._done += number
        now = time.monotonic()
        if console.is_terminal or now - self._reported < SECONDS_OF_LINES:
            return
        self._reported = now
        left = (now - self._began) / (self._done - self._before) * (self._total - self._done)
        inform(f"predict: {self._done:,} of {self._total:,}, {timedelta(seconds=round(left))} left")


class _Job:
    """One call of `predict_files`."""

    def __init__(self, model: TrainedModel, sources: list[Source], folder: Path, options: Options) -> None:
        self._info = model.info
        self._record = _record(model, options)
        self._model = TrainedModel(model.info, _engine(model.engine, model.info, options))
        self._sources = sources
        self._folder = folder
        self._options = options
        self._masks = model.info.task == "segmentation"
        self._history = History(folder)
        self._states: dict[str, str] = {}
        self._results: list[Path] = []
        self._skipped: list[tuple[str, str]] = []
        self._notes: dict[str, list[str]] = {}
        self._done = 0
        self._steps: dict[str, int] = {}

    def run(self, *, anew: bool) -> Prediction:
        _remove_unfinished(self._folder)
        self._begin(anew=anew)
        journal = Journal(self._folder, MASKS if self._masks else FINDINGS)
        before = self._history.read()
        finished = journal.recover(lambda name: before[name].rows if name in before else None)
        self._sources = _named_as_before(self._sources, finished)
        self._steps = {source.name: _steps(source) for source in self._sources}
        remaining = [source for source in self._sources if not self._is_finished(source, finished, before)]
        journal.forget({source.name for source in remaining} & finished.keys())
        for source in remaining:
            if source.name in before:  # of other files than those that are there now, or of a call that was killed
                self._history.remove_results(before[source.name])
        kept = len(self._sources) - len(remaining)
        total, left = sum(self._steps.values()), sum(self._steps[source.name] for source in remaining)
        try:
            with journal, interruption() as asked, progress_bar("predict", total, done=total - left) as bar:
                self._predict(remaining, journal, asked, _Steps(bar, total, done=total - left))
        except BaseException:
            with suppress(RunError):  # on a full disk the first error says why
                write_errors(self._folder, self._skipped)
            raise
        write_errors(self._folder, self._skipped)
        for note, names in self._notes.items():
            inform(f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {note}")
        return Prediction(self._folder, self._done, kept, tuple(self._skipped))

    def _begin(self, *, anew: bool) -> None:
        if anew:  # first, so that a kill leaves no table that seems to belong to the new record
            for name in (PREDICTIONS, SOURCES, RECORD):
                with writing(self._folder / name):
                    (self._folder / name).unlink(missing_ok=True)
        if not (self._folder / RECORD).exists():
            write_whole(self._folder / RECORD, json.dumps(self._record, indent=2) + "\n")

    def _predict(self, sources: list[Source], journal: Journal, asked: Interruption, steps: _Steps) -> None:
        """Predicts sources in their order; single images of equal sizes that follow each other share a pass."""
        group: Group = []
        for source in sources:
            self._states[source.name] = state_of(source.paths)  # before it is read
            try:
                count = source.count
                image = next(self._prepared(source)) if count == 1 else None
            except DataError as error:
                self._skip(source, error)
                steps.advance(self._steps[source.name])
                continue
            if group and (image is None or not self._share(group, image)):
                self._finish(group, journal, asked, steps)
                group = []
            if image is not None:
                group.append((source, image))
            else:
                slices = self._slices(source, asked, steps)
                self._write(source, self._model.run(slices, batch=self._batch), journal)
        self._finish(group, journal, asked, steps)

    def _share(self, group: Group, image: Prepared) -> bool:
        """Returns whether an image can be predicted together with others."""
        shape, window = image.values.shape, self._options.window
        in_windows = window is not None and max(shape[-2:]) > window  # which fill a batch by themselves
        return len(group) < self._batch and not in_windows and shape == group[0][1].values.shape

    def _finish(self, group: Group, journal: Journal, asked: Interruption, steps: _Steps) -> None:
        if not group:
            return
        self._stop_if(asked)
        try:
            found = [*self._model.run((image for _, image in group), batch=self._batch)]
        except (EngineError, MemoryError) as error:
            if len(group) == 1:
                self._skip(group[0][0], _of_source(error, group[0][0]))
                steps.advance(self._steps[group[0][0].name])
                return
            for each in group:  # one alone may be the cause, or fit into memory
                self._finish([each], journal, asked, steps)
            return
        for (source, _), outputs in zip(group, found, strict=True):
            self._write(source, [outputs], journal)
            steps.advance(self._steps[source.name])

    def _slices(self, source: Source, asked: Interruption, steps: _Steps) -> Iterator[Prepared]:
        left = self._steps[source.name]
        try:
            self._stop_if(asked)
            for image in self._prepared(source):
                yield image
                self._stop_if(asked)
                if left > 1:
                    left -= 1
                    steps.advance()
        finally:  # also where a slice is bad
            steps.advance(left)

    def _prepared(self, source: Source) -> Iterator[Prepared]:
        """Yields the slices of a source as the network takes them."""
        spacing = source.spacing if self._info.spacing_mm is not None else (None, None, None)
        for index, parts in enumerate(source.images(self._info)):
            for raw in parts:
                check_kind(raw, self._info, source.path(index))
            yield self._model.prepare(parts, path=source.path(index), spacing=spacing)

    def _write(self, source: Source, outputs: Iterable[Outputs], journal: Journal) -> None:
        """Writes all that belongs to a source, its rows last; skips it where it cannot be predicted."""
        outputs = (self._checked(source, each) for each in outputs)
        try:
            self._results = []
            rows = self._write_masks(source, outputs) if self._masks else finding_rows([*outputs], self._info)
        except DataError as error:
            self._skip(source, error)
            return
        except (EngineError, MemoryError) as error:
            self._skip(source, _of_source(error, source))
            return
        results = tuple(path.relative_to(self._folder).as_posix() for path in self._results)
        self._history.append(source.name, Predicted(self._states.pop(source.name), len(rows), results))
        journal.append(source.name, _file_of(source), rows)
        self._done += 1

    def _checked(self, source: Source, outputs: Outputs) -> Outputs:
        check_finite(outputs, self._info, str(source.path(0)))
        return outputs

    def _write_masks(self, source: Source, outputs: Iterable[Outputs]) -> list[Row]:
        count, classes = source.count, len(self._info.foreground)
        pixels = []
        with ExitStack() as stack:
            opened = open_outputs(source, self._folder, self._info, probabilities=self._options.probabilities)
            places = [stack.enter_context(place) for place in opened]
            if self._options.overlay:
                check_name(self._overlay(source, 0, several=count > 1), self._folder, source)
            for index, (mask, probabilities) in enumerate(self._decided(source, outputs, count)):
                for number, place in enumerate(places):
                    if self._info.overlap:
                        place.add(mask[number], None if probabilities is None else probabilities[number : number + 1])
                    else:
                        place.add(mask, probabilities)
                pixels.append(_pixels(mask, classes))
                if self._options.overlay:
                    self._write_overlay(source, index, mask, several=count > 1)
            rows = mask_rows(pixels, self._info, source.spacing)
            for place in places:
                place.finish()
                self._results += place.paths
        for note in {place.note for place in places if place.note is not None}:
            self._notes.setdefault(note, []).append(source.name)
        return rows

    def _decided(self, source: Source, outputs: Iterable[Outputs], count: int) -> Iterator[tuple[Mask, Floats | None]]:
        """Yields the mask and the probabilities of each slice."""
        probabilities = (each["probabilities"] for each in outputs)
        decided = ((decide(each, self._info, self._options.decision), each) for each in probabilities)
        if not self._options.largest:
            yield from decided
        elif count == 1 or source.kind == "raster":
            yield from ((_largest(mask, overlap=self._info.overlap), each) for mask, each in decided)
        else:  # in space
            keeps = self._options.probabilities
            masks, kept = zip(*((mask, each if keeps else None) for mask, each in decided), strict=True)
            yield from zip(_largest(np.stack(masks), overlap=self._info.overlap), kept, strict=True)

    def _write_overlay(self, source: Source, index: int, mask: Mask, *, several: bool) -> None:
        # Read again: what is drawn is known when all slices are predicted, which are too many to be kept.
        values, limits = self._model.shown(source.image(index, self._info), path=source.path(index))
        path = self._overlay(source, index, several=several)
        make_folder(path.parent)
        write_whole(path, overlay_png(values, limits, mask))
        self._results.append(path)

    def _overlay(self, source: Source, index: int, *, several: bool) -> Path:
        return self._folder / f"{source.name}{OVERLAY}{f'/{index:04}' if several else ''}.png"

    def _is_finished(self, source: Source, finished: dict[str, str], before: dict[str, Predicted]) -> bool:
        file = finished.get(source.name)
        if file is not None and file != str(_file_of(source)):
            raise RunError(
                f"{self._folder} holds a prediction of {file}, which has the same name there as {source.path(0)}.",
                fix="Choose another folder, or start over with --force.",
            )
        changed = source.name in before and before[source.name].state != state_of(source.paths)
        if file is not None and changed:
            self._notes.setdefault("It has changed since it was predicted, and was predicted again.", []).append(
                source.name
            )
        return file is not None and not changed

    def _skip(self, source: Source, error: MedartsError) -> None:
        self._skipped.append((str(source.path(0)), str(error)))
        warn(f"skipped: {error}")

    def _stop_if(self, asked: Interruption) -> None:
        if asked.requested:
            raise InterruptedRunError(
                f"Stopped: {self._done} predicted into {self._folder}, none is half written.",
                fix="The same command continues.",
            )

    @property
    def _batch(self) -> int:
        return self._options.batch


def _pixels(mask: Mask, classes: int) -> NDArray[np.int64]:
    """Returns the number of pixels of each foreground class."""
    if mask.ndim == 3:
        return np.asarray(mask.reshape(classes, -1).sum(1, dtype=np.int64))
    return np.asarray(np.bincount(mask.ravel(), minlength=classes + 1)[1:])


def _largest(mask: Mask, *, overlap: bool) -> Mask:
    """Returns only the largest connected component of each class; classes that may overlap are the third last axis."""
    if not overlap:
        return largest_components(mask)
    return np.stack([largest_components(each) for each in np.moveaxis(mask, -3, 0)], axis=-3)


def _named_as_before(sources: list[Source], finished: dict[str, str]) -> list[Source]:
    """Returns sources with the names under which they are finished; new files beside them could change these."""
    names = {file: name for name, file in finished.items()}
    return [replace(source, name=names.get(str(_file_of(source)), source.name)) for source in sources]


def _of_source(error: Exception, source: Source) -> DataError:
    problem = error.problem if isinstance(error, MedartsError) else "Memory ran out."
    fix = error.fix if isinstance(error, MedartsError) else "Use smaller batches (--batch 1) or windows (--window 512)."
    return DataError(f"{source.path(0)} was not predicted. {problem}", fix=fix)


def _engine(engine: Engine, info: ModelInfo, options: Options) -> Engine:
    if options.flip:
        engine = Mirrored(engine, info)
    return engine if options.window is None else Windowed(engine, options.window, batch=options.batch)


def _record(model: TrainedModel, options: Options) -> dict[str, Any]:
    """Returns what decides the results, as JSON has it."""
    network = model.info.model_dump(mode="json")
    del network["provenance"]["created"]  # of a run, it is today
    for name in ModelInfo.model_fields:
        if is_unset(model.info, name):  # folders of before do not have it
            del network[name]
    chosen = {name: value for name, value in asdict(options).items() if name != "batch"}
    network["file"] = model.digest  # which in 8-bit integers is another, with the same description
    return {"format": 1, "network": network, "engine": model.engine.name, "options": chosen}


def _check_folder(folder: Path, record: dict[str, Any]) -> None:
    """Refuses a folder that does not belong to a prediction by the same network with the same options.

    Raises:
        RunError: it holds something else.
    """
    path = folder / RECORD
    if not path.exists():
        others = (each.name for each in folder.iterdir() if not each.name.startswith(UNFINISHED))
        if not {*others} <= lock.FILES:
            raise RunError(f"{folder} already holds files.", fix="Choose another folder, or overwrite with --force.")
        return
    try:
        found = json.loads(read_text(path, largest=_LARGEST_RECORD, noun="record", error=RunError))
        different = [name for name in record if found[name] != record[name]]
        options = [name for name in record["options"] if found["options"].get(name) != record["options"][name]]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RunError(f"{path} is damaged.", fix="Choose another folder, or start over with --force.") from None
    if different:
        what = f"other options ({', '.join(options)})" if options else f"another {different[0]}"
        raise RunError(
            f"{folder} holds a prediction with {what}.", fix="Choose another folder, or start over with --force."
        )


def _refuse_inputs(sources: list[Source], folder: Path) -> None:
    """Refuses a folder that holds images to predict on, which results could replace."""
    if not folder.is_dir():
        return
    results = folder.resolve()
    for path in (path for source in sources for path in source.paths):
        if path.resolve().is_relative_to(results):
            raise RunError(f"{path} lies in the folder of the results, {folder}.", fix="Choose another folder.")


def _remove_unfinished(folder: Path) -> None:
    """Removes what a kill has left half written."""
    for parent, _, files in os.walk(folder):
        for name in files:
            if name.startswith(UNFINISHED):
                path = Path(parent, name)
                with writing(path):
                    path.unlink(missing_ok=True)


def _steps(source: Source) -> int:
    """Returns the number of slices for the progress; of a file that cannot be read, and of pages of a TIFF, one."""
    try:
        return 1 if source.kind == "raster" else source.count
    except DataError:  # raised again when it is read
        return 1


def _file_of(source: Source) -> Path:
    return source.path(0).absolute()
