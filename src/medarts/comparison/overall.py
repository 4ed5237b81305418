"""Several data sets together: which of them means are over, and the means and mean ranks of the networks there.

Scores are given by data set and network, ``{data set: {network: score}}``; a network without a score on a data set is
absent there. A score is high where a network is good.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

Scores = Mapping[str, Mapping[str, float]]
"""By data set and network."""


def shared_sets(scores: Scores) -> tuple[str, ...]:
    """Returns the data sets that means are over: those that make the table of means largest, networks times sets.

    A data set that few networks have been trained on would cost all others their mean; so would every data set that a
    single network lacks, where that one is not left out. Those with most networks are tried first, and of tables of one
    size the one with more data sets is taken.

    Args:
        scores: by data set and network.

    Returns:
        The data sets in the order given; none where no network has a score.

    >>> shared_sets({"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 1, "y": 1, "z": 1}, "few": {"x": 1}})
    ('a', 'b')
    """
    order = sorted((name for name in scores if scores[name]), key=lambda name: -len(scores[name]))
    cells = [
        count * len(set.intersection(*(set(scores[name]) for name in order[:count])))
        for count in range(1, len(order) + 1)
    ]
    if not cells:
        return ()
    best = max(range(len(order)), key=lambda place: (cells[place], place))
    chosen = set(order[: best + 1])
    return tuple(name for name in scores if name in chosen)


def mean_scores(scores: Scores, sets: Sequence[str]) -> dict[str, float]:
    """Returns the unweighted mean over some data sets of every network that has a score on all of them.

    >>> mean_scores({"a": {"x": 0.5, "y": 0.25}, "b": {"x": 1.0}}, ("a", "b"))
    {'x': 0.75}
    """
    return {network: fmean(scores[name][network] for name in sets) for network in _on_all(scores, sets)}


def mean_ranks(scores: Scores, sets: Sequence[str]) -> dict[str, float]:
    """Returns the mean rank over some data sets of every network that has a score on all of them, among these.

    1 is the highest score; equal scores share the mean of their ranks.

    >>> mean_ranks({"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.5, "y": 0.5}}, ("a", "b"))
    {'x': 1.25, 'y': 1.75}
    """
    networks = _on_all(scores, sets)
    if not networks:
        return {}
    from scipy.stats import rankdata

    table = np.asarray([[scores[name][network] for name in sets] for network in networks])
    ranks = rankdata(-table, axis=0).mean(axis=1)
    return dict(zip(networks, map(float, ranks), strict=True))


def _on_all(scores: Scores, sets: Sequence[str]) -> list[str]:
    """Returns the networks that have a score on all of some data sets, in the order of the first."""
    return [network for network in scores[sets[0]] if all(network in scores[name] for name in sets)] if sets else []
