"""What fits into a budget, with costs that are made up; and one small network that is really measured."""

from itertools import product
from typing import Any

import pytest
import torch

from medarts.config import BudgetSettings, parse
from medarts.errors import RecipeError
from medarts.models import create_model, register_model, scaled
from medarts.models.multiresunet import MultiResUNetSettings
from medarts.models.unet import UNetSettings
from medarts.models.unetpp import UNetPPSettings
from medarts.profiling import budget as module
from medarts.profiling.budget import BudgetCost, Fitted, fit, fit_reduced, measure, unmet, unmet_reduced
from medarts.profiling.cost import Exports, count_parameters
from medarts.profiling.latency import usable_cores
from medarts.profiling.reference import Latency
from medarts.registry import Settings, models
from medarts.spaces import space_of
from medarts.spaces.base import SearchSpace
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings

GENOTYPE = NasWdan.sample(
    NasWdanSettings(choices={"depth": [3], "intermediate_nodes": [2], "double_down_channel": [False]}), seed=1
)
ABOUT: dict[str, Any] = {"in_channels": 1, "outputs": 1, "norm": "batch"}
LADDER = [int(each.settings["init_channel"]) for each in space_of(GENOTYPE).scaled(GENOTYPE)]


def budget(**limits: Any) -> BudgetSettings:
    return BudgetSettings(size=32, **limits)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A network of C takes C ms and 10 C MB; holds what was measured of which C."""
    looks: list[tuple[str, int]] = []

    def channels(network: Any) -> int:
        if hasattr(network, "frame"):
            return int(network.frame.cells["1_1_down"].input1[1].out_channels)
        return next(int(each.out_channels) for each in network.modules() if isinstance(each, torch.nn.Conv2d))

    monkeypatch.setattr(
        Exports,
        "exported",
        lambda self, name, network, size, **_: f"{channels(network)} {size} {kinds(network)}".encode(),
    )
    monkeypatch.setattr("medarts.profiling.reference.usual_ms", lambda threads: 1.0)
    monkeypatch.setattr(module, "usual_ms", lambda threads: 1.0)
    monkeypatch.setattr(module, "predict", lambda *_, **__: None)

    def kinds(network: Any) -> list[str]:
        return sorted({type(each).__name__ for each in network.modules()})

    class Engine:
        def __init__(self, content: bytes, *, threads: int) -> None:
            self.channels = int(content.split()[0])

    def latencies(passes: Any, *, threads: int) -> list[Latency]:
        c = passes[0].args[0].channels
        looks.append(("ms", c))
        return [Latency(float(c), 1.0, 0.0, 1.0)]

    def peak(build: Any, *, shape: Any, threads: int) -> float:
        looks.append(("MB", int(build.content.split()[0])))
        return 10.0 * int(build.content.split()[0])

    module._meter_of.cache_clear()
    monkeypatch.setattr(module, "OnnxRuntimeEngine", Engine)
    monkeypatch.setattr(module, "measured_latencies", latencies)
    monkeypatch.setattr(module, "peak_of_inference_mb", peak)
    return looks


@pytest.mark.parametrize(
    ("limits", "channels"),
    [({"latency_ms": 9.9}, 8), ({"latency_ms": 10.0}, 10), ({"latency_ms": 1e6}, 128), ({"memory_mb": 59.0}, 5),
     ({"latency_ms": 30.0, "memory_mb": 65.0}, 6)],
)  # fmt: skip
def test_the_widest_network_within_the_budget(
    limits: dict[str, float], channels: int, made_up: list[tuple[str, int]]
) -> None:
    found = fit(GENOTYPE, budget(**limits), **ABOUT)
    assert found is not None
    assert found.network == GENOTYPE.with_settings(init_channel=channels)
    assert found.cost.amounts.keys() == {"parameters", "flops", *limits}
    for name, limit in limits.items():
        assert found.cost.amounts[name] <= limit
    assert len(made_up) == len(set(made_up)), "nothing is measured twice"


def test_a_baseline_is_scaled_as_genotypes_are(made_up: list[tuple[str, int]]) -> None:
    asked = UNetPPSettings(width=64, depth=2, deep_supervision=False)
    found = fit(asked, budget(latency_ms=9.9), **ABOUT)
    assert found is not None
    assert found.network == asked.model_copy(update={"width": 8})
    assert found.cost.parameters == count_parameters(create_model(found.network, **ABOUT))
    assert fit(asked, budget(latency_ms=1.5), **ABOUT) is None
    assert str(unmet(asked, budget(latency_ms=1.5), **ABOUT)).startswith(
        "The narrowest network of model 'unetpp' is over the budget: latency_ms 2 of 1.5."
    )
    assert [each.width for each in scaled(MultiResUNetSettings())] == LADDER[2:], "its settings allow no 2 or 3"


def test_the_latency_of_a_network_is_a_budget(made_up: list[tuple[str, int]]) -> None:
    of_unet = budget(latency_of=models.choose({"name": "unet", "width": 12, "depth": 2}))
    assert (of_unet.limits, of_unet.limited) == ({}, ("latency_of",))
    found = fit(GENOTYPE, of_unet, **ABOUT)
    assert found == fit(GENOTYPE, budget(latency_ms=12.0), **ABOUT)
    wide = fit(UNetSettings(width=64, depth=2), of_unet, in_channels=1, outputs=1)
    assert wide is not None
    assert wide.network == UNetSettings(width=12, depth=2), "the network itself is just within"
    assert made_up.count(("ms", 12)) == 2, "of the genotype, and of the named network once"
    with pytest.raises(ValueError, match="latency_ms and latency_of exclude each other"):
        budget(latency_ms=1.0, latency_of=models.choose("unet"))


def test_a_baseline_without_a_width_is_taken_as_it_is_or_not_at_all() -> None:
    class Fixed(Settings):
        """Settings without a width."""

    register_model("fixed", settings=Fixed, task="segmentation")(
        lambda settings, *, in_channels, outputs, norm: create_model("unet", width=2, depth=2, outputs=outputs)
    )
    try:
        assert scaled(models.choose("fixed")) == (models.choose("fixed"),)
        with pytest.raises(ValueError, match="no setting channels"):
            register_model("other", settings=Fixed, task="segmentation", width="channels")
    finally:
        models.remove("fixed")


def test_what_was_measured_is_kept_on_the_machine(
    made_up: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = budget(latency_ms=30.0, memory_mb=65.0)
    found = fit(GENOTYPE, limits, **ABOUT)
    measured = len(made_up)
    monkeypatch.setattr(module, "measured_latencies", lambda *_, **__: [Latency(99.0, 1.0, 0.0, 1.0)])
    assert fit(GENOTYPE, limits, **ABOUT) == found  # although the machine is busy now
    assert len(made_up) == measured
    other = fit(GENOTYPE, BudgetSettings(latency_ms=30.0, size=64), **{**ABOUT, "norm": "group"})
    assert other is None, "another norm is another network"


def test_measuring_leaves_the_random_numbers_of_others_alone() -> None:
    state = torch.get_rng_state()
    contents = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        about = GENOTYPE.with_settings(init_channel=2), budget(flops=1.0), 1, 1, None
        contents.append(module._Meter(*about, exports=Exports())._network())
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(seed).get_state())
    torch.set_rng_state(state)
    for one, two in zip(*(each.parameters() for each in contents), strict=True):
        assert torch.equal(one, two)


def test_what_is_counted_is_counted_as_of_the_network_itself(made_up: list[tuple[str, int]]) -> None:
    found = fit(GENOTYPE, budget(parameters=4e4), **ABOUT)
    assert found is not None
    channels = int(found.network.settings["init_channel"])
    larger = LADDER[LADDER.index(channels) + 1]
    for c, is_within in ((channels, True), (larger, False)):
        parameters = count_parameters(create_model(GENOTYPE, **ABOUT, init_channel=c))
        assert (parameters <= 4e4) is is_within
    assert not made_up, "parameters need no measurement"
    assert measure(found.network, budget(parameters=1.0), **ABOUT) == found.cost


def test_a_budget_that_the_narrowest_exceeds(made_up: list[tuple[str, int]]) -> None:
    small = budget(latency_ms=1.5, parameters=1e9)
    assert fit(GENOTYPE, small, **ABOUT) is None
    assert str(unmet(GENOTYPE, small, **ABOUT)) == (
        "The narrowest network of genotype 'random-1' is over the budget: "
        "latency_ms 2 of 1.5. Raise the budget, or lower budget.size."
    )


@pytest.mark.parametrize(("factor", "most"), [(1.0, 3), (1.3, 5), (0.5, 7)])
def test_a_good_prediction_saves_measurements(
    factor: float, most: int, made_up: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "predict", lambda genotype, **_: factor * int(genotype.settings["init_channel"]))
    found = fit(GENOTYPE, budget(latency_ms=13.0), **ABOUT)
    assert found is not None
    assert found.network.settings["init_channel"] == 12
    assert len(made_up) <= most


@pytest.mark.parametrize("number", range(1, 25))
def test_the_search_among_widths_finds_every_answer_from_every_guess(number: int) -> None:
    for answer, guess in product(range(-1, number), range(-1, number)):
        looks: list[int] = []

        def is_within(place: int, answer: int = answer, looks: list[int] = looks) -> bool:
            looks.append(place)
            return place <= answer

        assert module._largest(number, is_within, guess=guess) == answer
        assert len(looks) == len({*looks})
        if abs(guess - answer) <= 1:
            assert len(looks) <= 4


def test_a_width_that_suits_the_processor_is_found_from_every_guess() -> None:
    within = [True, True, False, True, False, True, False, False, False]  # as of 10, 12, 14, 16 ... channels
    for guess in range(-1, len(within)):
        assert module._largest(len(within), within.__getitem__, guess=guess) == 5


def test_a_size_that_the_lattice_cannot_halve_and_threads_that_are_not_there() -> None:
    with pytest.raises(RecipeError, match="size 20 cannot be halved"):
        fit(GENOTYPE, BudgetSettings(flops=1e9, size=20), **ABOUT)
    with pytest.raises(RecipeError, match=r"budget\.threads"):
        fit(GENOTYPE, budget(flops=1e9, threads=usable_cores() + 1), **ABOUT)
    with pytest.raises(ValueError, match="no size"):
        fit(GENOTYPE, BudgetSettings(flops=1e9), **ABOUT)


def test_only_widths_that_groups_divide() -> None:
    grouped = GENOTYPE.with_settings(shuffle_groups=4)
    assert [each.settings["init_channel"] for each in space_of(grouped).scaled(grouped)][:4] == [4, 8, 12, 16]


def test_a_cost_survives_json() -> None:
    for cost in (BudgetCost(1, 2, Latency(1.0, 2.0, 0.1, 2.0), 3.5), BudgetCost(1, 2)):
        assert BudgetCost.read(cost.as_json()) == cost


def test_a_small_network_is_measured() -> None:
    unet = UNetSettings(width=4, depth=2)
    cost = measure(unet, BudgetSettings(latency_ms=1.0, memory_mb=1.0, size=32), in_channels=1, outputs=2)
    assert cost.latency is not None
    assert cost.memory_mb is not None
    assert 0 < cost.latency.ms <= 1.001 * cost.latency.median_ms / cost.latency.slowdown
    assert 0 < cost.latency.median_ms < 1000
    assert 4 * cost.parameters / 1e6 < cost.memory_mb < 500  # at least the weights


def test_the_budget_of_a_recipe() -> None:
    about = {"data": {"sources": [{"kind": "folder", "path": "x"}], "size": 64}}
    given = parse({**about, "budget": {"flops": 10, "latency_ms": 2.5}}).budget
    assert given.limits == {"flops": 10, "latency_ms": 2.5}
    assert (given.size, given.at(64).size, given.at(64).at(32).size, given.threads) == (None, 64, 64, 1)
    assert not parse(about).budget.limits
    with pytest.raises(RecipeError, match="nothing is limited"):
        parse({**about, "budget": {"size": 32}})
    with pytest.raises(RecipeError, match=r"budget\.flops"):
        parse({**about, "budget": {"flops": 0}})


# --- where no width is within ----------------------------------------------------------------------------------------

SPACES: dict[str, tuple[type[SearchSpace], Any]] = {
    "nas-wdan": (NasWdan, NasWdanSettings(choices={"depth": [3, 4], "intermediate_nodes": [1, 2]})),
    "darts": (Darts, DartsSettings(stem="cifar", choices={"layers": [3, 5], "intermediate_nodes": [1, 2]})),
}


@pytest.mark.parametrize("name", SPACES)
def test_what_is_taken_away_is_as_little_as_is_enough(name: str) -> None:
    space, settings = SPACES[name]
    seeds = (space.sample(settings, seed=seed) for seed in range(99))
    largest = {"depth": 4} if name == "nas-wdan" else {"layers": 5}
    genotype = next(each for each in seeds if each.settings.items() >= {**largest, "intermediate_nodes": 2}.items())
    about: dict[str, Any] = {"in_channels": 1, "outputs": 1}
    steps = [step.genotype for step in space.reductions(genotype, settings)]
    forms = [scaled(each)[0] for each in (genotype, *steps)]
    flops = [measure(each, budget(flops=1e9), **about).flops for each in forms]
    assert flops == sorted(flops, reverse=True)
    limit = flops[len(flops) // 2]
    assert flops[-1] <= limit < flops[0]
    assert [list(space.reductions(each, settings)) for each in steps[-1:]] == [[]]

    fitted = fit_reduced(genotype, budget(flops=limit), space=settings, **about)
    assert fitted is not None
    assert (len(fitted.reduced), fitted.cost.flops) == (flops.index(limit), limit)
    assert fitted.network.provenance["reduced"] == "; ".join(fitted.reduced)
    assert fit_reduced(genotype, budget(flops=flops[0]), space=settings, **about) == Fitted(
        forms[0], BudgetCost(measure(forms[0], budget(flops=1e9), **about).parameters, flops[0])
    )
    small = budget(flops=flops[-1] // 2)
    assert fit_reduced(genotype, small, space=settings, **about) is None
    says = f"reduced as far as it can be, is over the budget: flops {flops[-1]:,.4g} of {flops[-1] // 2:,.4g}"
    assert says in str(unmet_reduced(genotype, small, space=settings, **about))
