from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from medarts.config import DeriveSettings, StageSettings
from medarts.reporting.drawings import describe, draw_cell, drawings, save_drawings
from medarts.reporting.style import PALETTE, inline_svg
from medarts.spaces import space_of
from medarts.spaces.base import SearchSpace
from medarts.spaces.darts.text import from_text
from medarts.spaces.genotype import Genotype, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan import NasWdan, NasWdanSettings


@pytest.fixture(scope="module")
def searched() -> Genotype:
    """A genotype that keeps one transition a node."""
    supernet = NasWdan(NasWdanSettings(init_channel=2), in_channels=1, outputs=1).supernet(StageSettings(depth=4), None)
    return supernet.derive(DeriveSettings(paths="top_k", top_k=1), name="one", provenance={"seed": 3})


def _ids(figure: Any) -> set[str]:
    return {artist.get_gid() for artist in figure.findobj() if artist.get_gid()}


@pytest.mark.parametrize("name", zoo())
def test_every_edge_of_every_cell_is_drawn_once(name: str) -> None:
    genotype = load(name)
    for kind, cell in genotype.cells.items():
        edges = sum(len(node) for node in cell)
        assert _ids(draw_cell(cell, kind)) == {f"edge-{kind}-{index}" for index in range(edges)}


@pytest.mark.parametrize("name", zoo())
def test_the_labels_of_a_cell_do_not_cover_each_other(name: str) -> None:
    genotype = load(name)
    for kind, cell in genotype.cells.items():
        figure = draw_cell(cell, kind)
        figure.canvas.draw()
        labels = [text for text in figure.axes[0].texts if text.get_bbox_patch() is not None]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == sum(len(node) for node in cell)
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_the_space_says_what_the_cells_and_their_inputs_are() -> None:
    figures = drawings(load("darts_v2"))
    for kind, meaning in (("normal", "keeps the resolution"), ("reduce", "edges from s0 and s1 have stride 2")):
        words = [text.get_text() for text in figures[f"cell_{kind}"].axes[0].texts]
        assert "the cell before the last" in words
        assert "the last cell" in words
        assert any(meaning in text for text in words)


def test_a_space_that_says_nothing_has_its_cells_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.reporting.drawings.space_of", lambda genotype: SearchSpace)
    cells = {"mine": ((("my_operation", 0), ("conv", 1)), (("my_operation", 2), ("other", 0), ("conv", 1)))}
    figures = drawings(Genotype("mine", space="of a user", cells=cells, settings={}))
    assert [*figures] == ["cell_mine"]
    assert len(_ids(figures["cell_mine"])) == 5


def test_the_lattice_shows_exactly_the_kept_transitions(searched: Genotype) -> None:
    kept = {f"path-{k.layer}-{k.level}-{transition}" for k in searched.paths for transition in k.transitions}
    assert _ids(drawings(searched)["lattice"]) == kept
    everything = load("layer7_double_deep")
    assert len(_ids(drawings(everything)["lattice"])) == 30


def test_a_head_at_full_size_is_joined_to_the_stem(searched: Genotype) -> None:
    whole = replace(searched, settings={**searched.settings, "full_size_head": True})
    published, figure = drawings(searched)["lattice"], drawings(whole)["lattice"]
    assert _ids(figure) - _ids(published) == {"full-size"}
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels.count("1") == 1  # the resolution of that head, above those of the levels
    assert NasWdan.lattice_of(whole, heads=["2,0"]).full_size is None  # the last head was cut away


def test_a_stack_has_two_drawings_and_no_lattice() -> None:
    assert [*drawings(load("darts_v2"))] == ["cell_normal", "cell_reduce"]


def test_drawings_are_written_as_svg_and_png(searched: Genotype, tmp_path: Path) -> None:
    paths = save_drawings(searched, tmp_path / "pictures")
    names = {f"{name}.{end}" for name in ("cell_down", "cell_normal", "cell_up", "lattice") for end in ("svg", "png")}
    assert {path.name for path in paths} == names
    for path in paths:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_the_same_genotype_gives_the_same_file(searched: Genotype, tmp_path: Path) -> None:
    first, second = (save_drawings(searched, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_inline_svg_follows_the_pages_colours_and_has_no_address(searched: Genotype) -> None:
    for figure in drawings(searched).values():
        svg = inline_svg(figure, "a drawing")
        ElementTree.fromstring(svg.replace("href=", "data-href="))
        assert "http" not in svg
        assert "var(--ink)" in svg
        assert PALETTE["ink"][0] not in svg


def test_the_description_names_every_edge_path_and_source(searched: Genotype) -> None:
    text = describe(searched)
    for cell in searched.cells.values():
        for node in cell:
            for operation, _ in node:
                assert operation in text
    for kept in searched.paths:
        assert f"({kept.layer}, {kept.level})" in text
    assert "seed                 3" in text
    assert "init_channel         2" in text


def test_the_description_of_a_stack_ends_with_its_one_line_form() -> None:
    genotype = load("chestxray14_first_order")
    last = describe(genotype).splitlines()[-1]
    assert last == space_of(genotype).to_text(genotype)
    assert from_text(last, name="again", origin="a test").cells == genotype.cells


def test_a_node_of_one_edge_has_no_one_line_form() -> None:
    genotype = load("darts_v2")
    normal = (genotype.cells["normal"][0][:1], *genotype.cells["normal"][1:])
    thinner = replace(genotype, cells={**genotype.cells, "normal": normal})
    assert space_of(thinner).to_text(thinner) is None
    assert "Genotype(" not in describe(thinner)


def test_nas_wdan_has_no_one_line_form(searched: Genotype) -> None:
    assert space_of(searched).to_text(searched) is None


def test_drawings_replace_links_and_leave_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cell_normal.svg").symlink_to(tmp_path / "mine")
    save_drawings(load("darts_v2"), tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "out" / "cell_normal.svg").is_symlink()
