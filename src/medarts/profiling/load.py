"""How busy the machine is on which something is measured."""

import os
from dataclasses import dataclass

from medarts.profiling.latency import usable_cores


@dataclass(frozen=True, slots=True)
class Load:
    """What other work does on a machine.

    Attributes:
        processes: that ran or waited to run, on average in the last minute; None where the system does not say.
        cores: of the CPU that may be used.

    >>> Load(3.4, 2).is_busy, Load(0.5, 2).is_busy, Load(None, 2).is_busy
    (True, False, False)
    """

    processes: float | None
    cores: int

    @classmethod
    def now(cls) -> "Load":
        """Returns the load of this machine."""
        return cls(os.getloadavg()[0] if hasattr(os, "getloadavg") else None, usable_cores())

    @property
    def is_busy(self) -> bool:
        """Whether more processes want to run than there are cores, so that what is measured takes longer."""
        return self.processes is not None and self.processes > self.cores


UNKNOWN = Load(None, 1)
