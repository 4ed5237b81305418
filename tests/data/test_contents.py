"""What of a folder is read, and what is counted as not read."""

import os

import pytest

from medarts.data.contents import composed, contents_of
from medarts.data.sources import passed_over
from medarts.errors import DataError


def test_a_folder_is_divided_into_images_other_files_and_folders(tmp_path):
    names = "10.png 2.JPG a.webp b.webp c.xyz IM0001 notes.txt labels.csv Thumbs.db .hidden.png .DS_Store"
    for name in names.split():
        (tmp_path / name).touch()
    for name in ("inner/a.png", "notes/readme.md", ".cache/x.png", "deep/er/a"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty.png").mkdir()
    found = contents_of(tmp_path)
    assert [path.name for path in found.images] == ["2.JPG", "10.png"]
    assert [path.name for path in found.others] == ["IM0001", "a.webp", "b.webp", "c.xyz"]
    assert [path.name for path in found.folders] == ["deep", "inner"]
    assert found.kinds() == ".webp 2, without a suffix 1, .xyz 1"
    assert [path.name for path in found.irregular] == ["empty.png"]
    files, irregular, *folders = passed_over(found)
    assert irregular.detail == f"{tmp_path.name}/empty.png is a folder"
    assert (files.count, files.detail) == (4, f".webp 2, without a suffix 1, .xyz 1 in {tmp_path.name}")
    assert [fault.detail for fault in folders] == [f"{tmp_path.name}/deep", f"{tmp_path.name}/inner"]


def test_a_link_that_leads_nowhere_is_no_reason_to_pass_an_image_over(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    assert [path.name for path in contents_of(tmp_path).images] == ["a.png"]


def test_a_link_to_itself_is_a_fault_of_its_own(tmp_path):
    for name in ("loop.png", "loop"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "b.png").touch()
    found = contents_of(tmp_path)
    assert [path.name for path in found.images] == ["b.png", "loop.png"]
    assert [path.name for path in found.others] == ["loop"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert contents_of(tmp_path).images == ()
    (irregular,) = passed_over(contents_of(tmp_path))
    assert irregular.detail == f"{tmp_path.name}/a.png is a pipe, socket or device"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("e\u0301", "\u00e9"),
        ("l\udce9sion", "l\\xe9sion"),
        (" a 1 ", "a 1"),
        ("a\nb", "a\nb"),
    ],
)
def test_names_are_compared_composed_and_can_be_written(name, key):
    assert composed(name) == key
    composed(name).encode()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be listed: .*\. Make it readable"):
        contents_of(tmp_path / "file")
