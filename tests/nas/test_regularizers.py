"""Regularizers of the search: what they add, to which parameters, and when."""

import pytest
import torch
from torch.distributions import Categorical

from medarts.config import Recipe, StageSettings, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.errors import RecipeError
from medarts.nas.regularizers import (
    RegularizerSettings,
    alphas_of,
    beta_decay,
    dirichlet_kl,
    entropy,
    latency,
    path_entropy,
    register_regularizer,
    zero_one,
)
from medarts.nas.search import Search, prepare_search, resume_search, start_search
from medarts.registry import regularizers
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts.settings import DartsChoices
from medarts.spaces.genotype import load_genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan.operations import TRANSITIONS


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


# --- expected latency ------------------------------------------------------------------------------------------------


def one_darts() -> tuple[Darts, StageSettings]:
    settings = DartsSettings(stem="cifar", intermediate_nodes=1, search_channel=4, init_channel=6, layers=5)
    return Darts(settings, in_channels=3, outputs=1), StageSettings(depth=3)


def one_nas_wdan() -> tuple[NasWdan, StageSettings]:
    return NasWdan(NasWdanSettings(init_channel=4, intermediate_nodes=3), in_channels=3, outputs=1), StageSettings(
        depth=3
    )


def test_expected_latency_of_a_decided_supernet_is_that_of_the_operations_of_its_network():
    """With one node, both edges of which are kept; the network has other cells and another C than the supernet."""
    space, stage = one_darts()
    genotype = Darts.sample(
        space.settings.model_copy(update={"choices": DartsChoices(layers=(5,), intermediate_nodes=(1,))}), seed=0
    )
    priced = space.operation_pieces(stage, size=32, norm=None)
    ms = {piece: 1.0 + len(piece.key) + piece.shapes[0][0] for each in priced.values() for piece in each}
    supernet = space.supernet(stage, None)
    supernet.costs = {key: sum(number * ms[piece] for piece, number in each.items()) for key, each in priced.items()}
    with torch.no_grad():
        for kind, cell in genotype.cells.items():
            for row, (name, _) in enumerate(cell[0]):
                supernet.alphas[kind][row, supernet.candidates[kind][row].index(name)] = 50.0
    network = Darts.pieces(genotype.with_settings(init_channel=6), in_channels=3, outputs=1, size=32)
    expected = sum(number * ms[piece] for piece, number in network.items() if piece in ms)
    assert supernet.expected_cost().item() == pytest.approx(expected)


@pytest.mark.parametrize("make", [one_darts, one_nas_wdan])
def test_slow_operations_lose_alpha(make):
    space, stage = make()
    supernet = space.supernet(stage, None)
    supernet.costs = {key: 3.0 if "conv" in key else 0.5 for key in space.operation_pieces(stage, size=32, norm=None)}
    optimizer = torch.optim.Adam(supernet.architecture(), lr=0.1)
    before = latency(supernet, 0.5).item()
    for _ in range(30):
        optimizer.zero_grad()
        latency(supernet, 0.5).backward()
        optimizer.step()
    assert latency(supernet, 0.5).item() < 0.5 * before
    for kind, rows in supernet.candidates.items():
        for names, weights in zip(rows, supernet.alphas[kind].softmax(1).tolist(), strict=True):
            slow = [weight for name, weight in zip(names, weights, strict=True) if "conv" in name]
            assert slow
            assert max(slow) < min(set(weights) - set(slow))


class Ones(dict):
    """Has 1 for every key."""

    def get(self, key, default=None):
        return 1.0


def test_every_node_counts_one_path_and_two_edges():
    space, stage = one_nas_wdan()
    supernet = space.supernet(stage, None)
    supernet.costs = Ones()
    assert supernet.expected_cost().item() == pytest.approx(2 * 3 * len(supernet.paths))


def test_a_search_under_a_budget_of_latency_and_its_continuation(recipe, tmp_path, monkeypatch):
    given = changed(
        recipe, "search.arch_after=0", "search.arch_lr=0.5", "budget.latency_ms=5",
        "search.regularizers=[{name: latency, weight: 100}]",
    )  # fmt: skip

    def price(slow):
        def prices(space, stage, recipe):
            pieces = space.operation_pieces(stage, size=16, norm=None)
            return {key: 1.0 if slow in key else 0.01 for key in pieces}

        return prices

    run = start_search(given, tmp_path / "whole" / "run", price=price("conv"))
    names = {name for cell in load_genotype(run.path).cells.values() for edges in cell for name, _ in edges}
    assert not [name for name in names if "conv" in name]
    step = Search._step

    def fail(job):
        if job.position == (0, 1, 1):
            raise KeyboardInterrupt
        step(job)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_step", fail)
        with pytest.raises(KeyboardInterrupt):
            start_search(given, tmp_path / "run", price=price("conv"))
    again = resume_search(tmp_path / "run", price=price("pool"))  # what was measured first counts
    for name in ("metrics.jsonl", "architecture.jsonl", "genotype.json"):
        assert (again.path / name).read_bytes() == (run.path / name).read_bytes()


def test_expected_latency_needs_a_budget_of_it(recipe):
    given = changed(recipe, "search.regularizers=[latency]", "budget.flops=1e9")
    with pytest.raises(
        RecipeError, match=r"latency that the budget allows, which is not limited\. Give budget\.latency_ms"
    ):
        prepare_search(given)
