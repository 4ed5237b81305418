"""Prediction on files: what is written, skipped, continued and refused."""

import csv
import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.deploy import dicoms
from tests.deploy.engines_of_tests import FindingsEngine, PixelEngine, findings_info, masks_info

import medarts
from medarts.deploy import prediction
from medarts.deploy.info import Calibration
from medarts.deploy.model import TrainedModel
from medarts.deploy.prediction import Options, Prediction, predict_files
from medarts.errors import EngineError, MedartsError
from medarts.system import files, lock

TABLES = ("predictions.csv", "prediction.json", "sources.jsonl")

GENERATOR = np.random.default_rng(0)


def save_png(path: Path, shape: tuple[int, ...] = (20, 30), *, dtype: Any = np.uint8, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    Image.fromarray(values).save(path)
    return path


def save_volume(path: Path, shape: tuple[int, ...] = (30, 20, 5)) -> Path:
    values = GENERATOR.integers(0, 256, shape).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.5, -2.0, 3.0, 1.0])), path)
    return path


@pytest.fixture
def model() -> TrainedModel:
    return TrainedModel(masks_info(), PixelEngine())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two levels, two sizes, a volume and a series."""
    root = tmp_path / "images"
    for number in range(7):
        save_png(root / f"{number % 2}" / f"{number}.png", (20 + number // 4, 30), seed=number)
    save_volume(root / "volume.nii.gz")
    dicoms.write_series(root / "series", GENERATOR.integers(0, 256, (3, 8, 9)).astype(np.uint8))
    return root


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all files by name; those of DICOM hold the time and an identity of their own."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: b"" if name.endswith(".dcm") else content for name, content in found.items()}


def stopping(model: TrainedModel, after: int, error: BaseException) -> TrainedModel:
    """Returns a model that fails after some passes."""
    engine = model.engine
    passes = 0

    class Stopping:
        name = engine.name

        def run(self, images: Any, limits: Any) -> Any:
            nonlocal passes
            passes += 1
            if passes > after:
                raise error
            return engine.run(images, limits)

    return TrainedModel(model.info, Stopping())


def test_masks_and_rows_are_those_of_the_model(model: TrainedModel, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict_files(model, [images], out) == Prediction(out, 9, 0, ())
    for number in range(7):
        name = f"{number % 2}/{number}"
        expected = np.asarray(Image.open(images / f"{name}.png")) / np.float32(255) >= 0.5
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")), 255 * expected)
        (row,) = (row for row in rows_of(out) if row["image"] == name)
        assert (row["file"], row["slice"], row["class"]) == (str(images / f"{name}.png"), "", "foreground")
        assert (int(row["pixels"]), row["area_mm2"], row["volume_mm3"]) == (expected.sum(), "", "")
    stored = np.asarray(nibabel.load(images / "volume.nii.gz").dataobj)
    mask = nibabel.load(out / "volume.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), stored / np.float32(255) >= 0.5)
    rows = [row for row in rows_of(out) if row["image"] == "volume"]
    assert [row["slice"] for row in rows] == ["0", "1", "2", "3", "4", ""]
    total = np.asarray(mask.dataobj).sum()
    assert (int(rows[-1]["pixels"]), float(rows[-1]["volume_mm3"])) == (total, pytest.approx(3 * total, rel=1e-5))
    assert float(rows[0]["area_mm2"]) == int(rows[0]["pixels"])
    assert (out / "series.dcm").is_file()
    assert sum(row["image"] == "series" for row in rows_of(out)) == 4


def test_images_of_one_size_share_a_pass_and_no_pass_is_larger_than_a_batch(images: Path, tmp_path: Path) -> None:
    engine = PixelEngine()
    model = TrainedModel(masks_info(), engine)
    predict_files(model, [images], tmp_path / "out", Options(batch=3))
    assert max(shape[0] for shape in engine.shapes) == 3
    assert len(engine.shapes) < 9
    batched = contents(tmp_path / "out")
    predict_files(model, [images], tmp_path / "alone", Options(batch=1))
    assert contents(tmp_path / "alone") == batched


def test_a_call_continues_where_one_was_stopped_and_gives_the_same(
    model: TrainedModel, images: Path, tmp_path: Path
) -> None:
    predict_files(model, [images], tmp_path / "whole", Options(batch=1))
    for passes in range(12):
        out = tmp_path / f"stopped-{passes}"
        with pytest.raises(ZeroDivisionError):
            predict_files(stopping(model, passes, ZeroDivisionError()), [images], out, Options(batch=1))
        before = {row["image"] for row in rows_of(out)}
        found = predict_files(model, [images], out, Options(batch=4))
        assert (found.kept, found.predicted) == (len(before), 9 - len(before))
        assert contents(out) == contents(tmp_path / "whole")


def test_a_finished_prediction_is_not_repeated(model: TrainedModel, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(model, [images], out)
    before = contents(out)
    assert predict_files(stopping(model, 0, ZeroDivisionError()), [images], out).kept == 9
    save_png(images / "new.png")
    found = predict_files(model, [images], out)
    assert (found.kept, found.predicted) == (9, 1)
    after = contents(out)
    for name in ("predictions.csv", "sources.jsonl"):
        assert after.pop(name).startswith(before.pop(name))
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("info", "options", "words"),
    [
        ({}, Options(flip=True), r"other options \(flip\)"),
        ({}, Options(window=16, largest=True), r"other options \(window, largest\)"),
        ({"threshold": 0.4}, Options(), "another network"),
    ],
)
def test_another_network_or_other_options_are_refused_without_force(
    model: TrainedModel, tmp_path: Path, info: dict[str, Any], options: Options, words: str
) -> None:
    image, out = save_png(tmp_path / "a.png"), tmp_path / "out"
    predict_files(model, [image], out)
    before = contents(out)
    other = TrainedModel(masks_info(**info), PixelEngine())
    with pytest.raises(MedartsError, match=f"{words}.*--force"):
        predict_files(other, [image], out, options)
    assert contents(out) == before
    assert predict_files(other, [image], out, options, force=True).predicted == 1
    assert predict_files(other, [image], out, options).kept == 1


def test_another_file_with_the_same_description_is_another_network(tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    first, second = (TrainedModel(masks_info(), PixelEngine(), digest=digest) for digest in ("1", "2"))
    predict_files(first, [image], tmp_path / "out")
    assert predict_files(first, [image], tmp_path / "out").kept == 1
    with pytest.raises(MedartsError, match="another network"):
        predict_files(second, [image], tmp_path / "out")


def test_a_batch_of_another_size_continues(model: TrainedModel, tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    predict_files(model, [image], tmp_path / "out", Options(batch=1))
    assert predict_files(model, [image], tmp_path / "out", Options(batch=2)).kept == 1


def test_a_folder_with_other_files_is_left_alone_without_force(model: TrainedModel, tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    other = tmp_path / "out" / "a.png"
    save_png(other, (3, 4))
    before = contents(tmp_path / "out")
    with pytest.raises(MedartsError, match=r"already holds files.*--force"):
        predict_files(model, [image], tmp_path / "out")
    assert contents(tmp_path / "out") == before
    predict_files(model, [image], tmp_path / "out", force=True)
    assert np.asarray(Image.open(other)).shape == (20, 30)


def test_images_are_never_overwritten_even_with_force(model: TrainedModel, tmp_path: Path) -> None:
    image = save_png(tmp_path / "images" / "a.png")
    before = image.read_bytes()
    with pytest.raises(MedartsError, match="lies in the folder of the results"):
        predict_files(model, [image], image.parent, force=True)
    assert image.read_bytes() == before


def test_results_below_the_images_are_not_predicted_themselves(model: TrainedModel, tmp_path: Path) -> None:
    save_png(tmp_path / "a.png")
    for _ in range(2):
        predict_files(model, [tmp_path], tmp_path / "masks")
    assert {row["image"] for row in rows_of(tmp_path / "masks")} == {"a"}


def test_another_image_of_the_same_name_is_not_taken_for_a_finished_one(model: TrainedModel, tmp_path: Path) -> None:
    first, second = (save_png(tmp_path / folder / "a.png") for folder in ("x", "y"))
    predict_files(model, [first.parent], tmp_path / "out")
    with pytest.raises(MedartsError, match=r"holds a prediction of .*a\.png, which has the same name"):
        predict_files(model, [second.parent], tmp_path / "out")


def test_a_source_that_has_changed_is_predicted_again_and_its_results_alone_are_replaced(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_png(images / "other.png")
    pages = [Image.fromarray(np.full((9, 8), value, np.uint8)) for value in (0, 255)]
    pages[0].save(images / "scan.tif", save_all=True, append_images=pages[1:])
    options = Options(probabilities=True, overlay=True)
    predict_files(model, [images], out, options)
    (out / "scan_notes.txt").write_text("mine")
    before = contents(out)
    assert {"scan.tif", "scan_probabilities.tif", "scan_overlay/0001.png"} < {*before}
    pages[1].save(images / "scan.tif")  # of one page, whose mask has another kind
    found = predict_files(model, [images], out, options)
    assert (found.kept, found.predicted) == (1, 1)
    assert "scan: It has changed since it was predicted" in capsys.readouterr().err
    gone = {"scan.tif", "scan_probabilities.tif", "scan_overlay/0000.png", "scan_overlay/0001.png"}
    new = {"scan.png", "scan_probabilities.png", "scan_overlay.png"}
    after = contents(out)
    assert {*after} == {*before} - gone | new
    assert all(before[name] == after[name] for name in after.keys() - new - {"predictions.csv", "sources.jsonl"})
    assert [(row["image"], row["pixels"]) for row in rows_of(out)][1:] == [("scan", "72")]
    assert predict_files(model, [images], out, options).kept == 2


def test_a_source_that_has_become_bad_has_no_result(model: TrainedModel, tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    predict_files(model, [image], tmp_path / "out")
    image.write_bytes(b"")
    assert len(predict_files(model, [image], tmp_path / "out").skipped) == 1
    assert rows_of(tmp_path / "out") == []
    assert not (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize("content", ["{}", "[]", '{"image": "a", "state": "", "rows": 1, "results": ["../../a.png"]}'])
def test_a_damaged_history_is_one_error_and_removes_nothing(model: TrainedModel, tmp_path: Path, content: str) -> None:
    image = save_png(tmp_path / "a.png")
    predict_files(model, [image], tmp_path / "out")
    (tmp_path / "out" / "sources.jsonl").write_text(content + "\n")
    with pytest.raises(MedartsError, match=r"sources\.jsonl is damaged.*--force"):
        predict_files(model, [image], tmp_path / "out")
    assert image.exists()


def test_a_new_neighbour_leaves_a_finished_image_its_name(model: TrainedModel, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_png(images / "good.png")
    predict_files(model, [images], out)
    before = (out / "good.png").read_bytes()
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(images / "good.jpg")
    found = predict_files(model, [images], out)
    assert (found.kept, found.predicted) == (1, 1)
    assert {row["image"]: Path(row["file"]).name for row in rows_of(out)} == {
        "good": "good.png",
        "good_jpg": "good.jpg",
    }
    assert (out / "good.png").read_bytes() == before


def test_files_given_one_after_the_other_are_all_recorded(model: TrainedModel, tmp_path: Path) -> None:
    for name in "abc":
        predict_files(model, [save_png(tmp_path / f"{name}.png")], tmp_path / "out")
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["a", "b", "c"]


@pytest.mark.parametrize("error", [EngineError("It failed.", fix="Give less."), MemoryError()])
def test_an_engine_that_fails_on_an_image_fails_on_that_one_alone(
    images: Path, tmp_path: Path, error: Exception
) -> None:
    single = np.asarray(Image.open(images / "0" / "2.png"))
    plane = np.asarray(nibabel.load(images / "volume.nii.gz").dataobj)[:, :, 3]

    class Failing(PixelEngine):
        def run(self, images_bchw: Any, limits_b2: Any) -> Any:
            if {single.sum(), plane.sum()} & {*images_bchw.sum((1, 2, 3), dtype=np.int64).tolist()}:
                raise error
            return super().run(images_bchw, limits_b2)

    found = predict_files(TrainedModel(masks_info(), Failing()), [images], tmp_path / "out")
    assert found.predicted == 7
    assert {Path(file).name for file, _ in found.skipped} == {"2.png", "volume.nii.gz"}
    assert all("was not predicted" in reason for _, reason in found.skipped)


def test_what_a_kill_leaves_half_written_is_removed(model: TrainedModel, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(model, [images], out)
    before = contents(out)
    rest = out / "0" / f"{files.UNFINISHED}2.png"
    rest.write_bytes(b"half")
    with (out / "predictions.csv").open("ab") as table:
        table.write(b"0/half,/x/half.png,,foregr")
    assert predict_files(model, [images], out).kept == 9
    assert contents(out) == before


def test_a_folder_in_which_a_kill_came_first_is_used(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in (*lock.FILES, f"{files.UNFINISHED}prediction.json"):
        (tmp_path / "out" / name).write_bytes(b"")
    assert predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out").predicted == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_record_is_one_error(model: TrainedModel, tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prediction.json").write_text(content)
    with pytest.raises(MedartsError, match=r"prediction\.json is damaged.*--force"):
        predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out")


def write_bad_files(root: Path) -> dict[str, str]:
    """Writes a bad file of every kind, and returns a word of the error of each."""
    root.mkdir()
    good = save_png(root / "good.png").read_bytes()
    (root / "truncated.png").write_bytes(good[: len(good) // 2])
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("This is no image.")
    (root / "text.dcm").write_text("This is no image.")
    save_png(root / "colour.png", (20, 30, 3))
    save_png(root / "deep.png", dtype=np.uint16)
    save_volume(root / "four.nii", (4, 5, 6, 2))
    volume = save_volume(root / "cut.nii.gz").read_bytes()
    (root / "cut.nii.gz").write_bytes(volume[: len(volume) // 2])
    dicoms.write(root / "bits.dcm", dicoms.dataset(np.zeros((8, 9), np.uint8), without=["BitsAllocated"]))
    packed = dicoms.dataset(np.zeros((8, 9), np.uint8))
    packed.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"  # JPEG-LS
    packed.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    packed["PixelData"].is_undefined_length = True
    dicoms.write(root / "packed.dcm", packed)
    return {
        "truncated.png": "", "empty.png": "empty", "text.png": "no known image format", "text.dcm": "",
        "colour.png": "colour", "deep.png": "8 bits", "four.nii": "", "cut.nii.gz": "", "bits.dcm": "",
        "packed.dcm": "",
    }  # fmt: skip


def test_bad_files_are_reported_one_line_each_and_the_rest_is_done(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_bad_files(tmp_path / "images")
    out = tmp_path / "out"
    found = predict_files(model, [tmp_path / "images"], out)
    assert found.predicted == 1
    assert {row["image"] for row in rows_of(out)} == {"good"}
    assert {Path(file).name for file, _ in found.skipped} == words.keys()
    for file, error in found.skipped:
        assert file in error
        assert words[Path(file).name] in error
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: skipped")]
    assert len(lines) == len(words)
    with (out / "errors.csv").open(newline="") as table:
        assert [tuple(row) for row in csv.reader(table)] == [("file", "error"), *found.skipped]
    assert {path.name for path in out.rglob("*")} == {"good.png", *TABLES, "errors.csv"}
    for name in words:
        (tmp_path / "images" / name).unlink()
    assert predict_files(model, [tmp_path / "images"], out).skipped == ()
    assert not (out / "errors.csv").exists()


def test_a_volume_with_a_bad_slice_is_skipped_whole(model: TrainedModel, images: Path, tmp_path: Path) -> None:
    path = sorted((images / "series").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-20])
    found = predict_files(model, [images], tmp_path / "out", Options(batch=1, overlay=True))
    assert (found.predicted, len(found.skipped)) == (8, 1)
    assert path.name in found.skipped[0][1]
    assert not (tmp_path / "out" / "series.dcm").exists()
    assert "series" not in {row["image"] for row in rows_of(tmp_path / "out")}


def test_grey_images_are_refused_by_a_network_of_colour(tmp_path: Path) -> None:
    kind = {"channels": 3, "dtype": "uint8", "range": (0, 255)}
    model = TrainedModel(masks_info(in_channels=3, kinds=(kind,)), PixelEngine())
    found = predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out")
    assert "is a grey image" in found.skipped[0][1]


def test_probabilities_that_are_not_numbers_are_no_mask(images: Path, tmp_path: Path) -> None:
    def make(values: Any) -> Any:  # nan for the images that are not 20 x 30
        return values if values.shape[1:] == (20, 30) else values * np.float32(np.nan)

    model = TrainedModel(masks_info(), PixelEngine(make=make))
    found = predict_files(model, [images], tmp_path / "out")
    assert found.predicted == 5
    assert all("not numbers" in error for _, error in found.skipped)
    with pytest.raises(MedartsError, match="not numbers"):
        model.predict(images / "series")


def test_a_name_that_grows_too_long_is_skipped_and_the_rest_is_done(model: TrainedModel, tmp_path: Path) -> None:
    save_png(tmp_path / "images" / f"{'x' * 240}.png")
    save_png(tmp_path / "images" / "sub" / f"{'x' * 240}.png")
    save_png(tmp_path / "images" / "z.png")
    for options in (Options(), Options(overlay=True), Options(probabilities=True)):
        found = predict_files(model, [tmp_path / "images"], tmp_path / "out", options, force=True)
        assert found.predicted == 1
        assert all("too long a name" in error for _, error in found.skipped)
        assert not [*(tmp_path / "out").rglob("xxx*")]


def test_images_and_results_in_one_folder_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    save_png(tmp_path / "a.png")
    with pytest.raises(MedartsError, match="is the folder of the images and of the results"):
        predict_files(model, [tmp_path], tmp_path)


def test_a_full_disk_is_one_error_and_the_call_continues_later(
    model: TrainedModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_files(model, [images], tmp_path / "whole", Options(batch=1))
    out, real = tmp_path / "out", os.fsync
    for room in (1, 2, 3, 6, 9):
        left = room

        def fsync(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(MedartsError, match=r"No space left on device.*Make room on the disk"):
            predict_files(model, [images], out, Options(batch=1))
        monkeypatch.setattr(os, "fsync", real)
        assert not [path for path in out.rglob("*") if path.name.startswith(files.UNFINISHED)]
    predict_files(model, [images], out, Options(batch=1))
    assert contents(out) == contents(tmp_path / "whole")


def test_another_process_in_the_folder_is_an_error(model: TrainedModel, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / lock.LOCK),
        pytest.raises(MedartsError, match="Another process is at work"),
    ):
        predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out")


def test_overlays_show_each_slice_with_its_contours(model: TrainedModel, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(model, [images], out, Options(overlay=True))
    assert Image.open(out / "0" / "0_overlay.png").mode == "RGB"
    assert sorted(path.name for path in (out / "volume_overlay").iterdir()) == [f"000{n}.png" for n in range(5)]
    shown = np.asarray(Image.open(out / "0" / "0_overlay.png"))
    stored = np.asarray(Image.open(images / "0" / "0.png"))
    same = (shown == stored[..., None]).all(-1)
    assert 0 < same.sum() < same.size
    assert same[stored < 128].all()


@pytest.mark.parametrize("options", [Options(probabilities=True), Options(probabilities=True, largest=True)])
def test_probabilities_are_those_of_the_model(
    model: TrainedModel, images: Path, tmp_path: Path, options: Options
) -> None:
    predict_files(model, [images], tmp_path / "out", options)
    stored = np.asarray(Image.open(images / "0" / "0.png"))
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "out" / "0" / "0_probabilities.png")), stored.astype(int) * 257
    )
    volume = np.asarray(nibabel.load(images / "volume.nii.gz").dataobj)
    found = np.asarray(nibabel.load(tmp_path / "out" / "volume_probabilities.nii.gz").dataobj)
    assert np.allclose(found, volume / 255, atol=1e-6)


def test_only_the_largest_component_is_kept_of_a_volume_in_space(model: TrainedModel, tmp_path: Path) -> None:
    values = np.zeros((10, 12, 3), np.uint8)
    values[1:4, 1:4, :2] = 255  # the largest in space
    values[6:9, 6:10, 2] = 255  # the largest in its slice
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    Image.fromarray(values.max(2)).save(tmp_path / "v.png")
    predict_files(model, [tmp_path / "v.nii", tmp_path / "v.png"], tmp_path / "out", Options(largest=True))
    kept = np.asarray(nibabel.load(next((tmp_path / "out").glob("v*.nii"))).dataobj)
    assert kept[1:4, 1:4, :2].all()
    assert kept.sum() == 18
    mask = np.asarray(Image.open(next((tmp_path / "out").glob("v*.png"))))
    assert (mask > 0).sum() == 12
    assert mask[6:9, 6:10].all()


def test_windows_and_mirrored_copies_of_single_pixels_change_no_mask(images: Path, tmp_path: Path) -> None:
    engine = PixelEngine()
    model = TrainedModel(masks_info(), engine)
    predict_files(model, [images], tmp_path / "whole")
    passes = len(engine.shapes)
    predict_files(model, [images], tmp_path / "other", Options(window=16, flip=True, batch=5))
    assert len(engine.shapes) > 4 * passes
    first, second = contents(tmp_path / "whole"), contents(tmp_path / "other")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == ["prediction.json"]


def test_decisions_follow_the_rule(tmp_path: Path) -> None:
    calibration = Calibration(thresholds={"validation": {"foreground": 0.2}})
    model = TrainedModel(masks_info(calibration=calibration), PixelEngine())
    values = np.full((10, 10), 60, np.uint8)
    values[0] = 10
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = {}
    for rule in ("threshold", "validation", "dice"):
        predict_files(model, [tmp_path / "a.png"], tmp_path / rule, Options(decision=rule))
        pixels[rule] = int(rows_of(tmp_path / rule)[0]["pixels"])
    assert pixels == {"threshold": 0, "validation": 90, "dice": 90}


def test_findings_write_tables_alone(tmp_path: Path, images: Path) -> None:
    model = TrainedModel(findings_info(), FindingsEngine())
    out = tmp_path / "out"
    found = predict_files(model, [images], out)
    assert found.predicted == 9
    assert {path.name for path in out.iterdir()} == {*TABLES}
    rows = rows_of(out)
    assert sum(row["image"] == "volume" for row in rows) == 5 * 2
    stored = np.asarray(Image.open(images / "0" / "0.png"))[:, :15]
    assert (rows[0]["image"], rows[0]["finding"], rows[0]["slice"]) == ("0/0", "Mass", "")
    assert float(rows[0]["probability"]) == pytest.approx(stored.mean() / 255, rel=1e-4)
    assert {row["decision"] for row in rows} <= {"0", "1"}
    assert predict_files(model, [images], out).kept == 9


@pytest.mark.parametrize(
    "options",
    [
        Options(probabilities=True),
        Options(overlay=True),
        Options(window=64),
        Options(largest=True),
        Options(decision="dice"),
    ],
)
def test_what_masks_alone_have_is_refused_for_findings(tmp_path: Path, options: Options) -> None:
    model = TrainedModel(findings_info(), FindingsEngine())
    with pytest.raises(MedartsError, match="finds no masks"):
        predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [Options(batch=0), Options(window=8), Options(decision="dice")])
def test_options_out_of_range_are_refused(model: TrainedModel, tmp_path: Path, options: Options) -> None:
    with pytest.raises(MedartsError):
        predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_an_interruption_finishes_the_pass_in_hand_and_says_how_to_continue(
    model: TrainedModel, images: Path, tmp_path: Path
) -> None:
    engine = model.engine

    class Asking:
        name = engine.name

        def run(self, images: Any, limits: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return engine.run(images, limits)

    with pytest.raises(MedartsError, match=r"Stopped: 2 predicted .*The same command continues") as caught:
        predict_files(TrainedModel(model.info, Asking()), [images], tmp_path / "out", Options(batch=2))
    assert type(caught.value).__name__ == "InterruptedRunError"
    assert len(rows_of(tmp_path / "out")) == 2
    found = predict_files(model, [images], tmp_path / "out")
    assert (found.kept, found.predicted) == (2, 7)


def test_the_verb_takes_a_loaded_network_and_one_path(model: TrainedModel, tmp_path: Path) -> None:
    image = save_png(tmp_path / "a.png")
    assert medarts.predict(model, image, out=tmp_path / "out").predicted == 1
    with pytest.raises(MedartsError, match="engine of a loaded network"):
        medarts.predict(model, image, out=tmp_path / "out", threads=1)


def test_a_log_has_lines_with_the_time_left(
    model: TrainedModel,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction, "SECONDS_OF_LINES", 0.0)
    predict_files(model, [images], tmp_path / "out", Options(batch=1))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("predict: 1 of 15, ")
    assert lines[-1] == "predict: 15 of 15, 0:00:00 left"
    assert len(lines) == 15


def test_masks_of_another_kind_than_their_images_are_noted_once(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.zeros((8, 9), np.uint8)
    for number in range(3):
        data = dicoms.dataset(values, instance=f"1.2.3.{number}", without=["StudyInstanceUID", "SeriesInstanceUID"])
        dicoms.write(tmp_path / "images" / f"{number}.dcm", data)
    assert predict_files(model, [tmp_path / "images"], tmp_path / "out").predicted == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("0 and 2 more: The mask is no DICOM segmentation")
    assert len([*(tmp_path / "out").glob("*.png")]) == 3


def test_slices_of_one_uid_have_no_segmentation_that_cannot_tell_them_apart(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, number]}
        data = dicoms.dataset(np.zeros((8, 9), np.uint8), instance=f"1.2.3.{max(number, 1)}", **place)
        dicoms.write(tmp_path / "images" / f"{number}.dcm", data)
    assert predict_files(model, [tmp_path / "images"], tmp_path / "out").predicted == 1
    assert "have the same SOPInstanceUID" in capsys.readouterr().err
    assert [path.suffix for path in (tmp_path / "out").glob("images*")] == [".tif"]


def test_the_record_names_the_network_and_the_options_but_no_day(model: TrainedModel, tmp_path: Path) -> None:
    predict_files(model, [save_png(tmp_path / "a.png")], tmp_path / "out", Options(flip=True))
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["network"]["name"] == "tiny"
    assert "created" not in record["network"]["provenance"]
    assert record["options"]["flip"] is True


def test_a_folder_of_before_is_continued(model: TrainedModel, tmp_path: Path) -> None:
    """Its record lacks the fields that came later, whatever they are."""
    first = ("format", "name", "task", "outputs", "in_channels", "size", "head", "window", "percentiles", "kinds",
             "expected_range", "spacing", "threshold", "calibration", "provenance", "file")  # fmt: skip
    out = tmp_path / "out"
    predict_files(model, [save_png(tmp_path / "a.png")], out)
    path = out / "prediction.json"
    record = json.loads(path.read_text())
    record["network"] = {name: record["network"][name] for name in first}
    path.write_text(json.dumps(record))
    assert predict_files(model, [tmp_path / "a.png", save_png(tmp_path / "b.png")], out).predicted == 1
    overlapping = TrainedModel(masks_info(outputs=("a", "b"), overlap=True), PixelEngine(2))
    with pytest.raises(MedartsError, match="another network"):
        predict_files(overlapping, [tmp_path / "a.png"], out)


def test_a_path_is_predicted_as_its_array(model: TrainedModel, images: Path) -> None:
    image = np.asarray(Image.open(images / "0" / "0.png"))
    expected = model.predict(image)
    assert np.array_equal(model.predict(images / "0" / "0.png"), expected)
    assert np.array_equal(model.predict(str(images / "0" / "0.png")), expected)
    volume = model.predict(images / "volume.nii.gz")
    assert volume.shape == (5, 20, 30)
    assert model.predict(images / "series").shape == (3, 8, 9)
    several = model.predict([images / "volume.nii.gz", image, images / "0" / "0.png"])
    assert np.array_equal(several[0], volume)
    assert np.array_equal(several[1], several[2])


def test_a_folder_of_images_is_no_stack(model: TrainedModel, images: Path) -> None:
    with pytest.raises(MedartsError, match=r"holds 4 images.*list of paths"):
        model.predict(images / "0")
    with pytest.raises(MedartsError, match="missing"):
        model.predict(images / "missing.png")


def test_nothing_is_made_where_there_is_nothing_to_predict(model: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedartsError, match="holds no images"):
        predict_files(model, [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cli_model(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.deploy.model.load", lambda *_, **__: model)


@pytest.mark.usefixtures("cli_model")
def test_the_command_sums_up_and_its_status_says_whether_all_were_predicted(
    medarts: Callable[..., tuple[int, str, str]], images: Path
) -> None:
    status, out, err = medarts("predict", "net.onnx", images, "--out", "masks", "--batch", "2", "--flip")
    assert (status, out, err) == (0, "9 predicted, 0 skipped: masks\n", "")
    (images / "bad.png").write_text("no image")
    status, out, err = medarts("predict", "net.onnx", images, "--out", "masks", "--flip")
    assert (status, out) == (
        1,
        f"0 predicted, 9 predicted before, 1 skipped (see {Path('masks', 'errors.csv')}): masks\n",
    )
    assert err.count("\n") == 1
    status, _, err = medarts("predict", "net.onnx", images, "--out", "masks")
    assert status == 1
    assert "other options (flip)" in err
