"""How images get the size of networks: what new recipes say, and what those of older runs meant."""

from pathlib import Path

from medarts.config import Recipe, fingerprint, load, to_yaml
from medarts.config.reading import deciding_values
from medarts.config.yaml_text import read_yaml, write_yaml


def with_resize(recipe: Recipe, resize: str) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"resize": resize})})


def test_new_recipes_keep_the_aspect_ratio_and_those_of_older_runs_do_not(small_recipe: Recipe, tmp_path: Path) -> None:
    content = read_yaml(to_yaml(small_recipe))
    del content["data"]["resize"]
    path = tmp_path / "recipe.yaml"
    path.write_text(write_yaml(content), encoding="utf-8")
    assert load(path).data.resize == "fit"
    assert load(path, kept=True).data.resize == "squash"


def test_recipes_of_older_runs_keep_their_fingerprint(small_recipe: Recipe) -> None:
    stretched = with_resize(small_recipe, "squash")
    assert "resize" in read_yaml(to_yaml(stretched))["data"]
    assert fingerprint(stretched) != fingerprint(with_resize(small_recipe, "fit"))


def test_sources_of_older_runs_take_absent_mask_files_as_empty_masks(small_recipe: Recipe, tmp_path: Path) -> None:
    content = read_yaml(to_yaml(small_recipe))
    content["data"]["sources"] = [
        {"kind": "folder", "path": "x", "mask": f"masks/{part}{{name}}"} for part in ("", "{class}/")
    ]
    content["data"]["sources"][1]["name"] = "y"
    path = tmp_path / "recipe.yaml"
    path.write_text(write_yaml(content), encoding="utf-8")
    new, old = load(path), load(path, kept=True)
    assert [source.model_dump()["absent"] for recipe in (new, old) for source in recipe.data.sources] == [
        *2 * ["error"],
        *2 * ["empty"],
    ]
    decided = [deciding_values(recipe)["data"]["sources"] for recipe in (new, old)]
    assert [["absent" in source for source in sources] for sources in decided] == [[False, True], [False, False]]
