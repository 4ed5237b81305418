"""What a search adds by itself, in a sentence: searched networks against those drawn at random like them."""

from collections.abc import Sequence

from medarts.comparison.controls import Control
from medarts.comparison.overall import OverallControl
from medarts.comparison.paired import ALPHA, Difference, least_corrected_p
from medarts.reporting.content import counted, listed, p_text


def control_sentences(controls: Sequence[Control], *, title: str, patients: int) -> list[str]:
    """Returns a sentence on every network of one data set that has such drawn at random.

    Args:
        controls: all of the data set.
        title: what the score is called.
        patients: of the data set.
    """
    return [
        f"The search's own contribution: {_better(control.network, control.difference, title)} than "
        f"{_there(len(control.drawn), control.planned)} of its size on average "
        f"({_chance(control.difference, patients, len(controls))})."
        for control in controls
    ]


def overall_control_sentences(controls: Sequence[OverallControl], *, title: str) -> list[str]:
    """Returns the same over several data sets.

    Args:
        controls: all.
        title: what the score is called.
    """
    return [
        f"The search's own contribution over {listed([*control.sets])}: "
        f"{_better(control.network, control.difference, title)} than {_range(control.fewest, control.most)} of its "
        f"size on average ({_chance(control.difference, control.patients, len(controls))})."
        for control in controls
    ]


def _better(network: str, difference: Difference, title: str) -> str:
    return f"{network} is {abs(difference.mean):.3f} {title} {'worse' if difference.mean < 0 else 'better'}"


def _there(count: int, planned: int) -> str:
    """Says how many drawn ones there are, and of how many where some are missing.

    >>> _there(1, 1), _there(2, 3)
    ('1 random genotype', '2 of the 3 random genotypes')
    """
    return counted(count, "random genotype") if count == planned else f"{count} of the {planned} random genotypes"


def _range(fewest: int, most: int) -> str:
    return counted(most, "random genotype") if fewest == most else f"{fewest} to {most} random genotypes"


def _chance(difference: Difference, patients: int, tests: int) -> str:
    """Returns the interval and the p of a difference, and what may be concluded from them."""
    if difference.p_corrected is None:
        return "not tested: there is one patient"
    interval = "" if difference.low is None else f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}, "
    p = f"{'corrected ' if tests > 1 else ''}p {p_text(difference.p_corrected)}"
    if difference.p_corrected < ALPHA:
        return f"{interval}{p}"
    few = least_corrected_p(patients, comparisons=tests) >= ALPHA
    return f"{interval}{p}: {'too few patients to decide' if few else 'not beyond chance'}"
