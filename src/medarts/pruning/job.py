"""Pruning of a trained network: trainings and cuts one after the other, any of which can be stopped and goes on.

A pruning has one or several steps. Each is a training before the cut, where the method wants one, the cut, and
fine-tuning. Every training is a run of its own; the last fine-tuning is the run that is asked for:

    OUT/              the last fine-tuning, a training run with structure.json, and pruning.json (see ``record.py``)
    OUT/prune.json    what was asked for, of which network: the same command goes on, any other is refused
    OUT/steps/1, ...  the trainings before it, in their order

A cut follows from the weights before it and from the recipe, and from what is measured where a latency is the target.
One that was interrupted is made again, and the run that begins with it is there whole or not at all. The network that
is pruned is only read.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from medarts.config import KeepSettings, Recipe, apply_overrides, parse
from medarts.config.reading import deciding_values, difference_words, value_differences
from medarts.data.store import ImageStore
from medarts.engine.changes import changes_on_the_way, check_places
from medarts.engine.checkpoint import of_weights
from medarts.engine.device import preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import resume, start
from medarts.errors import RecipeError, RunError
from medarts.models.pruned import Pruned
from medarts.network import Network
from medarts.pruning.criteria import Criterion
from medarts.pruning.method import make_method
from medarts.pruning.record import FILE as RECORD
from medarts.pruning.record import PruningRecord, Size, Step, read_record, seconds_of, size_of
from medarts.pruning.sparse_training import RATE, PruningStage, SparseTraining
from medarts.pruning.steps import Cut, cut_of, score_of
from medarts.system.console import inform
from medarts.system.files import exists, remove_empty, write_whole
from medarts.system.process import InterruptedRunError
from medarts.training.fine_tuning import InitialWeights, with_its_norm
from medarts.training.trained import TrainedNetwork, trained_of
from medarts.training.trainer import Training, prepare_to_resume, prepare_training

PLAN, STEPS = "prune.json", "steps"
_FORMAT = 1
_ELSEWHERE = "Choose another folder (out; --out on the command line)"


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
    if Path(source.origin).resolve() in out.resolve().parents:
        raise RunError(f"{out} lies in the run that is pruned, which stays as it is.", fix=f"{_ELSEWHERE}.")
    if run is not None and data is None:
        check_places(run, recipe)
    pruning = _Pruning(source, recipe, out, command=command, run=run, data=data)
    with pruning.at_work():
        return pruning.go_on()


class _Pruning:
    """A pruning; see `prune_network`."""

    def __init__(
        self,
        source: TrainedNetwork,
        recipe: Recipe,
        out: Path,
        *,
        command: str,
        run: RunDirectory | None,
        data: ImageStore | None,
    ) -> None:
        self.source, self.out, self.command, self.run, self.data = source, out, command, run, data
        self.recipe = _resolved(source, recipe)
        settings = self.recipe.prune
        self.quantity, self.keep = settings.keep.quantity, settings.keep.share
        self.method = make_method(settings.method)
        self.is_sparse = self.method.sparse is not None
        fine = _recipes(self.recipe, settings.epochs or 0, field="prune.epochs")
        sparse = _recipes(self.recipe, settings.sparse_epochs or settings.epochs or 0, field="prune.sparse_epochs")
        self.recipes = [*zip(sparse if self.is_sparse else fine, fine, strict=True)]

    # The folder

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps other processes out of the folder, which is new or one of the same pruning."""
        begun = exists(self.out / PLAN)
        if begun:
            self._check_plan()
        run = RunDirectory(self.out)
        with run.at_work("prune") if begun else RunDirectory.reserved(self.out, "prune"):
            try:
                yield
            except KeyboardInterrupt:
                raise InterruptedRunError(
                    f"Stopped; what is finished of {self.out} is kept.", fix=f"Resume with: {self.command}"
                ) from None
            finally:
                self._tidy()

    def _tidy(self) -> None:
        """Removes what a pruning has written of which nothing has come, so that another one can have the folder."""
        first = self._folder(1, SparseTraining if self.is_sparse else FineTuning)
        if not (first / "run.json").exists():
            for name in (PLAN, RECORD):
                (self.out / name).unlink(missing_ok=True)
            remove_empty([self.out / STEPS / "1", self.out / STEPS])

    def _folder(self, number: int, kind: type[PruningStage]) -> Path:
        """Returns the folder of a training of a step."""
        if kind is FineTuning and number == len(self.recipes):
            return self.out
        return self.out / STEPS / str(2 * number - (kind is not FineTuning) if self.is_sparse else number)

    @property
    def _plan(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "source": self.source.origin,
            "network": self.source.architecture.name,
            "weights": of_weights(self.source.weights),
            "recipe": json.loads(json.dumps(deciding_values(self.recipe))),
        }

    def _check_plan(self) -> None:
        """Refuses the folder of another pruning.

        Raises:
            RunError: it is one.
        """
        found, wanted = RunDirectory(self.out).read_json(PLAN), self._plan
        if found["weights"] != wanted["weights"]:
            raise RunError(
                f"{self.out} holds a pruning of {found['source']} with other weights than those of "
                f"{self.source.origin}.",
                fix=f"{_ELSEWHERE}.",
            )
        differing = value_differences(found["recipe"], wanted["recipe"])
        if others := [each for each in differing if each[0] != "train.accumulate"]:
            raise RunError(
                f"{self.out} holds a pruning by other settings ({difference_words(others)}).",
                fix=f"{_ELSEWHERE}, or give the settings of that one, which then goes on.",
            )

    def _write_plan(self) -> None:
        if not exists(self.out / PLAN):
            RunDirectory(self.out).write_json(PLAN, self._plan)

    # The stages

    def go_on(self) -> RunDirectory:
        """Does what is left, and returns the run of the last fine-tuning."""
        if exists(self.out / "run.json") and RunDirectory(self.out).facts["finished"]:
            inform(f"{self.out} is finished already.")
        trained, run = self.source, self.run
        for number, (sparse, fine) in enumerate(self.recipes, 1):
            if self.method.sparse is not None:
                run = self._stage(SparseTraining, number, trained, sparse, run, criterion=self.method.sparse)
                trained = trained_of(run)
            run = self._stage(FineTuning, number, trained, fine, run)
            trained = trained_of(run)
            self._complete(run)
        assert run is not None
        return run

    def _stage(
        self,
        kind: type[PruningStage],
        number: int,
        trained: TrainedNetwork,
        recipe: Recipe,
        run: RunDirectory | None,
        **options: Any,
    ) -> RunDirectory:
        """Does a training of a step, or what is left of it.

        Args:
            kind: of training.
            number: of the step, from 1.
            trained: what it begins with, or what is cut before.
            recipe: of it.
            run: of ``trained``.
            **options: of the kind of training.
        """
        folder = self._folder(number, kind)
        if not (folder / "run.json").is_file():
            begin = self._sparse_training if kind is SparseTraining else self._fine_tuning
            return start(kind, recipe, folder, partial(begin, number, trained, recipe, run, **options))
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
        self, number: int, trained: TrainedNetwork, recipe: Recipe, run: RunDirectory | None, *, criterion: Criterion
    ) -> Training:
        """Returns the training before a cut, having seen that the cut is possible."""
        inform(f"{self._of(number)}training for {self.recipe.prune.method.name}, {recipe.train.epochs} epochs.")
        make = partial(SparseTraining, command=self.command, criterion=criterion)
        training = self._prepared(trained, recipe, run, make)
        assert isinstance(training, SparseTraining)
        target = self._target(number)
        if target is not None:
            training.aim_at(target)
        self._write_plan()
        return training

    def _fine_tuning(self, number: int, trained: TrainedNetwork, recipe: Recipe, run: RunDirectory | None) -> Training:
        """Returns the training after a cut, having made that."""
        began = time.perf_counter()
        quantity = "FLOPs" if self.quantity == "flops" else self.quantity
        inform(
            f"{self._of(number)}cut by {self.recipe.prune.method.name} to {self._share(number):.1%} of the {quantity}."
        )
        training = self._prepared(trained, recipe, run, Training)
        size, score = self._size(training.network), score_of(training, training.network)
        made = cut_of(training, self.method, self._target(number), name=self._name(number), history=self._history)
        step = Step(
            kept=self._kept(number - 1) * made.kept,
            size=self._size(made.network),
            before=score,
            cut=score_of(training, made.network),
            sparse_seconds=seconds_of(self._folder(number, SparseTraining)) if self.is_sparse else None,
            cut_seconds=round(time.perf_counter() - began, 3),
        )
        record = self._with_step(number, step, made, size, training)
        inform(record.summary)
        self._write_plan()
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

    # The record and the target

    def _with_step(self, number: int, step: Step, made: Cut, size: Size, training: Training) -> PruningRecord:
        structure, settings = made.architecture.structure, self.recipe.prune
        earlier = self._record(number - 1) if number > 1 else None
        return PruningRecord(
            network=self.source.architecture.name,
            weights=of_weights(self.source.weights),
            method=settings.method.model_dump(mode="json"),
            keep=settings.keep.given,
            score=training.task.score.removeprefix("val_"),
            original=step.before if earlier is None else earlier.original,
            size=size if earlier is None else earlier.size,
            steps=(*(() if earlier is None else earlier.steps), step),
            heads=structure.heads,
            removed=structure.without,
            uncut=made.uncut,
        )

    def _record(self, number: int) -> PruningRecord:
        return read_record(RunDirectory(self._folder(number, FineTuning)))

    def _complete(self, run: RunDirectory) -> None:
        """Adds to the record of a run what is known when it is finished, also when it was then made longer."""
        record, score = read_record(run), float(run.read_json("summary.json")["best_score"])
        whole = record.with_last(fine_tuned=score, fine_seconds=seconds_of(run.path))
        if whole != record:
            write_whole(run.path / RECORD, whole.to_json())

    def _size(self, network: Network) -> Size:
        return size_of(network, in_channels=self.recipe.data.in_channels, size=self.recipe.data.size)

    def _kept(self, number: int) -> float:
        """Returns what is kept of the target's quantity after a step."""
        return self._record(number).last.kept if number else 1.0

    def _share(self, number: int) -> float:
        """Returns what is to be kept of it after a step; every step keeps the same share of what there is before it."""
        return float(self.keep ** (number / len(self.recipes)))

    def _target(self, number: int) -> KeepSettings | None:
        """Returns what a step is to keep of what there is before it; None where the one before has cut enough."""
        share = self._share(number) / self._kept(number - 1)
        return KeepSettings(**{self.quantity: share}) if share < 1 else None

    def _of(self, number: int) -> str:
        """Returns what a step is called, for the terminal."""
        steps = f", step {number} of {len(self.recipes)}" if len(self.recipes) > 1 else ""
        return f"{self.source.architecture.name}{steps}: "

    def _name(self, number: int) -> str:
        return f"{self.source.architecture.name}-{self.recipe.prune.method.name}-{100 * self._share(number):.3g}"

    @property
    def _history(self) -> tuple[Mapping[str, Any], ...]:
        given, settings = self.source.architecture, self.recipe.prune
        asked = {
            "method": settings.method.model_dump(mode="json"),
            "keep": settings.keep.given,
            "steps": settings.steps,
            "epochs": settings.epochs,
            **({"sparse_epochs": settings.sparse_epochs or settings.epochs} if self.is_sparse else {}),
            "finetune_lr": self.recipe.train.finetune_lr,
        }
        return (*(given.history if isinstance(given, Pruned) else ()), asked)


