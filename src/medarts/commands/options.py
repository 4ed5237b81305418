"""Checks of the numbers of the command line."""

from medarts.errors import RecipeError, quoted


def check_number(option: str, number: int | None, *, low: int, high: int, reason: str = "") -> None:
    """Refuses a number of an option that is out of range; None is an option that is not given.

    Args:
        option: its name without dashes.
        number: what was given.
        low: the smallest number allowed.
        high: the largest.
        reason: why there are no more, as the end of a sentence.

    Raises:
        RecipeError: it is out of range.
    """
    if number is not None and not low <= number <= high:
        because = f", {reason}" if reason else ""
        raise RecipeError(f"--{option} is {quoted(number)}.", fix=f"Use {low:,} to {high:,}{because}.")
