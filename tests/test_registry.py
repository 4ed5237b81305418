"""Registries: names, settings by name, and sections of recipes that are chosen from them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError, model_validator

from medarts.config.explaining import explain
from medarts.errors import RecipeError
from medarts.registry import Choice, Registry, Section, Settings


class Blur(Settings):
    """A blur.

    Attributes:
        width: in pixels.
    """

    width: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _odd(self) -> "Blur":
        if self.width % 2 == 0:
            raise ValueError("width must be odd")
        return self


filters: Registry[Any] = Registry("filter")
filters.register("blur", settings=Blur, task="masks")(len)
filters.register("none")(abs)


class Pipeline(Section):
    """A recipe."""

    first: Annotated[Settings, Choice(filters)] = Blur(name="blur")
    others: tuple[Annotated[Settings, Choice(filters)], ...] = ()
    last: Annotated[Settings, Choice(filters)] | None = None


def test_only_names_are_in_a_registry() -> None:
    assert "blur" in filters
    assert "sharpen" not in filters
    assert Blur() not in filters
    assert {"name": "blur"} not in filters


def places(content: dict[str, Any]) -> list[tuple[Any, ...]]:
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate(content)
    return [(item["type"], *item["loc"]) for item in caught.value.errors()]


def test_a_section_is_checked_by_the_settings_of_its_name() -> None:
    pipeline = Pipeline.model_validate({"first": {"name": "blur", "width": 5}, "others": ["none", {"name": "blur"}]})
    assert isinstance(pipeline.first, Blur)
    assert pipeline.first.width == 5
    assert pipeline.model_dump(mode="json") == {
        "first": {"name": "blur", "width": 5},
        "others": [{"name": "none"}, {"name": "blur", "width": 3}],
        "last": None,
    }
    assert Pipeline.model_validate(pipeline.model_dump(mode="json")) == pipeline
    assert "width" not in pipeline.model_dump(mode="json", exclude={"first": {"width"}})["first"]


def test_mistakes_are_placed_behind_the_name() -> None:
    assert places({"first": {"name": "blur", "width": 0}}) == [("greater_than_equal", "first", "blur", "width")]
    assert places({"last": {"name": "blur", "size": 3}}) == [("extra_forbidden", "last", "blur", "size")]
    assert places({"others": [{"name": "blur", "width": 2}]}) == [("value_error", "others", 0, "blur")]
    assert places({"first": {"width": 3}}) == [("unnamed_choice", "first")]
    assert places({"first": "blurr"}) == [("unknown_choice", "first")]
    assert places({"first": 3})[0][0] in ("model_type", "model_attributes_type")


@pytest.mark.parametrize(
    ("content", "explained"),
    [
        (
            {"first": {"name": "blur", "width": 0}},
            "first.width: Input should be greater than or equal to 1 (given: 0).",
        ),
        ({"last": {"name": "blur", "widht": 3}}, "last.widht is not a key of a pipeline. Did you mean 'width'?"),
        ({"others": ["none", {"name": "blur", "width": 2}]}, "others.1: width must be odd."),
        ({"first": {"width": 3}}, "first.name is missing. Add it."),
        ({"last": "blurr"}, "last.name cannot be 'blurr'. Did you mean 'blur'?"),
    ],
)
def test_mistakes_are_explained(content: dict[str, Any], explained: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate(content)
    assert explain(caught.value, Pipeline, noun="pipeline") == explained


def test_names_of_a_task() -> None:
    assert filters.names() == ("blur", "none")
    assert filters.names(task="masks") == ("blur",)
    assert "blur" in filters
    with pytest.raises(RecipeError, match=r"option --filter: there is no filter 'blurr'\. Did you mean 'blur'\?"):
        filters.get("blurr", where="option --filter")


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="there is a filter 'blur' already"):
        filters.register("blur")(sorted)
    filters.register("none")(abs)  # the same again, as from a notebook


def test_files_of_a_package_register_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_filters"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from medarts.registry import Registry\nfilters = Registry('filter', package='my_filters')\n"
    )
    (package / "sharpen.py").write_text("from my_filters import filters\nfilters.register('sharpen')(len)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_filters  # type: ignore[import-not-found]

    assert "my_filters.sharpen" not in sys.modules
    assert my_filters.filters.names() == ("sharpen",)


def test_a_broken_entry_point_is_named_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        value = "broken.module"

        def load(self) -> None:
            raise ImportError("no such library")

    monkeypatch.setattr("medarts.registry.entry_points", lambda group: [Point()] * (group == "medarts.broken"))
    registry: Registry[Any] = Registry("filter", group="medarts.broken")
    registry.register("one")(len)
    with pytest.warns(UserWarning, match=r"broken\.module cannot be imported .*its filter is missing"):
        assert registry.names() == ("one",)


def _package(folder: Path, name: str, member: str) -> None:
    (folder / name).mkdir()
    text = f"from medarts.registry import Registry\nmembers = Registry('{name}', package='{name}')\n"
    (folder / name / "__init__.py").write_text(text)
    (folder / name / "member.py").write_text(f"from {name} import members\n{member}\n")


def test_a_name_of_a_built_in_member_is_refused_before_the_first_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, "own_colours", "def red() -> None: ...\nmembers.register('red')(red)")
    monkeypatch.syspath_prepend(tmp_path)
    import own_colours  # type: ignore[import-not-found]

    with pytest.raises(ValueError, match=r"'red' already, own_colours\.member\.red"):
        own_colours.members.register("red")(len)
    own_colours.members.register("blue")(len)
    assert own_colours.members.names() == ("red", "blue")


def test_a_registry_that_could_not_be_loaded_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "own_shapes", "raise OSError('the disk is away')")
    monkeypatch.syspath_prepend(tmp_path)
    import own_shapes  # type: ignore[import-not-found]

    for _ in range(2):
        with pytest.raises(OSError, match="the disk is away"):
            own_shapes.members.names()
    (tmp_path / "own_shapes" / "member.py").write_text(
        "from own_shapes import members\nmembers.register('square')(len)  # it is back\n"
    )
    assert own_shapes.members.names() == ("square",)


def test_an_entry_point_may_register_members_of_other_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    first: Registry[Any] = Registry("first", group="medarts.first")
    second: Registry[Any] = Registry("second", group="medarts.second")

    class Point:
        value = "both"

        def load(self) -> None:
            first.register("one")(len)
            second.register("two")(len)

    monkeypatch.setattr("medarts.registry.entry_points", lambda group: [Point()] * (group == "medarts.first"))
    assert second.names() == ("two",)
    assert first.names() == ("one",)
