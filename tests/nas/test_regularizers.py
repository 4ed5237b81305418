"""Regularizers of the search: what they add, to which parameters, and when."""

import pytest
import torch
from torch.distributions import Categorical

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.errors import RecipeError
from medarts.nas.regularizers import (
    RegularizerSettings,
    alphas_of,
    beta_decay,
    dirichlet_kl,
    entropy,
    path_entropy,
    register_regularizer,
    zero_one,
)
from medarts.nas.search import Search, prepare_search, start_search
from medarts.registry import regularizers
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan_operations import TRANSITIONS


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


@pytest.mark.parametrize("relaxation", ["sigmoid", "dirichlet"])
def test_entropies_are_of_what_the_genotype_follows_from(recipe, relaxation):
    job = prepare_search(changed(recipe, f"search.relaxation={relaxation}"))
    job.set_up()
    with torch.no_grad():
        for parameter in job.supernet.architecture():
            parameter.normal_(std=3)
    for function, sets in ((entropy, alphas_of(job.supernet)), (path_entropy, job.supernet.path_logits())):
        expected = []
        for logits in sets:
            weights = job.supernet.relaxation.preferences(logits.detach()).double()
            expected.append(Categorical(weights.view(-1, weights.shape[-1])).entropy())  # it scales to a sum of 1
        found = function(job.supernet, 1.0)
        torch.testing.assert_close(found.double(), torch.cat(expected).mean(), rtol=1e-4, atol=0)


def test_entropies_of_decided_edges_have_finite_gradients(job):
    with torch.no_grad():
        for parameter in job.supernet.architecture():
            parameter.mul_(1000)  # weights that are exactly 0 in float32
    for function in (entropy, path_entropy):
        found = gradients(job, function(job.supernet, 1.0))
        assert found
        assert all(torch.isfinite(gradient).all() for gradient in found.values())


def gradients(job: Search, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the gradients of the architecture, whose parameters have none before."""
    for parameter in job.supernet.parameters():
        parameter.grad = None
    torch.autograd.backward(value)
    return {name: p.grad for name, p in job.supernet.named_parameters() if p.grad is not None}


@pytest.fixture
def job(recipe):
    job = prepare_search(recipe)
    job.set_up()
    with torch.no_grad():
        for parameter in job.supernet.architecture():
            parameter.normal_()
    return job


def test_path_entropy_is_that_of_nodes_with_a_choice(job):
    expected = []
    for row, possible in zip(job.supernet.betas.detach().double(), job.supernet.paths.values(), strict=True):
        if len(possible) > 1:
            weights = row[[TRANSITIONS.index(transition) for transition in possible]].softmax(0)
            expected.append(-(weights * weights.log()).sum())
    assert 0 < len(expected) < len(job.supernet.paths)
    found = path_entropy(job.supernet, 0.5)
    torch.testing.assert_close(found.double(), 0.5 * torch.stack(expected).mean(), rtol=1e-5, atol=0)
    assert list(gradients(job, found)) == ["betas"]


def test_beta_decay_pulls_alphas_by_their_softmax(job):
    alphas = job.supernet.alphas
    edges = sum(len(rows) for rows in alphas.values())
    for name, gradient in gradients(job, beta_decay(job.supernet, 0.25)).items():
        wanted = alphas[name.removeprefix("alphas.")].detach().softmax(1) * 0.25 / edges
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-8)


def test_zero_one_pushes_away_from_one_half(job):
    found = zero_one(job.supernet, 0.0)
    assert -0.25 < found < 0
    for name, gradient in gradients(job, found).items():
        parameter = job.supernet.get_parameter(name)
        pushed = gradient != 0
        assert pushed.float().mean() > 0.4
        assert torch.equal(-gradient[pushed].sign(), parameter.detach()[pushed].sign()), name


def test_dirichlet_kl_is_zero_for_uniform_distributions_and_pulls_others_there(job):
    found = dirichlet_kl(job.supernet, 0.0)
    assert found > 1
    assert {name.partition(".")[0] for name in gradients(job, found)} == {"alphas", "betas"}
    logits = job.supernet.alphas["up"].detach()
    by_hand = sum(float(divergence_from_uniform(row)) for row in logits)
    with torch.no_grad():
        for name, parameter in job.supernet.named_parameters():
            if name.startswith(("alphas", "betas")) and name != "alphas.up":
                parameter.zero_()
    assert dirichlet_kl(job.supernet, 0.0).item() == pytest.approx(by_hand, rel=1e-4)


def divergence_from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Returns KL(Dir(c) || Dir(1)) by its formula, in float64."""
    c = torch.nn.functional.elu(logits.double()) + 1
    total = c.sum()
    constant = total.lgamma() - c.lgamma().sum() - torch.tensor(float(len(c)), dtype=torch.float64).lgamma()
    return constant + ((c - 1) * (c.digamma() - total.digamma())).sum()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["search.regularizers=[zero_one]"], "zero_one .* is for the relaxation sigmoid, not softmax"),
        (["search.regularizers=[dirichlet_kl]", "search.relaxation=gumbel"], "dirichlet_kl .* dirichlet, not gumbel"),
        (
            ["search.regularizers=[beta_decay]", "search.relaxation=sigmoid"],
            "beta_decay .* softmax or gumbel, not s",
        ),
        (
            ["search.regularizers=[beta_decay]", "search.relaxation=dirichlet"],
            "beta_decay .* softmax or gumbel, not d",
        ),
        (["search.perturbation=0.03", "search.relaxation=gumbel"], "perturbation 0.03 would run all operations"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(recipe, changes, reason):
    with pytest.raises(RecipeError, match=reason):
        prepare_search(changed(recipe, *changes))


def test_a_space_without_paths_has_no_entropy_of_them(finding_recipe):
    with pytest.raises(RecipeError, match=r"path_entropy .* is for paths, which the space does not have"):
        prepare_search(changed(finding_recipe, "search.regularizers=[path_entropy]"))


def test_a_space_with_weights_of_its_own_takes_no_relaxation(recipe, monkeypatch):
    monkeypatch.setattr(NasWdan, "relaxes", False)
    prepare_search(recipe)
    for change in ("search.relaxation=sigmoid", "search.perturbation=0.1"):
        with pytest.raises(RecipeError, match="supernets of the space nas-wdan have weights of their own"):
            prepare_search(changed(recipe, change))


@pytest.mark.parametrize(
    "change", ["search.supernet.auxiliary_skip=1", "search.supernet.skip_dropout=0.3", "derive.skips=0"]
)
def test_a_space_that_does_not_know_its_skips_takes_no_settings_of_them(recipe, monkeypatch, change):
    prepare_search(changed(recipe, change))
    monkeypatch.setattr(NasWdan, "has_skips", False)
    prepare_search(recipe)
    with pytest.raises(RecipeError, match=f"so {change.replace('=', ' ')}.* would change nothing"):
        prepare_search(changed(recipe, change))


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
