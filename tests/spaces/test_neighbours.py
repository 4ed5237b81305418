"""Genotypes sampled from a recipe's space, their neighbours, and the fingerprint of what their networks are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.config import parse
from medarts.config.reading import deciding_values, fingerprint
from medarts.errors import GenotypeError, RecipeError
from medarts.models import build_network
from medarts.spaces import load_genotype, space_settings
from medarts.spaces.base import SearchSpace
from medarts.spaces.darts import Darts, DartsSettings
from medarts.spaces.darts.settings import DartsChoices
from medarts.spaces.genotype import Genotype, KeptCells, from_json
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings
from medarts.spaces.nas_wdan.genotypes import kept_paths, paths_of
from medarts.spaces.nas_wdan.lattice import all_paths, head_nodes, reaching, to_kept
from medarts.spaces.nas_wdan.settings import LatticeSettings, NasWdanChoices

LATTICE, STACK = NasWdanSettings(init_channel=4), DartsSettings(init_channel=4, choices=DartsChoices(layers=(4, 5, 8)))
SPACES: list[tuple[type[SearchSpace], Any]] = [(NasWdan, LATTICE), (Darts, STACK)]
BOTH = pytest.mark.parametrize(("space", "recipe"), SPACES, ids=["nas-wdan", "darts"])
SEEDS = st.integers(0, 2**31 - 1)


def built(genotype: Genotype) -> None:
    """Builds a genotype that was checked, without memory."""
    space_settings(genotype)
    with torch.device("meta"):
        build_network(genotype, in_channels=3, outputs=1)


def one_cell_network(*, edges: tuple[tuple[str, int], ...] = (("conv", 0), ("down_conv", 1))) -> Genotype:
    """Returns a lattice of one node a cell in which all down cells lead along the diagonal, where s0 is absent."""
    straight = (("conv", 0), ("conv", 1))
    cells = {"down": (edges,), "normal": (straight,), "up": ((("conv", 0), ("up_conv", 1)),)}
    lattice = LatticeSettings(3, 4, double_down_channel=False, intermediate_nodes=1, deep_supervision=False)
    paths = (
        KeptCells(1, 1, ("down",)),
        KeptCells(2, 0, ("up",)),
        KeptCells(2, 2, ("down",)),
        KeptCells(3, 1, ("up",)),
        KeptCells(4, 0, ("up",)),
    )
    return Genotype("one", "nas-wdan", cells, lattice.to_mapping(), paths)


# Sampling


@BOTH
@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_samples_are_valid_and_repeat(space: type[SearchSpace], recipe: Any, seed: int) -> None:
    drawn = space.sample(recipe, seed=seed)
    built(drawn)
    assert drawn == space.sample(recipe, seed=seed)
    assert from_json(drawn.to_json(), origin="written") == drawn
    assert drawn.provenance == {"source": "random", "seed": seed}
    assert drawn.settings["init_channel"] == 4
    for name, values in recipe.choices:
        assert drawn.settings.get(name, getattr(recipe, name, None)) in values  # without what genotypes leave out


@BOTH
def test_samples_have_all_choices_and_no_others(space: type[SearchSpace], recipe: Any) -> None:
    found = [space.sample(recipe, seed=seed).settings for seed in range(100)]
    for name, values in recipe.choices:
        counts = Counter(each.get(name, getattr(recipe, name, None)) for each in found)
        assert counts.keys() == set(values)
        assert min(counts.values()) > 100 / len(values) / 2
    fixed = {name: values[-1:] for name, values in recipe.choices}
    one = recipe.model_copy(update={"choices": type(recipe.choices)(**fixed)})
    assert len({str(space.sample(one, seed=seed).settings) for seed in range(20)}) == 1


def test_nodes_of_a_sampled_lattice_keep_any_of_their_cells() -> None:
    recipe = NasWdanSettings(choices=NasWdanChoices(depth=(4,)))
    found = Counter(kept_paths(NasWdan.sample(recipe, seed=seed))[(3, 1)] for seed in range(300))
    assert len(found) == 7  # the subsets of three, but the empty one
    sizes = Counter(len(kinds) for kinds in found.elements())
    assert all(70 < sizes[size] < 130 for size in (1, 2, 3))


@BOTH
def test_operations_are_the_candidates_of_the_recipe(space: type[SearchSpace], recipe: Any) -> None:
    names = {"nas-wdan": ("none", "conv", "identity"), "darts": ("none", "sep_conv_3x3", "skip_connect")}[space.name]
    few = recipe.model_copy(update={"operations": {"normal": names}})
    for seed in range(20):
        drawn = space.sample(few, seed=seed)
        near = space.neighbour(drawn, few, seed=seed)
        assert drawn.candidates == near.candidates == {"normal": names}
        for genotype in (drawn, near):
            edges = {name for node in genotype.cells["normal"] for name, _ in node}
            assert edges <= set(names[1:])


@pytest.mark.parametrize("seed", range(3))
def test_sampled_networks_and_their_neighbours_give_logits_for_images(seed: int) -> None:
    small = LATTICE.model_copy(update={"choices": NasWdanChoices(depth=(3, 4))})
    drawn = NasWdan.sample(small, seed=seed)
    for genotype in (drawn, NasWdan.neighbour(drawn, small, seed=seed)):
        network = build_network(genotype, in_channels=3, outputs=2).eval()
        with torch.inference_mode():
            assert network(torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    stack = Darts.neighbour(Darts.sample(STACK, seed=seed), STACK, seed=seed)
    network = build_network(stack, in_channels=3, outputs=2).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 2)


# Neighbours


def different_edges(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Returns the edges at the same place of two genotypes' cells that differ; both have as many."""
    return [
        (a, b)
        for kind, cell in one.items()
        for left, right in zip(cell, other[kind], strict=True)
        for a, b in zip(left, right, strict=True)
        if a != b
    ]


