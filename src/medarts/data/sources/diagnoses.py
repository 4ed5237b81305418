"""Images in a folder for each diagnosis, as of ImageFolder in torchvision: the name of the folder is the finding.

benign/1.png, malignant/2.png              splits are sampled
train/benign/1.png, test/malignant/2.png   or those of the folders above
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medarts.config import FindingSourceSettings
from medarts.data.contents import composed, contents_of
from medarts.data.formats import suffix_of
from medarts.data.layouts import layouts_of
from medarts.data.layouts.groups import role_of
from medarts.data.patterns import split_of
from medarts.data.sources import (
    ALONE,
    STACK_PERCENTILES,
    STACKS,
    TWICE,
    Fault,
    Listing,
    Pair,
    Source,
    domain_of,
    passed_over,
    register_source,
    require_folder,
    rules_of,
)
from medarts.data.sources.table import NOTHING
from medarts.data.splits import natural, without_suffix

LAYOUT = "a folder for each diagnosis with its images, or such folders in train/, val/ and test/"


class DiagnosesSettings(FindingSourceSettings):
    """Images in a folder for each diagnosis; see ``FindingSourceSettings``."""

    kind: Literal["diagnoses"] = "diagnoses"


@register_source("diagnoses", settings=DiagnosesSettings)
class DiagnosesSource(Source):
    """Images by their paths without suffix; each is a patient of its own, unless ``patients`` says which part is.

    An image shows the finding that its folder is called by; one in normal/, none/ or "no finding"/ shows none.
    """

    layout = LAYOUT
    is_general = True
    split_fix = "Set the source's fractions above 0, or move images into folders of that split."

    def recognise(self, path: Path) -> tuple[DiagnosesSettings, ...]:
        """Returns the settings of folders that are diagnoses, and not patients.

        Folders that all of several splits have are. Others count as diagnoses where there are two or more and no name
        has a digit: patients have numbers. Where some of the images are masks of others, they are taken for these.
        """
        splits = defaultdict[str, set[str]](set)
        for folder in _folders(path) if path.is_dir() else ():
            if contents_of(folder).folders or not contents_of(folder).images:
                return ()
            splits[folder.parent.name if folder.parent != path else ""].add(folder.name)
        names = set[str]().union(*splits.values())
        repeat = len(splits) > 1 and all(of_split == names for of_split in splits.values())
        words = not any(sign.isdigit() for name in names for sign in name)
        if len(names) < 2 or not (repeat or words) or any(map(role_of, names)) or layouts_of(path):
            return ()
        stacks = any(suffix_of(file) in STACKS for folder in _folders(path) for file in contents_of(folder).images)
        percentiles = STACK_PERCENTILES if stacks else None
        return (DiagnosesSettings(path=path, name=domain_of(path), percentiles=percentiles),)

    def find(self, settings: DiagnosesSettings, findings: tuple[str, ...] | None = None) -> Listing:
        root = require_folder(settings.path, layout=LAYOUT)
        pairs: dict[str, Pair] = {}
        faults: list[Fault] = []
        names = set[str]()
        for folder in _folders(root):
            contents, name = contents_of(folder), composed(folder.name)
            names.add(name)
            shown = (name,) if name.casefold() not in NOTHING and (findings is None or name in findings) else ()
            for image in contents.images:
                key = composed(without_suffix(image.relative_to(root).as_posix()))
                pair = Pair(key, image, None, patient=key, split=split_of(folder.parent.name), findings=shown)
                if pairs.setdefault(key, pair) is not pair:
                    faults.append(Fault(image, TWICE, "Keep one of the files.", key))
            faults += passed_over(contents)
        fix = "Give the source patients, if names say them: else images of one can come into several splits."
        faults.append(Fault(root, ALONE, fix, "every image counts as a patient of its own"))
        known = tuple(sorted((name for name in names if name.casefold() not in NOTHING), key=natural))
        return Listing(tuple(pairs.values()), tuple(faults), rules_of(settings), known)


def _folders(root: Path) -> Iterator[Path]:
    """Yields the folders of diagnoses: those of the root, or of its folders of splits where it has any."""
    inner = contents_of(root).folders
    splits = [folder for folder in inner if split_of(folder.name)]
    for folder in splits:
        yield from contents_of(folder).folders
    if not splits:
        yield from inner
