"""Where a genotype is read from: the zoo, a file, a run."""

from importlib import resources
from pathlib import Path

from medarts.errors import GenotypeError, did_you_mean
from medarts.spaces.genotype import Genotype, from_json
from medarts.spaces.stack.darts_text import from_text


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
    path = Path(name) / "genotype.json" if Path(name).is_dir() else Path(name)
    if Path(name).is_dir() and not path.is_file():
        raise GenotypeError(
            f"The folder {name} holds no genotype.", fix="Give a search or training run that has ended an epoch."
        )
    if not path.is_file():
        raise GenotypeError(f"There is no genotype '{name}'.", fix=did_you_mean(str(name), zoo()))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise GenotypeError(f"{path} is not text.", fix="Give a genotype.json or genotype.txt of a search.") from None
    if path.suffix == ".txt":
        return from_text(text, name=path.parent.name if path.stem == "genotype" else path.stem, origin=str(path))
    return from_json(text, origin=str(path))
