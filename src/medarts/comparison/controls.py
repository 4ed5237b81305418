"""What a search adds by itself: networks that were searched against those drawn at random like them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medarts.comparison.paired import Difference
from medarts.comparison.pooled import Paired, differences_of, mean_of_pairs

Likes = Mapping[str, Sequence[str]]
"""By a network the names of those that were drawn at random like it."""


@dataclass(frozen=True, slots=True)
class Control:
    """A network against those that were drawn at random from its space, with its settings and of its size.

    Attributes:
        network: its name.
        drawn: names of those drawn that it is compared with.
        planned: how many it was to be compared with.
        difference: its main score minus the mean of theirs, each over the seeds that both have; p is corrected for the
            number of controls.
    """

    network: str
    drawn: tuple[str, ...]
    planned: int
    difference: Difference

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Control":
        """Returns what stands in comparison.json."""
        drawn, difference = tuple(content["drawn"]), Difference(**content["difference"])
        return cls(**{**content, "drawn": drawn, "difference": difference})


def controls_of(
    likes: Likes,
    *,
    trained: Collection[str],
    planned: Collection[str],
    paired: Callable[[str, str], Paired | None],
    seed: int,
) -> tuple[tuple[Control, ...], dict[str, Paired]]:
    """Compares networks with those drawn at random like them, as far as these have been trained.

    Args:
        likes: who was drawn like whom.
        trained: names of the networks that are there.
        planned: names of these and of those that are missing.
        paired: returns the difference of two networks; None where they have no seed in common.
        seed: of random flips.

    Returns:
        What was found of every network that can be compared so, and by its name the difference that was tested.
    """
    pairs: dict[str, dict[str, Paired]] = {}
    for network, drawn in likes.items():
        there = [name for name in drawn if name in trained and network in trained]
        found = {name: pair for name in there if (pair := paired(network, name)) is not None}
        if found:
            pairs[network] = found
    means = {network: mean_of_pairs([*found.values()]) for network, found in pairs.items()}
    differences = differences_of(means, seed=seed)
    controls = tuple(
        Control(network, tuple(found), sum(name in planned for name in likes[network]), difference)
        for network, found in pairs.items()
        if (difference := differences[network]) is not None
    )
    return controls, means
