"""Regularizers of the search: what they add, to which parameters, and when."""

import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.errors import RecipeError
from medarts.nas.regularizers import RegularizerSettings, entropy, register_regularizer
from medarts.nas.search import prepare_search, start_search
from medarts.registry import regularizers


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """A stage of two epochs of two steps, the first with a frozen architecture."""
    stages = "search.stages=[{depth: 3, epochs: 2, batch: 4}]"
    return changed(small_recipe, "data.size=16", "space.intermediate_nodes=1", stages)


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def test_entropy_is_that_of_the_operations(recipe):
    job = prepare_search(recipe)
    job.set_up()
    alphas = [p.detach().double().softmax(1) for n, p in job.supernet.named_parameters() if n.startswith("alphas")]
    expected = torch.cat([-(weights * weights.log()).sum(1) for weights in alphas]).mean()
    torch.testing.assert_close(entropy(job.supernet, 1.0).double(), expected, rtol=1e-5, atol=0)
    assert entropy(job.supernet, 0.0) == 0


def test_a_regularizer_of_ones_own_moves_what_it_is_for(recipe, tmp_path):
    """Of the architecture once it is free, of the weights from the start; without any, nothing changes."""
    seen = []

    class PullSettings(RegularizerSettings):
        towards: float = 0.0

    @register_regularizer("pull", settings=PullSettings)
    def pull(supernet, progress, *, settings):
        seen.append(progress)
        return sum((alpha - settings.towards).square().sum() for alpha in supernet.architecture())

    @register_regularizer("decay", of="weights")
    def decay(supernet, progress):
        return sum(weight.square().sum() for weight in supernet.weights())

    try:
        found = {}
        for name, value in {
            "none": "[]",
            "pull": "[{name: pull, weight: 100.0, towards: 5.0}]",
            "decay": "[{name: decay, weight: 1.0}]",
        }.items():
            run = start_search(changed(recipe, f"search.regularizers={value}"), tmp_path / name)
            found[name] = checkpoint.load(run.checkpoints, "last").weights
        alphas = [name for name in found["none"] if name.startswith("alphas")]
        # Two steps of Adam move every alpha towards 5 by about the learning rate.
        for name in alphas:
            assert (found["pull"][name] >= found["none"][name] - 1e-4).all()
            assert (found["pull"][name] - found["none"][name]).mean() > 1e-4
        assert seen == [0.5, 0.75]
        norms = {
            name: sum(t.square().sum() for key, t in of.items() if key not in alphas) for name, of in found.items()
        }
        assert norms["decay"] < norms["none"]
    finally:
        regularizers.remove("pull")
        regularizers.remove("decay")


def test_what_is_no_regularizer_is_refused(recipe):
    with pytest.raises(
        RecipeError, match=r"search\.regularizers\.0\.name cannot be 'entropie'. Did you mean 'entropy'"
    ):
        changed(recipe, "search.regularizers=[entropie]")
    with pytest.raises(RecipeError, match=r"search\.regularizers\.0\.strength is not a key"):
        changed(recipe, "search.regularizers=[{name: entropy, strength: 1}]")
