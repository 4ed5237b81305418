"""At which size masks are scored: what new recipes say, and what those of older runs meant."""

from pathlib import Path

from medarts.config import Recipe, apply_overrides, fingerprint, load, parse, to_yaml
from medarts.config.reading import deciding_values
from medarts.config.yaml_text import read_yaml, write_yaml


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def test_new_recipes_score_files_and_those_of_older_runs_do_not(small_recipe: Recipe, tmp_path: Path) -> None:
    content = read_yaml(to_yaml(small_recipe))
    for name in ("resolution", "tolerance_mm", "tolerance_px"):
        del content["evaluation"][name]
    path = tmp_path / "recipe.yaml"
    path.write_text(write_yaml(content), encoding="utf-8")
    assert load(path).evaluation.resolution == "file"
    assert load(path, kept=True).evaluation.resolution == "network"
    without = {key: value for key, value in content.items() if key != "evaluation"}
    path.write_text(write_yaml(without), encoding="utf-8")
    assert load(path, kept=True).evaluation.resolution == "network"


def test_what_came_later_takes_no_part_in_the_fingerprint_of_older_recipes(small_recipe: Recipe) -> None:
    older = changed(small_recipe, "evaluation.resolution=network")
    assert deciding_values(older)["evaluation"].keys() == {"batch", "threshold", "bootstrap", "sensitivity"}
    assert fingerprint(older) != fingerprint(small_recipe)
    assert fingerprint(changed(older, "evaluation.tolerance_mm=1")) != fingerprint(older)
