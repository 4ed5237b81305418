"""From the sources of a recipe to the images of its splits."""

from medarts.data.manifest import Split
from medarts.data.sources import open_sources
from medarts.data.store import ImageStore, open_store
from medarts.errors import DataError
from medarts.recipe import DataSettings


def open_data(settings: DataSettings, *, needs: tuple[Split, ...]) -> ImageStore:
    """Reads the data sets of a recipe.

    Args:
        settings: the sources and the size of the images.
        needs: splits that must not be empty.

    Raises:
        DataError: a folder, a file or a split is missing, damaged or does not fit.
    """
    manifest = open_sources(settings.sources)
    for split in needs:
        if not manifest.of_split(split).samples:
            raise DataError(
                f"No image of {', '.join(manifest.domains)} is in the split '{split}'.",
                fix="Add it to splits.csv, or remove that file and set the source's fractions.",
            )
    return open_store(manifest, settings)
