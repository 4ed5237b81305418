"""JPEG: pixels that a disk or a download has left as zeros, which every decoder takes for pixels."""

import re
from collections.abc import Iterator
from pathlib import Path

_RUN = bytes(64)
_SEQUENTIAL = (0xC0, 0xC1)  # frames coded by Huffman tables in one pass; in progressive ones zeros may mean anything
_TABLES, _SCAN, _END = 0xC4, 0xDA, 0xD9
_NO_FRAMES = (_TABLES, 0xC8, 0xCC)
_NEXT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # what ends coded pixels: neither a stuffed byte nor a restart

Segment = tuple[int, int, int]
"""Marker, and where its content begins and ends."""


def require_coded(path: Path) -> None:
    """Raises a ValueError where the coded pixels of a JPEG file are zeros over a stretch that no image gives.

    A run of zeros is the shortest codes over and over. It stands for a flat area where these mean "no change" and
    "nothing further", as in tables made for an image with a large background; such files are let through, as are
    progressive ones. By the usual tables it would be blocks of the finest pattern in every frequency.
    """
    content = path.read_bytes()
    if _RUN not in content:
        return
    frame, shortest = 0, dict[int, int]()
    for marker, start, end in _segments(content):
        if marker == _TABLES:
            shortest |= _shortest_codes(content[start:end])
        elif marker == _SCAN and frame in _SEQUENTIAL:
            coded = _NEXT.search(content, end)
            zeros = content.find(_RUN, end, coded.start() if coded else len(content))
            if zeros >= 0 and not _may_be_flat(content[start:end], shortest):
                raise ValueError(f"its pixels are zeros from byte {zeros:,} on")
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            frame = marker


def _segments(content: bytes) -> Iterator[Segment]:
    """Yields the segments of a file up to its end or to what is none."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != _END:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        coded = _NEXT.search(content, end) if marker == _SCAN else None
        at = end if marker != _SCAN else coded.start() if coded else len(content)


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Returns, for every Huffman table of a segment, what its code of zeros alone means; 16 is added for AC."""
    found = {}
    while len(tables) > 17:
        found[tables[0]] = tables[17]
        tables = tables[17 + sum(tables[1:17]) :]
    return found


def _may_be_flat(scan: bytes, shortest: dict[int, int]) -> bool:
    """Tells whether zeros are a flat area in all components of a scan: a DC that stays, and no AC."""
    chosen = scan[2 : 1 + 2 * scan[0] : 2] if scan else b""
    return all(shortest.get(each >> 4, 0) <= 1 and shortest.get(16 + (each & 15), 0) == 0 for each in chosen)
