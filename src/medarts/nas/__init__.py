"""The search: the bilevel loop over stages, the gradient of the architecture, and where it starts."""

from medarts.nas.start import resume_search, start_search

__all__ = ["resume_search", "start_search"]
