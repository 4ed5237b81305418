"""The data sets that ``--data`` names: folders are recognised by their layout, and read as those of a recipe are.

A folder says less of its images than a recipe: which value or colour of its masks is which class, what of them is
ignored, which units of CT are black and white. That is passed on to it from the sources of the recipe, unless it says
something else by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from medarts.config import DataSettings, MaskSourceSettings, SourceSettings
from medarts.data.digests import new_digest
from medarts.data.manifest import Manifest, Sample
from medarts.data.masks import check_classes, planes_of, read_mask
from medarts.data.opening import survey, with_class_indices, with_own_labels
from medarts.data.recognising import is_list, recognise
from medarts.data.sources import STACK_PERCENTILES, Source, rules_of, scaling_of
from medarts.errors import DataError, did_you_mean
from medarts.registry import sources as registered
from medarts.system.console import inform

Labels = Mapping[int | str, int | str]
"""What the values of masks mean, as a recipe has them."""

_MOST, _ENOUGH = 64, 8
"""Masks of a folder that are looked at, and those of them that show something after which no more are."""

_LISTED = 8


def sources_alike(words: Iterable[str], data: DataSettings, *, named: bool = True) -> tuple[SourceSettings, ...]:
    """Returns the data sets that the words of ``--data`` name, which are read as those of a recipe; see `alike`.

    Args:
        words: see `choose_sources`.
        data: the section of the recipe.
        named: words may be the domains of the recipe.

    Raises:
        DataError: as `choose_sources` and `alike`.
    """
    return alike(choose_sources(words, known=data.sources, named=named), data, classes=data.class_names)


def alike(
    sources: Iterable[SourceSettings], data: DataSettings, *, classes: Sequence[str]
) -> tuple[SourceSettings, ...]:
    """Returns sources with what those of a recipe say of their images, where they do not say it themselves.

    Labels are passed on where the masks hold no value that these do not name, and show a class by them; with several
    classes they are passed on in any case, so that the reader names the value that they lack. A window is passed on to
    DICOM and NIfTI files, which would be scaled by percentiles.

    Args:
        sources: other data sets, or those of the recipe, which stay as they are.
        data: the section of the recipe.
        classes: names of the foreground classes.

    Raises:
        DataError: the labels of two sources of the recipe fit, and make different masks.
    """
    return tuple(
        source if source in data.sources else _with_names(_with_window(source, data.sources), data, tuple(classes))
        for source in sources
    )


def labels_of(source: SourceSettings, classes: Sequence[str]) -> Labels | None:
    """Returns the labels by which the masks of a source of a recipe are read; None where they are binary, or unknown.

    Args:
        source: of the recipe.
        classes: names of the foreground classes.
    """
    if not isinstance(source, MaskSourceSettings):
        return None
    try:
        own = with_own_labels(source, classes)
    except DataError:  # of a folder that has changed since
        own = source
    if isinstance(own, MaskSourceSettings) and isinstance(own.labels, dict):
        return own.labels
    kind: Source = registered.get(source.kind)()
    usual = kind.usual_rules(source).labels
    return None if usual is None else dict(usual)


def choose_sources(
    words: Iterable[str], *, known: Sequence[SourceSettings] = (), named: bool = True
) -> tuple[SourceSettings, ...]:
    """Returns the data sets that the words of ``--data`` name.

    What the cells of a table mean is as in the recipe; see `Source.read_as`.

    Folders may differ in their names and not in those of their data sets: the second is called name-2.

    Args:
        known: the sources of a recipe.
        named: words may be their domains.

    Raises:
        DataError: a word is neither a domain nor a folder, or its layout is not recognised.
    """
    by_name = {source.domain: source for source in known} if named else {}
    chosen: list[SourceSettings] = []
    for word in words:
        if word in by_name:
            chosen.append(by_name[word])
        elif Path(word).is_dir() or is_list(Path(word)):
            chosen += [renamed(_read_as(source, known), chosen) for source in recognise(Path(word))]
        else:
            fix = did_you_mean(word, by_name) if by_name else "Give the folder of a data set."
            raise DataError(f"'{word}' is neither a data set of the recipe nor a folder.", fix=fix)
    return tuple(chosen)


def renamed(source: SourceSettings, others: Iterable[SourceSettings]) -> SourceSettings:
    """Returns a source with a number at its name where another folder has the same name."""
    paths = {other.domain: other.path.resolve() for other in others}
    if paths.get(source.domain, source.path.resolve()) == source.path.resolve():
        return source  # the same folder again is refused where it is opened
    number = next(number for number in count(2) if f"{source.domain}-{number}" not in paths)
    return source.model_copy(update={"name": f"{source.domain}-{number}"})


def _read_as(source: SourceSettings, known: Sequence[SourceSettings]) -> SourceSettings:
    kind: Source = registered.get(source.kind)()
    read: SourceSettings = kind.read_as(source, [own for own in known if own.kind == source.kind])
    return read


def _with_window(source: SourceSettings, known: Sequence[SourceSettings]) -> SourceSettings:
    """Returns a source with the window that all of a recipe share, where its files would get the usual percentiles."""
    windows = {scaling_of(own).window for own in known}
    if len(windows) != 1 or None in windows or source.percentiles != STACK_PERCENTILES:
        return source
    (window,) = windows
    inform(f"{source.domain}: values are scaled by the window of {known[0].domain}, {window}.")
    return source.model_copy(update={"window": window, "percentiles": None})


def _with_names(source: SourceSettings, data: DataSettings, classes: tuple[str, ...]) -> SourceSettings:
    """Returns a source with names of segments, or labels of values, of the recipe where its own tell no class."""
    if not isinstance(source, MaskSourceSettings) or source.labels is not None:
        return source
    every = {own.domain: labels for own in data.sources if (labels := labels_of(own, classes))}
    kind: Source = registered.get(source.kind)()
    named = {repr(other): other for own in data.sources
             if own.kind == source.kind and (other := kind.named_as(source, own)) != source}  # fmt: skip
    if not every and not named:
        return source
    try:
        manifest = survey(source, classes=classes).manifest
    except DataError:  # which is raised again where the data set is opened
        return source
    drawn = {name for sample in manifest.samples for name, _ in sample.class_masks}
    if len(named) == 1 and drawn and not drawn & {*classes}:
        (source,) = named.values()
        inform(f"{source.domain}: segments are named as those of the recipe are.")
        return source
    return _with_labels(source, manifest, every, classes, overlap=data.overlap)


def _with_labels(
    source: MaskSourceSettings,
    manifest: Manifest,
    every: Mapping[str, Labels],
    classes: Sequence[str],
    *,
    overlap: bool,
) -> SourceSettings:
    """Returns a source with the labels that fit it; see `alike`.

    Args:
        source: without labels.
        manifest: of it.
        every: labels by the domain of the recipe that has them.
        classes: names of the foreground classes.
        overlap: whether they may overlap.
    """
    if manifest.rules[source.domain].labels is not None:
        return source
    found: dict[str, str] = {}
    for domain, labels in every.items():
        seen = _seen(source, labels, manifest, classes, overlap=overlap)
        if seen is not None:
            found.setdefault(seen, domain)
    if len(found) > 1:
        one, other, *_ = found.values()
        raise DataError(
            f"The masks of {source.path} can be read by the labels of {one} and by those of {other}, which differ.",
            fix="Write a recipe with the folder and its labels; or, for grey masks, a dataset.json into the folder, "
            'such as {"labels": {"liver": 1, "tumour": 2}}.',
        )
    needed = len(classes) > 1 and not any(sample.class_masks for sample in manifest.samples)
    chosen = next(iter(found.values()), None)
    if chosen is None and needed and len({repr(labels) for labels in every.values()}) == 1:
        chosen, labels = next(iter(every.items()))
        _labelled(source, labels, classes)  # of other classes they are an error
    if chosen is None:
        return source
    try:
        read = type(source).model_validate(source.model_dump() | {"labels": dict(every[chosen])})
    except ValidationError:  # of a kind whose masks have no values
        return source
    inform(f"{source.domain}: masks are read by the labels of {chosen}, {_in_words(every[chosen])}.")
    return read


def _labelled(source: MaskSourceSettings, labels: Labels, classes: Sequence[str]) -> SourceSettings:
    """Returns a source with labels as indices of classes; raises a DataError where they name another class."""
    return with_class_indices(source.model_copy(update={"labels": dict(labels)}), classes)


def _in_words(labels: Labels) -> str:
    shown = ", ".join(f"{value}: {meaning}" for value, meaning in [*labels.items()][:_LISTED])
    return f"{{{shown}{', ...' if len(labels) > _LISTED else ''}}}"


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Returns some samples, the first among them, that lie evenly among all."""
    places = np.linspace(0, len(samples) - 1, min(len(samples), _MOST), dtype=np.int64)
    return [samples[place] for place in places]


def _seen(
    source: MaskSourceSettings, labels: Labels, manifest: Manifest, classes: Sequence[str], *, overlap: bool
) -> str | None:
    """Returns a digest of what some masks are by labels; None where these do not fit, or nothing is shown by them."""
    usual, shown, digest = manifest.rules[source.domain], 0, new_digest()
    try:
        rules = rules_of(_labelled(source, labels, classes), defaults=usual)
        for sample in _spread(manifest.samples):
            mask = read_mask(sample, rules, names=classes, overlap=overlap).classes
            if not overlap:
                check_classes(sample, mask, classes, named=True)
            digest.update(np.ascontiguousarray(mask).tobytes())
            shown += bool(planes_of(mask))
            if shown == _ENOUGH:
                break
    except DataError:
        return None
    return digest.hexdigest() if shown else None
