"""YAML as recipes and studies use it: read so that nothing is guessed, written so that it is read as it was.

PyYAML follows YAML 1.1, in which ``on`` is true, ``020`` is sixteen, ``12:30`` is 750 and ``3e-4`` a text. Here plain
values are those of YAML 1.2 (true, false, null, decimal numbers), and everything else is a text. So are ``020`` and
``+5``, which would be written in another way when written again: names keep their zeros, and where a number should be,
they are refused.

A key that appears twice is an error, and so is a tag such as ``!!int``, a text that is nested too deeply, or one that
is much larger than any recipe once its aliases are replaced by what they stand for.
"""

import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import yaml

from medarts.errors import quoted

DEEPEST = 30
"""Levels of nesting."""

LARGEST = 20_000
"""Keys and values, with aliases replaced by what they stand for; a benchmark of 200 networks has some 2,000."""

_DIGITS = 19
"""Of a whole number."""

_PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"0|-?[1-9][0-9]*",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}


class YamlError(Exception):
    """What is wrong with a text, and in which line."""


def read_yaml(text: str) -> Any:
    """Reads a YAML text of one document.

    Returns:
        Mappings, lists, texts, numbers, truth values and None; no two places share a mapping or a list.
    """
    try:
        return unshared(_loaded(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        context = f"{error.context}, " if error.context and not isinstance(error, _Refusal) else ""
        raise YamlError(f"{place}{context}{error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"line {line}: the character U+{ord(text[error.position]):04X} is not allowed") from None


@lru_cache(maxsize=64)  # recipes of runs, which scoring and comparing them reads dozens of times
def _loaded(text: str) -> Any:
    return yaml.load(text, _Loader)  # a SafeLoader


def write_yaml(content: Any) -> str:
    """Returns YAML text that ``read_yaml`` reads as the same content."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_flow(content: Any) -> str:
    """Returns YAML text of one line that ``read_yaml`` reads as the same content.

    >>> write_flow({"labels": {0: 0, 255: 1}, "name": "on"})
    '{labels: {0: 0, 255: 1}, name: on}'
    """
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


class _Refusal(yaml.MarkedYAMLError):
    """An error of this module, whose message is whole."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Reads plain values as described above, and refuses doubles, depth and size."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # as PyYAML has it; filled below
    # Beside what YAML allows, the bytes of file names that are not UTF-8, as Python keeps them.
    NON_PRINTABLE = re.compile(  # type: ignore[misc]  # final in the stubs alone
        yaml.reader.Reader.NON_PRINTABLE.pattern.replace("]", "\udc80-\udcff]")
    )

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a node and what is below it, and refuses it where that is too much."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # it has no annotations
        named = self.anchors.get(event.anchor) if isinstance(event, yaml.AliasEvent) else None
        if named is not None and id(named) not in self._sizes:
            raise _Refusal("an alias contains itself", event.start_mark)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise _Refusal(f"the tag {quoted(tag)} is not read; leave it out", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _Refusal(f"more than {DEEPEST} levels of nesting", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        self._sizes.setdefault(id(node), 1 + sum(self._sizes[id(part)] for part in _parts(node)))
        if self._sizes[id(node)] > LARGEST:
            raise _Refusal(f"more than {LARGEST:,} values, aliases included", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping, and refuses keys that stand twice in it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if is_merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise _Refusal(f"{quoted(key)} is a key; use a text, in quotes where needed", key_node.start_mark)
            line = key_node.start_mark.line + 1
            if key in lines:
                both = f"lines {lines[key]} and {line}" if lines[key] != line else f"both times in line {line}"
                raise _Refusal(f"{quoted(key)} appears twice, {both}; keep one of them", key_node.start_mark)
            lines[key] = line
        return node

    def _whole_number(self, node: yaml.ScalarNode) -> int:
        digits = node.value.lstrip("-")
        if len(digits) > _DIGITS:
            raise _Refusal(f"a whole number of {len(digits)} digits", node.start_mark)
        return int(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader._whole_number)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that the loader would not read as texts, and writes unusual line breaks as escapes."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # as PyYAML has it; filled below

    def ignore_aliases(self, data: Any) -> bool:
        """Says that nothing is written as an alias."""
        return True

    def _text(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper._text)


for _kind in (_Loader, _Dumper):
    for _name, _form in _PLAIN.items():
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_form})$"), None)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def unshared(content: Any) -> Any:
    """Returns a copy in which what aliases stand for is there as often as it is named."""
    if isinstance(content, dict):
        return {key: unshared(value) for key, value in content.items()}
    return [unshared(item) for item in content] if isinstance(content, list) else content
