"""pruning.json: what a pruning has done, for pages and tables. Scores are those of the validation images."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medarts.engine.directory import RunDirectory
from medarts.errors import RunError
from medarts.network import Network
from medarts.network.structure import Structure, sizes_of
from medarts.profiling.cost import count_flops, count_parameters
from medarts.pruning.graph import unused_parameters
from medarts.pruning.latency import Latency
from medarts.system.files import write_whole

FILE = "pruning.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Size(_Part):
    """How large a network is.

    Attributes:
        parameters: trainable ones that a head depends on; not those of an auxiliary head, which only training uses,
            nor those of operations that nothing runs.
        flops: of an image and the last head, as in `medarts.profiling.cost.Cost`.
        channels: layer -> its outputs.
    """

    parameters: Annotated[int, Field(ge=1)]
    flops: Annotated[int, Field(ge=1)]
    channels: dict[str, Annotated[int, Field(ge=1)]]


class Step(_Part):
    """A cut, with the trainings before and after it.

    Attributes:
        kept: of the quantity that the target is for, as a share of what there was before the first step.
        latency: of the network before and after the cut, where that is the target; None otherwise.
        size: of the cut network.
        before: score before the cut.
        cut: score after it.
        fine_tuned: score of the fine-tuned network; None until it is.
        sparse_seconds: of the training before the cut; None where there was none.
        cut_seconds: of the cut.
        fine_seconds: of the fine-tuning; None until it is done.
    """

    kept: float
    latency: Latency | None = None
    size: Size
    before: float
    cut: float
    fine_tuned: float | None = None
    sparse_seconds: float | None = None
    cut_seconds: float
    fine_seconds: float | None = None


class PruningRecord(_Part):
    """What a pruning has done.

    Attributes:
        network: name of the network that was pruned.
        weights: fingerprint of its weights.
        method: name and settings.
        keep: the target: name of the quantity -> share.
        score: name of the scores, such as dice.
        original: score of the network that was pruned.
        size: of that network.
        steps: in their order, those done so far.
        heads: that are left where some were taken away.
        removed: parts that were taken away whole.
        uncut: channels that the last cut had to leave -> why.
    """

    network: str
    weights: str
    method: dict[str, Any]
    keep: dict[str, float]
    score: str
    original: float
    size: Size
    steps: tuple[Step, ...]
    heads: tuple[str, ...] | None = None
    removed: tuple[str, ...] = ()
    uncut: dict[str, str] = {}

    @property
    def last(self) -> Step:
        """The last step."""
        return self.steps[-1]

    @property
    def seconds_before(self) -> float:
        """Seconds of all cuts, and of the trainings before the last fine-tuning."""
        cutting = sum(step.cut_seconds + (step.sparse_seconds or 0.0) for step in self.steps)
        return cutting + sum(step.fine_seconds or 0.0 for step in self.steps[:-1])

    @property
    def latency(self) -> Latency | None:
        """Latency before the first cut and after the last, in turns where there is one; None where not measured."""
        timed = [step.latency for step in self.steps if step.latency is not None]
        return timed[-1].model_copy(update={"before_ms": timed[0].before_ms}) if timed else None

    def with_last(self, **changes: Any) -> "PruningRecord":
        """Returns the record with other values of its last step."""
        return self.model_copy(update={"steps": (*self.steps[:-1], self.last.model_copy(update=changes))})

    def with_step(self, step: Step, structure: Structure, *, uncut: dict[str, str]) -> "PruningRecord":
        """Returns the record with one more step.

        Args:
            step: what it did.
            structure: of the network after it.
            uncut: see the class.
        """
        changes = {"heads": structure.heads, "removed": structure.without, "uncut": uncut}
        return self.model_copy(update={"steps": (*self.steps, step), **changes})

    def to_json(self) -> str:
        """Returns the content of the file."""
        return self.model_dump_json(indent=1) + "\n"

    @property
    def summary(self) -> str:
        """What the last cut did, for the terminal."""
        before, after = self.size, self.last.size
        latency = self.latency
        timed = f", {latency.cut_ms:.3g} of {latency.before_ms:.3g} ms" if latency else ""
        parts = f", without {', '.join(self.removed)}" if self.removed else ""
        scores = f"validation {self.score} {self.last.before:.3f} before, {self.last.cut:.3f} after"
        return (
            f"Cut to {after.parameters:,} of {before.parameters:,} parameters and {after.flops / before.flops:.1%} of "
            f"the FLOPs{timed}{parts}; {scores}."
        )


def read_record(run: RunDirectory) -> PruningRecord:
    """Returns what a run says of the pruning that it came of.

    Raises:
        RunError: it came of none, or its file is damaged.
    """
    content = run.read_json(FILE)
    try:
        record = PruningRecord.model_validate(content)
        where = "" if record.steps else "steps"  # of which only a pruning at work has none yet
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
    if where:
        raise RunError(f"{run.path / FILE} is damaged: {where}.", fix="Copy the run again.")
    return record


def complete_record(run: RunDirectory) -> None:
    """Adds to the record of a run what is known when it is finished, also when it was then made longer.

    Raises:
        RunError: see `read_record`.
    """
    record, score = read_record(run), float(run.read_json("summary.json")["best_score"])
    whole = record.with_last(fine_tuned=score, fine_seconds=seconds_of(run.path))
    if whole != record:
        write_whole(run.path / FILE, whole.to_json())


def size_of(network: Network, *, in_channels: int, size: int) -> Size:
    """Returns how large a network is; it stays in its mode.

    Args:
        network: the network.
        in_channels: channels of the images.
        size: their height and width, in pixels.
    """
    image = torch.zeros(1, in_channels, size, size, device=next(network.parameters()).device)
    was_training = network.training
    flops = count_flops(network.eval(), in_channels=in_channels, size=size, images=image)
    network.train(was_training)
    outputs = {name: sizes_of(module).get("out") for name, module in network.named_modules()}
    return Size(
        parameters=count_parameters(network, without=unused_parameters(network, image)),
        flops=flops,
        channels={name: number for name, number in outputs.items() if number is not None},
    )


def seconds_of(folder: Path) -> float:
    """Returns the seconds that the epochs of a training took."""
    lines = RunDirectory(folder).read_journal("timing.jsonl", numbers=("seconds",))
    return round(sum(float(line["seconds"]) for line in lines), 3)
