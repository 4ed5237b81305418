"""Quick recipes train networks of nas-wdan with batch norm, and change the norm of no other network."""

from importlib import resources
from pathlib import Path

import pytest
from torch import nn

from medarts import registry
from medarts.config import load, parse
from medarts.config.study import load_study
from medarts.config.yaml_text import read_yaml
from medarts.models import build_network
from medarts.models.blocks import ConvNorm
from medarts.models.resenc_unet import ResEncUNetSettings
from medarts.spaces.genotype import load_genotype

RECIPES = Path(__file__).parents[2] / "recipes"
SOURCE = {"kind": "folder", "path": "/data"}


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDARTS_DATA", "/data")


@pytest.mark.parametrize("name", ["isic-cpu", "mixsearch-cpu", "minutes-cpu", "hour-cpu", "night-cpu"])
def test_quick_recipes_have_batch_norm(name: str) -> None:
    assert load(RECIPES / f"{name}.yaml").train.norm == "batch"


def test_the_demo_has_batch_norm_and_the_schema_what_was_published() -> None:
    content = read_yaml((resources.files("medarts") / "demo_segmentation.yaml").read_text(encoding="utf-8"))
    assert parse({**content, "data": {"sources": [SOURCE]}}).train.norm == "batch"
    assert parse({"data": {"sources": [SOURCE]}}).train.norm is None


def kinds_of_norms(network: nn.Module) -> set[str]:
    kinds = (nn.GroupNorm, nn.InstanceNorm2d, nn.BatchNorm2d)
    return {kind.__name__ for part in network.modules() for kind in kinds if isinstance(part, kind)}


def test_the_benchmark_changes_the_norms_of_genotypes_alone() -> None:
    study = load_study(RECIPES / "benchmark-cpu.yaml")
    models = [entry.model for entry in study.networks if entry.model is not None]
    assert len(models) == 7
    for model in models:
        small = model.model_copy(update={"width": 4, "depth": 3})
        norms = [
            kinds_of_norms(build_network(architecture, in_channels=3, outputs=1, norm=norm))
            for architecture, norm in (
                (small, study.recipe.train.norm),
                (registry.models.choose({"name": model.name, "width": 4, "depth": 3}), None),
            )
        ]
        assert norms[0] == norms[1], model.name
    genotype = load_genotype("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=4)
    network = build_network(genotype, in_channels=3, outputs=1, norm=study.recipe.train.norm)
    assert kinds_of_norms(network) == {"BatchNorm2d"}


@pytest.mark.parametrize("norm", ["group", "batch", None])
def test_a_model_that_keeps_its_norms(norm: str | None) -> None:
    kept = build_network(ResEncUNetSettings(width=4, depth=3, norm="instance"), in_channels=3, outputs=1, norm=norm)
    assert {type(part.norm) for part in kept.modules() if isinstance(part, ConvNorm)} == {nn.InstanceNorm2d}
