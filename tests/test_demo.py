from pathlib import Path

import pytest

from medarts import demo as demo_module
from medarts.config import Recipe, Task, apply_overrides, parse
from medarts.data.synthetic.chest import FINDINGS
from medarts.demo import demo, demo_recipe
from medarts.engine.directory import RunDirectory
from medarts.evaluation.summary import MEAN_OF_FINDINGS

SHORT = (
    "data.size=32",
    "search.stages.0.epochs=1",
    "search.arch_after=0",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "evaluation.bootstrap=100",
)
QUICK: dict[Task, tuple[str, ...]] = {
    "segmentation": (*SHORT, "space.init_channel=2", "search.stages.1.epochs=1"),
    "classification": (
        *SHORT,
        "space={search_channel: 2, init_channel: 2, layers: 4, intermediate_nodes: 1}",
        "search.stages.0.depth=4",
        "search.stages.0.batch=8",
        "train.batch=8",
    ),
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_exported: None, nothing_rendered: None) -> Path:
    """The demo at the smallest size, with its cache in the test's folder."""
    monkeypatch.setattr(demo_module, "IMAGES", 36)
    monkeypatch.setattr(demo_module, "SIZE", 32)
    monkeypatch.setattr(demo_module, "FILMS", 120)
    monkeypatch.setattr(demo_module, "FILM_SIZE", 32)

    def smaller(out: Path, task: Task) -> Recipe:
        content = demo_recipe(out, task).model_dump(mode="json")
        return parse(apply_overrides(content, [*QUICK[task], f"data.cache={tmp_path / 'cache'}"]))

    monkeypatch.setattr(demo_module, "demo_recipe", smaller)
    return tmp_path / "demo"


def test_the_demo_runs_from_synthetic_images_to_a_report_and_repeats_nothing(quick: Path) -> None:
    page, scores = demo(quick)
    assert page == quick / "train" / "report.html"
    assert {*scores.summary["dataset"]} == {"dermoscopy", "endoscopy", "ct", "all", "mean of data sets"}
    report = page.read_text(encoding="utf-8")
    assert 'id="scores-test"' in report
    assert 'id="genotype"' in report
    assert (quick / "search" / "report.html").exists()

    journals = [quick / name / "metrics.jsonl" for name in ("search", "train")]
    before = [path.read_bytes() for path in journals]
    demo(quick)
    assert [path.read_bytes() for path in journals] == before


def test_the_demos_own_recipe_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "IMAGES", 25)
    monkeypatch.setattr(demo_module, "SIZE", 32)
    assert [source.kind for source in demo_recipe(tmp_path).data.sources] == ["isic", "cvc", "chaos"]


def test_the_demo_of_findings(quick: Path) -> None:
    page, scores = demo(quick, "classification")
    run = RunDirectory.open(quick / "train")
    assert {*scores.summary["dataset"]} == {"chest-phantoms"}
    assert {*scores.summary["class"]} >= {MEAN_OF_FINDINGS, *FINDINGS}
    findings = run.recipe.data.findings or ()
    assert {*findings} == {*FINDINGS}  # of the 14 of ChestX-ray14
    report = page.read_text(encoding="utf-8")
    assert 'id="scores-test"' in report
    assert 'id="genotype"' in report
    assert (quick / "search" / "report.html").exists()
    for name in ("search", "train"):
        assert (quick / name / "genotype.txt").read_text().startswith("Genotype(normal=[")

    journals = [quick / name / "metrics.jsonl" for name in ("search", "train")]
    before = [path.read_bytes() for path in journals]
    demo(quick, "classification")
    assert [path.read_bytes() for path in journals] == before


def test_the_recipe_of_the_demo_of_findings_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "FILMS", 25)
    monkeypatch.setattr(demo_module, "FILM_SIZE", 32)
    recipe = demo_recipe(tmp_path, "classification")
    assert [source.kind for source in recipe.data.sources] == ["chestxray14"]
    assert recipe.space.name == "darts"
