"""Packages: what is in them, what must not be, and that others can use and nobody can abuse them."""

import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_runs_of_tests import GREY, LABELS, SMALL, of_findings

import medarts as library
from medarts.config import parse
from medarts.deploy.package import open_package, package_bytes
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError, RunError
from medarts.evaluation.scores import Scores
from medarts.sharing.card import card_text
from medarts.sharing.packing import shared_recipe
from medarts.training.trained import load_network
from medarts.training.trainer import start_training

TELLTALE = "zzyx"
"""In the names of everything that a package must not name."""


def write_data(root: Path) -> Path:
    """Writes images whose folder, files and patients have tell-tale names."""
    rows = ["id,patient,split"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        name = f"{TELLTALE}-image-{number}"
        Image.fromarray(GREY[number]).save(root / "images" / f"{name}.png")
        Image.fromarray((255 * (GREY[number] > 128)).astype(np.uint8)).save(root / "masks" / f"{name}.png")
        rows.append(f"{name},{TELLTALE}-patient-{number},{('train', 'val', 'test')[number // 4]}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A derived network, trained on a folder of tell-tale names, in one."""
    root = tmp_path_factory.mktemp("packing") / TELLTALE
    data = write_data(root / f"{TELLTALE}-data")
    recipe = parse(
        {
            "note": f"for {TELLTALE}",
            "data": {
                "sources": [{"kind": "folder", "path": str(data), "name": f"{TELLTALE}-data"}],
                "size": 32,
                "in_channels": 1,
                "cache": str(root / "cache"),
            },
            **SMALL,
            "train": {"epochs": 1, "batch": 4},
        }
    )
    found = library.load_genotype("alpha0_5_stage1_nodouble_deep_ep80").with_settings(init_channel=4)
    own = replace(found, name=f"{TELLTALE}-search", provenance={"like": TELLTALE, "seed": 3})
    return start_training(recipe, own, root / f"{TELLTALE}-run")


@pytest.fixture(scope="module")
def packed(run: RunDirectory) -> Path:
    return library.pack(run)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return of_findings(tmp_path_factory.mktemp("findings") / "run", auxiliary=True)


def test_a_package_predicts_what_its_run_predicts(run: RunDirectory, packed: Path) -> None:
    assert packed == run.path.with_name(f"{run.path.name}.medarts")
    wanted, found = library.load(run), library.load(packed)
    assert np.array_equal(found.predict(GREY), wanted.predict(GREY))
    head = load_network(run).heads[0]
    assert np.array_equal(library.load(packed, head=head).predict(GREY), library.load(run, head=head).predict(GREY))
    with pytest.raises(RunError, match="no head 'first'"):
        library.load(packed, head="first")


def test_nothing_names_a_person_a_file_or_a_folder(run: RunDirectory, packed: Path) -> None:
    assert TELLTALE in str(run.path)
    content = packed.read_bytes()
    assert TELLTALE.encode() not in content.lower()
    assert str(Path.home()).encode() not in content
    for text in (each for name, each in open_package(packed).files.items() if not name.endswith(".png")):
        assert not re.search(rb'(^|["\s])/[A-Za-z]+/', text), "an absolute path"
        assert b"manifest" not in text
    assert open_package(packed).info.name == f"nas-wdan-{open_package(packed).info.provenance.weights[:6]}"


def test_the_same_run_gives_the_same_bytes(run: RunDirectory, packed: Path, tmp_path: Path) -> None:
    again = library.pack(run.path, tmp_path / "again.medarts")
    assert again.read_bytes() == packed.read_bytes()
    moved = shutil.copytree(run.path, tmp_path / "elsewhere")
    assert library.pack(moved, tmp_path / "moved.medarts").read_bytes() == packed.read_bytes()


def test_kinds_of_images_are_those_of_training(packed: Path, findings: RunDirectory, tmp_path: Path) -> None:
    (kind,) = open_package(packed).info.kinds
    assert (kind.channels, kind.dtype, kind.range) == (1, "uint8", (0, 255))
    assert open_package(library.pack(findings, tmp_path / "arrays.medarts")).info.kinds == ()


def test_scores_are_those_of_the_run(run: RunDirectory, packed: Path) -> None:
    package = open_package(packed)
    summary = Scores.read(run.path / "scores/test").summary
    assert summary is not None
    assert [row["value"] for row in package.scores["rows"]] == [
        None if np.isnan(value) else value for value in summary["value"]
    ]
    assert {row["dataset"] for row in package.scores["rows"]} == {"data set 1", "all", "mean of data sets"}
    assert package.scores["split"] == "test"
    assert {row["dataset"] for row in package.card["scores"]["rows"]} == {"data set 1"}


def test_the_card_has_numbers_of_data_scores_and_cost(run: RunDirectory, packed: Path) -> None:
    package = open_package(packed)
    card, text = package.card, package.files["MODEL_CARD.md"].decode()
    assert card["data"] == {"data set 1": {part: {"images": 4, "patients": 4} for part in ("test", "train", "val")}}
    assert card["limits"]["scored_patients"] == 4
    assert card["limits"]["few_patients"] == ["data set 1"]
    assert card["cost"]["parameters"] == sum(each.numel() for each in load_network(run).parameters())
    assert card["training"]["fine_tuned_from"] is None
    dice = next(row for row in card["scores"]["rows"] if row["metric"] == "dice")
    assert f"| data set 1 | foreground | Dice | {dice['value']:.3f} | {dice['low']:.3f} to {dice['high']:.3f} |" in text
    for title in (
        "Intended use",
        "Data",
        "Preprocessing",
        "Scores",
        "Limits",
        "Network, training and cost",
        "Provenance",
    ):
        assert f"## {title}\n" in text
    assert "No images are in this file." in text
    assert "\n\n\n" not in text
    assert not re.search(r"[{}]|None|nan\b", text)


def test_the_card_says_how_patches_are_made(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        card = json.loads(archive.read("card.json"))
    about = {"resize": "patches", "target_mm": 0.5, "context": 1, "files": 2}
    text = card_text(card | {"preprocessing": card["preprocessing"] | about})
    for line in (
        "| files of an image | 2, whose channels are stacked |",
        "| neighbouring slices | 1 on either side, as further channels |",
        "| scale | pixels of 0.5 mm |",
        "windows that overlap by half and are blended |",
    ):
        assert line in text
    assert "neighbouring" not in card_text(card)


def test_examples_come_where_they_are_asked_for(run: RunDirectory, packed: Path, tmp_path: Path) -> None:
    assert not [name for name in open_package(packed).files if name.endswith(".png")]
    package = open_package(library.pack(run, tmp_path / "with.medarts", examples=True))
    pictures = [name for name in package.files if name.endswith(".png")]
    assert pictures == ["examples/1.png", "examples/2.png", "examples/3.png"]  # best, median and worst
    (tmp_path / "one.png").write_bytes(package.files[pictures[0]])
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (3 * 32, 32)  # the image, with what is true, with what is predicted
        assert not picture.info
    assert package.card["examples"] == 3
    assert "3 example images of the validation set are in `examples/`." in package.files["MODEL_CARD.md"].decode()
    assert TELLTALE.encode() not in (tmp_path / "with.medarts").read_bytes().lower()


def test_findings_keep_their_thresholds_and_temperature(findings: RunDirectory, tmp_path: Path) -> None:
    package = open_package(library.pack(findings, tmp_path / "findings.medarts"))
    fitted = Scores.read(findings.path / "scores/test").calibration
    assert fitted is not None
    assert package.info.calibration is not None
    assert package.info.calibration.temperature == fitted.temperature
    assert package.info.calibration.thresholds == fitted.thresholds
    assert package.info.outputs == ("finding 1", "finding 2")
    assert {row["metric"] for row in package.card["scores"]["rows"]} >= {"auroc"}
    assert np.array_equal(
        library.load(tmp_path / "findings.medarts").predict(GREY), library.load(findings).predict(GREY)
    )


def test_a_run_on_arrays_is_evaluated_first(tmp_path: Path) -> None:
    run = library.train(None, SMALL, data=(GREY, GREY > 128), out=tmp_path / "run")
    with pytest.raises(RunError, match=r"no scores of its test images\. Evaluate it with its images first"):
        library.pack(run)
    library.evaluate(run, data=(GREY, GREY > 128))
    package = open_package(library.pack(run))
    assert package.info.name == "unet"
    assert package.trained.recipe.train.model == run.recipe.train.model
    assert of_weights(package.trained.weights) == of_weights(load_network(run).state_dict())


def test_scores_of_earlier_weights_are_made_again(run: RunDirectory, tmp_path: Path) -> None:
    copied = RunDirectory(shutil.copytree(run.path, tmp_path / "copied"))
    path = copied.path / "scores/test/scores.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"weights": "', '"weights": "0'), encoding="utf-8")
    library.pack(copied, tmp_path / "copied.medarts")
    scores = Scores.read(copied.path / "scores/test")
    assert scores.made_of is not None
    assert scores.made_of.weights == of_weights(load_network(run).state_dict())


def test_paths_of_settings_that_users_register_are_left_out(run: RunDirectory) -> None:
    model = {"name": "chexnet", "weights": f"/{TELLTALE}/densenet.pth"}
    source = {"kind": "labelled-arrays", "name": "films", "window": [0, 100]}
    recipe = parse({"data": {"sources": [source], "findings": ["a"]}, "train": {"model": model}})
    values = shared_recipe(recipe, {"films": "films"})
    chaos = parse({"data": {"sources": [{"kind": "chaos", "path": "chaos"}]}})  # whose scaling is that of its kind
    assert shared_recipe(chaos, {"chaos": "chaos"})["data"]["sources"][0]["window"] == [-160.0, 240.0]
    assert TELLTALE not in json.dumps(values)
    assert values["data"]["sources"] == [{"kind": "labelled-arrays", "name": "films", "window": [0, 100]}]


def test_another_file_is_not_overwritten(run: RunDirectory, packed: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.medarts"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="There is another"):
        library.pack(run, out)
    assert out.read_text(encoding="utf-8") == "mine"
    with pytest.raises(RunError, match=r"End it in \.medarts"):
        library.pack(run, tmp_path / "net.zip")
    with pytest.raises(RunError, match="not a run directory"):
        library.pack(packed)


def files_of(packed: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(packed) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_damage_at_any_place_is_one_error(packed: Path, tmp_path: Path) -> None:
    content, out = packed.read_bytes(), tmp_path / "net.medarts"
    for at in [*range(0, len(content), max(1, len(content) // 60)), len(content) - 1, len(content) - 20]:
        out.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        with contextlib.suppress(RunError):
            found = open_package(out)  # which nothing reads from that byte, such as the date of a file
            assert of_weights(found.trained.weights) == found.info.provenance.weights
    for length in (0, 1, 30, len(content) // 2, len(content) - 1):
        out.write_bytes(content[:length])
        with pytest.raises(RunError, match=r"is damaged or no package of medarts.*Get the file again"):
            open_package(out)


def rewritten(packed: Path, **changes: bytes | None) -> bytes:
    files = {name: content for name, content in files_of(packed).items() if name != "package.json"}
    given = {name.replace("__", "."): content for name, content in changes.items()}
    files = {name: content for name, content in {**files, **given}.items() if content is not None}
    return package_bytes(files)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model__json": b"{}"}, "holds no trained network"),
        ({"model__json": b"[" * 100_000}, "net.medarts"),
        ({"weights__safetensors": b"no tensors"}, "holds no trained network"),
        ({"recipe__yaml": b"- 1"}, "recipe.yaml holds no keys"),
        ({"recipe__yaml": b"a: [" * 50}, "recipe.yaml is not YAML"),
        ({"recipe__yaml": b"data: {sources: [{kind: folder, path: /etc}]}"}, "recipe.yaml names data on a disk"),
        ({"recipe__yaml": b"data: {sources: [{kind: nothing}]}"}, "nothing"),
        ({"genotype__json": b"{}"}, "is not a genotype"),
        ({"genotype__json": None}, "genotype.json is missing"),
        ({"scores__json": b"[]"}, "scores.json is not a JSON object"),
        ({"card__json": None}, "card.json is missing"),
    ],
)
def test_content_that_is_none_of_a_network_is_one_error(
    packed: Path, tmp_path: Path, changes: dict[str, bytes | None], problem: str
) -> None:
    (tmp_path / "net.medarts").write_bytes(rewritten(packed, **changes))
    with pytest.raises(MedartsError, match=re.escape(problem)):
        open_package(tmp_path / "net.medarts")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": "classification"}, "model.json has the task classification, but recipe.yaml segmentation"),
        ({"in_channels": 4}, "in_channels 4"),
        ({"outputs": ["a", "b", "c", "d", "e"]}, "number of outputs 5"),
        ({"size": 7}, "size 7"),
        ({"head": "none"}, "no head 'none'"),
    ],
)
def test_a_description_of_another_network_is_one_error(
    packed: Path, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    about = json.loads(open_package(packed).files["model.json"])
    content = json.dumps({**about, **changes}).encode()
    (tmp_path / "net.medarts").write_bytes(rewritten(packed, model__json=content))
    with pytest.raises(MedartsError, match=re.escape(problem)):
        library.load(tmp_path / "net.medarts")


def test_weights_of_another_network_are_refused(packed: Path, tmp_path: Path) -> None:
    from safetensors.torch import save

    (tmp_path / "net.medarts").write_bytes(rewritten(packed, weights__safetensors=save({"a": torch.zeros(1)})))
    with pytest.raises(RunError, match=r"The weights of .* are not those of nas-wdan"):
        library.load(tmp_path / "net.medarts")


def archive(path: Path, entries: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_archives_that_medarts_does_not_write_are_refused_unread(packed: Path, tmp_path: Path) -> None:
    files, out = files_of(packed), tmp_path / "net.medarts"
    for name in ("../escaped.txt", "/etc/escaped", "code.pkl", "examples/../../x.png", "examples/100.png", "a/b"):
        archive(out, {**files, name: b""})
        with pytest.raises(RunError, match=r"it holds '"):
            open_package(out)
    assert [path.name for path in tmp_path.iterdir()] == ["net.medarts"]
    archive(out, {**files, "card.json": b"0" * 10_000_000}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RunError, match="compressed or encrypted"):
        open_package(out)
    archive(out, {"readme.txt": b""})
    with pytest.raises(RunError, match=r"it has no package\.json"):
        open_package(out)
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("package.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("package.json", b"{}")
    with pytest.raises(RunError, match="twice"):
        open_package(out)


def test_packages_of_a_later_format_are_named(packed: Path, tmp_path: Path) -> None:
    files = files_of(packed)
    about = json.loads(files["package.json"]) | {"format": 7}
    out = archive(tmp_path / "net.medarts", {**files, "package.json": json.dumps(about).encode()})
    with pytest.raises(RunError, match=r"net\.medarts has format 7, but this medarts reads 1"):
        open_package(out)


def test_what_is_no_package_is_one_error(tmp_path: Path) -> None:
    for content in (b"", b"text", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        (tmp_path / "net.medarts").write_bytes(content)
        with pytest.raises(RunError, match="is damaged or no package of medarts"):
            library.load(tmp_path / "net.medarts")
    with pytest.raises(RunError, match="There is no file"):
        library.load(tmp_path / "absent.medarts")


def test_a_package_is_fine_tuned(packed: Path, findings: RunDirectory, tmp_path: Path) -> None:
    run = library.train(initial=packed, data=(GREY, GREY > 128), out=tmp_path / "masks")
    assert run.facts["weights_fingerprint"] == open_package(packed).info.provenance.weights
    source = library.pack(findings, tmp_path / "findings.medarts")
    labels = np.stack([LABELS[:, 0], LABELS[:, 1], LABELS[:, 0]], 1)
    tuned = library.train(initial=source, data=(GREY, labels), out=tmp_path / "findings")
    assert len(tuned.facts["initial"]["replaced"]) == 4
    with pytest.raises(MedartsError, match="There are no data to train on: a package has none"):
        library.train(initial=packed)


def test_the_cost_of_a_package_is_that_of_its_run(run: RunDirectory, packed: Path) -> None:
    found = library.cost(packed, run, repeats=0)
    one, other = found[str(packed)], found[str(run.path)]
    assert (one.parameters, one.flops, one.size, one.outputs) == (other.parameters, other.flops, 32, 1)
    assert library.cost(packed, init_channel=8, repeats=0)[str(packed)].parameters > one.parameters


def test_packages_are_not_compared(run: RunDirectory, packed: Path) -> None:
    with pytest.raises(RunError, match=r"is packed, without scores of single images\. Compare the run"):
        library.compare([run, packed])


def test_files_are_predicted_with_a_package(run: RunDirectory, packed: Path, tmp_path: Path) -> None:
    Image.fromarray(GREY[0, :24]).save(tmp_path / "image.png")
    for name, model in (("a", packed), ("b", run)):
        library.predict(model, tmp_path / "image.png", out=tmp_path / name, decision="validation")
    files = sorted(path.name for path in (tmp_path / "a").iterdir() if path.suffix == ".png")
    assert files
    for name in files:
        with Image.open(tmp_path / "a" / name) as one, Image.open(tmp_path / "b" / name) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_the_command_line_packs(
    run: RunDirectory, packed: Path, tmp_path: Path, medarts: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, error = medarts("pack", run.path, "--out", "net.medarts")
    assert (status, out.strip()) == (0, "net.medarts"), error
    assert (tmp_path / "net.medarts").read_bytes() == packed.read_bytes()


def test_the_command_line_says_where_the_scores_of_a_package_are(
    packed: Path, run: RunDirectory, tmp_path: Path, medarts: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "net.medarts").write_bytes(packed.read_bytes())
    status, out, error = medarts("evaluate", tmp_path / "net.medarts", "--data", run.recipe.data.sources[0].path)
    assert status == 0, error
    assert "All values: " in out
    assert "net-scores/" in out.replace("\n", "")
