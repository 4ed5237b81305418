"""Generated images of three domains, written in the layouts of the real sets so that the real readers run on them."""

from medarts.data.phantom.writing import write_phantoms

__all__ = ["write_phantoms"]
