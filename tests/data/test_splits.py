"""splits.csv, splits by patient, and the halves of the search."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.data.manifest import Manifest, ReadingRules, Sample
from medarts.data.splits import (
    SplitRow,
    assign_splits,
    divided,
    group_columns,
    halve,
    is_doubtful,
    natural,
    random_rank,
    read_splits_csv,
)
from medarts.errors import DataError

names = st.text("abc0123456789", min_size=1, max_size=5)
fractions = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "splits.csv"
    path.write_text(text, encoding="utf-8")
    return path


def manifest(patients: dict[str, int], *, domain: str = "d") -> Manifest:
    """A manifest with so many training slices for every patient, "p/0" onwards."""
    samples = [
        Sample(f"{name}/{n}", Path("i"), Path("m"), name, domain, "train")
        for name, k in patients.items()
        for n in range(k)
    ]
    return Manifest(tuple(sorted(samples, key=lambda sample: sample.key)), {domain: ReadingRules()})


def test_rows_are_read_and_other_words_leave_out(tmp_path):
    table = read_splits_csv(csv_of(tmp_path, "id,split\na,train\nb,Val\nc,test\nd,gap\ne,\n"))
    assert [table.rows[key].split for key in "abcde"] == ["train", "val", "test", None, None]
    assert not table.grouped
    assert table.rows["a"].patient is None


@pytest.mark.parametrize("column", ["patient", "subject", "sequence", "lesion", "case"])
def test_group_columns_name_the_patient(tmp_path, column):
    table = read_splits_csv(csv_of(tmp_path, f"\ufeffid,{column},split\na,7,train\n"))
    assert table.grouped
    assert table.rows["a"].patient == "7"


@pytest.mark.parametrize("column", ["id", "image"])
def test_ids_may_be_names_of_files(tmp_path, column):
    table = read_splits_csv(csv_of(tmp_path, f"{column},split\na/b.1.png,train\nc.2,val\nd.nii.gz,test\n"))
    assert list(table.rows) == ["a/b.1", "c.2", "d"]
    with pytest.raises(DataError, match="the id 'a' twice"):
        read_splits_csv(csv_of(tmp_path, f"{column},split\na.png,train\na,test\n"))


def test_the_same_subject_of_two_sources_is_two_patients(tmp_path):
    table = read_splits_csv(csv_of(tmp_path, "id,source,subject,split\na,CHASE,1,train\nb,DRIVE,1,test\n"))
    assert [row.patient for row in table.rows.values()] == ["CHASE/1", "DRIVE/1"]


def test_a_row_may_stand_for_a_whole_volume(tmp_path):
    table = read_splits_csv(csv_of(tmp_path, "id,split\nCT/3,train\nCT/3/001,test\n"))
    assert table.row_of("CT/3/000").split == "train"
    assert table.row_of("CT/3/001").split == "test"
    assert table.row_of("CT/31/000") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column id and split"),
        ("id,part\na,train\n", "no column split"),
        ("id,split\n", "no rows"),
        ("id,split\na,train\na,test\n", "the id 'a' twice"),
        ("id,patient,split\na,,train\n", "id 'a' has no patient"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, text, problem):
    with pytest.raises(DataError, match=problem):
        read_splits_csv(csv_of(tmp_path, text))


def test_a_table_of_bytes_is_refused(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10")
    with pytest.raises(DataError, match="not a CSV file"):
        read_splits_csv(path)


def test_divided_patients_are_named():
    found = divided([("a", "train"), ("a", "test"), ("b", "val"), ("b", None), ("b", "val")])
    assert found == {"a": ("train", "test")}


@given(st.lists(names, max_size=60), fractions, st.integers(0, 9))
def test_assigned_splits_have_the_sizes_asked_for(groups, parts, seed):
    splits = assign_splits(groups, fractions=parts, seed=seed)
    assert set(splits) == set(groups)
    found = [sum(split == name for split in splits.values()) for name in ("val", "test")]
    if len(splits) < 3:
        assert found == [0, 0]
        return
    assert sum(found) < len(splits)
    for part, number in zip(parts, found, strict=True):
        assert (number > 0) == (part > 0)
        assert abs(number - part * len(splits)) <= 1


@given(st.lists(names, min_size=3, max_size=30), st.integers(0, 9), st.randoms(use_true_random=False))
def test_assigned_splits_do_not_depend_on_the_order(groups, seed, random):
    shuffled = random.sample(groups + groups[:2], len(groups) + 2)
    assert assign_splits(shuffled, fractions=(0.2, 0.2), seed=seed) == assign_splits(
        groups, fractions=(0.2, 0.2), seed=seed
    )


def test_another_seed_is_another_draw():
    groups = [str(n) for n in range(50)]
    draws = [assign_splits(groups, fractions=(0.2, 0.2), seed=seed) for seed in range(2)]
    assert draws[0] != draws[1]


@settings(max_examples=60)
@given(st.dictionaries(names, st.integers(1, 6), min_size=1, max_size=12), st.floats(0.05, 0.95), st.integers(0, 5))
def test_halves_are_a_partition_of_whole_patients(patients, portion, seed):
    whole = manifest(patients)
    if len(whole.samples) < 2:
        with pytest.raises(DataError, match="Domain d has 1 training images"):
            halve(whole, portion=portion, seed=seed)
        return
    first, second = halve(whole, portion=portion, seed=seed)
    assert sorted(s.key for s in first.samples + second.samples) == sorted(s.key for s in whole.samples)
    assert first.samples
    assert second.samples
    if len(patients) >= 4:
        mine = {s.patient for s in first.samples}
        assert mine.isdisjoint(s.patient for s in second.samples)
        assert abs(len(mine) - portion * len(patients)) <= 1


def test_few_patients_are_cut_once_in_natural_order():
    first, second = halve(manifest({"p": 12}), portion=0.5, seed=3)
    assert {s.key for s in first.samples} == {f"p/{n}" for n in range(6)}
    assert {s.key for s in second.samples} == {f"p/{n}" for n in range(6, 12)}


def test_halves_take_training_samples_of_every_domain():
    one, two = manifest({str(n): 1 for n in range(40)}), manifest({"x": 4}, domain="e")
    held_out = Sample("t", Path("i"), Path("m"), "t", "d", "test")
    both = Manifest((*one.samples, held_out, *two.samples), one.rules | two.rules)
    first, second = halve(both, portion=0.5, seed=0)
    assert [sum(s.domain == d for s in first.samples) for d in "de"] == [20, 2]
    assert held_out not in first.samples + second.samples
    assert first.rules == both.rules


def test_halves_depend_on_the_seed_alone():
    whole = manifest({str(n): 2 for n in range(20)})
    keys = [{s.key for s in halve(whole, portion=0.5, seed=seed)[0].samples} for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_natural_order_is_that_of_the_numbers(numbers):
    assert sorted((f"frame {n} b" for n in numbers), key=natural) == [f"frame {n} b" for n in sorted(numbers)]


@pytest.mark.parametrize(
    "column",
    [
        *("patient_id", "PatientID", "Patient ID", "patient-id", "PATIENT", "subject_id", "SubjectName", "lesion_id"),
        *("Case No", "video", "participant id", "person"),
    ],
)
def test_columns_under_usual_names_name_the_patient(tmp_path, column):
    table = read_splits_csv(csv_of(tmp_path, f"id,{column},split\na,7,train\nb,7,test\n"))
    assert table.grouped
    assert [row.patient for row in table.rows.values()] == ["7", "7"]
    assert table.unused == ()


def test_of_two_columns_that_group_the_coarser_counts():
    assert group_columns(["Lesion_ID", "x", "subject", "PatientID"]) == ("PatientID", "subject", "Lesion_ID")
    assert group_columns(["patient_age", "case_type", "sequence_length", "id", "source"]) == ()


@pytest.mark.parametrize(
    ("header", "unused"),
    [
        ("id,split,scan_id", ("scan_id",)),
        ("id,split,ScanID", ("ScanID",)),
        ("id,split,MRN", ("MRN",)),
        ("id,split,colour", ()),
        ("id,split,age", ()),
    ],
)
def test_identifiers_that_are_not_used_are_named(tmp_path, header, unused):
    table = read_splits_csv(csv_of(tmp_path, f"{header}\na,train,1\nb,test,1\nc,val,2\n"))
    assert table.unused == unused


def test_identifiers_that_divide_no_image_from_another_are_no_matter(tmp_path):
    alone = read_splits_csv(csv_of(tmp_path, "id,split,full_id\na,train,1\nb,test,2\n"))
    within = read_splits_csv(csv_of(tmp_path, "id,split,patient,scan_id\na,train,p,1\nb,train,p,1\nc,test,q,2\n"))
    across = read_splits_csv(csv_of(tmp_path, "id,split,patient,scan_id\na,train,p,1\nb,train,p,2\nc,test,q,2\n"))
    assert (alone.unused, within.unused, across.unused) == ((), (), ("scan_id",))


def test_columns_are_found_in_any_case(tmp_path):
    table = read_splits_csv(csv_of(tmp_path, "ID,Source,Subject,SPLIT\na,X,1,Train\n"))
    assert table.rows["a"] == SplitRow("train", "X/1", "Train")
    with pytest.raises(DataError, match="the column split twice"):
        read_splits_csv(csv_of(tmp_path, "id,split,Split\na,train,test\n"))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("0 1 2 0", r"'0', '1', '2' are not splits\. Write train, val or test"),
        ("trian trian gap", r"'trian' is not a split\."),
        ("gap none", r"leaves every image out\. Write train, val or test"),
        ("a b c d e", r"'a', 'b', 'c', 'd', \.\.\. are not splits"),
    ],
)
def test_a_table_without_a_split_names_its_words(tmp_path, words, problem):
    rows = "\n".join(f"{n},{word}" for n, word in enumerate(words.split()))
    with pytest.raises(DataError, match=rf"splits\.csv:? {problem}"):
        read_splits_csv(csv_of(tmp_path, f"id,split\n{rows}\n"))


def test_words_that_leave_out_on_purpose_are_not_doubtful():
    assert [word for word in ("gap", "None", " unused ", "train", "Testing") if is_doubtful(word)] == []
    assert [word for word in ("", "trian", "0", "hold") if not is_doubtful(word)] == []


def test_names_that_are_no_utf_8_are_drawn():
    odd = "l\udce9sion"
    splits = assign_splits([odd, "a", "b", "c"], fractions=(0.25, 0.25), seed=0)
    assert set(splits) == {odd, "a", "b", "c"}
    assert random_rank(3, "é") == random_rank(3, "é") != random_rank(4, "é")
