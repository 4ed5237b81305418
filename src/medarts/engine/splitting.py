"""More parts of a batch where memory runs out: what was in hand is done again with half as many images at a time.

A recipe says in how many parts a batch is (``accumulate``). Where memory runs out, of the machine or of the GPU, a run
goes on with twice as many, up to parts of one image: the batch, the order and changes of its images and all that is
random stay as they were, and so does the step, up to rounding and to what norms over the batch see.

What is done again is a gradient, or a pass over the validation images. Until it is done it changes nothing but buffers,
as running statistics of norms are, and these are put back. How many parts there are belongs to the state of a run: it
stands in checkpoints, and in run.json for its page.
"""

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from medarts.errors import RecipeError
from medarts.system.console import counted, warn
from medarts.system.memory import OutOfMemoryError, is_out_of_memory, smaller_parts

if TYPE_CHECKING:
    from medarts.engine.engine import Job

Of = Literal["training", "validation"]
Answer = TypeVar("Answer")


class Splitting:
    """The parts of the batches of a job.

    Args:
        job: the job.

    Attributes:
        records: where there came to be more parts: of what, before, after, and the position of the job.
    """

    def __init__(self, job: "Job[Any]") -> None:
        self._job = job
        self.records: list[dict[str, Any]] = []

    def parts(self, of: Of) -> int:
        """Returns the parts of a batch now: those of the recipe, or more. A stage begins with those of the recipe."""
        *stage, _, _ = self._job.position
        ours = (record for record in self.records if record["of"] == of and record["position"][:-2] == stage)
        return max([self._of_recipe(of), *(int(record["after"]) for record in ours)])

    def images(self, of: Of) -> int:
        """Returns the images of the largest part."""
        return -(-self._batch(of) // self.parts(of))

    def within_memory(self, work: Callable[[], Answer], *, of: Of) -> Answer:
        """Does some work, and does it again in more parts while memory runs out.

        A trial does it once, as it is to find out what fits. So do processes on several GPUs: where one of them waits
        for another, nothing can call it back.

        Args:
            work: takes a gradient that nothing has been added to before, or validates, in as many parts as there are.
            of: which of the two.

        Raises:
            OutOfMemoryError: the parts are of one image, or as few as the network can take.
        """
        job = self._job
        while True:
            buffers = [*job.module.buffers()] if of == "training" else []
            kept = [torch.empty_like(buffer) for buffer in buffers]
            _copy(buffers, to=kept)
            try:
                return work()
            except (MemoryError, RuntimeError, OSError) as error:
                if not is_out_of_memory(error) or job.run is None or not job.ranks.can_regroup:
                    raise
            # Out of the block: the error holds all that was in memory.
            job.ranks.regroup()
            _copy(kept, to=buffers)
            gc.collect()
            if job.fabric.device.type == "cuda":
                torch.cuda.empty_cache()
            self._split(of)

    def _split(self, of: Of) -> None:
        """Doubles the parts, and says so.

        Raises:
            OutOfMemoryError: there can be no more.
        """
        job, batch, before = self._job, self._batch(of), self.parts(of)
        # Of a part of a training batch every process has an image; of the validation each has batches of its own.
        most = batch // job.ranks.size if of == "training" else batch
        after = min(2 * before, most)
        work = job.title if of == "training" else "the validation"
        problem = f"Memory ran out during {work} with {counted(self.images(of), 'image')} at a time"
        fix = smaller_parts("", accumulate=batch, batch=batch)
        if after <= before:
            raise OutOfMemoryError(f"{problem}.", fix=fix)
        try:
            job.check_parts(of, batch // after)
        except RecipeError as error:
            raise OutOfMemoryError(f"{problem}, and with fewer: {error.problem}", fix=fix) from None
        self.records.append({"of": of, "before": before, "after": after, "position": [*job.position]})
        if job.directory.is_written:
            job.directory.write_json("run.json", {**job.directory.facts, "splits": self.records})
        norms = "; the steps stay the same up to rounding, except that batch norms see the parts alone"
        warn(
            f"{problem} ({job.where}). From here on it is {counted(self.images(of), 'image')}, in {after} parts of a "
            f"batch{norms if of == 'training' else ''}."
        )

    def _batch(self, of: Of) -> int:
        recipe, counters = self._job.recipe, self._job.counters
        if of == "validation":
            return recipe.evaluation.batch
        return self._job.parts_setting(recipe, counters.get("stage"))[1].batch

    def _of_recipe(self, of: Of) -> int:
        recipe, counters = self._job.recipe, self._job.counters
        return 1 if of == "validation" else self._job.parts_setting(recipe, counters.get("stage"))[1].accumulate


def _copy(tensors: Sequence[Tensor], *, to: Sequence[Tensor]) -> None:
    """Copies tensors to others, all of a type at once: a network has hundreds of buffers, and each would be a call."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        ours, theirs = ([each for each in side if each.dtype == dtype] for side in (to, tensors))
        torch._foreach_copy_(ours, theirs)
