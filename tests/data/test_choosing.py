"""Which data sets words name: folders of any name, and the domains of a recipe; and by what they are read."""

import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.small_runs_of_tests import SMALL

import medarts
from medarts.coercion import recipe_of
from medarts.config import DataSettings, make_source, parse
from medarts.config.data import IGNORE
from medarts.data.choosing import choose_sources, sources_alike
from medarts.data.masks import read_mask
from medarts.data.opening import open_data, open_manifest
from medarts.data.recognising import recognise
from medarts.errors import DataError

NAMES = {
    "archive (1)": "archive-1",
    "data+masks": "data-masks",
    "set@2x": "set-2x",
    "a,b": "a-b",
    "x=1": "x-1",
    "#1": "1",
    ".hidden": "hidden",
    "-data": "data",
    "O'Brien": "O-Brien",
    "$HOME": "HOME",
    "[red]": "red",
    "Daten Köln": "Daten Köln",
    "a\nb": "a-b",
    "()": "unnamed",
    "all": "all-data",
    "mean of data sets": "mean of data sets-data",
}


@pytest.mark.parametrize(("folder", "domain"), NAMES.items())
def test_any_name_of_a_folder_becomes_that_of_a_domain(tmp_path, folder, domain):
    (tmp_path / folder / "masks").mkdir(parents=True)
    (source,) = choose_sources([str(tmp_path / folder)])
    assert (source.path, source.domain) == (tmp_path / folder, domain)
    assert DataSettings(sources=(source,)).sources == (source,)


def test_folders_of_one_cleaned_name_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("set (1)", "set [1]", "set {1}", "set-1-2")]
    for folder in folders:
        (folder / "masks").mkdir(parents=True)
    sources = choose_sources(map(str, folders))
    assert [source.domain for source in sources] == ["set-1", "set-1-2", "set-1-3", "set-1-2-2"]
    assert DataSettings(sources=sources).sources == sources
    twice = choose_sources([str(folders[0]), str(folders[0])])  # which is refused when they are opened
    assert [source.domain for source in twice] == ["set-1", "set-1"]


def test_bytes_that_are_no_text_do_not_enter_the_name(tmp_path):
    folder = tmp_path / os.fsdecode(b"K\xf6ln")
    try:
        (folder / "masks").mkdir(parents=True)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    assert recognise(folder)[0].domain == "K-ln"


def test_the_folder_of_the_shell_has_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "x (2)" / "masks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x (2)")
    assert recognise(Path())[0].domain == "x-2"


def test_a_pipe_is_no_table(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes")
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="no known layout"):
        recognise(tmp_path)


# What a folder does not say by itself


def drawn(folder: Path, *masks: np.ndarray, name: str = "{}.png") -> Path:
    """Writes masks with grey images of their size."""
    for number, mask in enumerate(masks):
        for part, array in (("images", np.full(mask.shape[:2], 9, np.uint8)), ("masks", mask)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / part / name.format(number))
    return folder


def data_with(*labels: dict[int | str, int | str], classes: list[str], **more: Any) -> DataSettings:
    sources = [
        {"kind": "folder", "path": f"nowhere/{number}", "name": f"own-{number}", "labels": of}
        for number, of in enumerate(labels)
    ]
    return parse({"data": {"sources": sources, "classes": classes, **more}}).data


def squares(*values: Any, size: int = 16) -> np.ndarray:
    """A mask whose quarters have these values, from the first row on; the rest is 0."""
    mask = np.zeros((size, size, *np.shape(values[0])), np.int64)
    for (row, column), value in zip(((0, 0), (0, 1), (1, 0), (1, 1)), values, strict=False):
        mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = value
    return mask


def test_colours_and_what_is_ignored_are_those_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    labels: dict[int | str, int | str] = {"#ff0000": "liver", "#00ff00": "tumour", "#0000ff": "ignore"}
    data = data_with(labels, classes=["liver", "tumour"])
    folder = drawn(tmp_path / "clinic", np.zeros((16, 16, 3)), *[squares(red, green, blue)] * 11)
    (source,) = sources_alike([str(folder)], data)
    assert "clinic: masks are read by the labels of own-0, {#ff0000: liver, #00ff00: tumour" in capsys.readouterr().err
    manifest = open_manifest(data.elsewhere((source,)), needs=())
    found = read_mask(manifest.samples[1], manifest.rules["clinic"]).classes
    assert [int(found[at]) for at in ((0, 0), (0, 9), (9, 0), (9, 9))] == [1, 2, IGNORE, 0]
    drawn(tmp_path / "strange", squares(red, (255, 0, 255)))
    (strange,) = sources_alike([str(tmp_path / "strange")], data)
    with pytest.raises(DataError, match=r"0\.png holds the colour #ff00ff"):
        open_data(data.elsewhere((strange,)), needs=())


