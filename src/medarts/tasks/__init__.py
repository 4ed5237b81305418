"""What a network is asked to do: losses and scores."""

from collections.abc import Callable

from torch import Tensor

Forward = Callable[[Tensor], list[Tensor]]
"""Images -> the logits of all heads, early to last."""
