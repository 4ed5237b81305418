"""The labels that the doctor and init propose for masks whose values nobody has named.

>>> seen = MaskValues()
>>> values = np.zeros((4, 4, 1), np.uint8)
>>> values[:2], values[3] = 3, 255
>>> seen.add(Raw(values, (0.0, 255.0)))
>>> seen.labels
{3: 1, 255: 'ignore'}
>>> print("\\n".join(seen.block()))
classes: 1
labels:
  0: background    # 25.0% of the pixels, in 1 of 1 masks
  3: 1    # 50.0% of the pixels, in 1 of 1 masks
  255: ignore    # 25.0% of the pixels, in 1 of 1 masks
"""

from collections import Counter

import numpy as np

from medarts.data.classifying import NEAR_LABEL
from medarts.data.formats.raw import Raw
from medarts.data.meanings import are_indices, as_labels, meanings_of
from medarts.data.regions import find_regions

_MOST = 64
"""Values above which a set holds no classes but photographs."""

Value = tuple[int, ...]
"""A grey value, or red, green and blue in levels of 255."""


class MaskValues:
    """The values that fill areas of the masks of a data set, as they are added."""

    def __init__(self) -> None:
        self._pixels: Counter[Value] = Counter()
        self._masks: Counter[Value] = Counter()
        self._number = self._total = 0

    def add(self, raw: Raw) -> None:
        """Adds a mask as stored."""
        seen: Counter[Value] = Counter()
        for value, pixels in _values_of(raw).items():
            seen[self._known(value, exact=not raw.lossy)] += pixels
        self._pixels.update(seen)
        self._masks.update(seen.keys())
        self._number += 1
        self._total += raw.values.shape[0] * raw.values.shape[1]

    def _known(self, value: Value, *, exact: bool) -> Value:
        """Returns the value that was seen before and is the same but for the noise of JPEG."""
        if exact:
            return value
        near = [
            other
            for other in self._pixels
            if len(other) == len(value) and max(abs(a - b) for a, b in zip(other, value, strict=True)) <= NEAR_LABEL
        ]
        return near[0] if near else value

    @property
    def are_several(self) -> bool:
        """Whether there are more values than a background and one class have, and few enough to be classes."""
        return 2 < len(self._pixels) <= _MOST

    @property
    def labels(self) -> dict[int | str, int | str]:
        """Labels for the source, see `medarts.data.meanings`; none where there are too many values for classes."""
        if len(self._pixels) > _MOST:
            return {}
        return {self._key(value): meaning for value, meaning in as_labels(self._meanings()).items()}

    def block(self) -> list[str]:
        """Returns lines for a recipe: the number of classes, and what each value would be."""
        lines = []
        meanings = self._meanings()
        pixels, masks = self._by_number(self._pixels), self._by_number(self._masks)
        for value, meaning in meanings.items():
            key = self._key(value)
            share = f"{pixels[value] / max(self._total, 1):.1%} of the pixels"
            written = key if isinstance(key, int) else f'"{key}"'
            lines.append(f"  {written}: {meaning}    # {share}, in {masks[value]} of {self._number} masks")
        number = sum(isinstance(meaning, int) for meaning in meanings.values())
        return [f"classes: {number + 1 if number > 1 else 1}", "labels:", *lines]

    def _meanings(self) -> dict[int, int | str]:
        return meanings_of(self._by_number(self._pixels), colours=self._are_coloured)

    @property
    def _are_coloured(self) -> bool:
        return any(len(value) > 1 for value in self._pixels)

    def _by_number(self, counts: Counter[Value]) -> Counter[int]:
        """Returns counts by grey values or, where there are colours, by colours of 24 bits, which greys are too."""
        numbers: Counter[int] = Counter()
        for value, count in counts.items():
            rgb = value * 3 if len(value) == 1 else value
            numbers[rgb[0] << 16 | rgb[1] << 8 | rgb[2] if self._are_coloured else value[0]] += count
        return numbers

    def _key(self, number: int) -> int | str:
        return f"#{number:06x}" if self._are_coloured else number


def _values_of(raw: Raw) -> dict[Value, int]:
    """Returns the values of a mask that stand for something of their own, with their pixels; of indices all."""
    coloured = any(not np.array_equal(raw.values[..., 0], raw.values[..., n]) for n in range(1, raw.values.shape[2]))
    values = raw.values if coloured else raw.values[..., :1]
    found = find_regions(values, limits=raw.range, lossy=raw.lossy).found
    scale = 255 / raw.range[1] if coloured and raw.range is not None else 1.0
    regions = {tuple(round(part * scale) for part in region.value[:3]): region.pixels for region in found}
    if coloured or raw.lossy:
        return regions
    distinct, counts = np.unique(values, return_counts=True)
    # Thin classes surround none of their own pixels; but a 1 beside 0 and 255 alone may be noise.
    indices = len(distinct) <= _MOST and are_indices(distinct.tolist()) and (len(found) > 2 or distinct[-1] < 255)
    if not indices or not np.array_equal(distinct, np.rint(distinct)):
        return regions
    return {(int(value),): int(count) for value, count in zip(distinct, counts, strict=True)}
