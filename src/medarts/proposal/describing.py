"""What was understood of a data set, as rows of a table."""

from collections.abc import Iterator

from medarts.config import SPLITS
from medarts.proposal.looking import Look
from medarts.system.console import counted

_MOST_SIZES = 3


def described(look: Look, *, folds: int | None = None) -> Iterator[tuple[str, str]]:
    """Yields a name and what it is, for everything that is known of a data set.

    Args:
        look: at the data set.
        folds: into which its recipe divides the patients, in place of splits.
    """
    samples = look.manifest.samples
    yield "layout", described_layout(look)
    volumes = f", slices of {counted(look.volumes, 'volume')}" if look.volumes else ""
    opened = "all opened" if look.opened == len(samples) else f"{look.opened:,} opened, spread over all"
    yield "images", f"{len(samples):,}{volumes}; {opened}"
    patients = len({sample.patient for sample in samples})
    unknown = "not known: every image counts as a patient, so that intervals may be too narrow"
    yield "patients", f"{patients:,}" if look.patients_known else unknown
    counts = ", ".join(f"{split} {sum(sample.split == split for sample in samples):,}" for split in SPLITS)
    yield "splits", counts if folds is None else f"{folds} folds, so that every {_who(look)} is tested once"
    if look.settings.task == "segmentation":
        yield "classes", _classes(look)
        if look.absent:
            yield "no file", f"{', '.join(look.absent)} images: taken as images that do not show it"
        nothing_else = f", nothing else in {look.full:.0%}" if look.full else ""
        yield "foreground", f"{look.foreground:.1%} of the pixels; none in {look.empty:.0%} of the images{nothing_else}"
    else:
        labels = (look.manifest.labels() == 1).sum(axis=0)
        yield "findings", ", ".join(f"{name} {n:,}" for name, n in zip(look.manifest.findings, labels, strict=True))
    sizes = [f"{height} x {width}" for (height, width), _ in look.sizes.most_common(_MOST_SIZES)]
    more = f" and {len(look.sizes) - _MOST_SIZES} more" if len(look.sizes) > _MOST_SIZES else ""
    yield "sizes", f"{', '.join(sizes)}{more}; {counted(look.channels, 'channel')}"
    yield "spacing", _spacing(look)


def _who(look: Look) -> str:
    return "patient" if look.patients_known else "image"


def described_layout(look: Look) -> str:
    """Returns the kind of a data set with the patterns or files that were recognised."""
    settings = look.settings.model_dump()
    parts = {"folder": ("image", "mask"), "list": ("table",), "coco": ("annotations",), "table": ("file",)}.get(
        look.settings.kind, ()
    )
    return ", ".join((look.settings.kind, *(f"{name} {settings[name]}" for name in parts)))


def _spacing(look: Look) -> str:
    if not look.spacings:
        return "not known"
    ranges = [
        f"{min(sides):.3g}" if min(sides) == max(sides) else f"{min(sides):.3g} to {max(sides):.3g}"
        for sides in zip(*look.spacings, strict=True)
    ]
    return " x ".join(ranges) + " mm"


def _classes(look: Look) -> str:
    names = look.names or [
        f"class {index}" if look.classes > 1 else "foreground" for index in range(1, look.classes + 1)
    ]
    return ", ".join(f"{name} in {look.shown[index]:,}" for index, name in enumerate(names, start=1))
