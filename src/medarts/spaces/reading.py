"""Where a genotype is read from: the zoo, a file, a run."""

from importlib import resources
from pathlib import Path

from medarts.errors import GenotypeError, did_you_mean, shortened
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.stack.darts_text import from_text
from medarts.system.files import exists, is_folder, read_text
from medarts.system.names import name_of

_LARGEST = 1_000_000
"""Bytes of a file; the largest genotype that its space allows has some 100,000."""


def zoo() -> tuple[str, ...]:
    """Returns the names of the published genotypes that come with medarts."""
    folder = resources.files("medarts.spaces") / "zoo"
    return tuple(sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".json")))


def load(name: str | Path) -> Genotype:
    """Reads a genotype by its name in the zoo, from a file, or from a run directory.

    A file is ``genotype.json``, or ``genotype.txt`` with the one line that DARTS code prints.

    Raises:
        GenotypeError: there is none of that name, or the file is no genotype.
    """
    if str(name) in zoo():
        text = (resources.files("medarts.spaces") / "zoo" / f"{name}.json").read_text(encoding="utf-8")
        return from_json(text, origin=f"zoo/{name}.json")
    path = Path(name)
    if is_folder(path):
        path = path / "genotype.json"
        if not exists(path):
            raise GenotypeError(
                f"The folder {name} holds no genotype.", fix="Give a search or training run that has ended an epoch."
            )
    if not exists(path):
        raise _absent(str(name))
    text = read_text(path, largest=_LARGEST, noun="genotype", error=GenotypeError)
    if path.suffix == ".txt":
        called = name_of(path.parent if path.stem == "genotype" else path.with_suffix(""))
        return from_text(text, name=called, origin=str(path))
    return from_json(text, origin=str(path))


def _absent(name: str) -> GenotypeError:
    """Returns the error for what is neither in the zoo nor on the disk."""
    if "/" in name or "\\" in name or Path(name).suffix:
        return GenotypeError(
            f"There is no file or folder '{shortened(name)}'.", fix="Give a genotype file, or the folder of a run."
        )
    return GenotypeError(f"There is no genotype '{shortened(name)}'.", fix=did_you_mean(name, zoo()))
