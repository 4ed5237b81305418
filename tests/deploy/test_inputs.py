"""What is found in files, folders and patterns, how it is named, and what a network is not given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.data.dicom_sets_of_tests import enhanced, series
from tests.data.layouts_of_tests import CASES, LAYOUTS

from medarts.data.formats.raw import Raw
from medarts.deploy.info import ImageKind, ModelInfo, Provenance
from medarts.deploy.inputs import Source, check_kind, find
from medarts.errors import DataError

from .dicoms import AXIAL, NEGATIVE, OBLIQUE, dataset, write, write_series

VOLUME = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
DATA = os.environ.get("MEDARTS_DATA")


def png(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
    return path


def info(*kinds: ImageKind, window: tuple[float, float] | None = None) -> ModelInfo:
    return ModelInfo(
        name="net",
        task="segmentation",
        outputs=("foreground",),
        in_channels=1,
        size=32,
        head="last",
        window=window,
        kinds=kinds,
        provenance=Provenance(
            medarts="0", torch="0", created="", recipe="", weights="", architecture="", seed=0, images={}
        ),
    )


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


def test_folders_are_searched_for_images_of_all_kinds(tmp_path: Path) -> None:
    png(tmp_path / "a/one.png")
    png(tmp_path / "a/two.JPG")
    png(tmp_path / "b.c/three.0001.bmp")
    tifffile.imwrite(tmp_path / "four.tif", np.zeros((4, 5), np.uint8))
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "five.nii.gz")
    write(tmp_path / "six", dataset(VOLUME[0]))
    found = find([tmp_path])
    assert names(found) == ["a/one", "a/two", "b.c/three.0001", "five", "four", "six"]
    assert [source.kind for source in found] == ["raster"] * 3 + ["nifti", "raster", "dicom"]


def test_folders_leave_out_what_is_hidden_or_no_image(tmp_path: Path) -> None:
    png(tmp_path / "in/a.png")
    for name in ("t.csv", "t.txt", "t.json", "t.md", "DICOMDIR", "README", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(b"\0" * 128 + b"DICM" if name == "DICOMDIR" else b"text")
    png(tmp_path / "in/.cache/b.png")
    png(tmp_path / "in/out/a.png")
    write(tmp_path / "in/plan.dcm", dataset(VOLUME[0], without=["Rows", "Columns", "PixelData"]))
    write(tmp_path / "in/seg.dcm", dataset(VOLUME[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"))
    assert names(find([tmp_path / "in"], leave_out=tmp_path / "in/out")) == ["a"]


@pytest.mark.parametrize(
    "layout", ["images_and_masks", "beside_by_suffix", "folder_per_class", "without_words", "csv_list"]
)
def test_masks_of_a_data_set_are_left_out_and_named(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS[layout](tmp_path)
    found = find([tmp_path])
    assert len(found) == len(CASES)
    masks = {"folder_per_class": 2 * len(CASES)}.get(layout, len(CASES))
    said = " ".join(capsys.readouterr().err.split())
    assert f"left out as masks of the others: {masks} files, such as" in said
    named = [str(path) for path in tmp_path.rglob("*.*") if path.suffix in (".png", ".jpg")]
    assert len(find(named)) == len(find([tmp_path / "**" / "*.*"])) == len(CASES) + masks
    assert capsys.readouterr().err == ""


def test_images_that_are_alike_by_name_alone_are_all_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        for end in ("", "_left", "_right"):
            values = np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / f"im{number}{end}.png")
    assert len(find([tmp_path])) == 12
    assert capsys.readouterr().err == ""


def test_a_named_file_is_kept_and_reading_it_says_what_is_wrong(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    short = tmp_path / "short.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20)).astype(np.uint8)).save(short)
    short.write_bytes(short.read_bytes()[:200])
    four = tmp_path / "four.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.uint8), np.eye(4)), four)
    table = tmp_path / "table.csv"
    table.write_text("a,b")
    bare = write(tmp_path / "bare.dcm", dataset(VOLUME[0], without=["BitsAllocated"]))
    cut = write(tmp_path / "cut.dcm", dataset(VOLUME[0]))
    cut.write_bytes(cut.read_bytes()[:-20])
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"nothing")
    paths = [text, empty, short, four, table, bare, cut, broken]
    found = {source.paths[0]: source for source in find(paths)}
    assert set(found) == set(paths)
    for path in paths:
        with pytest.raises(DataError, match=path.name):
            found[path].read(0)
    with pytest.raises(DataError, match=r"There is no file or folder .*missing\.png"):
        find([short, tmp_path / "missing.png"])


def test_files_named_twice_are_taken_once(tmp_path: Path) -> None:
    path = png(tmp_path / "a/b.png")
    assert len(find([tmp_path, path, tmp_path / "a", f"{tmp_path}/a/../a/b.png", f"{tmp_path}/*/*.png"])) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    png(tmp_path / "in/a.png")
    png(tmp_path / "other/b.png")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "other")
    assert names(find([tmp_path / "in"])) == ["a", "other/b"]


def test_patterns_that_the_shell_left_are_expanded(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/y/b.png", "x/[1].png"):
        png(tmp_path / name)
    (tmp_path / "x/t.csv").write_text("a")
    assert names(find([f"{tmp_path}/x/**/*.png"])) == ["[1]", "a", "y/b"]
    assert names(find([f"{tmp_path}/x/*"])) == ["[1]", "a", "y/b"]
    assert names(find([f"{tmp_path}/x/[1].png"])) == ["[1]"]
    with pytest.raises(DataError, match="No images match"):
        find([f"{tmp_path}/x/*.tif"])


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a")
    with pytest.raises(DataError, match="holds no images"):
        find([tmp_path])
    with pytest.raises(DataError, match="no images"):
        find([])


def test_names_are_unique_and_tell_files_apart(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "A.bmp", "b.png", "p/b.png", "q/b.png"):
        png(tmp_path / name)
    write(tmp_path / "1.2.3.4", dataset(VOLUME[0]))
    png(tmp_path / "b_probabilities.png")
    expected = ["1.2.3.4", "A_bmp", "a_jpg", "a_png", "b", "b_probabilities-2", "p/b", "q/b"]
    assert names(find([tmp_path])) == expected
    assert names(find([tmp_path / "p", tmp_path / "q/b.png"])) == ["p/b", "q/b"]


def test_names_are_those_that_every_system_takes(tmp_path: Path) -> None:
    for name in ("CON.png", "a:b.png", "a-b.png", "end. .png", "nul/x?.png"):
        png(tmp_path / name)
    assert names(find([tmp_path])) == ["_CON", "_nul/x-", "a-b_png", "a-b_png-2", "end"]


def test_names_are_apart_from_the_overlays_of_others(tmp_path: Path) -> None:
    for name in ("a.png", "a_overlay.png", "a_overlay/0000.png"):
        png(tmp_path / name)
    assert names(find([tmp_path])) == ["a", "a_overlay-2", "a_overlay/0000-2"]


@pytest.mark.parametrize("orientation", [AXIAL, NEGATIVE, OBLIQUE], ids=["axial", "negative", "oblique"])
def test_a_series_is_one_source_in_the_order_of_space(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    paths = write_series(tmp_path / "scan", VOLUME, orientation=orientation)
    assert [path.name for path in paths] != sorted(path.name for path in paths)
    (source,) = find([tmp_path / "scan"])
    assert (source.name, source.kind, source.count) == ("scan", "dicom", 5)
    assert list(source.paths) == paths
    assert np.array_equal([source.read(n).values[..., 0] for n in range(5)], VOLUME)
    assert source.spacing == (0.5, 0.75, pytest.approx(2.5))
    assert [find([*paths[::-1]])[0].paths] == [tuple(paths)]


def test_times_at_the_same_places_are_sources_of_their_own(tmp_path: Path) -> None:
    write_series(tmp_path / "s", np.concatenate([VOLUME[:2], VOLUME[2:4]]), root="1.2.3.4", step=0)
    with_places = write_series(tmp_path / "t", VOLUME, root="1.2.3.5", SeriesInstanceUID="1.3")
    again = write_series(tmp_path / "t/later", VOLUME + 1, root="1.2.3.6", SeriesInstanceUID="1.3")
    found = find([tmp_path])
    assert names(found) == [*(f"s/i000{n}" for n in range(4)), "t", "t/later"]
    assert [source.count for source in found] == [1, 1, 1, 1, 5, 5]
    assert [source.paths for source in found[4:]] == [tuple(with_places), tuple(again)]


def test_a_copied_slice_is_taken_once(tmp_path: Path) -> None:
    first, *_ = write_series(tmp_path / "s", VOLUME)
    shutil.copy(first, tmp_path / "s/copy.dcm")
    assert find([tmp_path])[0].count == 5


def test_uneven_steps_have_no_distance(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", VOLUME)
    paths[1].unlink()
    assert find([tmp_path])[0].spacing[2] is None


def test_a_spacing_of_zero_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", dataset(VOLUME[0], PixelSpacing=[0, 0]))
    assert find([tmp_path])[0].spacing == (None, None, None)


def test_localizers_and_other_sizes_are_sources_of_their_own(tmp_path: Path) -> None:
    write_series(tmp_path / "s", VOLUME)
    write_series(tmp_path / "s/l", VOLUME[:1], orientation=(0, 1, 0, 0, 0, -1), root="1.2.3.6")
    write_series(tmp_path / "s/w", VOLUME[:2, :, :3], root="1.2.3.7")
    write_series(tmp_path / "s/n", VOLUME[:3], root="1.2.3.8", SeriesInstanceUID="1.2.3.9", SeriesNumber=5)
    found = find([tmp_path])
    assert sorted(source.count for source in found) == [1, 2, 3, 5]
    assert len(set(names(found))) == 4


def test_two_series_in_a_folder_are_named_by_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2):
        for n, path in enumerate(write_series(tmp_path / str(number), VOLUME, SeriesInstanceUID=f"1.2.{number}",
                                              SeriesNumber=number, root=f"1.2.3.{number}")):  # fmt: skip
            (tmp_path / "s").mkdir(exist_ok=True)
            path.rename(tmp_path / f"s/{number}-{n}")
    assert names(find([tmp_path / "s"])) == ["s_series-1", "s_series-2"]


def test_images_that_say_nothing_of_their_place_stay_apart(tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / f"view{n}.dcm", dataset(VOLUME[n], instance=f"1.2.{n}"))
    assert names(find([tmp_path])) == ["view0", "view1", "view2"]


def test_frames_and_pages_are_slices_of_one_source(tmp_path: Path) -> None:
    write(tmp_path / "frames.dcm", dataset(VOLUME, NumberOfFrames=5))
    tifffile.imwrite(tmp_path / "pages.tif", VOLUME.astype(np.uint16), photometric="minisblack")
    for source in find([tmp_path]):
        assert source.count == 5
        assert np.array_equal([source.read(n).values[..., 0] for n in range(5)], VOLUME)


def test_neighbours_of_a_frame_are_those_in_space(tmp_path: Path) -> None:
    images = series(tmp_path / "files")
    whole = enhanced(tmp_path / "whole.dcm", images, (2, 0, 3, 1), slope=0)
    sources = [find([path])[0] for path in (tmp_path / "files", whole)]
    about = ModelInfo.model_construct(name="net", context=1, parts=(1, 1, 1))
    one, other = ([[raw.values for raw in raws] for raws in source.images(about)] for source in sources)
    for frame, number in enumerate((2, 0, 3, 1)):
        assert np.array_equal(other[frame], one[number])
        assert np.array_equal([raw.values for raw in sources[1].image(frame, about)], one[number])


def test_a_volume_is_read_as_in_training_and_knows_its_spacing(tmp_path: Path) -> None:
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.diag([-0.5, -0.75, 3, 1])), path)
    (source,) = find([path])
    assert (source.count, source.spacing) == (7, (0.75, 0.5, 3.0))
    assert np.array_equal(source.read(2).values[..., 0], VOLUME[..., 2].T)


def test_resolutions_of_pngs_are_no_spacing(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "a.png", dpi=(300, 300))
    assert find([tmp_path])[0].spacing == (None, None, None)


GREY, COLOUR = np.zeros((3, 4, 1), np.uint8), np.dstack([np.zeros((3, 4)), np.ones((3, 4)), np.ones((3, 4))])
GREY_KIND = ImageKind(channels=1, dtype="uint8", range=(0, 255))
COLOUR_KIND = ImageKind(channels=3, dtype="uint8", range=(0, 255))


def raw(values: np.ndarray, limits: tuple[float, float] | None = (0, 255)) -> Raw:
    return Raw(values, limits)


@pytest.mark.parametrize(
    ("image", "kinds", "problem"),
    [
        (raw(COLOUR), [GREY_KIND], "is a colour image; net was trained on grey"),
        (raw(GREY), [COLOUR_KIND], "is a grey image; net was trained on colour"),
        (raw(GREY.astype(np.uint16), (0, 65535)), [GREY_KIND], "trained on images of 8 bits"),
        (raw(GREY.astype(np.uint16), (0, 4095)), [GREY_KIND], "trained on images of 8 bits"),
    ],
)
def test_an_image_of_another_kind_than_in_training_is_refused(image: Raw, kinds: list[ImageKind], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        check_kind(image, info(*kinds), Path("a.png"))
    check_kind(image, info(), Path("a.png"))


@pytest.mark.parametrize(
    ("image", "kinds", "window"),
    [
        (raw(np.repeat(GREY, 3, axis=2)), [GREY_KIND], None),
        (raw(COLOUR), [GREY_KIND, COLOUR_KIND], None),
        (raw(GREY.astype(np.uint16), (0, 65535)), [GREY_KIND], (0.0, 100.0)),
        (raw(GREY.astype(np.uint16), (0, 65535)), [ImageKind(channels=1, dtype="uint16", range=(0, 65535))], None),
        (raw(GREY.astype(np.int16), None), [GREY_KIND], None),
    ],
)
def test_an_image_of_a_kind_of_the_training_is_taken(
    image: Raw, kinds: list[ImageKind], window: tuple[float, float] | None
) -> None:
    check_kind(image, info(*kinds, window=window), Path("a.png"))


def test_inputs_are_found_without_pytorch(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME)
    code = (
        "import sys; from medarts.deploy import inputs; "
        "[s.read(0) for s in inputs.find(sys.argv[1:])]; "
        "sys.exit(' '.join({'torch', 'scipy', 'pandas', 'monai', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not DATA, reason="needs MEDARTS_DATA")
def test_the_volumes_and_series_on_disk_are_found() -> None:
    found = {source.name: source for source in find([Path(DATA or "", "volumes"), Path(DATA or "", "chaos")])}
    (series,) = (source for source in found.values() if source.kind == "dicom" and source.count > 1)
    assert series.count == 78
    assert series.spacing == (1.453125, 1.453125, 2.0)
    volume = found["volumes/chaos_ct_3"]
    # The volume was made of the series; its slices run along the same axis.
    pairs = [(series.read(n).values, volume.read(k).values) for n, k in ((0, 0), (40, 40))]
    reverse = [(series.read(n).values, volume.read(77 - n).values) for n in (0, 40)]
    assert any(all(np.array_equal(a, b) for a, b in each) for each in (pairs, reverse))