def assert_one_change(one: Genotype, other: Genotype) -> str:
    """Holds that two genotypes differ in one thing and returns its kind."""
    changed = [name for name, value in one.settings.items() if other.settings[name] != value]
    if changed:
        (name,) = changed
        assert other.provenance["change"] == (
            f"{name}: {str(one.settings[name]).lower()} -> {str(other.settings[name]).lower()}"
        )
        if name == "intermediate_nodes":
            fewest = min(one.settings[name], other.settings[name])
            for kind in one.cells:
                assert one.cells[kind][:fewest] == other.cells[kind][:fewest]
                assert len(other.cells[kind]) == other.settings[name]
        else:
            assert one.cells == other.cells
        if name == "depth":
            assert_depth_changed(one, other)
        else:
            assert one.paths == other.paths
        return "setting"
    edges = different_edges(one.cells, other.cells)
    if edges:
        assert one.paths == other.paths
        ((before, after),) = edges
        return "operation" if before[1] == after[1] else "edge"
    paths, others = kept_paths(one), kept_paths(other)
    assert paths.keys() == others.keys()  # samples keep a cell at every node
    ((left, right),) = ((paths[node], others[node]) for node in paths if paths[node] != others[node])
    assert len(set(left) ^ set(right)) == 1
    return "path"


def assert_depth_changed(one: Genotype, other: Genotype) -> None:
    """Holds that new nodes of a lattice have all their transitions, and the others those that exist still."""
    before, after = kept_paths(one), kept_paths(other)
    possible = all_paths(int(other.settings["depth"]))
    assert after.keys() == possible.keys()
    for node, kinds in after.items():
        left = tuple(kind for kind in before.get(node, ()) if kind in possible[node])
        assert kinds == (left or possible[node])


@BOTH
@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_neighbours_are_valid_repeat_and_differ_in_one_thing(space: type[SearchSpace], recipe: Any, seed: int) -> None:
    drawn = space.sample(recipe, seed=seed)
    near = space.neighbour(drawn, recipe, seed=seed)
    built(near)
    assert_one_change(drawn, near)
    assert near == space.neighbour(drawn, recipe, seed=seed)
    assert space.fingerprint(near) != space.fingerprint(drawn)
    assert near.name == f"neighbour-{space.fingerprint(near)[:8]}"
    about = {"source": "neighbour", "seed": seed, "of": drawn.name, "of_fingerprint": space.fingerprint(drawn)}
    assert near.provenance == about | {"change": near.provenance["change"]}


