"""CSV files: separators, encodings, headers, and what is no file."""

import os
import unicodedata
from pathlib import Path

import pytest

from medarts.data.tables import read_table
from medarts.errors import DataError


def table_of(folder: Path, content: bytes):
    path = folder / "a.csv"
    path.write_bytes(content)
    return read_table(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_tells_the_separator(tmp_path, separator):
    text = (
        separator.join(("id", '"split; of, all"', "x"))
        + "\n"
        + separator.join(("a", "0,5;1" if separator == "\t" else "v", "2"))
    )
    table = table_of(tmp_path, text.encode())
    assert table.columns == ("id", "split; of, all", "x")
    assert [table.cells[column][0] for column in ("id", "x")] == ["a", "2"]
    assert not table.overlong


def test_a_single_column_has_no_separator(tmp_path):
    assert table_of(tmp_path, b"id\na b\n").cells == {"id": ["a b"]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    table = table_of(tmp_path, (mark + "id,Épanchement\r\nlésion,1\r\n").encode(encoding))
    assert table.columns == ("id", "Épanchement")
    assert table.cells["id"] == ["lésion"]


@pytest.mark.parametrize(
    "content", ["id,Épanchement\na,1\n".encode("cp1252"), b"\xff\xfea", b"\xff\xd8\xff\xe0\x00\x10"]
)
def test_other_encodings_are_refused_with_what_to_do(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.csv is not a CSV file in UTF-8: .* Save it again as UTF-8"):
        table_of(tmp_path, content)


def test_names_are_composed(tmp_path):
    decomposed = unicodedata.normalize("NFD", "id,lésion\né,1\n")
    table = table_of(tmp_path, decomposed.encode())
    assert table.columns == ("id", "lésion")
    assert table.cells["id"] == ["é"]


def test_rows_of_empty_cells_are_blank(tmp_path):
    table = table_of(tmp_path, b"id,x\na,1\n,\n\nb,\n")
    assert table.cells == {"id": ["a", "b"], "x": ["1", ""]}
    assert table.lines == [2, 5]


def test_columns_are_found_in_any_case_and_once(tmp_path):
    table = table_of(tmp_path, b"ID,Split,SPLIT\na,train,test\n")
    assert table.column("image", "id") == "ID"
    assert table.column("image") is None
    with pytest.raises(DataError, match="the column split twice"):
        table.column("split")


def test_a_missing_column_is_named_beside_those_that_there_are(tmp_path):
    with pytest.raises(DataError, match=r"no column split; its columns are id, fold\. Add it"):
        table_of(tmp_path, b"id,fold\na,1\n").require(("id", "split"), fix="Add it.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv is not a regular file"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(DataError, match="not a regular file"):
        read_table(tmp_path)
