"""Lists of paths: columns under usual names, splits, files that are not where the list says."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.data.layouts_of_tests import CASES, LAYOUTS

from medarts.config import make_source
from medarts.data.choosing import choose_sources
from medarts.data.opening import open_sources, survey
from medarts.data.recognising import recognise
from medarts.data.sources import AmbiguousLayoutError
from medarts.errors import DataError


def opened(path: Path, **settings):
    return open_sources([make_source("list", path, **settings)]).samples


@pytest.mark.parametrize(
    ("layout", "table", "grouped"), [("csv_list", "index.csv", True), ("json_list", "datalist.json", False)]
)
def test_lists_are_recognised_with_their_splits_and_patients(tmp_path, layout, table, grouped):
    LAYOUTS[layout](tmp_path)
    (source,) = recognise(tmp_path)
    assert (source.kind, source.model_dump()["table"]) == ("list", table)
    found = survey(source)
    assert found.faults == ()
    assert Counter(sample.split for sample in found.manifest.samples) == {"train": 8, "val": 2, "test": 2}
    assert len({sample.patient for sample in found.manifest.samples}) == (6 if grouped else len(CASES))
    assert choose_sources([str(tmp_path / table)]) == (source,)


def files(root: Path, count: int = 4) -> Path:
    for n in range(count):
        for name in (f"scans/{n}.png", f"drawn/{n}.png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return root


def write(path: Path, header: str, *rows: str) -> None:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


def test_columns_of_any_name_can_be_given(tmp_path):
    write(files(tmp_path) / "t.csv", "a;b;who", *(f"scans/{n}.png;drawn/{n}.png;{n // 2}" for n in range(4)))
    with pytest.raises(DataError, match=r"no column of the images; its columns are a, b, who\. Name it in image"):
        opened(tmp_path, table="t.csv")
    samples = opened(tmp_path, table="t.csv", image="a", mask="b", patient="who")
    assert [(sample.key, sample.patient) for sample in samples] == [(f"scans/{n}", str(n // 2)) for n in range(4)]
    with pytest.raises(DataError, match=r"no column c"):
        opened(tmp_path, table="t.csv", image="c", mask="b")


def test_a_list_for_each_split(tmp_path):
    files(tmp_path)
    for word, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        write(tmp_path / f"{word}.csv", "image,mask", *(f"scans/{n}.png,drawn/{n}.png" for n in numbers))
    (source,) = recognise(tmp_path)
    assert source.model_dump()["table"] == "{split}.csv"
    assert Counter(sample.split for sample in open_sources([source]).samples) == {"train": 2, "val": 1, "test": 1}


def test_paths_of_another_machine_are_found_by_their_names(tmp_path):
    rows = (f"C:\\data\\scans\\{n}.png,/home/x/drawn/{n}.png" for n in range(4))
    write(files(tmp_path) / "t.csv", "image,mask", *rows)
    samples = opened(tmp_path, table="t.csv")
    assert [(sample.image.parent.name, sample.mask.parent.name) for sample in samples] == [("scans", "drawn")] * 4


def test_what_is_wrong_with_entries_is_told(tmp_path):
    rows = ["scans/0.png,drawn/0.png", "scans/0.png,drawn/1.png", "scans/2.png,", "scans/9.png,drawn/3.png"]
    write(files(tmp_path) / "t.csv", "image,mask", *rows)
    found = survey(make_source("list", tmp_path, table="t.csv"))
    assert [(fault.problem, fault.detail) for fault in found.faults] == [
        ("image named twice", "scans/0"),
        ("entry without mask", "scans/2.png"),
        ("entry whose file is not there", "scans/9.png"),
    ]


def test_the_training_entries_of_a_challenge_are_divided(tmp_path):
    entries = [{"image": f"./scans/{n}.png", "label": f"./drawn/{n}.png"} for n in range(4)]
    content = {"training": entries, "test": ["./scans/9.png"]}
    (files(tmp_path) / "d.json").write_text(json.dumps(content))
    assert {sample.split for sample in opened(tmp_path, table="d.json")} == {"train", "val", "test"}
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(DataError, match=r"d\.json is not valid JSON"):
        opened(tmp_path, table="d.json")


def paths(numbers: range) -> list[str]:
    return [f"scans/{n}.png,drawn/{n}.png" for n in numbers]


def test_folds_of_another_tool_are_no_splits(tmp_path):
    write(files(tmp_path) / "t.csv", "image,mask,fold", *(f"{pair},{n}" for n, pair in enumerate(paths(range(4)))))
    assert len(opened(tmp_path, table="t.csv")) == 4
    entries = [{"image": f"scans/{n}.png", "label": f"drawn/{n}.png", "fold": n % 2} for n in range(4)]
    (tmp_path / "t.json").write_text(json.dumps({"training": entries}), encoding="utf-8")
    assert len(opened(tmp_path, table="t.json")) == 4


def test_a_column_without_splits_is_not_that_of_the_splits(tmp_path):
    write(files(tmp_path) / "t.csv", "image,mask,set", *(f"{pair},hospital" for pair in paths(range(4))))
    assert len(opened(tmp_path, table="t.csv")) == 4
    with pytest.raises(DataError, match=r"'hospital' is not a split\. Write train, val or test in the column set\."):
        opened(tmp_path, table="t.csv", split="set")


@pytest.mark.parametrize("name", ["patient", "split"])
def test_a_column_that_the_list_lacks_is_refused(tmp_path, name):
    write(files(tmp_path) / "t.csv", "image,mask,patient", *(f"{pair},p" for pair in paths(range(4))))
    with pytest.raises(DataError, match="has no column pateint; its columns are image, mask, patient"):
        opened(tmp_path, table="t.csv", **{name: "pateint"})


def test_several_lists_are_a_choice_only_where_folders_say_nothing(tmp_path):
    root = files(tmp_path)
    for name in ("first.csv", "second.csv"):
        write(root / name, "image,mask", *(f"scans/{n}.png,drawn/{'abcd'[n]}.png" for n in range(4)))
    for n in range(4):
        (root / f"drawn/{n}.png").rename(root / f"drawn/{'abcd'[n]}.png")
    with pytest.raises(AmbiguousLayoutError) as raised:
        recognise(root)
    assert raised.value.told == ("the list first.csv", "the list second.csv")
    assert [source.model_dump()["table"] for (source,) in raised.value.choices] == ["first.csv", "second.csv"]
    with pytest.raises(DataError, match="no known layout for classification"):
        recognise(root, task="classification")
    for name in ("images/0.png", "masks/0.png"):
        (root / name).parent.mkdir()
        (root / name).touch()
    assert [source.kind for source in recognise(root)] == ["folder"]
