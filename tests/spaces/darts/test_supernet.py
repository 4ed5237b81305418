"""The supernet of darts against sums written out here, and against the derived network with the same weights."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.errors import GenotypeError, RecipeError
from medarts.spaces import space_settings
from medarts.spaces.base import Candidates
from medarts.spaces.cells import CellWeights, cell_edges
from medarts.spaces.darts import Darts, DartsSettings, operations
from medarts.spaces.darts.frame import last_size, positions, reductions
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.network import DartsNetwork
from medarts.spaces.darts.operations import IN_SUPERNET, KINDS, Kind
from medarts.spaces.darts.settings import Stem
from medarts.spaces.darts.supernet import REFERENCE, DartsSupernet, MixedCell, mix_reference
from medarts.spaces.genotype import NONE, from_json

CIFAR = DartsSettings(stem="cifar", search_channel=4, init_channel=4, layers=4, intermediate_nodes=2, drop_path_prob=0)
CHEST = DartsSettings(search_channel=4, init_channel=4, layers=5, intermediate_nodes=2, drop_path_prob=0)
DERIVE = DeriveSettings()


OPERATIONS = operations.OPERATIONS["normal"].published


def make(settings: DartsSettings = CIFAR, *, depth: int = 4, seed: int = 0, **options: Any) -> DartsSupernet:
    """Returns a supernet in float64, run plainly, whose alphas and gammas differ clearly."""
    torch.manual_seed(seed)
    supernet = DartsSupernet(settings, depth=depth, backend=REFERENCE, **options).double()
    with torch.no_grad():
        for parameter in supernet.architecture():
            parameter.copy_(torch.randn_like(parameter))
    return supernet


def images(size: int = 16, *, number: int = 3) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def random_weights(candidates: Sequence[tuple[str, ...]]) -> CellWeights:
    weights = tuple(torch.rand(len(names), dtype=torch.float64) for names in candidates)
    return CellWeights(cell_edges(2), tuple(candidates), weights, torch.rand(len(candidates), dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction_before", [False, True])
@pytest.mark.parametrize("partial", [1, 2])
def test_mixed_cell_is_the_weighted_sum_of_its_operations(kind: Kind, reduction_before: bool, partial: int) -> None:
    torch.manual_seed(0)
    candidates = (OPERATIONS, OPERATIONS[::-1], OPERATIONS[2:], OPERATIONS[:4], OPERATIONS)  # 0<-0 0<-1 1<-0 1<-1 1<-2
    cell = MixedCell(
        kind, candidates, intermediate_nodes=2, s0_channels=6, s1_channels=5, channels=4,
        reduction_before=reduction_before, settings=IN_SUPERNET, partial_channels=partial,
    ).double()  # fmt: skip
    s1 = torch.randn(2, 5, 7, 10, dtype=torch.float64)
    s0 = torch.randn(2, 6, *((13, 20) if reduction_before else (7, 10)), dtype=torch.float64)
    w = random_weights(candidates)
    size = (4, 5) if kind == "reduce" else (7, 10)
    seen = 4 // partial

    def edge(number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        operations = cast(nn.ModuleDict, cell.operations[number])
        by_name = dict(zip(candidates[number], w.operations[number].tolist(), strict=True))
        total = torch.zeros(2, seen, *size, dtype=torch.float64)
        for name in set(candidates[number]) - {NONE}:
            total = total + by_name[name] * operations[name](x[:, :seen])
        rest = x[:, seen:]
        rest = F.max_pool2d(rest, 2, ceil_mode=True) if rest.shape[-1] != size[-1] and partial > 1 else rest
        return total, w.bypass[number] * rest

    def node(*edges: tuple[Tensor, Tensor]) -> Tensor:
        operated = sum(part for part, _ in edges)
        if partial == 1:
            return cast(Tensor, operated)
        passed = sum(part for _, part in edges)
        return torch.stack([operated, passed], dim=2).flatten(1, 2)

    a, b = cell.input0(s0), cell.input1(s1)
    node0 = node(edge(0, a), edge(1, b))
    node1 = node(edge(2, a), edge(3, b), edge(4, node0))
    found = mix_reference(cell, a, b, w)
    assert found.shape == (2, 8, *size)
    torch.testing.assert_close(found, torch.cat([node0, node1], dim=1), rtol=1e-12, atol=1e-12)


def test_the_reductions_are_where_the_papers_have_them() -> None:
    assert reductions("chest", 20) == (5, 10, 15)
    assert reductions("chest", 12) == (3, 6, 9)
    assert reductions("cifar", 20) == (6, 13)
    assert reductions("cifar", 8) == (2, 5)
    assert reductions("chest", 4) == (1, 2, 3)
    assert reductions("cifar", 3) == (1, 2)


def test_places_double_the_channels_at_reductions() -> None:
    found = positions("cifar", layers=6, init_channel=8, intermediate_nodes=4)
    assert [place.kind for place in found] == ["normal", "normal", "reduce", "normal", "reduce", "normal"]
    assert [place.channels for place in found] == [8, 8, 16, 16, 32, 32]
    assert [place.s1_channels for place in found] == [24, 32, 32, 64, 64, 128]
    assert [place.s0_channels for place in found] == [24, 24, 32, 32, 64, 64]
    assert [place.reduction_before for place in found] == [False, False, False, True, False, True]


def test_frame_feeds_every_cell_the_two_before_it() -> None:
    supernet = make()  # normal, reduce, reduce, normal
    weights = supernet.mixture()
    cells = [cast(MixedCell, cell) for cell in supernet.frame.cells]
    assert [cell.kind for cell in cells] == ["normal", "reduce", "reduce", "normal"]
    x = images(15)

    def run(number: int, s0: Tensor, s1: Tensor) -> Tensor:
        cell = cells[number]
        return mix_reference(cell, cell.input0(s0), cell.input1(s1), weights[cell.kind])

    stem = supernet.frame.stem(x)
    a = run(0, stem, stem)
    b = run(1, stem, a)
    c = run(2, a, b)
    d = run(3, b, c)
    assert [tuple(maps.shape[1:]) for maps in (stem, a, b, c, d)] == [
        (12, 15, 15), (8, 15, 15), (16, 8, 8), (32, 4, 4), (32, 4, 4)
    ]  # fmt: skip
    logits = supernet(x)
    expected = d.mean((2, 3)) @ supernet.frame.classifier.weight.T + supernet.frame.classifier.bias
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("stem", "size"), [("chest", 75), ("chest", 33), ("chest", 64), ("cifar", 75), ("cifar", 9)])
def test_the_last_feature_maps_of_odd_sizes(stem: Stem, size: int) -> None:
    settings = DartsSettings(stem=stem, search_channel=2, intermediate_nodes=1)
    supernet = DartsSupernet(settings, depth=4, backend=REFERENCE)
    assert supernet(torch.rand(2, 3, size, size)).shape == (2, 1)
    network_settings = settings.model_copy(update={"init_channel": 2, "layers": 4})
    network = DartsNetwork(DartsSupernet(network_settings, depth=4).derive(DERIVE, name="odd", provenance={}))
    assert network.features(torch.rand(2, 3, size, size)).shape[-2:] == (last_size(stem, size),) * 2


def test_alphas_are_shared_by_the_cells_of_a_kind() -> None:
    supernet = make(CIFAR.model_copy(update={"intermediate_nodes": 4}))
    assert {kind: tuple(alpha.shape) for kind, alpha in supernet.alphas.items()} == {
        "normal": (14, 8),
        "reduce": (14, 8),
    }
    mixture = supernet.mixture()
    for kind in KINDS:
        softmaxed = torch.softmax(supernet.alphas[kind], dim=-1)
        assert torch.equal(torch.stack(mixture[kind].operations), softmaxed)
        assert torch.equal(mixture[kind].bypass, torch.ones(14, dtype=torch.float64))
    assert len(supernet.architecture()) == 2


def test_starts_with_nearly_equal_weights() -> None:
    torch.manual_seed(0)
    alphas = DartsSupernet(CHEST, depth=4).alphas["normal"]
    assert 0 < alphas.abs().max() < 0.01
    assert alphas.std().item() == pytest.approx(1e-3, rel=0.3)


@pytest.mark.parametrize("settings", [CIFAR, CHEST], ids=["cifar", "chest"])
@pytest.mark.parametrize("supernet", [{}, {"partial_channels": 2, "edge_normalisation": True}], ids=["full", "partial"])
def test_gradient_reaches_every_parameter(settings: DartsSettings, supernet: dict[str, Any]) -> None:
    net = make(settings, supernet=SupernetSettings(**supernet), outputs=5)
    target = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ((net(images(40))[0] - target) ** 2).mean().backward()
    for kind in KINDS:
        assert (cast(Tensor, net.alphas[kind].grad) != 0).all(), kind
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_alpha_gradient_is_the_finite_difference() -> None:
    supernet = make()
    x = images()

    def loss() -> Tensor:
        return cast(Tensor, supernet(x).square().sum())

    loss().backward()
    for alpha in supernet.alphas.values():
        grad = cast(Tensor, alpha.grad)[3, 5].item()
        values = []
        for step in (1e-6, -1e-6):  # larger ones meet the kinks of ReLUs
            with torch.no_grad():
                alpha[3, 5] += step
                values.append(loss().item())
                alpha[3, 5] -= step
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(grad, rel=1e-5)


def test_validates_by_the_statistics_of_the_batch_and_keeps_none() -> None:
    supernet = make()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    trained = supernet.train()(images())[0]
    assert torch.equal(trained, supernet.eval()(images())[0])
    assert not list(supernet.buffers())
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


@pytest.mark.parametrize("partial", [1, 2])
def test_recomputing_changes_nothing(partial: int) -> None:
    gradients = []
    for recompute in (False, True):
        settings = SupernetSettings(recompute=recompute, partial_channels=partial, edge_normalisation=True)
        supernet = make(supernet=settings)
        supernet(images()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in supernet.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)


def test_recomputing_keeps_less() -> None:
    kept = []
    for recompute in (False, True):
        supernet = make(supernet=SupernetSettings(recompute=recompute))
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            supernet(images())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 10


@pytest.mark.parametrize("settings", [CIFAR, CHEST], ids=["cifar", "chest"])
@pytest.mark.parametrize("dropped", [False, True])
def test_discretised_supernet_is_the_derived_network_with_its_weights(settings: DartsSettings, dropped: bool) -> None:
    first = make(settings, depth=settings.layers, outputs=5)
    candidates = first.strongest({"normal": 3, "reduce": 2}) if dropped else None
    supernet = make(settings, depth=settings.layers, seed=1, outputs=5, candidates=candidates)
    genotype = supernet.derive(DERIVE, name="derived", provenance={})
    network = DartsNetwork(genotype, outputs=5).double().train()
    copy_weights(supernet, network)
    x = images(43)
    continuous = supernet(x)
    supernet.discretise(genotype)
    torch.testing.assert_close(supernet(x), network(x), rtol=1e-9, atol=1e-9)
    supernet.discretise(None)
    assert torch.equal(supernet(x), continuous)
    assert not torch.allclose(continuous, network(x))


def copy_weights(supernet: DartsSupernet, network: DartsNetwork) -> None:
    """Copies weights into the derived network; its norms keep scale 1 and shift 0."""
    weights = supernet.state_dict()
    own = network.state_dict()
    copied = {key: value for key, value in weights.items() if key in own and ".operations." not in key}
    for layer, cell in enumerate(network.frame.cells):
        mixed = cast(MixedCell, supernet.frame.cells[layer])
        for node, edges in enumerate(cast(Any, cell).edges):
            for number, (name, state) in enumerate(edges):
                operation = cast(nn.ModuleDict, mixed.operations[mixed.edges.index((node, state))])[name]
                prefix = f"frame.cells.{layer}.operations.{node}.{number}."
                copied |= {prefix + key: value for key, value in operation.state_dict().items()}
    missing, unexpected = network.load_state_dict(copied, strict=False)
    assert not unexpected
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {key.rpartition(".")[0] for key in missing} <= norms


def test_discretise_refuses_an_operation_that_was_dropped() -> None:
    first = make()
    genotype = first.derive(DERIVE, name="before", provenance={})
    kept = {kind: tuple(("none", "dil_conv_5x5") for _ in range(5)) for kind in KINDS}
    with pytest.raises(GenotypeError, match="on an edge that no longer has it"):
        make(candidates=kept).discretise(genotype)


def test_derives_the_two_strongest_edges_of_a_node_without_none() -> None:
    supernet = make()
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.zero_()
            alpha[:, OPERATIONS.index(NONE)] = 9.0
        strong = supernet.alphas["normal"]
        strong[0, OPERATIONS.index("sep_conv_5x5")] = 8.0
        strong[1, OPERATIONS.index("max_pool_3x3")] = 8.5
        strong[2, OPERATIONS.index("skip_connect")] = 7.0
        strong[4, OPERATIONS.index("dil_conv_3x3")] = 8.0
    genotype = supernet.derive(DERIVE, name="derived", provenance={"seed": 3})
    assert genotype.cells["normal"] == (
        (("max_pool_3x3", 1), ("sep_conv_5x5", 0)),
        (("dil_conv_3x3", 2), ("skip_connect", 0)),
    )
    assert all(len(node) == 2 for node in genotype.cells["reduce"])
    assert genotype.provenance == {"seed": 3}
    assert from_json(genotype.to_json(), origin="written") == genotype


def test_the_genotype_has_the_settings_of_the_derived_network() -> None:
    settings = DartsSettings(search_channel=4, init_channel=6, layers=7, auxiliary=True, drop_path_prob=0.3)
    genotype = DartsSupernet(settings, depth=4).derive(DERIVE, name="derived", provenance={})
    found = check(genotype)
    assert (found.init_channel, found.layers, found.stem, found.auxiliary) == (6, 7, "chest", True)
    assert space_settings(genotype) == settings.model_copy(update={"search_channel": 16})


def test_strongest_keeps_the_largest_alphas_in_their_order_and_never_none_alone() -> None:
    supernet = make()
    with torch.no_grad():
        supernet.alphas["normal"].copy_(torch.arange(8.0).flip(0).expand(5, 8))
    assert supernet.strongest({"normal": 3})["normal"] == (OPERATIONS[:3],) * 5
    assert supernet.strongest({"normal": 1})["normal"] == ((OPERATIONS[1],),) * 5
    assert supernet.strongest({"normal": 3})["reduce"] == (OPERATIONS,) * 5


def test_a_stage_goes_on_with_what_the_stage_before_kept() -> None:
    kept: Candidates = make().strongest({"normal": 4, "reduce": 2})
    space = Darts(CIFAR, in_channels=3, outputs=5)
    supernet = space.supernet(StageSettings(depth=5, batch=4), kept)
    assert {kind: tuple(alpha.shape) for kind, alpha in supernet.alphas.items()} == {"normal": (5, 4), "reduce": (5, 2)}
    cell = cast(MixedCell, supernet.frame.cells[0])
    assert [set(cast(nn.ModuleDict, part)) for part in cell.operations] == [set(row) - {NONE} for row in kept["normal"]]
    assert supernet(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_edge_normalisation_scales_by_a_softmax_over_the_edges_of_a_node() -> None:
    supernet = make(supernet=SupernetSettings(edge_normalisation=True))
    gamma = supernet.gammas["reduce"]
    weights = supernet.mixture()["reduce"]
    scales = torch.cat([torch.softmax(gamma[:2], 0), torch.softmax(gamma[2:], 0)])
    torch.testing.assert_close(weights.bypass, scales)
    torch.testing.assert_close(torch.stack([row.sum() for row in weights.operations]), scales)
    assert len(supernet.architecture()) == 4


def test_snapshot_names_every_weight() -> None:
    supernet = make(supernet=SupernetSettings(edge_normalisation=True))
    found = supernet.snapshot()
    assert set(found) == {"alphas", "gammas"}
    assert found["alphas"]["reduce"]["edges"] == ["0<-0", "0<-1", "1<-0", "1<-1", "1<-2"]
    assert found["alphas"]["reduce"]["operations"] == [list(OPERATIONS)] * 5
    expected = torch.softmax(supernet.alphas["reduce"], dim=-1)
    torch.testing.assert_close(torch.tensor(found["alphas"]["reduce"]["weights"], dtype=torch.float64), expected)
    gammas = found["gammas"]["normal"]
    assert gammas["0<-0"] + gammas["0<-1"] == pytest.approx(1)
    assert set(make().snapshot()) == {"alphas"}


def space(settings: DartsSettings = CHEST, **supernet: Any) -> Darts:
    return Darts(settings, in_channels=3, outputs=5, supernet=SupernetSettings(**supernet))


def test_refuses_channels_that_cannot_be_parted() -> None:
    odd = CHEST.model_copy(update={"search_channel": 6})
    with pytest.raises(RecipeError, match=r"partial_channels 4 does not divide space\.search_channel 6"):
        space(odd, partial_channels=4)
    space(odd, partial_channels=2)


@pytest.mark.parametrize(("settings", "least"), [(CHEST, 4), (CIFAR, 3)], ids=["chest", "cifar"])
def test_refuses_fewer_cells_than_sections(settings: DartsSettings, least: int) -> None:
    with pytest.raises(RecipeError, match=rf"space\.layers is {least - 1}.*Use {least} or more"):
        space(settings.model_copy(update={"layers": least - 1}))
    stage = StageSettings(depth=4, batch=2).model_copy(update={"depth": least - 1})
    with pytest.raises(RecipeError, match=rf"search\.stages depth is {least - 1}"):
        space(settings).check(stage, 64, fewest=2)
    space(settings).check(StageSettings(depth=least, batch=2), 64, fewest=2)


def test_refuses_images_that_the_derived_network_cannot_take() -> None:
    with pytest.raises(RecipeError, match=r"size 31 is too small for the network.*Use 32 or more"):
        space().check(StageSettings(depth=4, batch=8), 31, fewest=8)


def test_refuses_unknown_sets() -> None:
    with pytest.raises(RecipeError, match=r"search\.stages keep names the unknown set 'down'.*normal or reduce"):
        space().check(StageSettings(depth=4, keep={"normal": 3, "down": 2}), 64, fewest=2)


@pytest.mark.parametrize(("batch", "accumulate", "size"), [(1, 1, 32), (5, 3, 32), (4, 4, 32)])
def test_refuses_norms_of_a_single_value_which_torch_would(batch: int, accumulate: int, size: int) -> None:
    stage = StageSettings(depth=4, batch=batch, accumulate=accumulate)
    with pytest.raises(RecipeError, match="the last cell sees one pixel"):
        space().check(stage, size, fewest=batch // accumulate)
    with pytest.raises(ValueError, match="more than 1 value"):
        make(CHEST)(images(size, number=1))


@pytest.mark.parametrize(("batch", "accumulate", "size"), [(2, 1, 32), (1, 1, 33), (6, 3, 32)])
def test_takes_what_has_statistics(batch: int, accumulate: int, size: int) -> None:
    space().check(StageSettings(depth=4, batch=batch, accumulate=accumulate), size, fewest=batch // accumulate)
    assert make(CHEST)(images(size, number=batch // accumulate))[0].isfinite().all()
