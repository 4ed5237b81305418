"""Genotypes drawn at random: valid, uniform, and told by their seed."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from medarts.errors import GenotypeError
from medarts.models import build_network
from medarts.spaces import random_genotype, space_settings
from medarts.spaces.darts.operations import OPERATIONS
from medarts.spaces.genotype import Genotype, from_json, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import lattice, operations
from medarts.spaces.nas_wdan.genotypes import paths_of
from medarts.spaces.sampling import without_none

NAS_WDAN, DARTS = "stage0_double_deep_ep80_newim", "darts_v2"


def nas_wdan(*, transitions: int) -> Genotype:
    """Returns a genotype that keeps at most that many transitions at each node."""
    like = load(NAS_WDAN)
    return replace(like, paths=tuple(replace(kept, transitions=kept.transitions[:transitions]) for kept in like.paths))


@pytest.mark.parametrize("name", zoo())
def test_is_valid_and_has_the_settings_of_the_other(name: str) -> None:
    like = load(name)
    for seed in range(20):
        drawn = random_genotype(like, seed=seed)
        space_settings(drawn)
        assert (drawn.space, drawn.settings) == (like.space, like.settings)
        assert drawn.provenance == {"source": "random", "seed": seed, "like": name}
        for cell in drawn.cells.values():
            for node, edges in enumerate(cell):
                states = [state for _, state in edges]
                assert len(set(states)) == 2
                assert max(states) <= node + 1
        assert from_json(drawn.to_json(), origin="written") == drawn


@pytest.mark.parametrize("name", [NAS_WDAN, DARTS])
def test_the_seed_decides(name: str) -> None:
    like = load(name)
    assert random_genotype(like, seed=3) == random_genotype(like, seed=3)
    assert len({str(random_genotype(like, seed=seed).cells) for seed in range(50)}) == 50


@pytest.mark.parametrize("transitions", [1, 2, 3])
def test_every_node_keeps_as_many_transitions_as_the_other_at_most(transitions: int) -> None:
    like = nas_wdan(transitions=transitions)
    found = [random_genotype(like, seed=seed) for seed in range(60)]
    possible = lattice.all_paths(like.settings["depth"])
    for drawn in found:
        kept = {lattice.Node(entry.layer, entry.level): entry.transitions for entry in drawn.paths}
        assert kept.keys() == possible.keys()
        assert all(len(kept[node]) == min(transitions, len(possible[node])) for node in kept)
        assert set(lattice.head_nodes(5, deep_supervision=True)) <= paths_of(drawn).keys()
    choices = Counter(str(drawn.paths) for drawn in found)
    assert len(choices) == 1 if transitions == 3 else len(choices) > 50


@pytest.mark.parametrize("transitions", [1, 2])
def test_networks_can_be_run(transitions: int) -> None:
    like = nas_wdan(transitions=transitions).with_settings(init_channel=2)
    for seed in range(3):
        network = build_network(random_genotype(like, seed=seed), in_channels=3, outputs=1).eval()
        with torch.inference_mode():
            assert all(logits.isfinite().all() for logits in network(torch.rand(1, 3, 32, 32), all_heads=True))


def assert_uniform(counts: Counter, of: int) -> None:
    """Holds that counts are those of equal chances: chi squared below its mean by five deviations."""
    expected = counts.total() / of
    assert len(counts) == of
    chi = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi < of - 1 + 5 * (2 * (of - 1)) ** 0.5


def test_operations_and_states_of_nas_wdan_are_uniform() -> None:
    found = [random_genotype(nas_wdan(transitions=2), seed=seed) for seed in range(600)]
    # The published ones: examples of docstrings, run in the same process, register others.
    changing = {transition: without_none(of.published) for transition, of in operations.OPERATIONS.items()}
    for transition, names in changing.items():
        cells = [drawn.cells[transition] for drawn in found]
        edges = [edge for cell in cells for node in cell for edge in node]
        assert_uniform(Counter(name for name, state in edges if state == 1), len(names))
        assert_uniform(Counter(name for name, state in edges if state != 1), len(changing["normal"]))
        pairs = Counter(tuple(sorted(state for _, state in cell[3])) for cell in cells)
        assert_uniform(pairs, 10)  # two of the five states before node 3
    node = [entry.transitions for drawn in found for entry in drawn.paths if (entry.layer, entry.level) == (3, 1)]
    assert_uniform(Counter(node), 3)


def test_operations_of_the_stack_are_uniform() -> None:
    found = [random_genotype(load(DARTS), seed=seed) for seed in range(400)]
    for kind in ("normal", "reduce"):
        edges = Counter(name for drawn in found for node in drawn.cells[kind] for name, _ in node)
        assert_uniform(edges, len(without_none(OPERATIONS["normal"].published)))


def test_a_genotype_that_does_not_fit_its_space_is_refused() -> None:
    like = load(NAS_WDAN)
    with pytest.raises(GenotypeError, match="unknown space 'loom'"):
        random_genotype(replace(like, space="loom"), seed=0)
    with pytest.raises(GenotypeError, match="depth 2"):
        random_genotype(like.with_settings(depth=2), seed=0)
