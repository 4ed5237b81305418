"""Networks by name, for those who use the library."""

from typing import Literal

import pytest
import torch

from medarts.config import parse
from medarts.errors import GenotypeError, RecipeError
from medarts.models import build_network, create_model, list_models, register_model
from medarts.models.unet import UNet, UNetSettings
from medarts.registry import Settings, models
from medarts.spaces.genotype import load_genotype


def test_plain_keywords_are_settings() -> None:
    network = create_model("unet", in_channels=1, outputs=2, width=8, depth=3)
    torch.manual_seed(0)
    same = build_network(UNetSettings(width=8, depth=3), in_channels=1, outputs=2)
    assert [p.shape for p in network.parameters()] == [p.shape for p in same.parameters()]
    assert network(torch.rand(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    (only,) = network(torch.rand(1, 1, 16, 16), all_heads=True)
    assert only.shape == (1, 2, 16, 16)


def test_genotypes_are_networks_by_name_or_value() -> None:
    genotype = load_genotype("darts_v2")
    for network in (
        create_model("darts_v2", init_channel=4, layers=4),
        create_model(genotype, init_channel=4, layers=4),
    ):
        assert network.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 10)  # as the published one, of CIFAR


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("unet", {"widht": 8}, "unet has no setting widht. Did you mean 'width'?"),
        ("unet", {"width": "8"}, "unet: width is '8'. Input should be a valid integer"),
        ("unet", {"name": "unetpp"}, "unet: name is 'unetpp'"),
        ("unett", {}, "There is no network 'unett'. Did you mean 'unet'?"),
        ("darts_v2", {"init_chanel": 8}, "has no setting 'init_chanel'. Did you mean 'init_channel'?"),
        ("darts_v2", {"norm": "group"}, "darts_v2 has batch norms"),
        ("runs/nothing", {}, "There is no file or folder 'runs/nothing'"),
    ],
)
def test_mistakes_are_named_with_a_fix(name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises((RecipeError, GenotypeError)) as caught:
        create_model(name, **settings)
    assert says in str(caught.value)


def test_models_are_listed_by_task() -> None:
    assert "unet" in list_models("segmentation")
    assert "layer7_double_deep" in list_models("segmentation")
    assert set(list_models("segmentation")) | set(list_models("classification")) == set(list_models())
    assert not set(list_models("segmentation")) & set(list_models("classification"))


def test_a_registered_model_is_chosen_by_recipes_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    models.names()
    monkeypatch.setattr(models, "_entries", dict(models._entries))

    class OwnSettings(Settings):
        name: Literal["my-unet"] = "my-unet"
        width: int = 4

    @register_model("my-unet", settings=OwnSettings, task="segmentation")
    class Own(UNet):
        def __init__(self, settings: OwnSettings, *, in_channels: int = 3, outputs: int = 1, norm=None) -> None:
            narrow = UNetSettings(width=settings.width, depth=2)
            super().__init__(narrow, in_channels=in_channels, outputs=outputs, norm=norm)

    assert isinstance(create_model("my-unet", width=6), Own)
    recipe = parse({"data": {"sources": [{"kind": "folder", "path": "/d"}]}, "train": {"model": "my-unet"}})
    assert recipe.train.model == OwnSettings()


def test_a_baseline_may_have_one_kind_of_norm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    models.names()
    monkeypatch.setattr(models, "_entries", dict(models._entries))

    class FixedSettings(Settings):
        name: Literal["fixed"] = "fixed"

    @register_model("fixed", settings=FixedSettings, task="segmentation")
    class Fixed(UNet):
        def __init__(self, settings: FixedSettings, *, in_channels: int = 3, outputs: int = 1) -> None:
            super().__init__(UNetSettings(width=4, depth=2), in_channels=in_channels, outputs=outputs)

    assert isinstance(create_model("fixed"), Fixed)
    with pytest.raises(RecipeError, match=r"fixed has no choice of its norms\. Leave norm \(train\.norm\) out"):
        create_model("fixed", norm="batch")
