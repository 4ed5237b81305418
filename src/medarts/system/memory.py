"""Memory that runs out, said in one line with the setting that takes less of it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from medarts.errors import MedartsError

_SAID = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "could not create a memory object", "bad_alloc")
"""How PyTorch says it on the CPU, cuBLAS and cuDNN, oneDNN, and C++."""


FEWER_AT_ONCE = "Begin again with fewer images at once: evaluation.batch."
"""The fix of a validation that takes too much memory."""


class OutOfMemoryError(MedartsError):
    """Memory ran out, of the machine or of the GPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(said in str(error) for said in _SAID)
    return isinstance(error, MemoryError)


@contextmanager
def memory_named(work: str, *, fix: str) -> Iterator[None]:
    """Names the work and what helps where memory runs out.

    Args:
        work: what is done, such as "training".
        fix: settings that take less memory.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"Memory ran out during {work}.", fix=fix) from error


def smaller_parts(field: str, *, accumulate: int, batch: int) -> str:
    """Returns the fix of a step that takes too much memory.

    Args:
        field: the setting, such as "train.accumulate".
        accumulate: its value.
        batch: images of a step.
    """
    if accumulate >= batch:
        return "Use smaller images (data.size) or a narrower network (space.init_channel)."
    return (
        f"Use smaller parts of a batch, such as {field}={min(batch, 2 * accumulate)}; "
        "`medarts plan RECIPE --memory-mb MB` finds how many fit."
    )
