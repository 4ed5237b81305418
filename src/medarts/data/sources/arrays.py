"""Arrays that a program gave, see ``medarts.data.arrays``: what the recipe of a run says of them."""

from pathlib import Path
from typing import Literal

from medarts.config import FindingSourceSettings, MaskSourceSettings, SourceSettings
from medarts.data.sources import Listing, Source, register_source
from medarts.errors import DataError


class ArraysSettings(MaskSourceSettings):
    """Images with masks, in memory; see ``MaskSourceSettings``."""

    is_in_memory = True

    kind: Literal["arrays"] = "arrays"
    path: Path = Path()


class LabelledArraysSettings(FindingSourceSettings):
    """Images with labels, in memory; see ``FindingSourceSettings``."""

    is_in_memory = True

    kind: Literal["labelled-arrays"] = "labelled-arrays"
    path: Path = Path()


@register_source("labelled-arrays", settings=LabelledArraysSettings)
@register_source("arrays", settings=ArraysSettings)
class Arrays(Source):
    """Data that cannot be found again: a run on them can only be resumed with the same arrays."""

    layout = ""
    split_fix = "Give some images the split '{split}' (splits), or change fractions."

    def find(self, settings: SourceSettings, findings: tuple[str, ...] | None = None) -> Listing:
        raise DataError(
            f"The images of '{settings.domain}' were arrays in memory and are on no disk.",
            fix="Give the same arrays again, from Python, or data sets on disk.",
        )
