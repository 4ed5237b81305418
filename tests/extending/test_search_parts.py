"""What a search and its networks are made of, from outside the package: operation, relaxation, loss and more."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medarts import load, load_genotype, search, show, train
from medarts.config import parse
from medarts.engine.directory import RunDirectory
from medarts.spaces import make_space
from medarts.spaces.darts import Darts
from medarts.spaces.nas_wdan import NasWdan

from .conftest import RECIPE


def recipe_with(**sections: dict[str, Any]) -> dict[str, Any]:
    recipe = copy.deepcopy(RECIPE)
    for name, values in sections.items():
        recipe[name] |= values
    return recipe


def losses_of(run: RunDirectory) -> list[float]:
    return [line["train_loss"] for line in map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())]


def test_an_operation_is_searched_and_trained(page, discs, tmp_path):
    page("operation")
    operations = {"normal": ["none", "identity", "conv_7x7"]}
    recipe = recipe_with(space={"operations": operations})
    run = search(recipe, data=discs, out=tmp_path / "search")
    genotype = load_genotype(run)
    assert genotype.candidates["normal"] == ("none", "identity", "conv_7x7")
    assert any(operation == "conv_7x7" for node in genotype.cells["normal"] for operation, _ in node)
    assert "conv_7x7(" in show(run)[0]

    supernet = make_space(run.recipe).supernet(run.recipe.search.stages[0], None)
    supernet(torch.rand(2, 1, 32, 32)).square().mean().backward()
    gradients = {name: each.grad for name, each in supernet.named_parameters() if ".conv_7x7." in name}
    assert gradients
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
    assert supernet.alphas["normal"].grad[:, 2].abs().max() > 0

    trained = train(genotype, recipe, data=discs, out=tmp_path / "train")
    assert load_genotype(trained).cells == genotype.cells
    assert load(trained).predict(np.zeros((32, 32), np.uint8)).shape == (32, 32)


def test_a_regularizer_changes_the_architecture(page, discs, tmp_path):
    page("regularizer")

    def free(run: RunDirectory) -> float:
        """Returns the weight of the operations that the regularizer penalises."""
        alphas = json.loads((run.path / "architecture.jsonl").read_text().splitlines()[-1])["alphas"]
        return sum(
            weight
            for of in alphas.values()
            for names, weights in zip(of["operations"], of["weights"], strict=True)
            for name, weight in zip(names, weights, strict=True)
            if name == "identity"
        )

    regularizers = [{"name": "no_skip", "weight": 10.0, "until": 1.0}, {"name": "entropy"}]
    without = search(recipe_with(), data=discs, out=tmp_path / "without")
    with_it = search(recipe_with(search={"regularizers": regularizers}), data=discs, out=tmp_path / "with")
    assert free(with_it) < free(without)
    written = yaml.safe_load((with_it.path / "recipe.yaml").read_text())["search"]["regularizers"]
    assert written[0] == {"name": "no_skip", "weight": 10.0, "until": 1.0}


def test_a_selection_chooses_the_genotype(page, discs, tmp_path):
    page("selection")
    few = {"normal": ["identity", "conv"], "down": ["max_pool"], "up": ["up_conv"]}
    space = {"intermediate_nodes": 1, "operations": few}
    recipe = recipe_with(space=space) | {"derive": {"select": {"name": "greedy", "batches": 1}}}
    run = search(recipe, data=discs, out=tmp_path / "search")
    made = json.loads((run.path / "summary.json").read_text())["selection"]
    kept = {each["decision"]: each["kept"] for each in made}
    assert {len(each["losses"]) for each in made} >= {0, 2}
    cells = load_genotype(run).cells
    assert [name for name, state in cells["normal"][0] if state == 0] == kept["operation normal 0<-0"]


def test_a_relaxation_makes_the_weights_of_training_steps(page, discs, tmp_path):
    page("relaxation")
    chosen = {
        "softmax": "softmax",
        "quiet": {"name": "noisy", "spread": 0.0},
        "noisy": {"name": "noisy", "spread": 5.0},
    }
    losses = {}
    for name, relaxation in chosen.items():
        recipe = recipe_with(search={"relaxation": relaxation})
        losses[name] = losses_of(search(recipe, data=discs, out=tmp_path / name))
    assert losses["quiet"] == losses["softmax"]
    assert losses["noisy"] != losses["softmax"]


def test_a_loss_has_its_parameters_in_search_and_training(page, discs, tmp_path):
    page("loss")
    losses = {}
    for alpha in (0.2, 0.9):
        chosen = {"loss": {"name": "focal_tversky", "alpha": alpha}}
        recipe = recipe_with(search=chosen, train=chosen)
        searched = search(recipe, data=discs, out=tmp_path / f"search-{alpha}")
        trained = train(searched, data=discs, out=tmp_path / f"train-{alpha}")
        losses[alpha] = losses_of(searched) + losses_of(trained)
        written = yaml.safe_load((trained.path / "recipe.yaml").read_text())
        for section in ("search", "train"):
            assert written[section]["loss"] == {"name": "focal_tversky", "alpha": alpha, "gamma": 1.33}
    assert np.isfinite([*losses.values()]).all()
    assert all(one != other for one, other in zip(*losses.values(), strict=True))


def test_a_default_of_a_space_is_of_this_space_alone(discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of_darts = {"data": {"sources": [{"kind": "table", "path": "films"}]}, "space": {"name": "darts"}}
    of_nas_wdan = {"data": {"sources": [{"kind": "folder", "path": "blobs"}]}, "space": {"name": "nas-wdan"}}
    before = {name: parse(content) for name, content in (("darts", of_darts), ("nas-wdan", of_nas_wdan))}
    for space, own, other in ((Darts, "darts", "nas-wdan"), (NasWdan, "nas-wdan", "darts")):
        with monkeypatch.context() as patch:
            # As an edit of the attribute in the file of the space.
            defaults = {**space.defaults, "train": {**space.defaults.get("train", {}), "lr": 0.0123}}
            patch.setattr(space, "defaults", defaults)
            now = {"darts": parse(of_darts), "nas-wdan": parse(of_nas_wdan)}
            assert now[own].train.lr == 0.0123 != before[own].train.lr
            assert now[other] == before[other]
            if space is NasWdan:
                run = train("unet", RECIPE, data=discs, changes=["train.model.width=4"], out=tmp_path / "run")
                assert yaml.safe_load((run.path / "recipe.yaml").read_text())["train"]["lr"] == 0.0123
