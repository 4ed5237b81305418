"""What a recipe will take: parameters, memory and time, from a few trial steps on the real data.

Every stage runs in a process of its own, so that its peak memory is its own, and stops after a few steps.
"""

import json
import multiprocessing
import time
from dataclasses import asdict, dataclass

from medarts.data.opening import open_data
from medarts.recipe import Recipe
from medarts.run.device import make_fabric, peak_memory_mb


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What one stage will take.

    Attributes:
        name: "search stage 1", ...
        parameters: weights of the supernet.
        memory_mb: peak memory, of the GPU where one is used, else resident in all.
        seconds: time of all its epochs, validation included.
    """

    name: str
    parameters: int
    memory_mb: float
    seconds: float
