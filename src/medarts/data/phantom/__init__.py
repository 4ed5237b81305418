"""Generated images of four domains, written in the layouts of the real sets so that the real readers run on them."""

from medarts.data.phantom.chest_writing import write_chest_phantoms
from medarts.data.phantom.writing import write_phantoms

__all__ = ["write_chest_phantoms", "write_phantoms"]
