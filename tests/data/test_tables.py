"""CSV files: separators, encodings, headers, and what is not a file."""

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


@pytest.mark.parametrize("first", ["sep=;", "SEP=;\r", '"sep=;"', "sep=;;"])
def test_a_first_line_may_name_the_separator(tmp_path, first):
    table = table_of(tmp_path, f"\ufeff{first}\nid;a, b, c\nx;1,5\ny;2;3\n".encode())
    assert table.cells == {"id": ["x", "y"], "a, b, c": ["1,5", "2"]}
    assert (table.lines, table.overlong) == ([3, 4], {4})


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path, encoding):
    with pytest.raises(DataError, match=r"a\.csv is in UTF-16 without a byte order mark.*Save it again as UTF-8"):
        table_of(tmp_path, "id,split\na,train\n".encode(encoding))


def test_a_byte_order_mark_may_stand_twice(tmp_path):
    assert table_of(tmp_path, "\ufeff\ufeffid,x\na,1\n".encode()).columns == ("id", "x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id,x\na,1\nb,"2\nc,3\n', 3),
        ('id,x\na,1\nb,"2\n' + "c,3\n" * 50_000, 3),
        ('id,"x\na,1\n', 1),
        ('id,x\n"a,1\nb,2\n"c",3\n', 2),
        ('sep=,\nid,x\n"a\nb",2\n"c,3\n', 5),
    ],
)
def test_an_open_quote_is_named_by_its_line(tmp_path, text, line):
    with pytest.raises(DataError, match=rf"a\.csv has a quote that is not closed, .* from line {line} on\.") as caught:
        table_of(tmp_path, text.encode())
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_quoted_cells_may_hold_quotes_and_lines(tmp_path):
    table = table_of(tmp_path, b'id,x\na,"1 ""or""\n2"\nb,3\n')
    assert (table.cells["x"], table.lines) == (['1 "or"\n2', "3"], [3, 4])


def test_a_nul_character_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv has a NUL character in line 3\. Remove it"):
        table_of(tmp_path, b"id,x\na,1\nb,\x002\n")
