"""CVC-ClinicDB: 612 colonoscopy frames with polyps, from 29 video sequences (Bernal et al., 2015).

Layout: ``Original/N.tif`` and ``Ground Truth/N.tif``, or the same as PNG.
"""

import bisect
from pathlib import Path
from typing import Literal

from medarts.config import MaskSourceSettings
from medarts.data.contents import contents_of, listed, stem_of
from medarts.data.sources import Listing, Pair, Source, pair_by_name, register_source, require_folder, rules_of

IMAGES, MASKS = "Original", "Ground Truth"
LAYOUT = f"'{IMAGES}' and '{MASKS}' with files 1.tif, 2.tif, ... in each"

# First frame of each of the 29 sequences; the last ends with frame 612.
SEQUENCE_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
FRAMES = 612


class CvcSettings(MaskSourceSettings):
    """CVC-ClinicDB; see ``MaskSourceSettings``."""

    kind: Literal["cvc"] = "cvc"


@register_source("cvc", settings=CvcSettings)
class Cvc(Source):
    """Frames whose patient is the sequence by the official table."""

    layout = LAYOUT
    tables = ("metadata.csv", "class_dict.csv")

    def recognise(self, path: Path) -> tuple[CvcSettings, ...]:
        present = [listed(path / name) for name in (IMAGES, MASKS) if (path / name).is_dir()]
        others = sum(sequence_of(stem_of(file)) is None for contents in present for file in contents.images)
        few = 2 * others <= sum(len(contents.images) for contents in present)  # else it is another set in such folders
        return (CvcSettings(path=path),) if present and few and (path / IMAGES).is_dir() else ()

    def find(self, settings: CvcSettings, findings: tuple[str, ...] | None = None) -> Listing:
        images = contents_of(require_folder(settings.path / IMAGES, layout=LAYOUT))
        masks = contents_of(require_folder(settings.path / MASKS, layout=LAYOUT))
        named, faults = pair_by_name(images, masks)
        pairs = tuple(Pair(name, image, mask, patient=sequence_of(name)) for name, image, mask in named)
        return Listing(pairs, tuple(faults), rules_of(settings))


def sequence_of(name: str) -> str | None:
    """Returns the sequence ("1" to "29") of a frame, None where the name is no frame of the official set.

    >>> sequence_of("25"), sequence_of("26"), sequence_of("extra")
    ('1', '2', None)
    """
    if not name.isdecimal() or not 1 <= int(name) <= FRAMES:
        return None
    return str(bisect.bisect_right(SEQUENCE_STARTS, int(name)))
