import copy
import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medarts.errors import GenotypeError, RecipeError
from medarts.models import create_model
from medarts.spaces import genotype_with, space_settings
from medarts.spaces.darts.text import to_text
from medarts.spaces.genotype import Genotype, KeptCells, from_json, zoo
from medarts.spaces.genotype import load_genotype as load
from medarts.spaces.nas_wdan.genotypes import check, paths_of
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.system.names import name_of

NAS_WDAN = (
    "alpha0_5_stage1_double_deep_ep80",
    "alpha0_5_stage1_nodouble_deep_ep80",
    "layer7_double_deep",
    "stage0_double_deep_ep80_newim",
    "stage1_layer9_110epoch_double_deep_final",
)
DARTS = ("chestxray14_first_order", "darts_v2")

SMALL: dict[str, Any] = {
    "format": "medarts-genotype",
    "version": 1,
    "name": "small",
    "space": "nas-wdan",
    "settings": {
        "depth": 3,
        "init_channel": 4,
        "double_down_channel": False,
        "intermediate_nodes": 2,
        "shuffle_groups": 2,
        "deep_supervision": True,
        "dropout_prob": 0.0,
        "absent_edges": False,
    },
    "cells": {
        "down": [[["conv", 0], ["down_conv", 1]], [["avg_pool", 1], ["identity", 2]]],
        "normal": [[["conv", 0], ["cweight", 1]], [["dil_conv", 1], ["shuffle_conv", 2]]],
        "up": [[["dep_conv", 0], ["up_conv", 1]], [["up_cweight", 1], ["conv", 2]]],
    },
    "paths": [
        [1, 1, ["down"]],
        [2, 0, ["normal", "up"]],
        [3, 1, ["down", "normal"]],
        [4, 0, ["up"]],
    ],
    "provenance": {"recipe": "0123abcd", "seed": 3, "note": "µ–√"},
}


def read(content: Any) -> Genotype:
    return from_json(json.dumps(content), origin="some.json")


def small() -> Genotype:
    return read(SMALL)


def test_reads_what_the_text_says() -> None:
    genotype = small()
    assert genotype.name == "small"
    assert genotype.cells["up"] == ((("dep_conv", 0), ("up_conv", 1)), (("up_cweight", 1), ("conv", 2)))
    assert genotype.paths[1] == KeptCells(2, 0, ("normal", "up"))
    assert genotype.provenance == {"recipe": "0123abcd", "seed": 3, "note": "µ–√"}
    assert check(genotype) == LatticeSettings(3, 4, False, 2, shuffle_groups=2)
    assert paths_of(genotype) == {
        (1, 1): ("down",),
        (2, 0): ("normal", "up"),
        (3, 1): ("down", "normal"),
        (4, 0): ("up",),
    }


def test_round_trip_through_json_and_file(tmp_path: Path) -> None:
    genotype = small()
    assert json.loads(genotype.to_json()) == SMALL
    assert from_json(genotype.to_json(), origin="again") == genotype
    genotype.save(tmp_path / "genotype.json")
    assert load(tmp_path / "genotype.json") == genotype
    assert load(tmp_path) == genotype  # a run directory
    assert load(str(tmp_path)) == genotype


def test_is_frozen() -> None:
    genotype = small()
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.paths[0].layer = 2


def test_zoo_holds_the_published_genotypes_of_both_spaces() -> None:
    assert zoo() == tuple(sorted(NAS_WDAN + DARTS))
    assert {name: load(name).space for name in zoo()} == dict.fromkeys(NAS_WDAN, "nas-wdan") | dict.fromkeys(
        DARTS, "darts"
    )


@pytest.mark.parametrize("name", zoo())
def test_zoo_genotypes_fit_their_space_and_survive_being_written(name: str) -> None:
    genotype = load(name)
    space_settings(genotype)
    assert genotype.name == name
    assert from_json(genotype.to_json(), origin=name) == genotype


@pytest.mark.parametrize("name", NAS_WDAN)
def test_nas_wdan_genotypes_of_the_zoo_keep_the_whole_lattice(name: str) -> None:
    genotype = load(name)
    settings = check(genotype)
    assert (settings.depth, settings.init_channel, settings.intermediate_nodes) == (5, 16, 4)
    assert settings.double_down_channel == ("nodouble" not in name)
    assert sum(len(kept.transitions) for kept in genotype.paths) == 30
    assert {kind: [len(node) for node in cell] for kind, cell in genotype.cells.items()} == {
        kind: [2, 2, 2, 2] for kind in ("down", "normal", "up")
    }


