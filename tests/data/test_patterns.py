"""Patterns of paths: how names are read, and which patterns are refused."""

import pytest
from pydantic import TypeAdapter, ValidationError

from medarts.config.patterns import FilePattern, PatientPattern
from medarts.data.patients import patients_in
from medarts.data.patterns import PathPattern


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("images/{name}", "Images/a_1", {"name": "a_1"}),
        ("{split}/images/{name}", "Validation/images/x", {"split": "Validation", "name": "x"}),
        (
            "images{split}/{name}_{channel}",
            "imagesTr/BRATS_001_0003",
            {"split": "Tr", "name": "BRATS_001", "channel": "0003"},
        ),
        ("{patient}_{n}", "anna_lee_007", {"patient": "anna_lee", "n": "007"}),
        ("{patient}_*", "p7_left_eye", {"patient": "p7"}),
        ("{patient}/{name}", "7/slice_3", {"patient": "7", "name": "slice_3"}),
        ("sub-{patient}/**/sub-{patient}_{name}", "sub-01/ses-1/anat/sub-01_T1w", {"patient": "01", "name": "T1w"}),
        ("**/{name}_seg", "a_seg", {"name": "a"}),
    ],
)
def test_names_are_read_in_the_usual_way_first(pattern, path, values):
    assert next(PathPattern(pattern).readings(path)) == values


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{split}/{name}", "images/x"),
        ("{patient}_{n}", "p_7b"),
        ("sub-{patient}/sub-{patient}", "sub-1/sub-2"),
        ("images/{name}", "images/deeper/x"),
        ("images/*", "images/deeper/x"),
    ],
)
def test_other_paths_do_not_fit(pattern, path):
    assert list(PathPattern(pattern).readings(path)) == []


def test_every_reading_of_a_class_is_offered():
    readings = list(PathPattern("{name}_{class}").readings("a_left_kidney"))
    assert {"name": "a", "class": "left_kidney"} in readings
    assert {"name": "a_left", "class": "kidney"} in readings


@pytest.mark.parametrize(
    ("name", "patient", "side"),
    [("chase_01L", "chase_01", "L"), ("drive_02", "drive_02", ""), ("7left", "7", "left"), ("7_OD", "7_", "OD")],
)
def test_a_side_may_be_missing(name, patient, side):
    assert next(PathPattern("{patient}{side}").readings(name)) == {"patient": patient, "side": side}


def test_few_patients_with_several_images_are_patients_where_these_are_counted():
    counted = [f"{patient:08d}_{n:03d}" for patient in range(30) for n in range(1 + (patient % 6 == 0))]
    assert patients_in(counted).text == "'{patient}_{n}' gives 30 patients of 35 images, such as '00000000'"
    assert patients_in([name.replace("_000", "_007") for name in counted]) is None  # these may be anything
    assert patients_in([f"scan_{n}" for n in range(30)]) is None


def test_images_of_both_sides_are_of_one_patient_where_numbers_say_so():
    eyes = [f"chase_{n:02d}{side}" for n in range(1, 5) for side in "LR"] + [f"drive_{n:02d}" for n in range(1, 20)]
    found = patients_in(eyes)
    assert (found.pattern, found.patients, found.images) == ("{patient}{side}", 23, 27)
    assert patients_in([f"{n}_{side}" for n in range(4) for side in ("OD", "OS")]).pattern == "{patient}_{side}"
    assert patients_in([f"{word}{n}" for word in ("vessel", "liver", "cell") for n in "ab"]) is None
    assert patients_in([f"{n}{mark}" for n in range(9) for mark in "LX"]) is None


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("/images/{name}", "not a path from the folder"),
        ("../{name}", "not a path from the folder"),
        ("images/{nme}", "'{nme}' .*is not a field; there are {split}, {patient}"),
        ("images/{name", "bracket that is not closed"),
        ("{patient}{name}", "nothing between them"),
        ("images/*", "names no image"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, problem):
    with pytest.raises(ValidationError, match=problem):
        TypeAdapter(FilePattern).validate_python(pattern)


@pytest.mark.parametrize(
    ("pattern", "problem"), [("{name}_{n}", r"no pattern with \{patient\}"), ("/{patient}/*", "not a path")]
)
def test_a_pattern_of_patients_names_them(pattern, problem):
    with pytest.raises(ValidationError, match=problem):
        TypeAdapter(PatientPattern).validate_python(pattern)
