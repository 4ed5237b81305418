"""The doctor on the command line: what it prints, what it writes, and which folders it takes."""

import os

import pytest
from PIL import Image

from medarts.config import to_yaml


def empty_masks(folder, count: int = 4) -> None:
    for n in range(count):
        Image.new("L", (32, 32)).save(folder / "masks" / f"blob_{n:02d}.png")


def test_lists_what_its_lines_do_not_name(medarts, folder_data, small_recipe, tmp_path):
    assert medarts("doctor", folder_data)[0] == 0
    assert not (tmp_path / "runs").exists()
    empty_masks(folder_data)
    status, output, _ = medarts("doctor", folder_data)
    assert (status, output.splitlines()[-1]) == (0, "All findings: runs/doctor/blobs.csv")
    assert "The mask is empty (4): " in output
    assert "blob_02.png and 1 more. " in output
    assert "blob_03.png" not in output
    lines = (tmp_path / "runs/doctor/blobs.csv").read_text().splitlines()
    assert [f"blob_{n:02d}.png" in line for n, line in enumerate(lines[1:5])] == [True] * 4
    (tmp_path / "small.yaml").write_text(to_yaml(small_recipe))
    assert medarts("doctor", "small.yaml")[1].splitlines()[-1] == "All findings: runs/doctor/small.csv"
    assert medarts("doctor", folder_data, "--out", "own/all.csv")[1].splitlines()[-1] == "All findings: own/all.csv"
    assert (tmp_path / "own/all.csv").read_text() == (tmp_path / "runs/doctor/blobs.csv").read_text()


def test_images_of_several_cameras_are_noticed(medarts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "masks"):
        (tmp_path / "eyes" / folder).mkdir(parents=True)
        for n in range(12):
            size = (40, 36) if n < 5 else (48, 48)
            Image.new("L", size, 255 if folder == "images" else 0).save(tmp_path / f"eyes/{folder}/{n}.png")
            if folder == "masks":
                mask = Image.new("L", size)
                mask.paste(255, (0, 0, 24, 24))
                mask.save(tmp_path / f"eyes/masks/{n}.png")
    told = (
        "eyes: images are of 2 sizes, 48 x 48 (7) and 36 x 40 (5), perhaps of several cameras or centres. See that each"
    )
    assert told in medarts("doctor", "eyes")[1]
    assert told in medarts("init", "eyes", "--yes", "--no-plan")[1]
    for n in range(2, 5):
        for folder in ("images", "masks"):
            (tmp_path / f"eyes/{folder}/{n}.png").unlink()
    assert "several cameras" not in medarts("doctor", "eyes")[1], "two images are no group"


def test_asks_first_whether_its_file_can_be_written(medarts, folder_data, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("medarts.data.doctor.examine", lambda *_, **__: pytest.fail("worked before it asked"))
    status, output, errors = medarts("doctor", folder_data, "--out", "file/all.csv")
    assert (status, output) == (1, "")
    assert errors.startswith("medarts: file could not be written (File exists). Choose another path")


def test_says_all_it_can_where_its_file_cannot_be_written(medarts, folder_data, tmp_path):
    (tmp_path / "runs").touch()
    empty_masks(folder_data)
    status, output, errors = medarts("doctor", folder_data)
    assert status == 0
    assert "The mask is empty (4): " in output
    assert "runs/doctor could not be written (Not a directory)." in errors


@pytest.mark.parametrize("name", ["archive (1)", "a+b", "x=1", ".hidden", "[red]", "-data", "O'Brien", "#1"])
def test_takes_folders_of_any_name(medarts, folder_data, tmp_path, name):
    folder_data.rename(tmp_path / name)
    for words in ((f"./{name}",), ("--", name)):
        status, output, _ = medarts("doctor", *words)
        assert status == 0
        assert "0 errors, 0 warnings" in output


def test_prints_names_as_they_are(medarts, tmp_path):
    (tmp_path / "rays").mkdir()
    rows = ["image,patient,split,[/x],[red]Mass,:smile:\x1b[31m"]
    for n in range(4):
        Image.new("L", (8, 8)).save(tmp_path / f"rays/[b]{n}.png")
        rows.append(f"[b]{n}.png,p{n},train,0,{n % 2},1")
    (tmp_path / "rays/labels.csv").write_text("\n".join(rows))
    status, output, _ = medarts("doctor", "rays")
    assert status == 0
    for name in ("[/x]", "[red]Mass", ":smile:\\x1b[31m", "rays/[b]0.png"):
        assert name in output
    assert "\x1b[31m" not in output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_said_to_be_one(medarts, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    status, _, errors = medarts("doctor", "pipe")
    assert (status, errors) == (1, "medarts: pipe is not a regular file. Give a recipe in a file.\n")
