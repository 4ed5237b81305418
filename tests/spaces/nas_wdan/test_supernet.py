"""The supernet against sums written out here, and against the derived network with the same weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from medarts.config import DeriveSettings, StageSettings
from medarts.errors import GenotypeError
from medarts.spaces.base import Candidates
from medarts.spaces.cells import CellWeights, cell_edges, derive_cell
from medarts.spaces.genotype import NONE, Genotype
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings, lattice
from medarts.spaces.nas_wdan.frame import FullSizeHead
from medarts.spaces.nas_wdan.genotypes import check, paths_of
from medarts.spaces.nas_wdan.lattice import Node
from medarts.spaces.nas_wdan.network import NasWdanCell, NasWdanNetwork
from medarts.spaces.nas_wdan.operations import OPERATIONS, TRANSITIONS, OperationSettings, Transition
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import MixedCell, NasWdanSupernet, derive_paths, mix_reference

SMALL = LatticeSettings(depth=3, init_channel=4, double_down_channel=True, intermediate_nodes=2)
KEEP = {"down": 4, "normal": 4, "up": 2}
ALL = DeriveSettings(paths="all")


PUBLISHED = {kind: operations.published for kind, operations in OPERATIONS.items()}


def make(
    settings: LatticeSettings = SMALL, *, seed: int = 0, spread: float = 1.0, **options: object
) -> NasWdanSupernet:
    """Returns a supernet in float64 whose alphas and betas differ clearly."""
    torch.manual_seed(seed)
    supernet = NasWdanSupernet(settings, **options).double().eval()
    with torch.no_grad():
        for parameter in supernet.architecture():
            parameter.copy_(spread * torch.randn_like(parameter))
    return supernet


def images(size: int = 16, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def random_weights(candidates: Sequence[tuple[str, ...]], *, dtype: torch.dtype = torch.float64) -> CellWeights:
    """Returns weights of a cell of two nodes."""
    weights = tuple(torch.rand(len(names), dtype=dtype) for names in candidates)
    return CellWeights(cell_edges(2), tuple(candidates), weights, torch.ones(len(candidates), dtype=dtype))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_mixed_cell_is_the_weighted_sum_of_its_operations(transition: Transition) -> None:
    torch.manual_seed(0)
    of_s1 = PUBLISHED[transition]
    normal = PUBLISHED["normal"]
    candidates = (normal, of_s1, normal, of_s1, normal)  # edges 0<-0, 0<-1, 1<-0, 1<-1, 1<-2
    settings = OperationSettings(affine=False)
    cell = MixedCell(
        transition, candidates, intermediate_nodes=2, s0_channels=6, s1_channels=5, channels=4, settings=settings
    ).double()
    size = {"down": 4, "normal": 8, "up": 16}[transition]
    s0 = torch.randn(2, 6, size, size, dtype=torch.float64)
    s1 = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    w = random_weights(candidates)

    def edge(number: int, x: Tensor) -> Tensor:
        operations = cast(nn.ModuleDict, cell.operations[number])
        by_name = dict(zip(candidates[number], w.operations[number].tolist(), strict=True))
        total = torch.zeros(2, 4, size, size, dtype=torch.float64)
        for name in set(candidates[number]) - {NONE}:
            total = total + by_name[name] * operations[name](x)
        return total

    assert cell.input0 is not None
    a, b = cell.input0(s0), cell.input1(s1)
    node0 = edge(0, a) + edge(1, b)
    node1 = edge(2, a) + edge(3, b) + edge(4, node0)
    torch.testing.assert_close(mix_reference(cell, a, b, w), torch.cat([node0, node1], dim=1), rtol=1e-12, atol=1e-12)


def test_mixed_cell_without_s0_leaves_its_edges_out() -> None:
    torch.manual_seed(0)
    candidates = (
        PUBLISHED["normal"],
        PUBLISHED["down"],
        PUBLISHED["normal"],
        PUBLISHED["down"],
        PUBLISHED["normal"],
    )
    settings = OperationSettings(affine=False)
    cell = MixedCell(
        "down", candidates, intermediate_nodes=2, s0_channels=None, s1_channels=5, channels=4, settings=settings
    )
    assert cell.input0 is None
    assert [len(cast(nn.ModuleDict, part)) for part in cell.operations] == [0, 6, 0, 6, 6]
    w = random_weights(candidates, dtype=torch.float32)
    tripled = tuple(weight * (3 if edge in (0, 2) else 1) for edge, weight in enumerate(w.operations))
    second = cell.input1(torch.randn(2, 5, 8, 8))
    out = mix_reference(cell, None, second, w)
    assert out.shape == (2, 8, 4, 4)
    assert torch.equal(out, mix_reference(cell, None, second, replace(w, operations=tripled)))


def test_cell_edges() -> None:
    assert cell_edges(2) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert len(cell_edges(4)) == 14


def test_frame_sums_the_weighted_cells_of_every_node() -> None:
    supernet = make()
    weights = supernet.mixture()
    x = images()
    cells, frame = supernet.frame.cells, supernet.frame
    by_transition = weights.cells

    def cell(node: tuple[int, int], transition: Transition, s0: Tensor | None, s1: Tensor) -> Tensor:
        module = cast(MixedCell, cells[f"{node[0]}_{node[1]}_{transition}"])
        first = None if s0 is None or module.input0 is None else module.input0(s0)
        return weights.transitions[Node(*node)][transition] * mix_reference(
            module, first, module.input1(s1), by_transition[transition]
        )

    n00 = frame.stem(x)
    n11 = cell((1, 1), "down", None, n00)
    n20 = cell((2, 0), "normal", None, n00) + cell((2, 0), "up", n00, n11)
    n22 = cell((2, 2), "down", None, n11)
    n31 = cell((3, 1), "down", n11, n20) + cell((3, 1), "normal", None, n11) + cell((3, 1), "up", n11, n22)
    n40 = cell((4, 0), "normal", n00, n20) + cell((4, 0), "up", n20, n31)
    assert [tuple(n.shape[1:]) for n in (n00, n11, n20, n22, n31, n40)] == [
        (64, 8, 8), (16, 4, 4), (8, 8, 8), (32, 2, 2), (16, 4, 4), (8, 8, 8)
    ]  # fmt: skip
    logits = [frame.heads[key](node) for key, node in (("2_0", n20), ("4_0", n40))]
    expected = [nn.functional.interpolate(item, size=(16, 16), mode="bilinear") for item in logits]
    for found, wanted in zip(supernet(x, all_heads=True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_weights_are_softmaxes_that_sum_to_one() -> None:
    supernet = make(replace(SMALL, intermediate_nodes=4))
    mixture = supernet.mixture()
    sizes = {"down": 6, "normal": 7, "up": 4}
    for transition in TRANSITIONS:
        assert len(mixture.cells[transition].operations) == 14
        for (_, state), weight in zip(cell_edges(4), mixture.cells[transition].operations, strict=True):
            assert len(weight) == sizes[transition if state == 1 else "normal"]
            assert weight.sum().item() == pytest.approx(1)
    for node, row in mixture.transitions.items():
        assert tuple(row) == lattice.all_paths(3)[node]
        assert sum(row.values()).item() == pytest.approx(1)
    assert mixture.transitions[Node(1, 1)]["down"].item() == 1.0


def test_normal_alphas_are_shared_by_the_cells_of_all_transitions() -> None:
    supernet = make(replace(SMALL, intermediate_nodes=4))
    assert {kind: tuple(alpha.shape) for kind, alpha in supernet.alphas.items()} == {
        "down": (4, 6),
        "normal": (14, 7),
        "up": (4, 4),
    }
    cells = {transition: weights.operations for transition, weights in supernet.mixture().cells.items()}
    softmaxed = torch.softmax(supernet.alphas["normal"], dim=-1)
    s1_edges = [1, 3, 6, 10]
    for edge, (_, state) in enumerate(cell_edges(4)):
        assert torch.equal(cells["normal"][edge], softmaxed[edge])
        for transition in ("down", "up"):
            if state == 1:
                own = torch.softmax(supernet.alphas[transition], dim=-1)[s1_edges.index(edge)]
                assert torch.equal(cells[transition][edge], own)
            else:
                assert torch.equal(cells[transition][edge], softmaxed[edge])


def test_betas_weigh_the_transitions_they_belong_to() -> None:
    supernet = make()
    nodes = list(lattice.all_paths(3))
    with torch.no_grad():
        supernet.betas.zero_()
        supernet.betas[nodes.index(Node(3, 1)), TRANSITIONS.index("up")] = 2.0
    with torch.no_grad():
        row, other = (supernet.mixture().transitions[node] for node in (Node(3, 1), Node(4, 0)))
    e = torch.e**2
    assert {transition: float(beta) for transition, beta in row.items()} == pytest.approx(
        {"down": 1 / (2 + e), "normal": 1 / (2 + e), "up": e / (2 + e)}
    )
    assert [float(beta) for beta in other.values()] == [0.5, 0.5]


@pytest.mark.parametrize("depth", [3, 4])
def test_gradient_reaches_every_alpha_and_every_beta_of_a_choice(depth: int) -> None:
    supernet = make(replace(SMALL, depth=depth))
    target = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sum(((out - target) ** 2).mean() for out in supernet(images(), all_heads=True)).backward()
    for kind, alpha in supernet.alphas.items():
        assert alpha.grad is not None
        assert (alpha.grad != 0).all(), kind
    assert supernet.betas.grad is not None
    for row, (node, transitions) in zip(supernet.betas.grad, lattice.all_paths(depth).items(), strict=True):
        for column, transition in enumerate(TRANSITIONS):
            assert (row[column] != 0).item() == (transition in transitions and len(transitions) > 1), (node, transition)
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name


def test_alpha_gradient_is_the_finite_difference() -> None:
    supernet = make(spread=0.3)
    x = images()

    def loss() -> Tensor:
        return torch.stack([out.pow(2).mean() for out in supernet(x, all_heads=True)]).sum()

    loss().backward()
    for parameter, index in ((supernet.alphas["normal"], (4, 3)), (supernet.alphas["down"], (1, 5)),
                             (supernet.betas, (1, 2))):  # fmt: skip
        assert parameter.grad is not None
        sides = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter[index] += step
                sides.append(loss().item())
        with torch.no_grad():
            parameter[index] += 1e-5
        assert parameter.grad[index].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-10)


def test_architecture_and_weights_share_all_parameters() -> None:
    supernet = make()
    architecture = {id(p) for p in supernet.architecture()}
    weights = {id(p) for p in supernet.weights()}
    assert len(architecture) == 4
    assert not architecture & weights
    assert architecture | weights == {id(p) for p in supernet.parameters()}


def test_norms_of_the_supernet_have_no_parameters() -> None:
    norms = [part for part in make().modules() if isinstance(part, nn.GroupNorm)]
    assert norms
    assert all(norm.weight is None for norm in norms)


@pytest.mark.parametrize(
    ("classes", "channels", "deep", "full"), [(1, 3, True, False), (4, 1, True, True), (2, 5, False, False)]
)
def test_outputs_have_the_size_of_the_input(classes: int, channels: int, deep: bool, full: bool) -> None:
    settings = replace(SMALL, deep_supervision=deep, full_size_head=full)
    supernet = make(settings, in_channels=channels, outputs=classes)
    x = torch.rand(1, channels, 16, 24, dtype=torch.float64)
    outs = supernet(x, all_heads=True)
    assert [tuple(out.shape) for out in outs] == [(1, classes, 16, 24)] * (2 if deep else 1)
    assert isinstance([*supernet.frame.heads.values()][-1], FullSizeHead) is full


def test_space_hands_all_settings_of_the_recipe_on() -> None:
    recipe = NasWdanSettings(
        init_channel=6, double_down_channel=False, intermediate_nodes=3, deep_supervision=False, shuffle_groups=3,
        dropout_prob=0.25, stem_channels=8, full_size_head=True,
    )  # fmt: skip
    supernet = NasWdan(recipe, in_channels=2, outputs=3).supernet(StageSettings(depth=4), None)
    assert supernet.settings == LatticeSettings(
        depth=4, init_channel=6, double_down_channel=False, intermediate_nodes=3, shuffle_groups=3,
        deep_supervision=False, dropout_prob=0.25, stem_channels=8, full_size_head=True,
    )  # fmt: skip
    assert supernet(torch.rand(1, 2, 16, 16)).shape == (1, 3, 16, 16)
    assert any(isinstance(part, nn.Dropout) and part.p == 0.25 for part in supernet.modules())


def test_strongest_keeps_the_best_of_every_edge_in_the_order_of_the_set() -> None:
    supernet = make(seed=3)
    kept = supernet.strongest(KEEP)
    for kind, rows in kept.items():
        alpha = supernet.alphas[kind]
        assert len(rows) == len(alpha)
        for names, row in zip(rows, alpha, strict=True):
            assert len(names) == KEEP[kind]
            best = sorted(range(len(row)), key=lambda i, row=row: -row[i].item())[: KEEP[kind]]
            assert list(names) == [name for i, name in enumerate(PUBLISHED[cast(Transition, kind)]) if i in best]


def test_strongest_without_a_number_keeps_all_and_never_more_than_there_are() -> None:
    supernet = make()
    assert supernet.strongest({}) == supernet.candidates
    assert supernet.strongest({"down": 100, "up": 100, "normal": 100}) == supernet.candidates


def test_an_edge_that_keeps_one_operation_keeps_a_real_one() -> None:
    supernet = make()
    with torch.no_grad():
        supernet.alphas["normal"].zero_()
        supernet.alphas["normal"][:, PUBLISHED["normal"].index(NONE)] = 5.0
        supernet.alphas["normal"][:, PUBLISHED["normal"].index("conv")] = 1.0
    kept = supernet.strongest({"normal": 1})
    assert set(kept["normal"]) == {("conv",)}
    assert set(supernet.strongest({"normal": 2})["normal"]) == {(NONE, "conv")}
    second = make(candidates=kept)
    assert torch.isfinite(second(images())[-1]).all()


def test_second_stage_has_the_kept_candidates_alone() -> None:
    first = make(seed=1)
    kept = first.strongest(KEEP)
    second = make(replace(SMALL, depth=4), seed=2, candidates=kept)
    assert second.candidates == kept
    assert {kind: alpha.shape[1] for kind, alpha in second.alphas.items()} == KEEP
    for cell in second.frame.cells.values():
        assert isinstance(cell, MixedCell)
        for edge, (_, state) in enumerate(cell.edges):
            kind = cell.transition if state == 1 else "normal"
            row = edge if kind == "normal" else [1, 3].index(edge)
            present = set(kept[kind][row]) - {NONE} if state or cell.input0 is not None else set()
            assert set(cast(nn.ModuleDict, cell.operations[edge])) == present
    genotype = second.derive(ALL, name="x", provenance={})
    for transition in TRANSITIONS:
        for node, edges in enumerate(genotype.cells[transition]):
            for operation, state in edges:
                edge = cell_edges(2).index((node, state))
                kind = transition if state == 1 else "normal"
                assert operation in kept[kind][edge if kind == "normal" else [1, 3].index(edge)]


def test_initial_weights_prefer_nothing() -> None:
    torch.manual_seed(0)
    mixture = NasWdanSupernet(SMALL).mixture()
    for weights in mixture.cells.values():
        for weight in weights.operations:
            assert (weight * len(weight)).tolist() == pytest.approx([1] * len(weight), abs=0.01)


# Deriving


def test_derived_edge_has_its_strongest_operation_other_than_none() -> None:
    edges = cell_edges(1)
    candidates = (PUBLISHED["normal"], PUBLISHED["normal"])
    weights = [[0.5, 0.1, 0.05, 0.05, 0.1, 0.05, 0.15], [0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1]]
    assert derive_cell(edges, candidates, weights) == ((("cweight", 1), ("conv", 0)),)


def test_derived_node_has_its_two_strongest_edges() -> None:
    edges = cell_edges(3)
    names = ("none", "identity", "conv")
    strong = {
        (0, 0): 0.4,
        (0, 1): 0.5,
        (1, 0): 0.6,
        (1, 1): 0.4,
        (1, 2): 0.5,
        (2, 0): 0.4,
        (2, 1): 0.45,
        (2, 2): 0.6,
        (2, 3): 0.7,
    }
    weights = [[0.0, 1 - strong[edge] if strong[edge] > 0.5 else 0.1, strong[edge]] for edge in edges]
    cell = derive_cell(edges, (names,) * len(edges), weights)
    assert [set(node) for node in cell] == [
        {("conv", 0), ("conv", 1)},
        {("conv", 0), ("conv", 2)},
        {("conv", 3), ("conv", 2)},
    ]


@pytest.mark.parametrize(
    ("up_weight", "states"),
    [
        (0.50, {0, 2}),  # 0.50 * 4/7 = 0.286 loses to 0.30 and 0.31, though 0.50 is the largest
        (0.56, {1, 2}),  # 0.56 * 4/7 = 0.320 wins
    ],
)
def test_weights_of_a_smaller_set_are_scaled_down(up_weight: float, states: set[int]) -> None:
    """In an up cell the edge from s1 has 4 candidates, the others 7."""
    edges = cell_edges(2)
    normal, up = PUBLISHED["normal"], PUBLISHED["up"]
    candidates = (normal, up, normal, up, normal)

    def row(names: tuple[str, ...], chosen: str, weight: float) -> list[float]:
        rest = (1 - weight) / (len(names) - 1)
        return [weight if name == chosen else rest for name in names]

    weights = [
        row(normal, "conv", 0.4),
        row(up, "up_conv", 0.4),
        row(normal, "conv", 0.30),
        row(up, "up_conv", up_weight),
        row(normal, "dil_conv", 0.31),
    ]
    cell = derive_cell(edges, candidates, weights)
    assert {state for _, state in cell[1]} == states


def test_scaling_rule_decides_from_alphas() -> None:
    """With alphas: the same preference 1 over all others on every edge of a node; equal strength, not the smaller set.

    softmax of one 1 among zeros is e/(e+3) = 0.475 of 4 and e/(e+6) = 0.312 of 7; scaled by 4/7, 0.475 becomes 0.272.
    """
    supernet = make()
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.zero_()
            alpha[:, 2] = 1.0  # normal: cweight, down: down_cweight, up: up_conv
    cells = supernet.derive(ALL, name="x", provenance={}).cells
    assert set(cells["up"][1]) == {("cweight", 0), ("cweight", 2)}
    assert set(cells["normal"][1]) == {("cweight", 0), ("cweight", 1)}
    # down: e/(e+5) * 6/7 = 0.302 loses to 0.312 as well
    assert set(cells["down"][1]) == {("cweight", 0), ("cweight", 2)}


def test_uniform_alphas_make_all_edges_equal() -> None:
    """No preference at all: 1/4 * 4/7 = 1/6 * 6/7 = 1/7, so that no set is favoured and the first states win."""
    edges = cell_edges(2)
    candidates = (
        PUBLISHED["normal"],
        PUBLISHED["up"],
        PUBLISHED["normal"],
        PUBLISHED["up"],
        PUBLISHED["normal"],
    )
    weights = [[1 / len(names)] * len(names) for names in candidates]
    weights[4] = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4]
    cell = derive_cell(edges, candidates, weights)
    assert cell[1][0] == ("conv", 2)


BETAS: dict[Node, dict[Transition, float]] = {
    Node(1, 1): {"down": 1.0},
    Node(2, 0): {"normal": 0.7, "up": 0.3},
    Node(2, 2): {"down": 1.0},
    Node(3, 1): {"down": 0.29, "normal": 0.5, "up": 0.21},
    Node(4, 0): {"normal": 0.45, "up": 0.55},
}


def test_all_keeps_every_transition() -> None:
    assert derive_paths(BETAS, DeriveSettings(paths="all")) == lattice.all_paths(3)


def test_top_k_keeps_the_strongest_transitions() -> None:
    one = derive_paths(BETAS, DeriveSettings(paths="top_k", top_k=1))
    assert one == {
        (1, 1): ("down",), (2, 0): ("normal",), (2, 2): ("down",), (3, 1): ("normal",), (4, 0): ("up",)
    }  # fmt: skip
    two = derive_paths(BETAS, DeriveSettings(paths="top_k", top_k=2))
    assert two[Node(3, 1)] == ("down", "normal")
    assert two[Node(2, 0)] == ("normal", "up")
    assert derive_paths(BETAS, DeriveSettings(paths="top_k", top_k=3)) == lattice.all_paths(3)


def test_threshold_keeps_transitions_from_it_and_always_the_strongest() -> None:
    kept = derive_paths(BETAS, DeriveSettings(paths="threshold", threshold=0.3))
    assert kept[Node(2, 0)] == ("normal", "up")  # 0.3 is kept
    assert kept[Node(3, 1)] == ("normal",)
    kept = derive_paths(BETAS, DeriveSettings(paths="threshold", threshold=0.9))
    assert kept[Node(2, 0)] == ("normal",)
    assert kept[Node(4, 0)] == ("up",)
    assert kept[Node(3, 1)] == ("normal",)
    assert derive_paths(BETAS, DeriveSettings(paths="threshold", threshold=0.0)) == lattice.all_paths(3)


def set_betas(supernet: NasWdanSupernet, betas: dict[Node, dict[Transition, float]]) -> None:
    with torch.no_grad():
        for row, node in zip(supernet.betas, supernet.paths, strict=True):
            for transition, beta in betas[node].items():
                row[TRANSITIONS.index(transition)] = torch.tensor(beta, dtype=torch.float64).log()


def test_cells_that_reach_no_head_are_dropped() -> None:
    """With one transition at each node, (3,1) reads (1,1) alone, so that (2,2) reaches no head."""
    supernet = make()
    set_betas(supernet, BETAS)
    genotype = supernet.derive(DeriveSettings(paths="top_k", top_k=1), name="found", provenance={"seed": 7})
    assert paths_of(genotype) == {(1, 1): ("down",), (2, 0): ("normal",), (3, 1): ("normal",), (4, 0): ("up",)}
    assert [(kept.layer, kept.level) for kept in genotype.paths] == [(1, 1), (2, 0), (3, 1), (4, 0)]
    assert genotype.name == "found"
    assert genotype.provenance == {"seed": 7}
    assert check(genotype) == SMALL


def test_derived_genotype_carries_the_settings() -> None:
    settings = replace(SMALL, shuffle_groups=2, deep_supervision=False, dropout_prob=0.1)
    assert check(make(settings).derive(ALL, name="x", provenance={})) == settings


def test_derive_changes_nothing() -> None:
    supernet = make()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    out = supernet(images())
    supernet.derive(ALL, name="x", provenance={})
    supernet.strongest(KEEP)
    supernet.snapshot()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    assert torch.equal(out, supernet(images()))


def test_snapshot_is_what_the_mixture_says() -> None:
    supernet = make()
    set_betas(supernet, BETAS)
    snapshot = supernet.snapshot()
    assert {key: pytest.approx(row) for key, row in snapshot["betas"].items()} == {
        f"{node.layer},{node.level}": row for node, row in BETAS.items()
    }
    down = snapshot["alphas"]["down"]
    assert down["edges"] == ["0<-1", "1<-1"]
    assert down["operations"] == [list(PUBLISHED["down"])] * 2
    assert snapshot["alphas"]["normal"]["edges"] == ["0<-0", "0<-1", "1<-0", "1<-1", "1<-2"]
    assert down["weights"][1] == supernet.mixture().cells["down"].operations[3].tolist()


# Discretising


def carry_over(supernet: NasWdanSupernet, genotype: Genotype, **options: int) -> NasWdanNetwork:
    """Builds the derived network and copies every weight from the supernet."""
    network = NasWdanNetwork(genotype, **options).double().eval()
    source = dict(supernet.frame.named_parameters())
    missing: set[str] = set()

    def copy(target: nn.Module, prefix: str) -> None:
        for name, parameter in target.named_parameters():
            full = f"{prefix}{name}"
            if full in source:
                with torch.no_grad():
                    parameter.copy_(source[full])
            else:
                missing.add(full)

    for part in ("stem", "heads"):
        copy(network.frame.get_submodule(part), f"{part}.")
    for key, cell in network.frame.cells.items():
        assert isinstance(cell, NasWdanCell)
        for part in ("input0", "input1"):
            if getattr(cell, part) is not None:
                copy(cell.get_submodule(part), f"cells.{key}.{part}.")
        for node, edges in enumerate(cell.edges):
            for number, (name, state) in enumerate(edges):
                edge = cell_edges(len(cell.edges)).index((node, state))
                copy(cell.get_submodule(f"operations.{node}.{number}"), f"cells.{key}.operations.{edge}.{name}.")
    norms = {
        f"{name}.{kind}" for name, part in network.frame.named_modules() if isinstance(part, nn.GroupNorm)
        for kind in ("weight", "bias")
    }  # fmt: skip
    assert len(missing) == len(norms), "only norms may be without a counterpart"
    return network


@pytest.mark.parametrize(
    "derive",
    [
        DeriveSettings(paths="all"),
        DeriveSettings(paths="top_k", top_k=1),
        DeriveSettings(paths="top_k", top_k=2),
        DeriveSettings(paths="threshold", threshold=0.4),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_discretised_supernet_equals_the_derived_network(derive: DeriveSettings, seed: int) -> None:
    settings = replace(SMALL, depth=4, shuffle_groups=2, intermediate_nodes=3, double_down_channel=seed == 0)
    supernet = make(settings, seed=seed, spread=2.0, outputs=2)
    genotype = supernet.derive(derive, name="found", provenance={})
    network = carry_over(supernet, genotype, outputs=2)
    x = images()
    continuous = supernet(x, all_heads=True)
    supernet.discretise(genotype)
    for found, wanted in zip(supernet(x, all_heads=True), network(x, all_heads=True), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        assert wanted.abs().max() > 1e-3
    supernet.discretise(None)
    for found, wanted in zip(supernet(x, all_heads=True), continuous, strict=True):
        assert torch.equal(found, wanted)


def test_discretised_second_stage_equals_the_derived_network() -> None:
    kept = make(seed=1).strongest(KEEP)
    supernet = make(seed=4, spread=2.0, candidates=kept)
    genotype = supernet.derive(DeriveSettings(paths="top_k", top_k=2), name="found", provenance={})
    network = carry_over(supernet, genotype)
    supernet.discretise(genotype)
    for found, wanted in zip(supernet(images(), all_heads=True), network(images(), all_heads=True), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_genotype_with_dropped_operations_is_refused() -> None:
    first = make(seed=1)
    genotype = first.derive(ALL, name="early", provenance={})
    operation, _ = genotype.cells["down"][1][0]
    candidates: Candidates = {
        kind: tuple(tuple(name for name in names if name != operation)[:3] for names in rows)
        for kind, rows in first.candidates.items()
    }
    with pytest.raises(GenotypeError, match=r"'early' has \w+ on an edge that no longer has it"):
        make(candidates=candidates).discretise(genotype)
