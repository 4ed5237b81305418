"""Groups of images, such as centres or devices: a column of a table that lies in the folder of a data set."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from medarts.config import SourceSettings
from medarts.data.contents import composed, tables_in
from medarts.data.manifest import Sample
from medarts.data.splits import without_suffix
from medarts.data.tables import Table, read_table
from medarts.errors import DataError, did_you_mean

COLUMN = "group"
"""The column that is taken where none is named."""

ImageName = tuple[str, str]
"""Domain and key of an image."""


def groups_of(
    sources: Iterable[SourceSettings], samples: Sequence[Sample], *, column: str | None = None
) -> dict[ImageName, str]:
    """Returns the group of every image that has one.

    It stands in a column of ``splits.csv`` or of another CSV file in the folder of the data set, in the row that names
    the image, its file, or the volume or patient that its name begins with.

    Args:
        sources: the data sets.
        samples: the images.
        column: name of the column, in any case. Default: `COLUMN`, where a table has it.

    Raises:
        DataError: a column is named that no table has, or no image has a value in it.
    """
    found: dict[ImageName, str] = {}
    columns: list[str] = []
    for settings in sources:
        if settings.is_in_memory:
            continue
        own = {(sample.domain, sample.key): sample for sample in samples if sample.domain == settings.domain}
        for table in _tables(settings):
            columns += table.columns
            cells = table.column(column or COLUMN)
            if cells is not None and own:
                found |= {name: group for name, group in _read(table, cells, own.values()) if name not in found}
    if column is not None and not found:
        known = [*dict.fromkeys(columns)]
        raise DataError(
            f"No table of the data gives the images a value in a column {column}.",
            fix=did_you_mean(column, known) if known else "Write a splits.csv with that column, one row an image.",
        )
    return found


def _tables(settings: SourceSettings) -> Iterator[Table]:
    """Yields the tables in the folder of a data set; what is no table is left alone, as the readers report it."""
    for path in tables_in(settings.path, known=()):
        if path.suffix.lower() in (".csv", ".tsv"):
            with suppress(DataError):
                yield read_table(path)


def _read(table: Table, cells: str, samples: Iterable[Sample]) -> Iterator[tuple[ImageName, str]]:
    """Yields the groups of a table, whose rows are named by the column that knows most images."""
    names = {sample: _names(sample) for sample in samples}
    known = {name for of in names.values() for name in of}
    others = [column for column in table.columns if column != cells]
    if not others:
        return
    rows = {column: [without_suffix(composed(cell)) for cell in table.cells[column]] for column in others}
    by = max(others, key=lambda column: len(known.intersection(rows[column])))
    group_of = dict(zip(rows[by], table.cells[cells], strict=True))
    for sample, of in names.items():
        group = next((group_of[name] for name in of if name in group_of), "")
        if group:
            yield (sample.domain, sample.key), group


def _names(sample: Sample) -> list[str]:
    """Returns what a row may call an image, the most particular first: its key, its file, its volume, its patient."""
    parts = sample.key.split("/")
    keys = ["/".join(parts[:number]) for number in range(len(parts), 0, -1)]
    return [keys[0], without_suffix(composed(sample.image.name)), *keys[1:], sample.patient]
