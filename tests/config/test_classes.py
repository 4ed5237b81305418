"""Classes of a segmentation by name or number."""

from pathlib import Path
from typing import Any

import pytest

from medarts.config import DataSettings, make_source, parse
from medarts.config.reading import fingerprint
from medarts.errors import RecipeError


def settings(**given: Any) -> DataSettings:
    return DataSettings(sources=(make_source(kind="folder", path=Path("x")),), **given)


@pytest.mark.parametrize(
    ("classes", "names", "outputs"),
    [
        (1, ("foreground",), 1),
        (3, ("class 1", "class 2"), 3),
        (("liver",), ("liver",), 1),
        (("liver", "tumour"), ("liver", "tumour"), 3),
    ],
)
def test_classes_have_names_and_outputs(classes: Any, names: tuple[str, ...], outputs: int) -> None:
    data = settings(classes=classes)
    assert (data.class_names, data.outputs) == (names, outputs)


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        ([], "at least 1"),
        (["a", "A"], "name a class twice"),
        (["background", "a"], "no class can be called 'background'"),
        (["ignore"], "no class can be called 'ignore'"),
        ([" "], "no name of a class"),
        (["a\nb"], "no name of a class"),
        (0, "greater than or equal to 1"),
        ("liver", "valid integer"),
        (True, "valid integer"),
    ],
)
def test_other_classes_are_refused_in_one_line(classes: Any, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse({"data": {"sources": [{"kind": "folder", "path": "x"}], "classes": classes}})
    assert word in caught.value.problem
    assert caught.value.problem.count("data.classes") == 1


def test_outputs_are_the_same_where_classes_do_not_differ_by_name() -> None:
    named, numbered = settings(classes=("liver", "tumour")), settings(classes=3)
    assert named.has_outputs_of(numbered)
    assert named.has_outputs_of(named)
    assert not named.has_outputs_of(settings(classes=("tumour", "liver")))
    assert not named.has_outputs_of(settings(classes=2))


def test_names_survive_writing_and_decide_a_run() -> None:
    def of(classes: Any) -> Any:
        return parse({"data": {"sources": [{"kind": "folder", "path": "x"}], "classes": classes}})

    again = parse(of(["liver", "tumour"]).model_dump(mode="json"))
    assert again.data.classes == ("liver", "tumour")
    assert fingerprint(of(["liver", "tumour"])) != fingerprint(of(["tumour", "liver"]))