def test_with_settings_changes_a_copy() -> None:
    genotype = small()
    wide = genotype.with_settings(init_channel=32)
    assert check(wide).widths == (32, 32, 32)
    assert genotype.settings["init_channel"] == 4
    assert (wide.cells, wide.paths, wide.name) == (genotype.cells, genotype.paths, genotype.name)
    with pytest.raises(GenotypeError, match=r"'small' has no setting 'init_chanel'.*'init_channel'"):
        genotype.with_settings(init_chanel=8)


def test_settings_that_are_younger_than_a_genotype_have_the_value_of_then() -> None:
    genotype = small()
    finer = genotype_with(genotype, changes=["space.full_size_head=true", "space.stem_channels=16"])
    assert {**finer.settings} == {**genotype.settings, "full_size_head": True, "stem_channels": 16}
    network = create_model(finer, in_channels=1, outputs=1)
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    assert genotype.with_settings(full_size_head=False, stem_stride=2) == genotype, "as it was"
    assert finer.with_settings(stem_channels=64).settings["stem_channels"] == 64
    oldest = replace(genotype, settings={name: genotype.settings[name] for name in list(genotype.settings)[:4]})
    assert check(oldest.with_settings(shuffle_groups=2)).shuffle_groups == 2
    with pytest.raises(GenotypeError, match=r"no setting 'full_size_heads'.*'full_size_head'"):
        genotype.with_settings(full_size_heads=True)
    with pytest.raises(GenotypeError, match="full_size_head 2, which is not a truth value"):
        genotype_with(genotype, changes=["space.full_size_head=2"])
    for name in NAS_WDAN:
        assert check(load(name).with_settings(full_size_head=True)).full_size_head


def test_unknown_name_names_the_nearest_of_the_zoo() -> None:
    with pytest.raises(GenotypeError, match=r"no genotype 'layer7_doubledeep'\. Did you mean 'layer7_double_deep'"):
        load("layer7_doubledeep")


def test_folder_without_a_genotype(tmp_path: Path) -> None:
    with pytest.raises(GenotypeError, match="holds no genotype"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "some.json is not JSON"),
        ('{"format": "medarts-genotype",', "some.json is not JSON"),
        ("[1, 2]", "some.json is not a genotype"),
        ('{"format": "onnx"}', "some.json is not a genotype"),
        ('{"format": "medarts-genotype", "version": 2}', "some.json has version 2, but this medarts reads 1"),
        ('{"format": "medarts-genotype", "version": 1}', "some.json is not a whole genotype: it lacks 'cells'"),
    ],
)
def test_text_that_is_no_genotype(text: str, says: str) -> None:
    with pytest.raises(GenotypeError, match=says) as caught:
        from_json(text, origin="some.json")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"depth": 3', '"depth": 3, "depth": 4', "the key 'depth' appears twice"),
        ('"seed": 3', '"seed": NaN', "NaN is not a number"),
        ('"seed": 3', '"seed": -Infinity', "-Infinity is not a number"),
        ('"seed": 3', '"seed": 1e999', "seed is inf, which is neither a number nor a text"),
        ('"seed": 3', f'"seed": {"9" * 5000}', "is not a genotype"),
        ('"seed": 3', f'"seed": {"[" * 100_000}', "nested too deeply"),
        ('"version": 1', '"version": true', "has version True"),
        ('"name": "small"', '"name": "lr=0.1"', "has the name 'lr=0.1', which cannot be that of a folder. Change"),
        ('"name": "small"', f'"name": "{"x" * 300}"', "which cannot be that of a folder"),
    ],
)
def test_json_that_says_no_one_thing(old: str, new: str, says: str) -> None:
    text = json.dumps(SMALL)
    assert old in text
    with pytest.raises(GenotypeError, match=says) as caught:
        from_json(text.replace(old, new, 1), origin="some.json")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("folder", ["lr=0.1", "my search (1)", "a+b", "2024,1", "#1", "x@y", ".hidden", "-x", "µ"])
def test_every_name_of_a_folder_is_one_of_a_genotype(folder: str) -> None:
    name = name_of(Path("runs") / folder)
    assert read(SMALL | {"name": name}).name == name


