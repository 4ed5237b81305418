"""The differences of a comparison with all that it takes to take them together with those on other data sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medarts.comparison.arrays import Arrays, read_arrays, write_arrays
from medarts.comparison.paired import Measured
from medarts.comparison.pooled import Paired


@dataclass(frozen=True)
class Pairs:
    """The differences of a comparison, all on the same patients.

    Attributes:
        to_reference: of every network but the reference, where they have a seed in common.
        of_controls: of every network with such that were drawn at random like it, to the mean of these.
    """

    to_reference: Mapping[str, Paired] = field(default_factory=dict)
    of_controls: Mapping[str, Paired] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the differences to a file, whole or not at all; where there are none, there is no file.

        Raises:
            RunError: it cannot be written.
        """
        if self.to_reference or self.of_controls:
            write_arrays(path, _as_arrays("reference", self.to_reference) | _as_arrays("control", self.of_controls))
        else:
            path.unlink(missing_ok=True)  # of an earlier comparison

    @classmethod
    def read(cls, path: Path) -> "Pairs":
        """Reads what `write` wrote, where it wrote a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged.
            KeyError: something is missing in it.
        """
        arrays = read_arrays(path)
        return cls(_from_arrays("reference", arrays), _from_arrays("control", arrays))


def _as_arrays(kind: str, pairs: Mapping[str, Paired]) -> dict[str, np.ndarray]:
    return {
        f"{kind}_names": np.array([*pairs], dtype=str),
        f"{kind}_means": np.array([pair.measured.mean for pair in pairs.values()]),
        f"{kind}_drawn": np.array([pair.measured.drawn for pair in pairs.values()]),
        f"{kind}_contributions": np.array([pair.contributions for pair in pairs.values()]),
    }


def _from_arrays(kind: str, arrays: Arrays) -> dict[str, Paired]:
    names, *parts = (arrays[f"{kind}_{part}"] for part in ("names", "means", "drawn", "contributions"))
    return {
        str(name): Paired(Measured(float(mean), (), drawn=drawn, undefined=0), contributions)
        for name, mean, drawn, contributions in zip(names, *parts, strict=True)
    }