@BOTH
def test_kinds_of_change_are_uniform_and_all_macro_settings_change(space: type[SearchSpace], recipe: Any) -> None:
    drawn = space.sample(recipe, seed=3)
    found = [space.neighbour(drawn, recipe, seed=seed) for seed in range(300)]
    kinds = Counter(assert_one_change(drawn, near) for near in found)
    assert len(kinds) == (4 if space is NasWdan else 3)
    assert all(0.7 < count * len(kinds) / 300 < 1.3 for count in kinds.values())
    words = [str(near.provenance["change"]).split(": ")[0] for near in found]
    assert {name for name, values in recipe.choices if len(values) > 1} <= set(words)
    if space is NasWdan:
        paths = [str(near.provenance["change"]) for near in found if near.paths != drawn.paths]
        assert {text.split()[-1] for text in paths if text.startswith("path ")} == {"added", "removed"}


def test_changes_are_said_in_words() -> None:
    like = load_genotype("darts_v2")
    words = {
        str(Darts.neighbour(like, DartsSettings(stem="cifar"), seed=seed).provenance["change"]) for seed in range(99)
    }
    assert "layers: 20 -> 14" in words
    assert "auxiliary: false -> true" in words
    assert any(text.startswith("normal cell, node 0, from s1: sep_conv_3x3 -> ") for text in words)
    assert any(text.endswith(": skip_connect from node 0 -> skip_connect from s0") for text in words)


def test_settings_change_to_the_nearest_choices_even_from_none_of_them() -> None:
    recipe = NasWdanSettings(choices=NasWdanChoices(depth=(3, 6, 4), intermediate_nodes=(2, 5)))
    drawn = NasWdan.sample(NasWdanSettings(choices=NasWdanChoices(depth=(5,), intermediate_nodes=(2,))), seed=0)
    found = [NasWdan.neighbour(drawn, recipe, seed=seed) for seed in range(150)]
    assert {near.settings["depth"] for near in found} == {4, 5, 6}
    grown = [near for near in found if near.settings["intermediate_nodes"] == 5]
    assert {len(cell) for near in grown for cell in near.cells.values()} == {5}
    assert len({str(near.cells) for near in grown}) == len(grown) > 1  # the nodes that are added are random


def test_nodes_that_the_search_left_out_come_back_with_all_their_cells() -> None:
    ends = head_nodes(4, deep_supervision=False)
    every = all_paths(4)
    paths = reaching({node: kinds[:1] for node, kinds in every.items()}, ends)
    sample = NasWdan.sample(NasWdanSettings(choices=NasWdanChoices(depth=(4,), deep_supervision=(False,))), seed=1)
    thin = replace(sample, paths=to_kept(paths))
    space_settings(thin)
    returned = set()
    for seed in range(40):
        near = NasWdan.neighbour(thin, LATTICE, seed=seed)
        built(near)
        found = kept_paths(near)
        new = {node for node in found if node not in paths and node in every}
        if near.settings["depth"] == 4:
            assert all(found[node] == every[node] for node in new)
            returned |= new
    assert returned


def test_a_change_of_what_no_head_reads_is_no_neighbour() -> None:
    like = one_cell_network()
    recipe = NasWdanSettings(choices=NasWdanChoices(depth=(3,), intermediate_nodes=(1,), deep_supervision=(False,)))
    for seed in range(60):
        near = NasWdan.neighbour(like, recipe, seed=seed)
        assert near.cells["normal"] == like.cells["normal"]  # no path has a normal cell
        assert near.cells["down"][0][0] == ("conv", 0)
        assert NasWdan.reachable(near) != NasWdan.reachable(like)


def test_nothing_to_change_is_refused() -> None:
    choices = DartsChoices(layers=(8,), intermediate_nodes=(1,), auxiliary=(False,))
    one = ("sep_conv_3x3",)
    recipe = DartsSettings(operations={"normal": one, "reduce": one}, choices=choices)
    with pytest.raises(RecipeError, match="leaves nothing to change in genotype 'random-0'"):
        Darts.neighbour(Darts.sample(recipe, seed=0), recipe, seed=0)


@BOTH
def test_a_genotype_of_another_space_has_no_neighbours(space: type[SearchSpace], recipe: Any) -> None:
    other = "darts_v2" if space is NasWdan else "layer7_double_deep"
    with pytest.raises(GenotypeError, match="is of the space"):
        space.neighbour(load_genotype(other), recipe, seed=0)


# Fingerprints


