"""The block of labels that the doctor proposes for masks whose values nobody has named.

>>> seen = MaskValues()
>>> values = np.zeros((4, 4, 1), np.uint8)
>>> values[:2], values[3] = 3, 255
>>> seen.add(Raw(values, (0.0, 255.0)))
>>> print("\\n".join(seen.block()))
classes: 1
labels:
  0: background    # 25.0% of the pixels, in 1 of 1 masks
  3: 1    # 50.0% of the pixels, in 1 of 1 masks
  255: ignore    # 25.0% of the pixels, in 1 of 1 masks
"""

import numpy as np

from medarts.data.formats.raw import Raw
from medarts.data.masks import NEAR_LABEL
from medarts.data.regions import find_regions

_MOST = 64
"""Values above which a set holds no classes but photographs."""

_INDEX = 64
"""Values below it are class indices, beside which 255 is a mark for pixels that are of none."""

Value = tuple[int, ...]
"""A grey value, or red, green and blue in levels of 255."""


class MaskValues:
    """The values that fill areas of the masks of a data set, as they are added."""

    def __init__(self) -> None:
        self._pixels: dict[Value, int] = {}
        self._masks: dict[Value, int] = {}
        self._number = self._total = 0

    def add(self, raw: Raw) -> None:
        """Adds a mask as stored."""
        values = raw.values if _is_coloured(raw) else raw.values[..., :1]
        found = find_regions(values, limits=raw.range, lossy=raw.lossy)
        seen: dict[Value, int] = {}
        for region in found.found:
            value = self._known(tuple(round(part) for part in region.value[:3]), exact=not raw.lossy)
            seen[value] = seen.get(value, 0) + region.pixels
        for value, pixels in seen.items():
            self._pixels[value] = self._pixels.get(value, 0) + pixels
            self._masks[value] = self._masks.get(value, 0) + 1
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

    def block(self) -> list[str]:
        """Returns lines for a recipe: the number of classes, and what each value would be."""
        values = sorted(self._pixels)
        if any(len(value) > 1 for value in values):  # a grey is a colour beside others
            values = sorted({value * 3 if len(value) == 1 else value for value in values})
        greys = [value[0] for value in values if len(value) == 1]
        void = len(greys) > 2 and greys[-1] == 255 and greys[-2] < _INDEX
        ground = values[0] if not any(values[0]) else max(values, key=self._of)
        lines, number = [], 0
        for value in values:
            if value == ground:
                meaning = "background"
            elif void and value == (255,):
                meaning = "ignore"
            else:
                number += 1
                meaning = str(number)
            key = str(value[0]) if len(value) == 1 else f'"#{bytes(value).hex()}"'
            share = self._of(value) / max(self._total, 1)
            masks = f"in {self._masks.get(value, self._masks.get(value[:1], 0))} of {self._number} masks"
            lines.append(f"  {key}: {meaning}    # {share:.1%} of the pixels, {masks}")
        return [f"classes: {number + 1 if number > 1 else 1}", "labels:", *lines]

    def _of(self, value: Value) -> int:
        return self._pixels.get(value, self._pixels.get(value[:1], 0))


def _is_coloured(raw: Raw) -> bool:
    return any(not np.array_equal(raw.values[..., 0], raw.values[..., n]) for n in range(1, raw.values.shape[2]))