def _resolved(source: TrainedNetwork, recipe: Recipe) -> Recipe:
    """Returns a recipe with what it leaves to the network, and to its other sections.

    Raises:
        RecipeError: it does not fit the network.
    """
    old, new = source.recipe.data, recipe.data
    if (old.outputs, old.findings) != (new.outputs, new.findings):
        raise RecipeError(
            f"{source.origin} was trained for other classes or findings than the data have, and pruning keeps heads.",
            fix="Fine-tune it on these data first: medarts train --from.",
        )
    recipe = with_its_norm(recipe, source)
    # Written out, as the epochs of a run are those of its last step.
    prune = recipe.prune.model_copy(update={"epochs": recipe.prune.epochs or recipe.train.epochs})
    return recipe.model_copy(update={"prune": prune})


def _recipes(recipe: Recipe, epochs: int, *, field: str) -> list[Recipe]:
    """Returns the recipes of the trainings of all steps, among which the epochs are divided.

    Raises:
        RecipeError: the epochs are fewer than the steps, or than those of the warm-up.
    """
    steps, values = recipe.prune.steps, recipe.model_dump(mode="json")
    if epochs < steps:
        raise RecipeError(f"{field} is {epochs}, fewer than the {steps} steps.", fix="Give more epochs or fewer steps.")
    shares = [epochs * number // steps - epochs * (number - 1) // steps for number in range(1, steps + 1)]
    return [parse(apply_overrides(values, [f"train.epochs={share}"])) for share in shares]


def _initial(network: str, weights: Mapping[str, Any]) -> InitialWeights:
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    return InitialWeights(network, of_weights(tensors), (), tensors)
