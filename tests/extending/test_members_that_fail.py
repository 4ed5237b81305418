"""What a user registers may be wrong: the error names it and says what is expected, and nothing is left behind."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import medarts
from medarts.errors import MedartsError
from medarts.losses import make_loss
from medarts.metrics.masks import mask_scores
from medarts.registry import losses, metrics, regularizers
from medarts.spaces.nas_wdan.operations import OPERATIONS, OperationSettings, make_operation


@pytest.fixture
def data() -> Any:
    images = np.random.default_rng(0).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    return medarts.from_arrays(images, images > 127)


@pytest.fixture
def removed() -> Iterator[None]:
    yield
    for registry in (losses, metrics, regularizers):
        for name in [name for name in registry.names() if name.startswith("wrong")]:
            registry.remove(name)


@pytest.mark.usefixtures("removed")
@pytest.mark.parametrize(
    ("returned", "explained"),
    [
        (lambda logits: 0.5, "returned float for 2 images. Return one value per image"),
        (lambda logits: logits.mean(), r"returned a tensor \(\) for 2 images"),
        (lambda logits: logits[:, 0], r"returned a tensor \(2, 4, 4\) for 2 images"),
        (lambda logits: torch.ones(2), "has no gradient"),
        (lambda logits: 1 / 0, r"failed \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_loss(returned: Callable[[Any], Any], explained: str) -> None:
    medarts.register_loss("wrong", task="segmentation", outputs="any")(lambda logits, target: returned(logits))
    loss = make_loss("wrong", task="segmentation", outputs=1)
    with pytest.raises(MedartsError, match=f"The loss 'wrong' {explained}"):
        loss(torch.zeros(2, 1, 4, 4, requires_grad=True), torch.zeros(2, 4, 4))


@pytest.mark.usefixtures("removed")
@pytest.mark.parametrize(
    ("returned", "explained"),
    [
        (lambda masks: math.inf, "returned inf, outside its limits 0 to 1"),
        (lambda masks: 5, "returned 5, outside its limits"),
        (lambda masks: None, r"failed \(TypeError: float\(\) argument"),
        (lambda masks: np.ones(3), r"failed \(TypeError"),
        (lambda masks: 1 / 0, r"failed \(ZeroDivisionError"),
    ],
)
def test_a_metric(returned: Callable[[Any], Any], explained: str) -> None:
    medarts.register_metric("wrong", task="segmentation")(returned)
    masks = np.ones((8, 8), bool)
    with pytest.raises(MedartsError, match=f"The metric 'wrong' {explained}"):
        mask_scores(masks, masks)


@pytest.mark.parametrize(
    ("builder", "explained"),
    [
        (lambda c, s: nn.AvgPool2d(2), r"gives \(1, 4, 8, 8\) for images \(1, 4, 16, 16\), not \(1, 4, 16, 16\)"),
        (lambda c, s: nn.Conv2d(c, 2 * c, 1), r"gives \(1, 8, 16, 16\)"),
        (lambda c, s: 3, "built a int. Return a torch.nn.Module"),
        (nn.ModuleList, r"failed \(TypeError"),
    ],
)
def test_an_operation(builder: Callable[..., Any], explained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS["normal"]._builders, "wrong", builder)
    with pytest.raises(MedartsError, match=f"The operation 'wrong' {explained}"):
        make_operation("normal", "wrong", 4, OperationSettings(affine=True))


@pytest.mark.usefixtures("removed")
def test_a_regularizer_and_the_folder_of_its_search(data: Any, tmp_path: Path) -> None:
    found: list[Any] = []
    medarts.register_regularizer("wrong")(lambda supernet, progress: found[-1])
    recipe = {
        "space": {"init_channel": 2, "intermediate_nodes": 1},
        "search": {"stages": [{"depth": 3, "epochs": 1, "batch": 4}], "arch_after": 0, "regularizers": ["wrong"]},
    }
    for value, explained in (
        (None, "failed"),
        (torch.ones(3), r"returned a tensor \(3,\)"),
        ("a", "failed"),
    ):
        found.append(value)
        with pytest.raises(MedartsError, match=f"The regularizer 'wrong' {explained}"):
            medarts.search(recipe, data=data, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()  # the corrected search can have the folder
    found.append(0.0)  # a term that is off
    assert medarts.search(recipe, data=data, out=tmp_path / "run").facts["finished"]