def test_files_that_hold_no_genotype(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(GenotypeError, match=r"pipe\.json is not a regular file"):
        load(tmp_path / "pipe.json")
    (tmp_path / "large.json").write_text(" " * 1_000_001)
    with pytest.raises(GenotypeError, match=r"large\.json is larger than 1,000,000 bytes"):
        load(tmp_path / "large.json")
    with pytest.raises(GenotypeError, match="There is no genotype"):
        load("x" * 5000)
    for name in ("runs/nothere", "genotype.json"):
        with pytest.raises(GenotypeError, match=rf"There is no file or folder '{name}'\. Give a genotype file"):
            load(name)


def test_text_in_any_folder_gets_a_name(tmp_path: Path) -> None:
    line = to_text(load("darts_v2"))
    for folder, file, name in (("lr=0.1", "genotype.txt", "lr-0.1"), ("a", "my cells (1).txt", "my cells-1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(line, encoding="utf-8")
        assert load(tmp_path / folder / file).name == name


def test_windows_encodings_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "genotype.json").write_text(json.dumps(SMALL), encoding=encoding)
        assert load(tmp_path / "genotype.json") == small()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_bytes(b"\x89PNG\r\n\xff\xfe\x00")
    with pytest.raises(GenotypeError, match=r"genotype\.json"):
        load(tmp_path / "genotype.json")


Change = Callable[[dict[str, Any]], Any]


def put(*keys: Any, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(*keys: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(drop(key) for key in ("name", "space", "settings", "cells", "paths", "provenance")),
        put("cells", value=[]),
        put("cells", value=None),
        put("cells", "up", value=3),
        put("cells", "up", 0, 0, value=["conv"]),
        put("cells", "up", 0, 0, value=["conv", "one"]),
        put("cells", "up", 0, 0, value=["conv", None]),
        put("paths", value=3),
        put("paths", 0, value=[1, 1]),
        put("paths", 0, value=[1, "x", ["down"]]),
        put("paths", 0, 2, value=None),
        put("settings", value=3),
        put("provenance", value="x"),
        # Nothing is converted: neither a text to a number, nor a number to a whole one, nor a truth value to either.
        put("cells", "up", 0, 0, value=["conv", "1"]),
        put("cells", "up", 0, 0, value=["conv", 1.9]),
        put("cells", "up", 0, 0, value=["conv", True]),
        put("cells", "up", 0, 0, value=[7, 1]),
        put("paths", 0, 0, value="1"),
        put("paths", 0, 1, value=1.0),
        put("paths", 0, 2, value="down"),
        put("name", value=7),
        put("space", value=None),
        put("settings", "depth", value=None),
        put("settings", "depth", value=[3]),
        put("provenance", "seed", value={}),
    ],
)
def test_wrong_structure_is_named(change: Change) -> None:
    content = copy.deepcopy(SMALL)
    change(content)
    with pytest.raises(GenotypeError, match=r"some\.json is not a whole genotype: ") as caught:
        read(content)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (put("space", value="darts"), "'small' is of the space 'darts', not 'nas-wdan'"),
        (
            put("cells", "up", 0, 0, 0, value="dep_cnov"),
            "'dep_cnov' cannot be used on the edge from state 0 to node 0 of the up cell. Did you mean 'dep_conv'",
        ),
        (put("cells", "up", 0, 0, 0, value="none"), "'none' cannot be used"),
        (put("cells", "up", 0, 1, 0, value="conv"), "'conv' cannot be used on the edge from state 1"),
        (put("cells", "normal", 0, 1, 0, value="up_conv"), "'up_conv' cannot be used on the edge from state 1"),
        (put("cells", "down", 1, 1, value=["down_conv", 2]), "'down_conv' cannot be used on the edge from state 2"),
        (put("cells", "down", 0, 0, 1, value=2), "node 0 of the down cell reads state 2. It can read states 0 to 1"),
        (put("cells", "down", 0, 0, 1, value=-1), "node 0 of the down cell reads state -1"),
        (put("cells", "down", 1, 1, 1, value=3), "node 1 of the down cell reads state 3. It can read states 0 to 2"),
        (drop("cells", "down"), "no nodes in its down cell"),
        (drop("cells", "up", 1), "1 nodes in its up cell, its settings say 2"),
        (put("settings", "intermediate_nodes", value=3), "2 nodes in its down cell, its settings say 3"),
        (put("paths", 0, 2, value=["normal"]), r"node \(1,1\) keeps \['normal'\], .*depth 3 has \['down'\]"),
        (put("paths", 0, 2, value=[]), r"node \(1,1\) keeps \[\]"),
        (put("paths", 0, 2, value=["down", "sideways"]), r"node \(1,1\) keeps .*sideways"),
        (put("paths", 0, 1, value=0), r"node \(1,0\) keeps"),
        (put("paths", 3, value=[6, 0, ["up"]]), r"node \(6,0\) keeps"),
        (drop("paths", 3), r"no path into node \(4,0\)"),
        (drop("paths", 0), r"no path into node \(1,1\)"),
        (put("paths", value=[]), "no path into node"),
        (put("settings", "inital_channel", value=4), "unknown setting 'inital_channel'. Did you mean 'init_channel'"),
        (drop("settings", "depth"), "lacks a setting .*depth"),
        (put("settings", "depth", value=2), "depth 2. Use 3 to 12"),
        (put("settings", "depth", value="3"), "depth"),
        (put("settings", "depth", value=3.5), "depth"),
        (put("settings", "depth", value=10**6), "depth 1000000. Use 3 to 12"),
        (put("settings", "depth", value=True), "setting depth True, which is not a whole number"),
        (put("settings", "intermediate_nodes", value=10**5), "intermediate_nodes 100000. Use 1 to 16"),
        (put("settings", "init_channel", value=10**9), "init_channel 1000000000. Use 2 to 1,024"),
        (put("cells", "up", 0, value=[["conv", 0]] * 101), "node 0 of the up cell has 101 edges"),
        (put("settings", "init_channel", value=0), "init_channel 0"),
        (put("settings", "init_channel", value=1), "init_channel 1. Use 2"),
        (put("settings", "init_channel", value="16"), "init_channel"),
        (put("settings", "double_down_channel", value="no"), "double_down_channel"),
        (put("settings", "shuffle_groups", value=3), "shuffle_groups 3 does not divide"),
        (put("settings", "shuffle_groups", value=0), "shuffle_groups"),
        (put("settings", "shuffle_groups", value=-2), "shuffle_groups"),
        (put("settings", "dropout_prob", value=2.0), "dropout_prob"),
        (put("settings", "dropout_prob", value=-0.1), "dropout_prob"),
    ],
)
def test_what_does_not_fit_is_named_with_a_fix(change: Change, says: str) -> None:
    content = copy.deepcopy(SMALL)
    change(content)
    genotype = read(content)
    with pytest.raises(GenotypeError) as caught:
        check(genotype)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("key", ["deep_supervision", "shuffle_groups", "dropout_prob", "absent_edges"])
