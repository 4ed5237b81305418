"""Files that are whole or not there, and what the system says where it refuses."""

import errno
import os
import resource
import socket
from pathlib import Path
from typing import Literal

import pytest

from medarts.errors import RunError
from medarts.system import files
from medarts.system.files import append_line, check_writable, make_folder, open_table, read_whole, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_whole_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "first")
    write_whole(tmp_path / "a.txt", "secönd")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "secönd"
    write_whole(tmp_path / "a.txt", b"\xff\x00")
    assert (tmp_path / "a.txt").read_bytes() == b"\xff\x00"
    assert names(tmp_path) == ["a.txt"]


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", os.fsdecode(b"l\xe9sion.png\n"))
    assert (tmp_path / "a.txt").read_bytes() == b"l\xe9sion.png\n"


def test_write_whole_keeps_the_old_text_when_the_disk_is_full(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a write beyond it fails, as on a full disk
    try:
        for content in ("second" * 1000, b"second" * 1000):
            with pytest.raises(RunError, match=r"a\.txt could not be written \(File too large\)") as caught:
                write_whole(tmp_path / "a.txt", content)
        with pytest.raises(RunError, match=r"j\.jsonl could not be written"):
            append_line(tmp_path / "j.jsonl", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "ulimit -f" in caught.value.fix
    assert (tmp_path / "a.txt").read_text() == "first"
    assert names(tmp_path) == ["a.txt", "j.jsonl"]


@pytest.mark.parametrize("name", ["a.txt", ".unfinished-a.txt"])
def test_write_whole_does_not_follow_links(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_append_does_not_follow_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "j.jsonl").symlink_to(tmp_path / "mine")
    for _ in range(2):
        with pytest.raises(RunError, match=r"j\.jsonl could not be written") as caught:
            append_line(tmp_path / "j.jsonl", "{}")
        assert "symbolic link" in caught.value.fix
        monkeypatch.setattr(files, "_refuse_link", lambda path: None)  # a link that comes between the look and the open
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "Make room on the disk"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permissions"),
        (errno.EPERM, "permissions"),
        (errno.EROFS, "only be read"),
        (errno.ENOTDIR, "is a file"),
        (errno.EEXIST, "move away"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ENOENT, "moved or removed"),
        (errno.ENOMEM, "Free memory"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "disk fails"),
    ],
)
def test_every_refusal_has_its_own_fix(code: int, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RunError) as caught:
        write_whole(tmp_path / "a.txt", "new")
    assert caught.value.problem == f"{tmp_path / 'a.txt'} could not be written ({os.strerror(code)})."
    assert fix in caught.value.fix
    assert ("room" in caught.value.fix) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert names(tmp_path) == []


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written") as caught:
        make_folder(tmp_path / "file" / "run")
    assert "is a file" in caught.value.fix
    with pytest.raises(RunError, match="could not be written") as caught:
        make_folder(tmp_path / ("x" * 300))
    assert "shorter name" in caught.value.fix
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert make_folder(tmp_path / "a" / "b") == []


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[int, list[str]]] = []
    monkeypatch.setattr("os.fsync", lambda handle: flushed.append((os.fstat(handle).st_ino, names(tmp_path))))
    write_whole(tmp_path / "run.json", "{}")
    number = (tmp_path / "run.json").stat().st_ino
    assert flushed == [(number, [".unfinished-run.json"]), (tmp_path.stat().st_ino, ["run.json"])]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_place_is_tried_before_the_work(tmp_path: Path, kind: Literal["file", "folder"]) -> None:
    check_writable(tmp_path / "a" / "b", kind=kind)
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match=r"could not be written \((File exists|Not a directory)\)"):
        check_writable(tmp_path / "file" / "b", kind=kind)
    check_writable(tmp_path / "file", kind="file")
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"folder could not be written \(Is a directory\)"):
        check_writable(tmp_path / "folder", kind="file")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.csv", os.fsdecode(b"l\xe9sion\n"))
    assert read_whole(tmp_path / "a.csv") == b"l\xe9sion\n"
    with open_table(tmp_path / "a.csv") as file:
        assert file.read() == "l\udce9sion\n"
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "b.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("/dev/zero" if kind == "device" else "a")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(RunError, match="is not a regular file"):
        read_whole(path)
    with pytest.raises(RunError, match=r"not a regular file|could not be written"):
        append_line(path, "{}")


def test_reading_does_not_follow_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    for _ in range(2):
        with pytest.raises(RunError, match="symbolic link"):
            read_whole(tmp_path / "a")
        monkeypatch.setattr(files, "_refuse_link", lambda path: None)  # a link that comes between the look and the open