@BOTH
def test_names_order_of_edges_and_defaults_left_out_do_not_count(space: type[SearchSpace], recipe: Any) -> None:
    drawn = space.sample(recipe, seed=5)
    turned = {kind: tuple(node[::-1] for node in cell) for kind, cell in reversed(drawn.cells.items())}
    same = replace(drawn, name="other", provenance={"seed": 1}, cells=turned, candidates={"normal": ("none",)})
    if space is NasWdan:
        left_out = {"shuffle_groups", "dropout_prob", "absent_edges"}
        kept = {name: value for name, value in drawn.settings.items() if name not in left_out}
        same = replace(same, settings=kept, paths=drawn.paths[::-1])
    assert space.fingerprint(same) == space.fingerprint(drawn)


@BOTH
def test_c_and_every_other_setting_count(space: type[SearchSpace], recipe: Any) -> None:
    drawn = space.sample(recipe, seed=5)
    wider = drawn.with_settings(init_channel=8)
    assert space.fingerprint(wider) != space.fingerprint(drawn)
    assert len({space.fingerprint(space.sample(recipe, seed=seed)) for seed in range(100)}) == 100


def test_what_no_head_reads_does_not_count() -> None:
    like = one_cell_network()
    unused = replace(like, cells={**like.cells, "normal": ((("dil_conv", 0), ("cweight", 1)),)})
    diagonal = one_cell_network(edges=(("cweight", 0), ("down_conv", 1)))
    unread = replace(like, paths=tuple(each for each in like.paths if (each.layer, each.level) != (2, 0)))
    assert (2, 0) in paths_of(like)  # read by the last node, as s0 of its up cell
    with pytest.raises(GenotypeError, match=r"keeps no path into node \(2,0\)"):
        NasWdan.fingerprint(unread)
    assert NasWdan.fingerprint(unused) == NasWdan.fingerprint(like)
    assert NasWdan.fingerprint(diagonal) == NasWdan.fingerprint(like)
    held = diagonal.with_settings(absent_edges=True)
    assert NasWdan.fingerprint(held) != NasWdan.fingerprint(like.with_settings(absent_edges=True))
    read = one_cell_network(edges=(("conv", 0), ("down_dil_conv", 1)))
    assert NasWdan.fingerprint(read) != NasWdan.fingerprint(like)


# The recipe


RECIPE = {"data": {"sources": [{"name": "x", "kind": "folder", "path": "x"}], "size": 48}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"choices": {"depth": [2]}}, r"space.choices.depth.0: .* greater than or equal to 3"),
        ({"choices": {"depth": []}}, r"space.choices.depth: .* at least 1 item"),
        ({"choices": {"depth": [3, 3]}}, r"space.choices.depth: a value appears twice"),
        ({"choices": {"dept": [3]}}, r"space.choices.dept is not a key .* Did you mean 'depth'"),
        ({"choices": {"deep_supervision": [1]}}, r"space.choices.deep_supervision.0: .* true or false"),
    ],
)
def test_wrong_choices_are_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(RECIPE | {"space": space})


def test_too_few_layers_for_the_stem_are_refused() -> None:
    with pytest.raises(ValueError, match=r"choices.layers has 3, too few .* chest stem; use 4 or more"):
        DartsSettings(choices=DartsChoices(layers=(3, 8)))
    DartsSettings(stem="cifar", choices=DartsChoices(layers=(3, 8)))


def test_depths_that_cannot_halve_the_images_are_refused() -> None:
    NasWdan(NasWdanSettings(choices=NasWdanChoices(depth=(3, 4))), in_channels=3, outputs=1).check_choices(
        48, field="data.size"
    )
    with pytest.raises(RecipeError, match=r"space.choices.depth has 5, but images of data.size 48 cannot be halved 5"):
        NasWdan(NasWdanSettings(), in_channels=3, outputs=1).check_choices(48, field="data.size")


def test_choices_that_are_not_set_change_no_fingerprint_of_a_recipe() -> None:
    plain = parse(RECIPE)
    assert "choices" not in deciding_values(plain)["space"]
    chosen = parse(RECIPE | {"space": {"choices": {"depth": [4]}}})
    assert deciding_values(chosen)["space"]["choices"]["depth"] == [4]
    assert fingerprint(chosen) != fingerprint(plain)
