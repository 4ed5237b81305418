import pytest
from hypothesis import given
from hypothesis import strategies as st

from medarts.errors import RecipeError
from medarts.spaces.genotype import KeptCells
from medarts.spaces.nas_wdan import lattice
from medarts.spaces.nas_wdan.lattice import STEM, Node, Paths
from medarts.spaces.nas_wdan.operations import TRANSITIONS, Transition

D, N, U = "down", "normal", "up"

# Written by hand from the definition: (t, l) -> transitions.
BY_HAND: dict[int, dict[tuple[int, int], tuple[str, ...]]] = {
    3: {(1, 1): (D,), (2, 0): (N, U), (2, 2): (D,), (3, 1): (D, N, U), (4, 0): (N, U)},
    4: {
        (1, 1): (D,),
        (2, 0): (N, U),
        (2, 2): (D,),
        (3, 1): (D, N, U),
        (3, 3): (D,),
        (4, 0): (N, U),
        (4, 2): (D, N, U),
        (5, 1): (D, N, U),
        (6, 0): (N, U),
    },
    5: {
        (1, 1): (D,),
        (2, 0): (N, U),
        (2, 2): (D,),
        (3, 1): (D, N, U),
        (3, 3): (D,),
        (4, 0): (N, U),
        (4, 2): (D, N, U),
        (4, 4): (D,),
        (5, 1): (D, N, U),
        (5, 3): (D, N, U),
        (6, 0): (N, U),
        (6, 2): (D, N, U),
        (7, 1): (D, N, U),
        (8, 0): (N, U),
    },
}
MOVE_COUNTS = {3: 9, 4: 18, 5: 30}

depths = st.integers(3, 8)


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_nodes_and_transitions_by_hand(depth: int) -> None:
    assert lattice.all_paths(depth) == BY_HAND[depth]
    assert lattice.lattice_nodes(depth) == ((0, 0), *BY_HAND[depth])
    assert sum(map(len, lattice.all_paths(depth).values())) == MOVE_COUNTS[depth]
    assert lattice.lattice_layers(depth) == {3: 5, 4: 7, 5: 9}[depth]


def test_inputs_of_depth_three_by_hand() -> None:
    found = {
        (node, transition): lattice.lattice_inputs(node, transition)
        for node, transitions in lattice.all_paths(3).items()
        for transition in transitions
    }
    assert found == {
        ((1, 1), D): ((-1, 1), (0, 0)),
        ((2, 0), N): ((-2, 0), (0, 0)),
        ((2, 0), U): ((0, 0), (1, 1)),
        ((2, 2), D): ((0, 2), (1, 1)),
        ((3, 1), D): ((1, 1), (2, 0)),
        ((3, 1), N): ((-1, 1), (1, 1)),
        ((3, 1), U): ((1, 1), (2, 2)),
        ((4, 0), N): ((0, 0), (2, 0)),
        ((4, 0), U): ((2, 0), (3, 1)),
    }


def test_inputs_in_the_middle_of_depth_five() -> None:
    assert lattice.lattice_inputs(Node(6, 2), D) == ((4, 2), (5, 1))
    assert lattice.lattice_inputs(Node(6, 2), N) == ((2, 2), (4, 2))
    assert lattice.lattice_inputs(Node(6, 2), U) == ((4, 2), (5, 3))


@given(depths)
def test_nodes_have_the_shape_of_the_definition(depth: int) -> None:
    last = 2 * depth - 2
    expected = {(t, lv) for t in range(last + 1) for lv in range(depth + 1) if lv <= min(t, last - t)}
    expected = {(t, lv) for t, lv in expected if t % 2 == lv % 2}
    assert set(lattice.lattice_nodes(depth)) == expected
    assert list(lattice.lattice_nodes(depth)) == sorted(expected)
    assert max(level for _, level in expected) == depth - 1


@given(depths)
def test_s1_lies_inside_and_s0_inside_or_before(depth: int) -> None:
    present = set(lattice.lattice_nodes(depth))
    for node, transitions in lattice.all_paths(depth).items():
        assert transitions, node
        for transition in transitions:
            s0, s1 = lattice.lattice_inputs(node, transition)
            assert s1 in present
            assert s0.level == node.level
            assert s1.level - node.level == {"down": -1, "normal": 0, "up": 1}[transition]
            assert s0.layer < s1.layer < node.layer
            # s0 is missing only on the rising edge of the lattice, never on the falling one.
            assert (s0 in present) == (s0.layer >= s0.level)


