"""Trainings of seconds: images of noise, and what makes and scores networks of them."""

from pathlib import Path
from typing import Any

import numpy as np

import medarts as library
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError
from medarts.system.workers import Ended, Work

GREY = np.random.default_rng(0).integers(0, 256, (20, 32, 32)).astype(np.uint8)
LABELS = np.stack([np.arange(20) % 2, np.arange(20) // 2 % 2], 1)
SMALL: dict[str, Any] = {
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}


def of_findings(out: Path, *, auxiliary: bool) -> RunDirectory:
    """Returns a network for two findings, evaluated on its arrays."""
    genotype = library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3, auxiliary=auxiliary)
    recipe = {**SMALL, "train": {"epochs": 1, "batch": 4}, "space": {"name": "darts"}}
    run = library.train(genotype, recipe, data=(GREY, LABELS), out=out)
    library.evaluate(run, data=(GREY, LABELS))
    return run


class InThisProcess:
    """Stands for `medarts.system.workers.Processes`, and does all work in this process, one after the other."""

    def __init__(self, *, reused: bool = False) -> None:
        self.ended: list[Ended] = []

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        """Has nothing to stop."""

    def start(self, work: Work) -> None:
        """Does it."""
        try:
            work.do()
            self.ended.append(Ended(work.name))
        except MedartsError as error:
            self.ended.append(Ended(work.name, error))

    def wait(self, seconds: float) -> list[Ended]:
        """Returns what was done."""
        ended, self.ended = self.ended, []
        return ended
