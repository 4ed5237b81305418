"""What comes back from a process, and what is made of its end."""

import os
from functools import partial

import pytest

from medarts.errors import RecipeError
from medarts.run.process import in_new_process

# The process cannot import this file.
REFUSED = "from medarts.errors import RecipeError; raise RecipeError('The size is 3.', fix='Use 4.')"
NO_MEMORY = {
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "of the GPU": "import torch; raise torch.OutOfMemoryError('CUDA out of memory')",
    "for an array": "import numpy as np; np.empty(2**62, np.uint8)",
}


def test_the_answer_comes_from_another_process() -> None:
    assert in_new_process(os.getpid) != os.getpid()


def test_errors_come_back_with_what_they_say() -> None:
    with pytest.raises(RecipeError) as caught:
        in_new_process(partial(exec, REFUSED))
    assert (caught.value.problem, caught.value.fix) == ("The size is 3.", "Use 4.")


@pytest.mark.parametrize("code", NO_MEMORY.values(), ids=NO_MEMORY)
def test_no_memory_is_one_error(code: str) -> None:
    with pytest.raises(MemoryError):
        in_new_process(partial(exec, code))


def test_a_fault_is_no_lack_of_memory(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="without an answer, with status 1"):
        in_new_process(partial(exec, "{}['a fault']"))
    assert "KeyError: 'a fault'" in capfd.readouterr().err