@pytest.mark.parametrize(
    ("labels", "mask", "passed_on"),
    [
        ({1: "lesion"}, squares(1), True),
        ({1: "lesion"}, squares(255), False),  # white is foreground without labels
        ({0: "lesion", 255: "background"}, squares(255), True),
        ({1: "lesion", 255: "ignore"}, squares(255), False),  # nothing would be shown
        ({1: "lesion", 255: "ignore"}, squares(1, 255), True),
    ],
)
def test_labels_of_one_class_are_passed_on_where_they_fit(
    tmp_path: Path, labels: dict[int | str, int | str], mask: np.ndarray, passed_on: bool
) -> None:
    data = data_with(labels, classes=["lesion"])
    (source,) = sources_alike([str(drawn(tmp_path / "clinic", mask * 0, mask))], data)
    assert source.model_dump()["labels"] == (labels if passed_on else None)


def test_a_folder_that_names_its_classes_keeps_its_own_labels(tmp_path: Path) -> None:
    data = data_with({1: "liver", 2: "tumour"}, classes=["liver", "tumour"])
    folder = drawn(tmp_path / "clinic", squares(1, 2))
    about = folder / "dataset.json"
    about.write_text('{"labels": {"background": 0, "tumour": 1, "liver": 2}}')
    (source,) = sources_alike([str(folder)], data)
    assert source.model_dump()["labels"] is None
    assert open_manifest(data.elsewhere((source,)), needs=()).rules["clinic"].labels == ((1, 2), (2, 1))
    about.write_text('{"labels": {"background": 0, "spleen": 1, "liver": 2}}')
    (source,) = sources_alike([str(folder)], data)
    with pytest.raises(DataError, match="has the class 'spleen', which the recipe does not name"):
        open_manifest(data.elsewhere((source,)), needs=())


def test_labels_of_several_sources_are_passed_on_where_one_fits(tmp_path: Path) -> None:
    labels: tuple[dict[int | str, int | str], ...] = ({1: "liver", 2: "tumour"}, {128: "liver", 255: "tumour"})
    data = data_with(*labels, classes=["liver", "tumour"])
    (source,) = sources_alike([str(drawn(tmp_path / "clinic", squares(255, 128)))], data)
    assert source.model_dump()["labels"] == labels[1]
    either = data_with(labels[0], {1: "tumour", 2: "liver"}, classes=["liver", "tumour"])
    with pytest.raises(DataError, match="by the labels of own-0 and by those of own-1, which differ"):
        sources_alike([str(drawn(tmp_path / "other", squares(1, 2)))], either)
    (own,) = sources_alike(["own-1"], either)
    assert own == either.sources[1]


def test_the_window_of_a_recipe_is_that_of_other_volumes(tmp_path: Path) -> None:
    chaos = DataSettings(sources=(make_source("chaos", tmp_path / "chaos"),))
    folder = tmp_path / "ct"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
        volume = nibabel.Nifti1Image(np.ones((4, 4, 3), np.int16), np.eye(4))
        nibabel.save(volume, folder / part / "a.nii.gz")
    (source,) = sources_alike([str(folder)], chaos)
    assert (source.window, source.percentiles) == ((-160.0, 240.0), None)
    (grey,) = sources_alike([str(drawn(tmp_path / "grey", squares(255)))], chaos)  # whose type says it
    assert (grey.window, grey.percentiles) == (None, None)


def test_a_run_and_its_package_read_other_folders_as_their_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    masks = [squares(*generator.permutation([128, 255, 0, 0])) for _ in range(12)]
    labels = {128: "liver", 255: "tumour"}
    own, other = (drawn(tmp_path / name, *masks) for name in ("own", "other"))
    data = {"sources": [{"kind": "folder", "path": str(own), "labels": labels}], "classes": [*labels.values()]}
    data |= {"size": 16, "in_channels": 1, "cache": str(tmp_path / "cache")}
    recipe = {**SMALL, "data": data, "train": {**SMALL["train"], "loss": "ce"}}
    run = medarts.train(None, recipe, out=tmp_path / "run")
    expected = medarts.evaluate(run, split="all").table["value"]
    package = medarts.pack(run, tmp_path / "run.medarts")
    for network in (run, package):
        found = medarts.evaluate(network, data=str(other), split="all").table["value"]
        np.testing.assert_array_equal(found, expected)
    tuned = medarts.train(initial=run, data=str(other), out=tmp_path / "tuned")
    assert tuned.recipe.data.sources[0].model_dump()["labels"] == labels


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_recipe_as_a_dictionary_reads_other_folders_by_its_labels(tmp_path: Path, as_mapping: bool) -> None:
    labels = {1: "liver", 2: "tumour"}
    data = data_with(labels, classes=["liver", "tumour"]).model_dump(mode="json")
    recipe = {"data": data} if as_mapping else parse({"data": data})
    folder = drawn(tmp_path / "clinic", squares(1, 2))
    (source,) = recipe_of(recipe, (str(folder),), ()).data.sources
    assert (source.path, source.model_dump()["labels"]) == (folder, labels)
