"""The DICOM files below a folder: series in the order of space, masks, and what is neither."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medarts.data.formats import is_image, suffix_of
from medarts.data.formats.dicom import is_dicom, object_name
from medarts.data.formats.drawings import is_drawing
from medarts.data.formats.series import Header, frames_of, header_of, stacks
from medarts.data.sources import Fault
from medarts.data.splits import natural
from medarts.errors import DataError
from medarts.system.console import progress_bar

_MANY = 200
"""Files from which reading their headers is shown."""

_NOTES = {".csv", ".tsv", ".json", ".txt", ".md", ".pdf", ".xml", ".html", ".xlsx", ".zip", ".log"}
"""Files that are not opened to see whether they are DICOM."""


@dataclass
class DicomFiles:
    """The DICOM files below a folder.

    Attributes:
        series: SeriesInstanceUID -> its stacks; files without one are series of their own.
        drawings: segmentations and structure sets.
        others: kinds of files that are neither, with their number.
        faults: what was noted.
    """

    series: dict[str, list[list[Header]]] = field(default_factory=dict)
    drawings: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)


def dicom_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Returns the DICOM files below a folder, by their content or suffix, and the images of other formats."""
    found: list[Path] = []
    others: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted((name for name in inner if not name.startswith(".")), key=natural)
        for name in sorted(names, key=natural):
            path = Path(folder) / name
            suffix = suffix_of(path)
            if name.startswith(".") or name.upper() == "DICOMDIR" or suffix in _NOTES:
                continue
            is_other = suffix != ".dcm" and is_image(path)
            if is_other:
                others.append(path)
            elif suffix == ".dcm" or is_dicom(path):
                found.append(path)
    return found, others


def read_headers(files: Sequence[Path], root: Path) -> DicomFiles:
    """Reads the headers of files and puts the slices of every series in order."""
    objects = DicomFiles()
    headers: dict[str, list[Header]] = defaultdict(list)
    with progress_bar("read headers", len(files), is_told=len(files) > _MANY) as bar:
        for path in files:
            try:
                header = header_of(path)
                if header is not None:
                    headers[header.series or str(path)] += frames_of(header)
                elif is_drawing(path):
                    objects.drawings.append(path)
                else:
                    objects.others[object_name(path)] += 1
            except DataError as error:
                detail = error.problem.rstrip(".")
                objects.faults.append(Fault(path, "DICOM file that cannot be read", error.fix, detail))
            bar.advance()
    for series, found in headers.items():
        objects.series[series] = stacks(found)
        kept = {id(each) for stack in objects.series[series] for each in stack}
        fix = "One of them is read; remove the others."
        objects.faults += [
            Fault(each.path, "copy of a slice", fix, str(each.path.relative_to(root)), doubt=True)
            for each in found
            if id(each) not in kept
        ]
    return objects
