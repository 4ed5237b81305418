"""From the sources of a recipe to a manifest that can be used, and to its images."""

from medarts.config import DataSettings, Recipe, Split
from medarts.data.manifest import Manifest
from medarts.data.reading import check_labels
from medarts.data.sources import advice, open_sources
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError


def open_manifest(settings: DataSettings, *, needs: tuple[Split, ...]) -> Manifest:
    """Lists the data sets of a recipe; no image is opened.

    Args:
        settings: the sources and the number of classes.
        needs: splits that must not be empty.

    Raises:
        DataError: a folder, a mask or a split is missing, or masks of several classes have no labels.
    """
    manifest = open_sources(settings.sources, findings=settings.findings)
    for domain, rules in manifest.rules.items():
        check_labels(domain, rules, settings.classes)
    for split in needs:
        if not manifest.of_split(split).samples:
            raise DataError(
                f"No image of {', '.join(manifest.domains)} is in the split '{split}'.",
                fix=advice(settings.sources[0], split, manifest.samples),
            )
    return manifest


def with_findings(recipe: Recipe, manifest: Manifest) -> Recipe:
    """Returns the recipe with the names of the outputs that its sources gave it; a segmentation stays as it is."""
    if not manifest.findings:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"findings": manifest.findings})})


def open_data(settings: DataSettings, *, needs: tuple[Split, ...], threads: int = 0) -> ImageStore:
    """Lists the data sets of a recipe and reads their images.

    Args:
        settings: the sources and the size of the images.
        needs: splits that must not be empty.
        threads: see ``open_store``.

    Raises:
        DataError: see ``open_manifest`` and ``open_store``.
    """
    return open_store(open_manifest(settings, needs=needs), settings, threads=threads)