@given(depths)
def test_level_zero_has_no_down_and_entry_nodes_have_down_alone(depth: int) -> None:
    paths = lattice.all_paths(depth)
    assert all(D not in transitions for node, transitions in paths.items() if node.level == 0)
    assert all(paths[Node(t, t)] == (D,) for t in range(1, depth))
    assert STEM not in paths


@given(depths)
def test_heads_are_the_top_row(depth: int) -> None:
    top = tuple(Node(t, 0) for t in range(2, 2 * depth - 1, 2))
    assert lattice.head_nodes(depth, deep_supervision=True) == top
    assert lattice.head_nodes(depth, deep_supervision=False) == top[-1:]
    assert len(top) == depth - 1


@given(depths)
def test_every_cell_of_the_whole_lattice_reaches_the_last_head(depth: int) -> None:
    paths = lattice.all_paths(depth)
    assert lattice.reaching(paths, lattice.head_nodes(depth, deep_supervision=False)) == paths


@st.composite
def kept_paths(draw: st.DrawFn) -> tuple[int, Paths]:
    depth = draw(depths)
    paths: Paths = {}
    for node, transitions in lattice.all_paths(depth).items():
        subset = draw(st.sets(st.sampled_from(transitions), min_size=1))
        paths[node] = tuple(transition for transition in TRANSITIONS if transition in subset)
    return depth, paths


def reaches(node: Node, ends: tuple[Node, ...], paths: Paths) -> bool:
    """Whether ``node`` is an end, or is read by a cell of a node that reaches one; forwards, by recursion."""
    readers = [
        other
        for other, transitions in paths.items()
        for transition in transitions
        if node in lattice.lattice_inputs(other, transition)
    ]
    return node in ends or any(reaches(reader, ends, paths) for reader in set(readers))


@given(kept_paths(), st.booleans())
def test_reaching_drops_exactly_what_reaches_no_head(case: tuple[int, Paths], deep: bool) -> None:
    depth, paths = case
    if depth > 5:  # the recursion is exponential
        return
    ends = lattice.head_nodes(depth, deep_supervision=deep)
    kept = lattice.reaching(paths, ends)
    assert kept == {node: transitions for node, transitions in paths.items() if reaches(node, ends, paths)}
    assert list(kept) == [node for node in paths if node in kept]  # the order of the layers


def test_reaching_of_an_early_head_by_hand() -> None:
    paths = lattice.all_paths(5)
    assert set(lattice.reaching(paths, (Node(2, 0),))) == {(1, 1), (2, 0)}
    assert set(lattice.reaching(paths, (Node(4, 0),))) == {(1, 1), (2, 0), (2, 2), (3, 1), (4, 0)}


def test_reaching_counts_what_s0_reads() -> None:
    """(4,0) by up reads (3,1) and, as s0, (2,0); without the rule for s0, (2,0) would be dropped."""
    paths: Paths = {**lattice.all_paths(3), Node(4, 0): (U,), Node(3, 1): (U,), Node(2, 0): (N,)}
    assert Node(2, 0) in lattice.reaching(paths, (Node(4, 0),))


def test_widths() -> None:
    doubled = [lattice.width_of(level, init_channel=16, double_down_channel=True) for level in range(5)]
    assert doubled == [16, 32, 64, 128, 256]
    assert lattice.width_of(4, init_channel=16, double_down_channel=False) == 16


def test_kept_form_is_sorted() -> None:
    transitions: tuple[Transition, ...] = ("normal", "up")
    assert lattice.to_kept({Node(4, 0): transitions, Node(1, 1): ("down",)}) == (
        KeptCells(1, 1, ("down",)),
        KeptCells(4, 0, ("normal", "up")),
    )


@pytest.mark.parametrize(
    ("size", "depth", "use"),
    [(100, 5, "96 or 128"), (250, 4, "240 or 256"), (20, 5, "32"), (48, 5, "32 or 64"), (0, 3, "8"), (-32, 5, "32")],
)
def test_sizes_that_cannot_be_halved_name_the_next(size: int, depth: int, use: str) -> None:
    with pytest.raises(RecipeError, match=f"size {size} cannot be halved {depth} times") as caught:
        lattice.check_lattice_size(size, depth)
    assert caught.value.fix == f"Use {use}."


def test_sizes_that_can_be_halved_pass() -> None:
    for depth in (3, 4, 5):
        lattice.check_lattice_size(3 * 2**depth, depth)
        lattice.check_lattice_size(3 * 2 ** (depth - 1), depth, stem_stride=1)
