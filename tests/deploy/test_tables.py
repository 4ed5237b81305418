"""The tables of a prediction: their rows, and what is left of them after a kill or on a full disk."""

import csv
import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.deploy.engines_of_tests import findings_info, masks_info

from medarts.deploy.tables import ERRORS, FINDINGS, MASKS, PREDICTIONS, Journal, finding_rows, mask_rows, write_errors
from medarts.errors import MedartsError

UNKNOWN = (None, None, None)
ROWS = [("", "a", "3", "", ""), ("", "b", "4", "", "")]


def journal_of(folder: Path, *images: str) -> Journal:
    journal = Journal(folder, MASKS)
    journal.recover(lambda _: 2)
    with journal:
        for image in images:
            journal.append(image, Path("/x", f"{image}.png"), ROWS)
    return journal


def read(folder: Path) -> list[list[str]]:
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_an_image_has_a_row_for_each_class_in_pixels_and_mm2() -> None:
    info = masks_info(outputs=("background", "a", "b"))
    counts = [np.array([10, 0])]
    assert mask_rows(counts, info, UNKNOWN) == [("", "a", "10", "", ""), ("", "b", "0", "", "")]
    assert mask_rows(counts, info, (0.5, 2.0, None))[0] == ("", "a", "10", "10", "")


def test_a_volume_has_a_row_for_each_slice_and_one_for_all() -> None:
    counts = [np.array([10]), np.array([2])]
    assert mask_rows(counts, masks_info(), (0.5, 0.5, 3.0)) == [
        ("0", "foreground", "10", "2.5", ""),
        ("1", "foreground", "2", "0.5", ""),
        ("", "foreground", "12", "", "9"),
    ]
    assert mask_rows(counts, masks_info(), (0.5, 0.5, None))[-1] == ("", "foreground", "12", "", "")


def test_findings_have_their_probability_the_calibrated_one_and_the_decision() -> None:
    outputs = {
        "probabilities": np.array([0.25, 0.75], np.float32),
        "calibrated": np.array([0.3, 0.6], np.float32),
        "decisions": np.array([0, 1], np.uint8),
    }
    assert finding_rows([outputs], findings_info()) == [
        ("", "Mass", "0.25", "0.3", "0"),
        ("", "Nodule", "0.75", "0.6", "1"),
    ]
    assert [row[0] for row in finding_rows([outputs, outputs], findings_info())] == ["0", "0", "1", "1"]


def test_images_that_are_whole_are_kept_whatever_their_names(tmp_path: Path) -> None:
    odd = 'a,"b"\nc\udcff'
    journal = journal_of(tmp_path, "first", odd)
    before = (tmp_path / PREDICTIONS).read_bytes()
    assert journal.recover(lambda _: 2) == {"first": "/x/first.png", odd: f"/x/{odd}.png"}
    assert (tmp_path / PREDICTIONS).read_bytes() == before


def test_wherever_the_table_is_cut_only_the_last_image_is_lost(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "first")
    one = (tmp_path / PREDICTIONS).read_bytes()
    journal_of(tmp_path, 'sec,"o"nd')
    whole = (tmp_path / PREDICTIONS).read_bytes()
    for length in range(len(one), len(whole)):
        (tmp_path / PREDICTIONS).write_bytes(whole[:length])
        assert set(journal.recover(lambda _: 2)) == {"first"}, length
        assert (tmp_path / PREDICTIONS).read_bytes() == one
    for length in range(len(one)):
        (tmp_path / PREDICTIONS).write_bytes(one[:length])
        assert journal.recover(lambda _: 2) == {}, length
        assert read(tmp_path) == [list(MASKS)]


def test_an_image_that_is_not_known_any_more_is_lost_only_if_it_is_the_last(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "first", "second")
    assert set(journal.recover(lambda _: None)) == {"first"}


def test_a_table_of_another_task_is_refused(tmp_path: Path) -> None:
    journal_of(tmp_path, "first")
    with pytest.raises(MedartsError, match=r"other columns.*--force"):
        Journal(tmp_path, FINDINGS).recover(lambda _: 2)


class FullDisk(io.FileIO):
    """Takes some bytes, and then no more."""

    room = 20

    def write(self, content: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken, self.room = content[: self.room], max(0, self.room - len(content))
        return super().write(taken)


def test_on_a_full_disk_no_part_of_a_row_is_left(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "first")
    before = (tmp_path / PREDICTIONS).read_bytes()
    with journal:
        journal._file = FullDisk(tmp_path / PREDICTIONS, "ab")
        with pytest.raises(MedartsError, match=r"predictions\.csv.*No space left on device.*Make room on the disk"):
            journal.append("second", Path("/x/second.png"), ROWS)
    assert (tmp_path / PREDICTIONS).read_bytes() == before


def test_errors_of_an_earlier_call_do_not_stay(tmp_path: Path) -> None:
    write_errors(tmp_path, [("a.png", "a.png is bad, very.")])
    assert (tmp_path / ERRORS).read_text() == 'file,error\na.png,"a.png is bad, very."\n'
    write_errors(tmp_path, [])
    assert not (tmp_path / ERRORS).exists()
