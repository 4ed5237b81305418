"""Several networks as one: the mean of their probabilities."""

from typing import Any

import pytest
import torch

from medarts.errors import RunError
from medarts.models import architecture_named, build_network, create_model
from medarts.models.ensemble import Ensemble, ensemble_from_json
from medarts.network import FindingNetwork
from medarts.network.ensemble import ensemble_of, mean_logits
from medarts.network.inference import for_inference


def networks(name: str, outputs: int, **settings: Any) -> list[Any]:
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        found.append(create_model(name, in_channels=1, outputs=outputs, **settings).eval())
    return found


@pytest.mark.parametrize("outputs", [1, 3])
@torch.inference_mode()
def test_probabilities_of_masks_are_the_mean(outputs: int) -> None:
    members = networks("unet", outputs, width=4)
    ensemble = ensemble_of(members, exclusive=outputs > 1).eval()
    images = torch.rand(2, 1, 32, 32)

    def probable(logits: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(logits) if outputs == 1 else torch.softmax(logits, 1)

    wanted = torch.stack([probable(member(images)) for member in members]).mean(0)
    torch.testing.assert_close(probable(ensemble(images)), wanted)
    torch.testing.assert_close(for_inference(ensemble)(images), ensemble(images), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_every_head_is_the_mean_of_that_head() -> None:
    members = networks("unetpp", 1, width=4)
    ensemble, images = ensemble_of(members, exclusive=False).eval(), torch.rand(1, 1, 32, 32)
    head = ensemble.heads[0]
    wanted = torch.stack([member(images, head).sigmoid() for member in members]).mean(0)
    torch.testing.assert_close(ensemble(images, head).sigmoid(), wanted)


def test_findings_are_classified_from_the_feature_maps_of_all() -> None:
    members = networks("darts_v2", 2, init_channel=4, layers=3)
    ensemble, images = ensemble_of(members, exclusive=False).eval(), torch.rand(2, 1, 64, 64)
    assert isinstance(ensemble, FindingNetwork)
    with torch.inference_mode():
        wanted = torch.stack([member(images).sigmoid() for member in members]).mean(0)
        torch.testing.assert_close(ensemble(images).sigmoid(), wanted)
        assert ensemble.features(images).shape[1] == 3 * members[0].features(images).shape[1]


def test_certain_members_give_finite_logits() -> None:
    certain = [torch.full((1, 1), value) for value in (-200.0, 200.0)]
    assert mean_logits(certain, exclusive=False).item() == pytest.approx(0.0, abs=1e-6)
    together = mean_logits([torch.full((1, 1), -300.0)] * 2, exclusive=False)
    assert together.item() == pytest.approx(-300.0)


def test_an_ensemble_is_built_from_its_file() -> None:
    base = architecture_named("unet")
    found = ensemble_from_json(Ensemble(base, 2, exclusive=False).to_json(), base, origin="ensemble.json")
    assert found == Ensemble(base, 2, exclusive=False)
    small = Ensemble(base.model_copy(update={"width": 4}), 2, exclusive=False)
    names = build_network(small, in_channels=1, outputs=1).state_dict()
    assert {name.split(".")[1] for name in names} == {"0", "1"}
    with pytest.raises(RunError, match=r"ensemble\.json is damaged: members"):
        ensemble_from_json('{"members": 1, "exclusive": true}', base, origin="ensemble.json")
