"""Which data sets words name: folders of any name, and the domains of a recipe."""

import os
from pathlib import Path

import pytest

from medarts.config import DataSettings
from medarts.data.opening import choose_sources, recognise
from medarts.errors import DataError

NAMES = {
    "archive (1)": "archive-1",
    "data+masks": "data-masks",
    "set@2x": "set-2x",
    "a,b": "a-b",
    "x=1": "x-1",
    "#1": "1",
    ".hidden": "hidden",
    "-data": "data",
    "O'Brien": "O-Brien",
    "$HOME": "HOME",
    "[red]": "red",
    "Daten Köln": "Daten Köln",
    "a\nb": "a-b",
    "()": "unnamed",
    "all": "all-data",
    "mean of data sets": "mean of data sets-data",
}


@pytest.mark.parametrize(("folder", "domain"), NAMES.items())
def test_any_name_of_a_folder_becomes_that_of_a_domain(tmp_path, folder, domain):
    (tmp_path / folder / "masks").mkdir(parents=True)
    (source,) = choose_sources([str(tmp_path / folder)])
    assert (source.path, source.domain) == (tmp_path / folder, domain)
    assert DataSettings(sources=(source,)).sources == (source,)


def test_folders_of_one_cleaned_name_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("set (1)", "set [1]", "set {1}", "set-1-2")]
    for folder in folders:
        (folder / "masks").mkdir(parents=True)
    sources = choose_sources(map(str, folders))
    assert [source.domain for source in sources] == ["set-1", "set-1-2", "set-1-3", "set-1-2-2"]
    assert DataSettings(sources=sources).sources == sources
    twice = choose_sources([str(folders[0]), str(folders[0])])  # which is refused when they are opened
    assert [source.domain for source in twice] == ["set-1", "set-1"]


def test_bytes_that_are_no_text_do_not_enter_the_name(tmp_path):
    folder = tmp_path / os.fsdecode(b"K\xf6ln")
    try:
        (folder / "masks").mkdir(parents=True)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    assert recognise(folder)[0].domain == "K-ln"


def test_the_folder_of_the_shell_has_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "x (2)" / "masks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x (2)")
    assert recognise(Path())[0].domain == "x-2"


def test_a_pipe_is_no_table(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes")
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="no known layout"):
        recognise(tmp_path)
