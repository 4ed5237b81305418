"""Patterns of paths, such as ``{split}/images/{patient}_{n}``: which files are meant, and what their names say.

A pattern is a path from the folder of a data set, without the suffix of the files. In it

- ``{name}``, ``{patient}``, ``{group}``, ``{class}`` and ``{channel}`` stand for a part of a name that is read from it;
- ``{split}`` stands for a word for training, validation or test, such as train, valid or Ts;
- ``{side}`` stands for a side of the body (L, R, left, right, OD, OS), or for nothing where a name says none;
- ``{n}`` stands for digits, ``*`` for anything within a name, and ``**/`` for any folders, or none.

A field that appears twice has one value. Where a name can be read in several ways, ``{name}`` is as long as possible
and the other fields are as short as possible. Literal text is compared in any case.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medarts.config import Split
from medarts.data.contents import Contents, composed, contents_of
from medarts.data.formats import is_image, suffix_of
from medarts.data.splits import split_named

_SHORT = {"tr": "train", "trn": "train", "va": "val", "vl": "val", "dev": "val", "ts": "test", "tst": "test"}
"""Words for splits in names of folders, beside those of the column split of a table."""

SIDES = ("left", "right", "od", "os", "l", "r")
"""Words for sides of the body, in lower case; OD and OS are the right and the left eye."""

_TOKEN = re.compile(r"\{(\w+)\}|(\*\*/)|(\*)")


def split_of(word: str) -> Split | None:
    """Returns the split that a part of a path names, None for any other word.

    >>> split_of("Valid"), split_of("Tr"), split_of("images")
    ('val', 'train', None)
    """
    return split_named(_SHORT.get(word.lower(), word))


@dataclass(frozen=True, slots=True)
class _Token:
    """A part of a pattern: literal text, a field, ``*`` or ``**/``."""

    kind: str
    text: str


@dataclass(frozen=True)
class PathPattern:
    """A pattern of paths.

    >>> next(PathPattern("{split}/images/{patient}_{name}").readings("valid/images/p7_03"))
    {'split': 'valid', 'patient': 'p7', 'name': '03'}

    Attributes:
        text: as written.
    """

    text: str

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields in the order in which they first appear."""
        return tuple(dict.fromkeys(token.text for token in self._tokens if token.kind == "field"))

    @cached_property
    def literals(self) -> int:
        """The number of literal characters: of two patterns that fit a file, the one with more says what it is."""
        return sum(len(token.text) for token in self._tokens if token.kind == "literal")

    def readings(self, path: str) -> Iterator[dict[str, str]]:
        """Yields the values of the fields for every way in which a path can be read, the usual one first.

        Args:
            path: from the folder of the data set, with slashes; without suffix where the pattern has none.
        """
        if self._regex.fullmatch(path):
            yield from _read(self._tokens, path, 0, {})

    def fits(self, path: str) -> bool:
        """Tells whether a path can be read."""
        return next(self.readings(path), None) is not None

    def named(self, path: Path) -> str:
        """Returns a path as the pattern is compared with it: with its suffix only where the pattern has one."""
        name = path.name if self._has_suffix else path.name[: len(path.name) - len(suffix_of(path))]
        return "/".join(map(composed, (*path.parent.parts, name)))

    def folders(self, root: Path) -> list[Contents]:
        """Returns the folders that may hold files of the pattern, listed, in natural order."""
        found: dict[Path, Contents] = {}
        *parts, _ = self.text.split("/")
        _walk(root, [PathPattern(part) for part in parts], found)
        return list(found.values())

    @cached_property
    def _has_suffix(self) -> bool:
        return is_image(Path(f"x{Path(self.text.replace('{', '').replace('}', '')).name}"))

    @cached_property
    def _tokens(self) -> tuple[_Token, ...]:
        tokens: list[_Token] = []
        at = 0
        for found in _TOKEN.finditer(self.text):
            if found.start() > at:
                tokens.append(_Token("literal", self.text[at : found.start()]))
            tokens.append(_Token("field", found[1]) if found[1] else _Token(found[0], found[0]))
            at = found.end()
        if at < len(self.text):
            tokens.append(_Token("literal", self.text[at:]))
        return tuple(tokens)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        forms = {"field": "[^/]+", "*": "[^/]*", "**/": "(?:[^/]+/)*"}
        return re.compile(
            "".join(
                "[^/]*" if token == _Token("field", "side") else forms.get(token.kind) or re.escape(token.text)
                for token in self._tokens
            ),
            re.IGNORECASE,
        )


def _read(tokens: tuple[_Token, ...], path: str, at: int, values: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yields the values for the rest of a path from a place on."""
    if not tokens:
        if at == len(path):
            yield dict(values)
        return
    token, *rest = tokens
    for end in _ends(token, path, at, values):
        more = {token.text: path[at:end]} if token.kind == "field" else {}
        yield from _read(tuple(rest), path, end, {**values, **more})


def _ends(token: _Token, path: str, at: int, values: Mapping[str, str]) -> Iterator[int]:
    """Yields the places where a part of a pattern that begins at a place can end."""
    known = token.text if token.kind == "literal" else values.get(token.text) if token.kind == "field" else None
    if known is not None:
        if path[at : at + len(known)].lower() == known.lower():
            yield at + len(known)
        return
    if token.kind == "**/":
        yield at
        yield from (place + 1 for place in range(at, len(path)) if path[place] == "/")
        return
    if token.kind == "field" and token.text == "side":
        yield from (at + len(side) for side in SIDES if path[at : at + len(side)].lower() == side)
        yield at
        return
    slash = path.find("/", at)
    last = len(path) if slash < 0 else slash
    if token.kind == "*":
        yield from range(at, last + 1)
        return
    ends = range(at + 1, last + 1)
    for end in reversed(ends) if token.text in ("name", "n") else ends:
        value = path[at:end]
        if (token.text == "split" and split_of(value) is None) or (token.text == "n" and not value.isdecimal()):
            continue
        yield end


def _walk(folder: Path, parts: list[PathPattern], found: dict[Path, Contents]) -> None:
    """Notes the folders that are reached by the parts of a pattern above the names of its files."""
    if not folder.is_dir():
        return
    if not parts:
        if folder not in found:
            found[folder] = contents_of(folder)
        return
    part, *rest = parts
    if part.text == "**":
        _walk(folder, rest, found)
    for inner in contents_of(folder).folders:
        if part.text == "**":
            if not (inner.is_symlink() and folder.resolve().is_relative_to(inner.resolve())):  # leads back
                _walk(inner, parts, found)
        elif part.fits(composed(inner.name)):
            _walk(inner, rest, found)
