"""What a genotype decides: supernets without an option, and supernets of which everything is decided."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.errors import RecipeError
from medarts.spaces.base import SearchSpace, Supernet
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts import supernet as darts
from medarts.spaces.decisions import Decision, Restriction
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan import supernet as nas_wdan

PERTURBATION = DeriveSettings(select="perturbation")
BACKENDS = {
    NasWdan: {"reference": nas_wdan.REFERENCE, "fused": nas_wdan.FUSED},
    Darts: {"reference": darts.REFERENCE, "fused": darts.FUSED},
}


@pytest.fixture(params=[NasWdan, Darts])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    """Three nodes, so that edges compete; partial channels and edge normalisation, which decisions change too."""
    supernet = SupernetSettings(partial_channels=2, edge_normalisation=True)
    if request.param is NasWdan:
        settings = NasWdanSettings(init_channel=4, intermediate_nodes=2, double_down_channel=False)
        return NasWdan(settings, in_channels=3, outputs=1, supernet=supernet)
    return Darts(
        DartsSettings(intermediate_nodes=2, search_channel=4, stem="cifar"), in_channels=3, outputs=2, supernet=supernet
    )


def supernet_of(space: SearchSpace, backend: str = "fused") -> Supernet:
    torch.manual_seed(0)
    supernet = space.supernet(StageSettings(depth=3), None)
    supernet.backend = BACKENDS[type(space)][backend]
    with torch.no_grad():
        for parameter in supernet.architecture():
            parameter.copy_(torch.randn_like(parameter))
    return supernet.eval()


@torch.no_grad()
def outputs(supernet: Supernet) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.stack(supernet.forward_heads(torch.rand(2, 3, 16, 16)))


def at_random(decisions: list[Decision], seed: int) -> dict[str, tuple[str, ...]]:
    generator = np.random.default_rng(seed)
    return {
        each.name: tuple(each.options[place] for place in sorted(generator.permutation(len(each.options))[: each.keep]))
        for each in decisions
    }


def test_a_supernet_of_which_everything_is_decided_is_the_discretised_one(space: SearchSpace) -> None:
    supernet = supernet_of(space)
    for seed in range(2):
        kept = at_random(supernet.decisions(PERTURBATION), seed)
        supernet.restriction = Restriction(kept)
        genotype = supernet.derive(PERTURBATION, name="decided", provenance={})
        for kind, cell in genotype.cells.items():
            for node, edges in enumerate(cell):
                assert sorted(str(state) for _, state in edges) == sorted(kept[f"edges {kind} {node}"])
                for operation, state in edges:
                    of_set = kind if kind == "reduce" or state == 1 or isinstance(space, Darts) else "normal"
                    assert kept[f"operation {of_set} {node}<-{state}"] == (operation,)
        for of_node in genotype.paths:
            assert of_node.transitions == kept[f"paths {of_node.layer},{of_node.level}"]
        decided = outputs(supernet)
        supernet.restriction = Restriction()
        supernet.discretise(genotype)
        torch.testing.assert_close(decided, outputs(supernet), rtol=0, atol=2e-5)
        supernet.discretise(None)


def test_every_option_left_out_changes_the_outputs_and_nothing_afterwards(space: SearchSpace) -> None:
    supernet = supernet_of(space)
    before = outputs(supernet)
    decisions = supernet.decisions(PERTURBATION)
    assert {each.kind for each in decisions} == {"operation", "edges"} | ({"paths"} if space.has_paths else set())
    generator = np.random.default_rng(0)
    for place in generator.permutation(len(decisions))[:12]:
        decision = decisions[place]
        if decision.is_open:
            supernet.restriction = Restriction(without=(decision.name, decision.options[0]))
            assert not torch.equal(outputs(supernet), before), decision
    supernet.restriction = Restriction()
    assert torch.equal(outputs(supernet), before)


def test_left_out_is_a_weight_of_zero_and_the_others_stay(space: SearchSpace) -> None:
    """As in the paper: what is left of an edge is not scaled up to a sum of 1."""
    supernet = supernet_of(space)
    kind, decision = "normal", next(each for each in supernet.decisions(PERTURBATION) if " normal 1<-2" in each.name)
    whole = supernet.mixture()
    edge = 4  # (1, 2) of (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)
    supernet.restriction = Restriction(without=(decision.name, decision.options[1]))
    cells = [getattr(each, "cells", each)[kind] for each in (whole, supernet.mixture())]
    names, others = cells[0].candidates[edge], cells[1].candidates[edge]
    assert others == tuple(name for name in names if name != decision.options[1])
    kept = [names.index(name) for name in others]
    torch.testing.assert_close(cells[1].operations[edge], cells[0].operations[edge][kept])


def test_backends_agree_on_restricted_supernets(space: SearchSpace, exact: None) -> None:
    found = []
    for backend in ("reference", "fused"):
        supernet = supernet_of(space, backend).double()
        decisions = supernet.decisions(PERTURBATION)
        kept = at_random([each for each in decisions if each.kind == "operation"], 0)
        left = next(each for each in decisions if each.kind == "edges" and each.is_open)
        supernet.restriction = replace(Restriction(kept), without=(left.name, left.options[-1]))
        found.append(outputs(supernet))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-9)


def test_paths_follow_the_recipe() -> None:
    space = NasWdan(NasWdanSettings(init_channel=2, intermediate_nodes=1), in_channels=3, outputs=1)
    supernet = space.supernet(StageSettings(depth=3), None)

    def kept(**changes: object) -> set[int]:
        settings = PERTURBATION.model_copy(update=changes)
        return {each.keep for each in supernet.decisions(settings) if each.kind == "paths"}

    assert kept(top_k=1) == {1}
    assert not any(
        each.is_open
        for each in supernet.decisions(PERTURBATION.model_copy(update={"paths": "all"}))
        if each.kind == "paths"
    )
    with pytest.raises(RecipeError, match=r"derive.paths threshold .*perturbation.*Use derive.paths=top_k"):
        kept(paths="threshold")
