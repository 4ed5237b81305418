"""Which data sets a command works on: names of a recipe's domains, or folders whose layout is recognised."""

from collections.abc import Iterable
from pathlib import Path

from medarts.data.doctor import recognise
from medarts.errors import DataError, did_you_mean
from medarts.recipe import SourceSettings


def choose_sources(words: Iterable[str], *, known: Iterable[SourceSettings] = ()) -> tuple[SourceSettings, ...]:
    """Returns the data sets that the words of ``--data`` name.

    Args:
        words: names of domains, or folders.
        known: the sources of a recipe, whose domains can be named.

    Raises:
        DataError: a word is neither a domain nor a folder, or its layout is not recognised.
    """
    by_name = {source.domain: source for source in known}
    chosen: list[SourceSettings] = []
    for word in words:
        if word in by_name:
            chosen.append(by_name[word])
        elif Path(word).is_dir():
            chosen.extend(recognise(Path(word)))
        else:
            fix = did_you_mean(word, by_name) if by_name else "Give the folder of a data set."
            raise DataError(f"'{word}' is neither a data set of the recipe nor a folder.", fix=fix)
    return tuple(chosen)
