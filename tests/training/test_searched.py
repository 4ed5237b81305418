"""What the search of a genotype has seen of the patients it is tested on, wherever the genotype comes from."""

from dataclasses import replace
from pathlib import Path

from tests.training.test_training import changed, derived

from medarts import cli
from medarts.config import Recipe
from medarts.data.opening import open_manifest
from medarts.engine.directory import RunDirectory
from medarts.reporting.page import write_report
from medarts.spaces.genotype import load_genotype
from medarts.training.searched import SEEN, images_of_search, search_line
from medarts.training.trainer import start_training


def search_of(recipe: Recipe, out: Path) -> None:
    """Writes what a search of a recipe has in its folder, as far as a training asks for it."""
    manifest = open_manifest(recipe.data, needs=("train",))
    files = {"manifest.csv": manifest.to_csv(), "genotype.json": derived(recipe).to_json()}
    RunDirectory.create(out, recipe, kind="search", data_fingerprint=manifest.fingerprint(), files=files)


def test_tested_patients_of_the_search_are_counted_wherever_its_genotype_comes_from(
    small_recipe, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    recipe = changed(small_recipe, "data.size=16", "data.folds=2", "train.epochs=1", "evaluation.bootstrap=100")
    of_fold = {fold: changed(recipe, f"data.fold={fold}") for fold in (1, 2)}
    search_of(of_fold[1], Path("s"))
    genotype = load_genotype("s/genotype.json")
    assert genotype == load_genotype("s") == replace(genotype, origin=None)
    assert images_of_search(genotype) == images_of_search(load_genotype("s"))

    tested = {sample.patient for sample in open_manifest(of_fold[2].data, needs=("train",)).of_split("test").samples}
    other = start_training(of_fold[2], genotype, Path("t"))
    Path("s").rename("moved")
    again = start_training(of_fold[2], load_genotype("t"), Path("u"))  # of a training, whose search is gone
    assert other.facts[SEEN] == again.facts[SEEN] == len(tested)
    line = f"has seen {len(tested)} patients on whom it is tested"
    assert line in search_line(again)
    assert line in write_report(again.path).read_text(encoding="utf-8")
    cli.evaluate(again.path)
    assert line in " ".join(capsys.readouterr().out.split())
    cli.evaluate(again.path, split="val")
    assert line not in " ".join(capsys.readouterr().out.split())

    held_out = start_training(of_fold[1], load_genotype("moved"), Path("v"))  # the fold that the search has left out
    assert SEEN not in held_out.facts
    assert search_line(held_out) == ""
    assert images_of_search(replace(genotype, origin=None)) == frozenset()
