"""Where everything of a study lies.

study.yaml                          the study, defaults included
genotypes/<network>.json            what was searched, drawn or read, at its size
searches/<network>/                 search runs
runs/<group>/<network>/seed-<k>/    training runs
logs/, failures/                    output and reason of failure of each run, by the same path
comparisons/<group>/, report.html, generalization.json, generalization.html
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of a study in its folder."""

    out: Path

    @property
    def study(self) -> Path:
        """The file of the study."""
        return self.out / "study.yaml"

    @property
    def lock(self) -> Path:
        """Locked by whoever works on the study."""
        return self.out / ".lock"

    def genotype(self, network: str) -> Path:
        """The genotype that a network is trained from."""
        return self.out / "genotypes" / f"{network}.json"

    def search(self, network: str) -> "Place":
        """The search of a network."""
        name = f"searches/{network}"
        return self._place(name, self.out / name)

    def training(self, group: str, network: str, seed: int) -> "Place":
        """The training of a network on a group with a seed."""
        name = f"{group}/{network}/seed-{seed}"
        return self._place(name, self.out / "runs" / name)

    def comparison(self, group: str) -> Path:
        """What was found when the networks of a group were compared."""
        return self.out / "comparisons" / group

    def _place(self, name: str, run: Path) -> "Place":
        return Place(name, run, log=self.out / "logs" / f"{name}.log", failure=self.out / "failures" / f"{name}.txt")


@dataclass(frozen=True, slots=True)
class Place:
    """The places of one run of a study.

    Attributes:
        name: what it is called: isic/unet/seed-0.
        run: its run directory.
        log: what its process said.
        failure: why it failed; absent where it did not.
    """

    name: str
    run: Path
    log: Path
    failure: Path
