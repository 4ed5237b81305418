from pathlib import Path

import pytest

from medarts import demo as demo_module
from medarts.demo import demo, demo_recipe
from medarts.recipe import Recipe, apply_overrides, parse

QUICK = (
    "data.size=32",
    "space.init_channel=2",
    "search.stages.0.epochs=1",
    "search.stages.1.epochs=1",
    "search.arch_after=0",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "evaluation.bootstrap=100",
)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo at the smallest size, with its cache in the test's folder."""
    monkeypatch.setattr(demo_module, "IMAGES", 36)
    monkeypatch.setattr(demo_module, "SIZE", 32)

    def smaller(out: Path) -> Recipe:
        content = demo_recipe(out).model_dump(mode="json")
        return parse(apply_overrides(content, [*QUICK, f"data.cache={tmp_path / 'cache'}"]))

    monkeypatch.setattr(demo_module, "demo_recipe", smaller)
    return tmp_path / "demo"


def test_the_demo_walks_from_phantoms_to_a_report_and_does_nothing_twice(quick: Path) -> None:
    run, scores = demo(quick)
    assert {row.domain for row in scores.table()} == {"dermoscopy", "endoscopy", "ct", "all", "mean of domains"}
    report = (run.path / "report.html").read_text(encoding="utf-8")
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
