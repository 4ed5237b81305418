"""Which class a value of masks is likely to be, where nobody has said it: the one rule of readers, doctor and init."""

from collections.abc import Iterable, Mapping, Sequence

from medarts.config.data import BACKGROUND, IGNORED

_INDEX = 64
"""Values below it are taken for class indices where the only other value is the highest one, a mark for void."""

_WHITE = (255, 65535)
"""Highest values of 8 and 16 bits."""

_WHITE_COLOUR = 0xFFFFFF


def meanings_of(pixels: Mapping[int, int], *, colours: bool = False) -> dict[int, int | str]:
    """Returns class indices from 1 on, background and ignore, by the values of masks.

    A highest value beside class indices marks what is of no class, as the borders of PASCAL VOC. Background is black,
    unless there is none or most is white; then it is what most is.

    Args:
        pixels: value -> number of its pixels.
        colours: values are red, green and blue, 8 bits each, of which none is an index.

    >>> meanings_of({0: 90, 1: 8, 255: 2})
    {0: 'background', 1: 1, 255: 'ignore'}
    >>> meanings_of({0: 2, 128: 8, 255: 90})
    {0: 1, 128: 2, 255: 'background'}
    >>> meanings_of({38: 10})
    {38: 1}
    """
    values = sorted(pixels)
    white = bool(values) and values[-1] in ((_WHITE_COLOUR,) if colours else _WHITE)
    void = white and not colours and len(values) > 2 and values[-2] < _INDEX
    most = max(values[:-1] if void else values, key=pixels.__getitem__, default=0)
    black = 0 in pixels and not (white and most == values[-1])
    ground = 0 if black or len(values) == 1 else most
    meanings: dict[int, int | str] = {}
    index = 0
    for value in values:
        if value == ground:
            meanings[value] = BACKGROUND
        elif void and value == values[-1]:
            meanings[value] = IGNORED
        else:
            meanings[value] = index = index + 1
    return meanings


def are_indices(values: Iterable[float]) -> bool:
    """Tells whether values can be class indices, perhaps with a mark for void."""
    return all(value < _INDEX or value in _WHITE for value in values)


def as_labels(meanings: Mapping[int, int | str]) -> dict[int, int | str]:
    """Returns labels for a recipe: all but that 0 is background, which need not be said.

    >>> as_labels({0: "background", 38: 1})
    {38: 1}
    """
    return {value: meaning for value, meaning in meanings.items() if value != 0 or meaning != BACKGROUND}


def labels_text(colours: Sequence[bytes]) -> str:
    """Returns labels for colours as a recipe has them, black being background.

    >>> labels_text([bytes([0, 0, 0]), bytes([255, 0, 0])])
    '{"#000000": 0, "#ff0000": 1}'
    """
    numbers = iter(range(1, len(colours) + 1))
    return "{" + ", ".join(f'"#{colour.hex()}": {next(numbers) if any(colour) else 0}' for colour in colours) + "}"
