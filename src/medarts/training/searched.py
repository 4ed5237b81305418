"""The images that the search of a genotype has seen, and how many of the patients it is tested on are among them.

Wherever the genotype comes from: a search, or a training of it, which keeps the digests of these images in `SEARCHED`.
Images are compared by content, so other folders, seeds and folds make no difference.
"""

from collections.abc import Collection
from pathlib import Path

from medarts.data.manifest import Manifest
from medarts.engine.directory import SEARCHED, RunDirectory, is_begun
from medarts.engine.listing import listing_of, read_listing
from medarts.errors import RunError
from medarts.models import Architecture
from medarts.models.ensemble import Ensemble
from medarts.models.pruned import Pruned
from medarts.spaces.genotype import Genotype
from medarts.system.console import counted
from medarts.system.files import exists, read_text

SEEN = "seen_by_search"
"""Fact of a training: how many of its tested patients the search of its genotype has seen."""

_LEVELS = 4
"""Folders above a genotype's file in which its search is looked for: candidates/NAME/genotype.json is in one."""

_LARGEST = 1_000_000_000
"""Bytes of a file of digests, of ten million images."""


def images_of_search(architecture: Architecture) -> frozenset[str]:
    """Returns the digests of the images that the search of a genotype has learned or chosen by.

    Args:
        architecture: what is trained; for baselines, and for genotypes that lie in no run, there are none.

    Raises:
        RunError: the run that the genotype lies in is damaged.
    """
    base = architecture.base if isinstance(architecture, Pruned | Ensemble) else architecture
    if not isinstance(base, Genotype) or base.origin is None:
        return frozenset()
    for folder in base.origin.parents[:_LEVELS]:  # candidates lie within the folder of their search
        if is_begun(folder):
            if RunDirectory.open(folder).facts["kind"] == "search":
                listing = read_listing(folder / "manifest.csv")
                return frozenset(cells["image_digest"] for cells in listing.values() if cells["split"] != "test")
            if exists(folder / SEARCHED):
                return _read(folder)
    return frozenset()


def _read(run: Path) -> frozenset[str]:
    RunDirectory.open(run).check_files(SEARCHED)
    return frozenset(read_text(run / SEARCHED, largest=_LARGEST, noun="list of images", error=RunError).split())


def text_of(digests: Collection[str]) -> str:
    """Returns what `SEARCHED` says of images."""
    return "".join(f"{digest}\n" for digest in sorted(digests))


def tested_patients(manifest: Manifest, digests: Collection[str]) -> int:
    """Returns how many patients of the test set have an image, by its content, among those of some digests."""
    if not digests:
        return 0
    tested = listing_of(manifest.to_csv().splitlines()).items()
    return len(
        {
            (domain, cells["patient"])
            for (domain, _), cells in tested
            if cells["split"] == "test" and cells["image_digest"] in digests
        }
    )


def search_line(run: RunDirectory) -> str:
    """Returns a line on tested patients that the search of a genotype has seen; empty where it has seen none.

    Args:
        run: the training of the genotype.
    """
    seen = run.facts.get(SEEN, 0)
    if not seen:
        return ""
    return (
        f"The search that chose the genotype has seen {counted(seen, 'patient')} on whom it is tested, so the scores "
        "are a little too good. Keep a final test set in a folder of its own."
    )
