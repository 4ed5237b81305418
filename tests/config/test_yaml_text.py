"""YAML is read so that nothing is guessed."""

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medarts.config.yaml_text import LARGEST, YamlError, read_yaml, write_yaml


def refused(text: str) -> str:
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("0", 0), ("-7", -7), ("3.5", 3.5), (".5", 0.5), ("1.", 1.0), ("3e-4", 3e-4), ("4E3", 4e3),
        ("-1e3", -1e3),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", math.inf),
        # What YAML 1.1 takes for something else than what it looks like.
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("020", "020"), ("0o17", "0o17"),
        ("0x10", "0x10"),
        ("0b1", "0b1"), ("1_000", "1_000"), ("+5", "+5"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("=", "="),
    ],
)  # fmt: skip
def test_plain_values(text: str, value: Any) -> None:
    assert read_yaml(f"a: {text}") == {"a": value}
    assert type(read_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {lr: 1}\nseed: 1\ntrain: {lr: 2}\n", "line 3, column 1: 'train' appears twice, lines 1 and 3"),
        ("a:\n  b: 1\n  c: 1\n  b: 2\n", "'b' appears twice, lines 2 and 4"),
        ("{a: 1, 'a': 2}", "'a' appears twice, both times in line 1"),
        ("- {labels: {1: 1, 255: 2, 1: 3}}", "1 appears twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "'<<' appears twice, lines 3 and 4"),
        ("a: &a {b: 1, b: 2}\nc: *a\n", "'b' appears twice"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(text: str, says: str) -> None:
    assert says in refused(text)


def test_what_is_merged_may_be_given_again() -> None:
    text = "p: {q: &b {<<: &a {x: 1, y: 1}, x: 2}}\nc: {<<: *b, y: 3}\nd: {<<: [*a, *b]}\n"
    assert read_yaml(text) == {"p": {"q": {"x": 2, "y": 1}}, "c": {"x": 2, "y": 3}, "d": {"x": 1, "y": 1}}


def test_texts_that_are_read_twice_share_nothing() -> None:
    read_yaml("a: [1]")["a"].append(2)
    assert read_yaml("a: [1]") == {"a": [1]}


def test_aliases_share_nothing() -> None:
    stages = read_yaml("[&s {epochs: 3}, *s]")
    stages[0]["epochs"] = 4
    assert stages[1] == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 900, "line 1, column 31: more than 30 levels of nesting"),
        ("a: &a [*a]", "an alias contains itself"),
        ("a: &a {b: *a}", "an alias contains itself"),
        ("a: *b", "found undefined alias 'b'"),
        (f"a: {'9' * 5000}", "a whole number of 5000 digits"),
        (f"a: [{'1,' * LARGEST}1]", "more than 20,000 values"),
        ("a: !!int 0x1", "the tag 'tag:yaml.org,2002:int' is not read"),
        ("a: !!python/object/apply:os.system [x]", "is not read; leave it out"),
        ("a: !!set {x}", "is not read"),
        ("? [1, 2]\n: 3", "[1, 2] is a key"),
        ("true: 1", "True is a key"),
        ("a:\n\tb: 1", "line 2, column 1: while scanning for the next token, found character '\\t'"),
        ("a: 1\nb: \x07", "line 2: the character U+0007 is not allowed"),
        ("a: 1\n---\nb: 2", "found another document"),
        ("a: [1\nb: 2", "line 2, column 2"),
    ],
)  # fmt: skip
def test_text_that_is_refused(text: str, says: str) -> None:
    message = refused(text)
    assert says in message
    assert len(message) < 300
    assert "\n" not in message


def test_small_texts_do_not_become_large() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    begin = time.monotonic()
    assert "line 5" in refused("\n".join(lines))
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("text", ["\ufeffa: 1\n", "a: 1\r\n", "a: 1", "---\na: 1\n...\n"])
def test_ends_of_lines_and_of_files(text: str) -> None:
    assert read_yaml(text) == {"a": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=4))
def test_what_is_written_is_read_as_it_was(content: dict[str, Any]) -> None:
    assert read_yaml(write_yaml(content)) == content


@pytest.mark.parametrize(
    "text", ["on", "020", "3e-4", "1e3", "", "~", "2024-01-01", "<<", "1_0", "\x85", "/x/\udce9", "a\tb"]
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    assert read_yaml(write_yaml({"note": text})) == {"note": text}


@given(st.text(st.characters() | st.sampled_from("{}[]:,-'\"&*!|>#%@?\n "), max_size=40))
def test_any_text_is_refused_or_read_as_what_can_be_written_again(text: str) -> None:
    try:
        content = read_yaml(text)
    except YamlError:
        return
    assert repr(read_yaml(write_yaml(content))) == repr(content)  # repr, as nan is not equal to itself
