"""Keys of recipes in the terminal and for editors."""

from typing import Any

import pytest

from medarts.config import Recipe, parse
from medarts.config.reference import keys_of, schema_of_recipes
from medarts.errors import RecipeError


def test_a_key_is_told_with_type_range_default_and_meaning():
    (key,) = keys_of("data.size")
    assert (key.kind, key.default) == ("integer ≥ 16, ≤ 4096", "256")
    assert "pixels" in key.meaning


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data.sources.folder.labels", "data.sources.folder.labels"),
        ("data.sources.0.folder.mask", "data.sources.folder.mask"),
        ("search.stages.0.epochs", "search.stages.epochs"),
        ("train.model.unet.width", "train.model.unet.width"),
    ],
)
def test_members_and_items_are_reached_by_name(path, expected):
    assert [key.path for key in keys_of(path)] == [expected]


def test_sections_list_their_keys_and_choices_their_members():
    assert {key.path for key in keys_of()} == set(Recipe.model_fields)
    assert {"data.sources.folder", "data.sources.coco"} <= {key.path for key in keys_of("data.sources")}
    assert {"search.stages.epochs", "search.stages.batch"} <= {key.path for key in keys_of("search.stages")}


@pytest.mark.parametrize(("path", "fix"), [("data.sise", "Did you mean 'size'"), ("data.sources.foldr", "'folder'")])
def test_an_unknown_key_names_the_nearest(path, fix):
    with pytest.raises(RecipeError, match=fix):
        keys_of(path)


def problems(schema: dict[str, Any], content: Any, definitions: dict[str, Any]) -> list[str]:
    """Checks what the schema says of keys: a small part of JSON schema, enough for sections."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema or "oneOf" in schema:
        found = [problems(each, content, definitions) for each in schema.get("anyOf", schema.get("oneOf", []))]
        return [] if any(not each for each in found) else min(found, key=len)
    if isinstance(content, dict) and schema.get("type") == "object" and "properties" in schema:
        wrong = [key for key in content if key not in schema["properties"]]
        wrong += [key for key in schema.get("required", ()) if key not in content]
        for key in content.keys() - set(wrong):
            wrong += problems(schema["properties"][key], content[key], definitions)
        return wrong
    if isinstance(content, list) and schema.get("type") == "array":
        return [each for item in content for each in problems(schema.get("items", {}), item, definitions)]
    kinds = {"object": dict, "array": list, "string": str, "null": type(None)}
    wanted = kinds.get(schema.get("type", ""))
    known = schema.get("enum", [schema["const"]] if "const" in schema else [content])
    return [] if (wanted is None or isinstance(content, wanted)) and content in known else [str(content)]


def test_the_schema_accepts_whole_recipes_and_refuses_wrong_keys():
    schema = schema_of_recipes()
    source = {"kind": "folder", "path": "x", "labels": {"1": 1, "2": 2}, "mask": "labels/{name}"}
    content = {"data": {"sources": [source], "classes": 3}, "train": {"loss": "ce_dice"}}
    whole = parse(content).model_dump(mode="json")
    assert problems(schema, content, schema["$defs"]) == []
    assert problems(schema, whole, schema["$defs"]) == []
    assert problems(schema, content | {"trian": {}}, schema["$defs"]) == ["trian"]
    source = source | {"msk": "x"}
    assert problems(schema, {"data": {"sources": [source]}}, schema["$defs"]) != []
