"""The tables of a prediction: predictions.csv, which is also the record of what has finished, and errors.csv."""

import csv
import io
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from medarts.data.formats.raw import Spacing
from medarts.deploy.engines import Outputs
from medarts.deploy.info import ModelInfo
from medarts.errors import RunError
from medarts.system.files import open_table, write_whole, writing

PREDICTIONS, ERRORS = "predictions.csv", "errors.csv"

MASKS = ("image", "file", "slice", "class", "pixels", "area_mm2", "volume_mm3")
"""Columns for masks: a row for each slice and class, and for a volume one without a slice, of all of it."""

FINDINGS = ("image", "file", "slice", "finding", "probability", "calibrated", "decision")
"""Columns for findings: a row for each slice and finding."""

Row = tuple[str, ...]


def mask_rows(pixels_sc: Sequence[NDArray[np.int64]], info: ModelInfo, spacing: Spacing) -> list[Row]:
    """Returns the rows of an image or volume, from the slice on.

    Args:
        pixels_sc: number of pixels of each foreground class in each slice.
        info: of the network.
        spacing: distances of rows, columns and slices in mm, None where unknown.
    """
    several = len(pixels_sc) > 1

    row_mm, column_mm, slice_mm = spacing
    pixel = None if row_mm is None or column_mm is None else row_mm * column_mm
    voxel = None if pixel is None or slice_mm is None else pixel * slice_mm
    rows: list[Row] = [
        (str(index) if several else "", name, str(number), _times(number, pixel), "")
        for index, of_slice in enumerate(pixels_sc)
        for name, number in zip(info.foreground, of_slice.tolist(), strict=True)
    ]
    if several:
        totals = np.sum(pixels_sc, axis=0).tolist()
        rows += [
            ("", name, str(number), "", _times(number, voxel))
            for name, number in zip(info.foreground, totals, strict=True)
        ]
    return rows


def finding_rows(outputs: Sequence[Outputs], info: ModelInfo) -> list[Row]:
    """Returns the rows of an image, or of all slices of a volume, from the slice on."""
    return [
        (
            str(index) if len(outputs) > 1 else "",
            name,
            f"{each['probabilities'][column]:.6g}",
            f"{each['calibrated'][column]:.6g}",
            str(int(each["decisions"][column])),
        )
        for index, each in enumerate(outputs)
        for column, name in enumerate(info.outputs)
    ]


class Journal:
    """The file of predictions: the rows of an image are appended together, when all that belongs to it is written.

    Args:
        folder: of the prediction.
        columns: of the table.
    """

    def __init__(self, folder: Path, columns: Row) -> None:
        self._path = folder / PREDICTIONS
        self._columns = columns
        self._file: io.FileIO | None = None

    def recover(self, rows_of: Callable[[str], int | None]) -> dict[str, str]:
        """Returns the images that have finished, each with its file, and removes what a kill has left half written.

        Args:
            rows_of: the number of rows that an image must have; None where it is not known any more.

        Raises:
            RunError: it has other columns, or cannot be read or written.
        """
        try:
            with open_table(self._path) as file:
                text = file.read()
        except FileNotFoundError:
            write_whole(self._path, _line(self._columns))
            return {}
        whole = text[: text.rfind("\n") + 1]
        rows = [tuple(row) for row in csv.reader(io.StringIO(whole, newline=""))]
        if rows and rows[0] != self._columns:
            raise RunError(f"{self._path} has other columns.", fix="Choose another folder, or start over with --force.")
        # Only the last image can lack rows: those before it were complete when it was begun.
        last = rows[-1][0] if len(rows) > 1 else ""
        kept = [row for row in rows if len(row) == len(self._columns)]
        if len(rows) > 1 and sum(row[0] == last for row in kept) != rows_of(last):
            kept = [row for row in kept if row[0] != last]
        if not rows or len(kept) < len(rows) or whole != text:
            write_whole(self._path, "".join(map(_line, kept or [self._columns])))
        return {row[0]: row[1] for row in kept[1:]}

    def forget(self, images: Collection[str]) -> None:
        """Removes the rows of images, which must be predicted again.

        Raises:
            RunError: it cannot be read or written.
        """
        if not images:
            return
        with open_table(self._path) as file:
            rows = [tuple(row) for row in csv.reader(file)]
        write_whole(self._path, "".join(_line(row) for row in rows if row[0] not in images))

    def __enter__(self) -> "Journal":
        with writing(self._path):
            self._file = self._path.open("ab", buffering=0)
        return self

    def append(self, image: str, file: Path, rows: Iterable[Row]) -> None:
        """Adds an image, all of its rows or none.

        Raises:
            RunError: they cannot be written.
        """
        assert self._file is not None
        content = "".join(_line((image, str(file), *row)) for row in rows).encode("utf-8", "surrogateescape")
        with writing(self._path):
            end = self._file.seek(0, os.SEEK_END)
            try:
                while content:
                    content = content[self._file.write(content) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def write_errors(folder: Path, errors: Iterable[tuple[str, str]]) -> None:
    """Writes what was skipped with its reason, or removes the table of an earlier call where nothing was."""
    lines = [_line(error) for error in errors]
    if lines:
        write_whole(folder / ERRORS, _line(("file", "error")) + "".join(lines))
        return
    with writing(folder / ERRORS):
        (folder / ERRORS).unlink(missing_ok=True)


def _line(row: Sequence[str]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue()


def _times(number: int, size: float | None) -> str:
    return "" if size is None else f"{number * size:.6g}"