def test_settings_with_a_default_may_be_left_out(key: str) -> None:
    content = copy.deepcopy(SMALL)
    del content["settings"][key]
    assert check(read(content)).depth == 3


def test_the_last_head_alone_needs_no_early_paths() -> None:
    content = copy.deepcopy(SMALL)
    content["settings"]["deep_supervision"] = False
    content["paths"] = [[2, 0, ["normal"]], [4, 0, ["normal"]]]
    assert paths_of(read(content)) == {(2, 0): ("normal",), (4, 0): ("normal",)}
    check(read(content))


def test_order_of_transitions_and_nodes_in_the_file_does_not_matter() -> None:
    content = copy.deepcopy(SMALL)
    content["paths"] = [[4, 0, ["up"]], [2, 0, ["up", "normal"]], [3, 1, ["normal", "down"]], [1, 1, ["down"]]]
    assert list(paths_of(read(content)).items()) == list(paths_of(small()).items())


def test_changes_of_the_whole_space_are_changes_of_the_genotype() -> None:
    name = NAS_WDAN[1]
    assert genotype_with(name, changes=["space={init_channel: 8}"]).settings["init_channel"] == 8
    assert genotype_with(name, changes=["space.init_channel=8"]).settings["init_channel"] == 8
    with pytest.raises(RecipeError, match="space cannot be 3"):
        genotype_with(name, changes=["space=3"])
    with pytest.raises(GenotypeError, match=r"depth 1000000\. Use 3 to 12"):
        genotype_with(name, changes=["space.depth=1000000"])
    with pytest.raises(GenotypeError, match="setting init_channel '020', which is not a whole number"):
        genotype_with(name, changes=["space.init_channel=020"])
