"""Pruning of a trained network: trainings and cuts one after the other, any of which can be stopped and goes on.

A pruning has one or several steps. Each is a training before the cut, where the method wants one, the cut, and
fine-tuning. Every training is a run of its own; the last fine-tuning is the run that is asked for, in whose folder the
others lie (``folder.py``).

A cut follows from the weights before it and from the recipe, and from what is measured where a latency is the target.
One that was interrupted is made again, and the run that begins with it is there whole or not at all. The network that
is pruned is only read.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medarts.config import Recipe
from medarts.data.store import ImageStore
from medarts.engine.changes import changes_on_the_way, check_places
from medarts.engine.checkpoint import of_weights
from medarts.engine.device import preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import resume, start
from medarts.errors import RunError
from medarts.network import Network
from medarts.pruning.criteria import Criterion
from medarts.pruning.folder import ELSEWHERE, PLAN, STEPS, PruningFolder
from medarts.pruning.record import FILE as RECORD
from medarts.pruning.record import PruningRecord, Size, Step, complete_record, read_record, seconds_of, size_of
from medarts.pruning.request import Request
from medarts.pruning.sparse_training import RATE, PruningStage, SparseTraining
from medarts.pruning.steps import cut_of, score_of
from medarts.system.console import inform
from medarts.system.files import exists
from medarts.system.place import refuse_several
from medarts.training.fine_tuning import InitialWeights
from medarts.training.trained import TrainedNetwork, trained_of
from medarts.training.trainer import Training, prepare_to_resume, prepare_training


class FineTuning(PruningStage):
    """The training after a cut.

    Args:
        *arguments: see `Training`.
        record: of the pruning so far. Default: a run that goes on has it.
        **options: see `PruningStage`.
    """

    title = "fine-tuning"
    beside = (PLAN, STEPS, RECORD)

    def __init__(self, *arguments: Any, record: PruningRecord | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.record = record

    @property
    def files(self) -> dict[str, str | bytes]:
        """Those of a training, and the record of the pruning."""
        return super().files if self.record is None else {**super().files, RECORD: self.record.to_json()}


@preserved_process_state()
def prune_network(
    source: TrainedNetwork,
    recipe: Recipe,
    out: Path,
    *,
    command: str,
    run: RunDirectory | None = None,
    data: ImageStore | None = None,
) -> RunDirectory:
    """Prunes a trained network and fine-tunes it, in a new run directory; or goes on with that.

    Args:
        source: the trained network. One that was pruned is pruned further, by shares of what it has now.
        recipe: data, training, and what its section ``prune`` says.
        out: folder of the run: new, empty, or of the same pruning.
        command: that goes on with it, or what does so otherwise, for the message of an interruption.
        run: of the network, whose data must be as they were. None: it is pruned on other data.
        data: the images, in place of the sources of the recipe.

    Returns:
        The run of the last fine-tuning.

    Raises:
        RecipeError: the recipe has no target, or does not fit the network.
        RunError: the folder holds something else, the network has changed since the pruning began, the target cannot
            be reached, or nothing can be cut.
        DivergedError: a loss became NaN or infinite.
        InterruptedRunError: it was asked to stop; the same call goes on.
        MedartsError: see `medarts.engine.engine.start`.
    """
    refuse_several("A pruning")
    place = Path(source.origin).resolve()
    if place == out.resolve():
        raise RunError(f"{out} is the run that is pruned, which stays as it is.", fix=f"{ELSEWHERE}.")
    if place in out.resolve().parents:
        raise RunError(f"{out} lies in the run that is pruned, which stays as it is.", fix=f"{ELSEWHERE}.")
    if run is not None and data is None:
        check_places(run, recipe)
    request = Request(source, recipe)
    folder = PruningFolder(out, steps=len(request.recipes), plan=request.plan)
    with folder.at_work(command):
        return _Pruning(request, folder, command=command, run=run, data=data).go_on()


class _Pruning:
    """The trainings and cuts of a pruning.

    Args:
        request: what is asked for.
        folder: of the pruning.
        command: that goes on with it.
        run: see `prune_network`.
        data: see `prune_network`.
    """

    def __init__(
        self,
        request: Request,
        folder: PruningFolder,
        *,
        command: str,
        run: RunDirectory | None,
        data: ImageStore | None,
    ) -> None:
        self.request, self.folder, self.command, self.run, self.data = request, folder, command, run, data

    def go_on(self) -> RunDirectory:
        """Does what is left, and returns the run of the last fine-tuning."""
        path = self.folder.path
        if exists(path / "run.json") and (last := RunDirectory(path)).facts["finished"]:
            inform(f"{path} is finished already.")
            complete_record(last)
            return last
        trained, run, criterion = self.request.source, self.run, self.request.method.sparse
        for number, (sparse, fine) in enumerate(self.request.recipes, 1):
            if criterion is not None:
                begin = partial(self._sparse_training, number, trained, sparse, run, criterion)
                run = self._stage(SparseTraining, self.folder.sparse(number), sparse, begin, criterion=criterion)
                trained = trained_of(run)
            begin = partial(self._fine_tuning, number, trained, fine, run)
            run = self._stage(FineTuning, self.folder.fine_tuning(number), fine, begin)
            trained = trained_of(run)
            complete_record(run)
        assert run is not None
        return run

    def _stage(
        self,
        kind: type[PruningStage],
        folder: Path,
        recipe: Recipe,
        begin: Callable[[], Training],
        **options: Any,
    ) -> RunDirectory:
        """Does a training, or what is left of it.

        Args:
            kind: of training.
            folder: of it.
            recipe: of it.
            begin: makes it, unless it was begun.
            **options: of the kind, with which one that was begun is made.
        """
        if not (folder / "run.json").is_file():
            return start(kind, recipe, folder, begin)
        begun = RunDirectory.open(folder, kind=kind.kind)
        facts = begun.facts
        if facts["finished"]:
            return begun
        rate = {"rate": facts[RATE]} if RATE in facts else {}
        make = partial(kind, command=self.command, **options, **rate)
        prepare = partial(prepare_to_resume, data=self.data, make=make)
        return resume(kind, folder, changes_on_the_way(begun, recipe), prepare, data=self.data)

    def _prepared(
        self, trained: TrainedNetwork, recipe: Recipe, run: RunDirectory | None, make: Callable[..., Training]
    ) -> Training:
        """Returns a training that begins with a network, which is on its device."""
        training = prepare_training(
            recipe,
            trained.architecture,
            None if run is self.run and self.data is not None else run,
            data=self.data,
            initial=_initial(trained.architecture.name, trained.weights),
            make=make,
        )
        training.network.to(training.fabric.device)
        return training

    def _sparse_training(
        self, number: int, trained: TrainedNetwork, recipe: Recipe, run: RunDirectory | None, criterion: Criterion
    ) -> Training:
        """Returns the training before a cut, having seen that the cut is possible."""
        inform(self.request.training_words(number))
        make = partial(SparseTraining, command=self.command, criterion=criterion)
        training = self._prepared(trained, recipe, run, make)
        assert isinstance(training, SparseTraining)
        target = self.request.target(number, self._kept(number - 1))
        if target is not None:
            training.aim_at(target)
        self.folder.write_plan()
        return training

    def _fine_tuning(self, number: int, trained: TrainedNetwork, recipe: Recipe, run: RunDirectory | None) -> Training:
        """Returns the training after a cut, having made that."""
        began, request = time.perf_counter(), self.request
        inform(request.cut_words(number))
        training = self._prepared(trained, recipe, run, Training)
        kept = self._kept(number - 1)
        target = request.target(number, kept)
        if target is not None:
            request.method.check(training, target)
        size, score = self._size(training.network), score_of(training, training.network)
        made = cut_of(training, request.method, target, name=request.name(number), history=request.history)
        step = Step(
            kept=kept * made.kept,
            latency=made.latency,
            size=self._size(made.network),
            before=score,
            cut=score_of(training, made.network),
            sparse_seconds=None if request.method.sparse is None else seconds_of(self.folder.sparse(number)),
            cut_seconds=round(time.perf_counter() - began, 3),
        )
        earlier = self._record(number - 1) if number > 1 else self._first_record(training, size, score)
        record = earlier.with_step(step, made.architecture.structure, uncut=made.uncut)
        inform(record.summary)
        self.folder.write_plan()
        return FineTuning(
            recipe,
            fabric=training.fabric,
            architecture=made.architecture,
            network=made.network,
            task=training.task,
            store=training.store,
            training=training.training,
            validation=training.validation,
            initial=_initial(trained.architecture.name, made.network.state_dict()),
            command=self.command,
            record=record,
        )

    def _first_record(self, training: Training, size: Size, score: float) -> PruningRecord:
        """Returns the record before the first step, of the network that is pruned."""
        settings = self.request.recipe.prune
        return PruningRecord(
            network=self.request.source.architecture.name,
            weights=self.request.weights,
            method=settings.method.model_dump(mode="json"),
            keep=settings.keep.given,
            score=training.task.score.removeprefix("val_"),
            original=score,
            size=size,
            steps=(),
        )

    def _record(self, number: int) -> PruningRecord:
        return read_record(RunDirectory(self.folder.fine_tuning(number)))

    def _kept(self, number: int) -> float:
        """Returns what is kept of the target's quantity after a step."""
        return self._record(number).last.kept if number else 1.0

    def _size(self, network: Network) -> Size:
        data = self.request.recipe.data
        return size_of(network, in_channels=data.in_channels, size=data.size)


def _initial(network: str, weights: Mapping[str, Any]) -> InitialWeights:
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    return InitialWeights(network, of_weights(tensors), (), tensors)
