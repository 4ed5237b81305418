"""Which data sets a command works on: names of a recipe's domains, or folders whose layout is recognised."""

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Literal

from medarts.config import SourceSettings
from medarts.config.data import RESERVED
from medarts.data.files import suffix_of
from medarts.data.sources import LAYOUTS, chaos, chestxray14, cvc, folder, isic, table
from medarts.data.sources.contents import contents_of
from medarts.data.sources.pairing import require_folder
from medarts.errors import DataError, did_you_mean
from medarts.system.names import name_of

_STACKS = {".dcm", ".nii", ".nii.gz"}


def choose_sources(words: Iterable[str], *, known: Iterable[SourceSettings] = ()) -> tuple[SourceSettings, ...]:
    """Returns the data sets that the words of ``--data`` name.

    Folders may differ in their names and not in those of their data sets: the second is called name-2.

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
            chosen += [_renamed(source, chosen) for source in recognise(Path(word))]
        else:
            fix = did_you_mean(word, by_name) if by_name else "Give the folder of a data set."
            raise DataError(f"'{word}' is neither a data set of the recipe nor a folder.", fix=fix)
    return tuple(chosen)


def recognise(path: Path) -> tuple[SourceSettings, ...]:
    """Guesses from its layout what a folder holds.

    Args:
        path: the folder of a data set.

    Returns:
        Settings that read it: one source, or two for a CHAOS download with CT and MR. DICOM and NIfTI files
        of a plain folder or table get percentiles, as their types do not say what is black and white. The domain of
        these two has the folder's name.

    Raises:
        DataError: there is no such folder, or it has none of the known layouts.
    """
    known = "; ".join(f"{kind}: {layout}" for kind, layout in LAYOUTS.items())
    require_folder(path, layout=known)
    if isic.recognises(path):
        return (SourceSettings(kind="isic", path=path),)
    if cvc.recognises(path):
        return (SourceSettings(kind="cvc", path=path),)
    if chaos.recognises(path):
        ct = SourceSettings(kind="chaos", path=path, name="chaos-ct")
        mr = SourceSettings(kind="chaos", path=path, name="chaos-mr", modality="mr")
        present = tuple(s for s in (ct, mr) if (path / chaos.ROOT / s.modality.upper()).is_dir())
        return present or (ct,)
    if chestxray14.recognises(path):
        return (SourceSettings(kind="chestxray14", path=path),)
    if table.recognises(path) or folder.recognises(path):
        kind: Literal["table", "folder"] = "table" if table.recognises(path) else "folder"
        images = path / folder.IMAGES
        stacks = any(suffix_of(file) in _STACKS for file in contents_of(images if images.is_dir() else path).images)
        percentiles = (0.5, 99.5) if stacks else None
        return (SourceSettings(kind=kind, path=path, name=_domain(path), percentiles=percentiles),)
    raise DataError(f"{path} has no known layout.", fix=f"Known: {known}.")


def _renamed(source: SourceSettings, others: Iterable[SourceSettings]) -> SourceSettings:
    """Returns a source with a number at its name where another folder has the same name."""
    paths = {other.domain: other.path.resolve() for other in others}
    if paths.get(source.domain, source.path.resolve()) == source.path.resolve():
        return source  # the same folder again is refused where it is opened
    number = next(number for number in count(2) if f"{source.domain}-{number}" not in paths)
    return source.model_copy(update={"name": f"{source.domain}-{number}"})


def _domain(path: Path) -> str:
    """Returns the name of a folder as that of a data set."""
    name = name_of(path)
    return f"{name}-data" if name in RESERVED else name
