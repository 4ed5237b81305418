"""The one-line form: written, read back, and refused whenever it is anything but a genotype."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medarts.errors import GenotypeError
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.operations import OPERATIONS
from medarts.spaces.darts.text import from_text, to_text
from medarts.spaces.genotype import Cell, Genotype
from medarts.spaces.genotype import load_genotype as load

# As published, in the layout of the published code.
DARTS_V2 = """DARTS_V2 = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
            ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
    normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=[2, 3, 4, 5])
"""
NODE = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
LINE = f"Genotype(normal={NODE}, normal_concat=range(2, 3), reduce={NODE}, reduce_concat=range(2, 3))"


def read(text: str) -> Genotype:
    return from_text(text, name="read", origin="genotype.txt")


@st.composite
def cells(draw: st.DrawFn, nodes: int) -> Cell:
    def edge(states: int) -> st.SearchStrategy[tuple[str, int]]:
        return st.tuples(st.sampled_from(sorted(OPERATIONS["normal"])), st.integers(0, states - 1))

    return tuple((draw(edge(2 + node)), draw(edge(2 + node))) for node in range(nodes))


@st.composite
def both_cells(draw: st.DrawFn) -> dict[str, Cell]:
    nodes = draw(st.integers(1, 6))
    return {"normal": draw(cells(nodes)), "reduce": draw(cells(nodes))}


@settings(max_examples=60, deadline=None)
@given(both_cells())
def test_what_is_written_is_read_back(both: dict[str, Cell]) -> None:
    given_ = {"init_channel": 8, "layers": 5, "stem": "cifar", "drop_path_prob": 0.0, "auxiliary": True}
    genotype = Genotype(
        name="any", space="darts", cells=both, settings={"intermediate_nodes": len(both["normal"]), **given_}
    )
    text = to_text(genotype)
    assert "\n" not in text
    assert read(text).cells == both
    assert to_text(read(text)) == text


def test_the_published_genotype_is_that_of_the_zoo() -> None:
    assert read(DARTS_V2).cells == load("darts_v2").cells


def test_writes_what_darts_code_prints() -> None:
    edges = "[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    edges += "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)]"
    assert to_text(load("darts_v2")).startswith(f"Genotype(normal={edges}, normal_concat=range(2, 6), reduce=[(")


def test_gets_the_settings_of_retraining() -> None:
    genotype = from_text(LINE, name="mine", origin="genotype.txt", stem="cifar")
    assert genotype.name == "mine"
    assert genotype.provenance == {"source": "genotype.txt"}
    assert genotype.settings == {
        "init_channel": 36, "layers": 20, "intermediate_nodes": 1,
        "stem": "cifar", "drop_path_prob": 0.2, "auxiliary": False,
    }  # fmt: skip
    assert read(LINE).settings["stem"] == "chest"


def test_lists_stand_for_tuples_and_ranges() -> None:
    listed = LINE.replace("range(2, 3)", "[2]").replace("('skip_connect', 1)", "['skip_connect', 1]")
    assert read(f"  {listed}\n").cells == read(LINE).cells


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sep_conv_3x3", "sep_conv_3x4", "Did you mean 'sep_conv_3x3'"),
        ("sep_conv_3x3", "none", "unknown operation 'none'"),
        ("('skip_connect', 1)", "('skip_connect', 2)", "node 0 in 'normal' reads a state beyond 1"),
        ("('skip_connect', 1)", "('skip_connect', -1)", "something else than names"),
        ("('skip_connect', 1)", "('skip_connect', 1.0)", "something else than names"),
        ("('skip_connect', 1)", "('skip_connect', True)", "something else than names"),
        ("('skip_connect', 1)", "('skip_connect', '1')", "not a pair of operation and state"),
        ("('skip_connect', 1)", "('skip_connect', 1, 1)", "not a pair of operation and state"),
        (", ('skip_connect', 1)]", "]", "not a list of edges, two a node"),
        (NODE, "[]", "not a list of edges, two a node"),
        (NODE, "7", "not a list of edges, two a node"),
        ("range(2, 3)", "range(2, 4)", "'normal_concat' is not range(2, 3)"),
        ("range(2, 3)", "range(2, 10**9)", "something else than names"),
        ("range(2, 3)", "range(2, 1000000000000)", "'normal_concat' is not range(2, 3)"),
        ("range(2, 3)", "range(3)", "something else than names"),
        ("range(2, 3)", "[2, 2]", "'normal_concat' is not range(2, 3)"),
        ("range(2, 3)", "[3]", "'normal_concat' is not range(2, 3)"),
        ("normal_concat", "concat", "unknown field 'concat'"),
        ("normal_concat=range(2, 3), ", "", "lacks the field 'normal_concat'"),
        ("normal_concat=range(2, 3)", "normal_concat=range(2, 3), normal_concat=[2]", "twice|is not a genotype"),
        ("normal_concat=range(2, 3)", "**{}", "unknown field"),
        ("Genotype(", "Genotype([], ", "not one call of Genotype"),
        ("Genotype(", "Phenotype(", "not one call of Genotype"),
        ("Genotype(", "a.Genotype(", "not one call of Genotype"),
        ("Genotype(", "a[0] = Genotype(", "not one call of Genotype"),
        ("Genotype(", "a.b = Genotype(", "not one call of Genotype"),
        ("Genotype(", "Genotype((", "is not a genotype"),
        ("Genotype(", "import os; Genotype(", "2 statements"),
    ],
)
def test_refuses_what_is_no_genotype(old: str, new: str, says: str) -> None:
    assert old in LINE
    with pytest.raises(GenotypeError, match=says.replace("(", r"\(").replace(")", r"\)").replace("*", r"\*")) as error:
        read(LINE.replace(old, new, 1))
    assert "genotype.txt" in error.value.problem
    assert error.value.fix


def test_refuses_cells_of_different_numbers_of_nodes() -> None:
    two = LINE.replace(NODE, f"{NODE[:-1]}, {NODE[1:]}", 1).replace("range(2, 3)", "range(2, 4)", 1)
    with pytest.raises(GenotypeError, match="the normal cell has 2 nodes, the reduce cell 1"):
        read(two)


PAYLOAD = "__import__('pathlib').Path('{path}').write_text('x')"


@pytest.mark.parametrize(
    "form",
    [
        "{payload}",
        "Genotype({payload})",
        "Genotype(normal={payload})",
        "Genotype(normal=[({payload}, 0)])",
        "Genotype(normal=[(f'{{{payload}}}', 0)])",
        "Genotype(normal=[('sep_conv_3x3', {payload})])",
        "Genotype(normal_concat=range({payload}, 3))",
        "Genotype(normal=(lambda: {payload})())",
        "Genotype(normal=[{payload} for _ in [0]])",
        "Genotype(**{payload})",
        "Genotype(*{payload})",
        "Genotype.__class__({payload})",
        "(Genotype := {payload})",
        "exec({payload!r})",
        "import os\n{payload}",
        "class Genotype:\n    {payload}",
        "@{payload}\ndef Genotype(): pass",
    ],
)
def test_nothing_is_ever_run(form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("run") / "ran"
    payload = PAYLOAD.format(path=path)
    with pytest.raises(GenotypeError):
        read(form.format(payload=payload))
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "\ud800",
        "no genotype at all",
        "9" * 9_000,
        "(" * 9_000,
        "-" * 9_000 + "1",
        "Genotype(normal=" + "[" * 150 + "]" * 150 + ")",
        "Genotype(normal=" + "-" * 4_000 + "1)",
        "a." * 4_000 + "b",
        "a" * 1_000_000,
    ],
    ids=range(11),
)
@pytest.mark.filterwarnings("error")
def test_text_of_all_kinds_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(GenotypeError, match=r"genotype\.txt") as error:
        read(text)
    assert len(str(error.value)) < 500


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(0, len(LINE)))
@pytest.mark.filterwarnings("error")
def test_a_line_with_something_in_it_is_read_or_refused(inserted: str, place: int) -> None:
    try:
        genotype = read(LINE[:place] + inserted + LINE[place:])
    except GenotypeError:
        return
    check(genotype)


def test_refuses_a_name_that_cannot_be_a_folder() -> None:
    with pytest.raises(GenotypeError, match=r"cannot be called '\.\./mine'"):
        from_text(LINE, name="../mine", origin="genotype.txt")


def test_writes_no_genotype_of_another_space_or_form() -> None:
    with pytest.raises(GenotypeError, match="is of the space 'nas-wdan'"):
        to_text(load("layer7_double_deep"))
    genotype = read(LINE)
    single = {**genotype.cells, "reduce": ((("skip_connect", 0),),)}
    with pytest.raises(GenotypeError, match="without exactly 2 edges"):
        to_text(Genotype(name="one", space="darts", cells=single, settings=genotype.settings))
