import doctest
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medarts.system import names
from medarts.system.names import NAME, name_of, printable


def test_examples_of_the_module() -> None:
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("archive (1)", "archive-1"),
        ("data+masks", "data-masks"),
        ("set@2x", "set-2x"),
        ("a,b", "a-b"),
        ("x=1", "x-1"),
        ("#1", "1"),
        (".hidden", "hidden"),
        ("-data", "data"),
        ("O'Brien", "O-Brien"),
        ("l\u0065\u0301sion", "l\u00e9sion"),
        (os.fsdecode(b"\xe9tude"), "tude"),
        ("((", "unnamed"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_name_of_any_folder(folder: str, name: str) -> None:
    assert name_of(Path("somewhere") / folder) == name


def test_the_current_folder_has_the_name_it_has_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my set").mkdir()
    monkeypatch.chdir(tmp_path / "my set")
    assert name_of(Path()) == name_of(Path("../my set")) == "my set"


@given(st.text(min_size=1).filter(lambda text: "/" not in text and "\0" not in text))
def test_every_name_is_valid_and_stays_as_it_is(folder: str) -> None:
    name = name_of(Path("x") / folder)
    assert re.fullmatch(NAME, name)
    assert name_of(Path("x") / name) == name


@given(st.text())
def test_what_is_printable_can_be_encoded_and_has_one_line(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert shown.isprintable()
    assert printable(shown) == shown
