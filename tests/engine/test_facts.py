"""Digests of the files of a run: a change of a byte is noticed and named, and one on purpose is not refused."""

from pathlib import Path

import pytest

from medarts.config import Recipe
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError

JOURNALS = ("metrics.jsonl", "architecture.jsonl", "timing.jsonl")


@pytest.fixture
def run(tmp_path: Path, small_recipe: Recipe) -> RunDirectory:
    files = {"manifest.csv": "key,domain\na,b\n", "genotype.json": "{}\n"}
    run = RunDirectory.create(tmp_path / "run", small_recipe, kind="train", data_fingerprint="", files=files)
    for name in JOURNALS:
        run.append(name, {"epoch": 0, "value": 0.125})
    run.write_json("summary.json", {"best_score": 0.5})
    return run


@pytest.mark.parametrize("name", ["manifest.csv", "genotype.json", "summary.json", *JOURNALS])
def test_a_changed_byte_of_a_finished_run_is_named(run: RunDirectory, name: str) -> None:
    run.finish()
    run.check_files()
    content = bytearray((run.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} is damaged: it is not as the run wrote it. Copy the run again"):
        run.check_files()
    (run.path / name).unlink()
    with pytest.raises(RunError, match=rf"{name} is missing. Copy"):
        run.check_files()


def test_a_run_that_goes_on_may_write_its_journals_but_not_what_it_began_with(run: RunDirectory) -> None:
    run.append("metrics.jsonl", {"epoch": 1})
    run.check_files()
    (run.path / "manifest.csv").write_text("key,domain\nb,b\n")
    with pytest.raises(RunError, match=r"manifest.csv is damaged"):
        run.check_files()


def test_a_search_may_write_its_genotype_until_it_ends(tmp_path: Path, small_recipe: Recipe) -> None:
    run = RunDirectory.create(tmp_path / "run", small_recipe, kind="search", data_fingerprint="")
    for text in ("{}", "[]"):
        (run.path / "genotype.json").write_text(text)
        run.check_files()
    run.finish()
    (run.path / "genotype.json").write_text("{}")
    with pytest.raises(RunError, match=r"genotype.json is damaged"):
        run.check_files()
