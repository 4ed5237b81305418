"""A run of a pruned network is a run like any other: what trains, scores, compares, measures, exports and packs it."""

import json
import shutil
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch

import medarts as library
from medarts.comparison.candidates import Kind, check_comparable, group_runs
from medarts.comparison.compare import Comparison
from medarts.comparison.prunings import pruning_columns
from medarts.config import parse
from medarts.data.arrays import data_section
from medarts.deploy.package import open_package, package_bytes
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import RunDirectory
from medarts.engine.engine import Job
from medarts.errors import GenotypeError, RecipeError, RunError
from medarts.models import build_network, initial_weights, network_of, task_of, without_weights
from medarts.models.chexnet import CheXNetSettings
from medarts.models.pruned import FILE, Pruned, read_pruned
from medarts.models.unet import UNetSettings
from medarts.network.structure import Structure, structure_of
from medarts.profiling import cost
from medarts.profiling.latency import Timing
from medarts.pruning.record import read_record
from medarts.pruning.units import cut, find_units, half_of_each, small_image
from medarts.reporting.comparison_tables import KINDS
from medarts.study.comparing import compare_runs
from medarts.training.trained import TrainedNetwork, architecture_of, load_network, trained_of
from medarts.training.trainer import resume_training, start_training

GENERATOR = np.random.default_rng(0)
GREY = GENERATOR.integers(0, 256, (20, 32, 32)).astype(np.uint8)
BINARY, SEVERAL = GREY > 128, np.digitize(GREY, (80, 160))
RECIPE: dict[str, Any] = {
    "train": {"epochs": 1, "batch": 4, "model": {"name": "unet", "width": 4, "depth": 2}},
    "evaluation": {"batch": 4, "bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1},
}
ASKED = ({"method": {"name": "l1"}, "keep": {"flops": 0.5}, "steps": 1},)


def pruned_run(run: RunDirectory, out: Path, *, seed: int = 0, changes: tuple[str, ...] = ()) -> RunDirectory:
    """Prunes the network of a run to about half of its channels, and trains what is left."""
    trained = trained_of(run)
    network, recipe = trained.build(), trained.recipe
    image = small_image(network, recipe.data.in_channels)
    cut(network, half_of_each(find_units(network, image), seed=seed), image)
    base = trained.architecture
    assert not isinstance(base, Pruned)
    structure = structure_of(network, network_of(recipe, base))
    pruned = Pruned(f"{base.name}-l1-50", base, structure, ASKED)
    initial = TrainedNetwork(trained.origin, recipe, pruned, dict(network.state_dict()))
    return start_training(recipe, pruned, out, data=library.from_arrays(GREY, BINARY), initial=initial)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained U-Net."""
    return library.train(None, RECIPE, data=(GREY, BINARY), out=tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def pruned(whole: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same, pruned and trained on."""
    return pruned_run(whole, tmp_path_factory.mktemp("pruned") / "run")


@pytest.fixture(scope="module")
def scored(pruned: RunDirectory) -> RunDirectory:
    library.evaluate(pruned, data=(GREY, BINARY))
    return pruned


def parameters(run: RunDirectory | Path) -> int:
    return sum(parameter.numel() for parameter in load_network(RunDirectory.open(Path(run))).parameters())


def test_a_run_has_its_structure(whole: RunDirectory, pruned: RunDirectory) -> None:
    found = architecture_of(pruned)
    assert isinstance(found, Pruned)
    assert (found.name, found.base, found.history) == ("unet-l1-50", architecture_of(whole), ASKED)
    assert pruned.facts["network"] == "unet-l1-50"
    assert FILE in pruned.facts["files"]
    assert 0 < parameters(pruned) < 0.5 * parameters(whole)
    assert library.load(pruned).predict(GREY).shape == (20, 32, 32)
    assert library.resume(pruned).path == pruned.path


def test_a_run_that_was_stopped_goes_on(
    whole: RunDirectory, pruned: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: Any, directory: RunDirectory) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Job, "run_in", stop)
        with pytest.raises(KeyboardInterrupt):
            pruned_run(whole, tmp_path / "run")
    begun = RunDirectory.open(tmp_path / "run")
    assert not begun.facts["finished"]
    resume_training(begun.path, data=library.from_arrays(GREY, BINARY))
    for name in ("metrics.jsonl", "summary.json", "structure.json", "initial.safetensors"):
        assert (begun.path / name).read_bytes() == (pruned.path / name).read_bytes()
    one, two = (load_network(each).state_dict() for each in (begun, pruned))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_it_is_evaluated_reported_and_measured(scored: RunDirectory, whole: RunDirectory) -> None:
    costs = library.cost(scored.path, whole.path, repeats=0)
    small, large = costs[str(scored.path)], costs[str(whole.path)]
    assert small.parameters == parameters(scored) < large.parameters
    assert small.flops < large.flops
    with pytest.raises(RecipeError, match=r"has no model.width"):
        library.cost(scored.path, repeats=0, changes=["model.width=8"])


@pytest.mark.usefixtures("nothing_exported")
def test_it_has_a_page(scored: RunDirectory) -> None:
    page = library.report(scored).read_text(encoding="utf-8")
    assert "unet-l1-50" in page


def test_it_is_exported(pruned: RunDirectory, tmp_path: Path) -> None:
    found = library.export(pruned, tmp_path / "model.onnx", data=(GREY, BINARY))
    assert found.verification.difference < 1e-4
    wanted = library.load(pruned).predict(GREY)
    assert np.abs(library.load(found.path).predict(GREY) - wanted).max() < 1e-4


def test_fine_tuning_keeps_the_structure_also_with_other_outputs(pruned: RunDirectory, tmp_path: Path) -> None:
    recipe = {**RECIPE, "train": {**RECIPE["train"], "loss": "ce_dice"}}
    run = library.train(initial=pruned, recipe=recipe, data=(GREY, SEVERAL), out=tmp_path / "run")
    found, begun = architecture_of(run), architecture_of(pruned)
    assert found == begun
    assert load_network(run).state_dict()["head_convs.0.weight"].shape[0] == 3
    assert run.facts["initial"]["replaced"] == ["head_convs.0.bias", "head_convs.0.weight"]


def test_it_is_packed(scored: RunDirectory, tmp_path: Path) -> None:
    packed = open_package(library.pack(scored, out=tmp_path / "unet.medarts"))
    assert packed.trained.architecture == architecture_of(scored)
    assert packed.card["network"]["kind"] == "baseline, pruned"
    assert packed.card["cost"]["parameters"] == parameters(scored)
    assert '| pruned | {"method": {"name": "l1"}' in packed.files["MODEL_CARD.md"].decode()
    again = library.load(packed.path)
    assert np.array_equal(again.predict(GREY), library.load(scored).predict(GREY))
    assert library.cost(packed.path, repeats=0)[str(packed.path)].parameters == parameters(scored)
    # Weights of a pruned network without its structure, or with a damaged one.
    content = {name: bytes(each) for name, each in packed.files.items() if name not in ("package.json", FILE)}
    content["weights.safetensors"] = _weights(packed.path)
    (tmp_path / "without.medarts").write_bytes(package_bytes(content))
    with pytest.raises(RunError, match=r"The weights of .* are not those of unet "):
        library.load(tmp_path / "without.medarts")
    for damaged, words in (
        (b"{", "EOF"),
        (packed.files[FILE].replace(b'"out": 2', b'"out": 0'), "greater than or equal"),
    ):
        (tmp_path / "damaged.medarts").write_bytes(package_bytes({**content, FILE: damaged}))
        with pytest.raises(RunError, match=rf"damaged or no package of medarts: structure.json is damaged: .*{words}"):
            library.load(tmp_path / "damaged.medarts")


def _weights(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read("weights.safetensors")


def test_a_pruned_genotype_is_packed_under_a_name_that_nobody_wrote(tmp_path: Path) -> None:
    genotype = replace(
        library.load_genotype("darts_v2").with_settings(init_channel=4, layers=3), name="zzyx", provenance={"a": "zzyx"}
    )
    labels = np.stack([np.arange(20) % 2, np.arange(20) // 2 % 2], 1)
    network = build_network(genotype, in_channels=1, outputs=2)
    image = small_image(network, 1)
    cut(network, half_of_each(find_units(network, image)), image)
    structure = structure_of(network, build_network(genotype, in_channels=1, outputs=2))
    store = library.from_arrays(GREY, labels)
    recipe = parse({**RECIPE, "data": data_section(store), "train": {"epochs": 1, "batch": 4}})
    run = start_training(recipe, Pruned("zzyx-l1-50", genotype, structure, ASKED), tmp_path / "run", data=store)
    assert library.load_genotype(run.path) == genotype
    assert {"genotype.json", FILE} <= run.facts["files"].keys()
    library.evaluate(run, data=(GREY, labels))
    packed = library.pack(run, out=tmp_path / "p.medarts")
    assert b"zzyx" not in packed.read_bytes()
    found = open_package(packed).trained.architecture
    assert isinstance(found, Pruned)
    assert found.name.startswith("darts-")
    assert found.name == f"{found.base.name}-l1-50"
    assert found.structure == structure
    assert library.create_model(str(run.path), outputs=5)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_a_pruned_network_keeps_its_settings(whole: RunDirectory, pruned: RunDirectory, tmp_path: Path) -> None:
    found = architecture_of(pruned)
    assert isinstance(found, Pruned)
    assert task_of(found) == "segmentation"
    assert library.create_model(found, in_channels=1, outputs=4)(torch.zeros(1, 1, 32, 32)).shape == (1, 4, 32, 32)
    with pytest.raises(RecipeError, match=r"unet-l1-50 is pruned, and keeps its settings. Leave width out"):
        library.create_model(found, width=8)
    with pytest.raises(GenotypeError, match="holds no genotype"):
        library.load_genotype(pruned.path)
    with pytest.raises(RunError, match="is a train run"):
        library.train(pruned, RECIPE, data=(GREY, BINARY))
    from_file = Pruned("chexnet-l1-50", CheXNetSettings(weights=Path("there.pth")), Structure())
    assert initial_weights(from_file) is None
    assert without_weights(from_file).base == CheXNetSettings()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "structure.json is missing"),
        (b'{"format', "structure.json is damaged: EOF"),
        (b"{}", "structure.json is damaged: format: Field required"),
        (b'"encoder.0.0.conv": {"in": 1}', "The structure of unet-l1-50 does not fit unet: Its layers do not fit"),
        (b'"encoder.7": {"out": 1}', "no layer encoder.7"),
        (b'"encoder.0.0.conv": {"out": 99}', "encoder.0.0.conv has out 99; from 1 to 4 is possible"),
        (b'"encoder.0.0.conv": {"out": 1}', "do not fit"),
    ],
)
def test_a_damaged_structure_is_one_message(
    pruned: RunDirectory, tmp_path: Path, content: bytes | None, words: str
) -> None:
    shutil.copytree(pruned.path, tmp_path / "run")
    path, whole = tmp_path / "run" / FILE, (pruned.path / FILE).read_bytes()
    if content is None:
        path.unlink()
    elif content.startswith(b'"'):
        line = next(each for each in whole.splitlines() if b'"encoder.0.0.conv"' in each)
        path.write_bytes(whole.replace(line, b"   " + content + b","))
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=words):
        build_network(read_pruned(path.parent, UNetSettings(width=4, depth=2)), in_channels=1, outputs=1)
    check_all_refuse(tmp_path, f"{words}|structure.json is damaged: it is not as the run wrote it")


def test_a_structure_that_was_edited_is_one_message_though_it_fits(pruned: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(pruned.path, tmp_path / "run")
    whole = architecture_of(pruned)
    assert isinstance(whole, Pruned)
    edited = replace(whole, structure=Structure())
    (tmp_path / "run" / FILE).write_text(edited.to_json())
    check_all_refuse(tmp_path, "structure.json is damaged: it is not as the run wrote it")
    trained = replace(trained_of(pruned), architecture=edited)
    begin = partial(start_training, trained.recipe, edited, tmp_path / "new", data=library.from_arrays(GREY, BINARY))
    for use in (trained.build, partial(begin, initial=trained)):
        with pytest.raises(RunError, match=r"(?s)are not those of .*size mismatch.*Restore the structure.json"):
            use()
    assert not (tmp_path / "new").exists()


def check_all_refuse(folder: Path, words: str) -> None:
    """Everything that takes the run of a folder refuses it with words."""
    new = {"data": (GREY, BINARY), "out": folder / "out"}
    for use in (
        library.load,
        library.pack,
        partial(library.cost, repeats=0),
        partial(library.evaluate, data=(GREY, BINARY)),
        partial(library.export, **new),
        partial(library.prune, keep_flops=0.5, **new),
        lambda run: library.train(None, RECIPE, initial=run, **new),
    ):
        with pytest.raises(RunError, match=words):
            use(folder / "run")
    assert not (folder / "out").exists()


def test_prunings_of_other_seeds_are_one_network_and_other_prunings_others(
    whole: RunDirectory, pruned: RunDirectory, tmp_path: Path
) -> None:
    paths = [whole.path]
    for name, seed, options in (
        ("a", 0, {"keep_flops": 0.5, "method": "l1"}),
        ("b", 1, {"keep_flops": 0.5, "method": "l1"}),
        ("c", 0, {"keep_flops": 0.7, "method": "l1"}),
        ("d", 0, {"keep_flops": 0.5, "method": "fpgm"}),
    ):
        trained = whole
        if seed:
            trained = library.train(None, {**RECIPE, "seed": seed}, data=(GREY, BINARY), out=tmp_path / "seed-1")
            paths.append(trained.path)
        found = library.prune(trained, data=(GREY, BINARY), out=tmp_path / name, epochs=2, **options)
        paths.append(found.path)
    candidates = group_runs(paths)
    check_comparable(candidates, same_seeds=False)
    assert [(one.name, one.kind, one.seeds) for one in candidates] == [
        ("unet", "baseline", (0, 1)),
        ("unet-l1-50", "pruned", (0, 1)),
        ("unet-l1-70", "pruned", (0,)),
        ("unet-fpgm-50", "pruned", (0,)),
    ]
    began = f"unet ({of_weights(trained_of(whole).weights)})"
    assert [one.began_from for one in candidates] == [None, began, began, began]
    # Fine-tuned elsewhere, it is another network.
    other = library.train(initial=paths[1], recipe=RECIPE, data=(GREY, BINARY), out=tmp_path / "other")
    assert len(group_runs([paths[1], other.path])) == 2


def test_it_is_compared_with_what_was_pruned(
    whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(architectures: Any, **options: Any) -> dict[str, cost.Cost]:
        found = measure(architectures, **options | {"repeats": 0, "memory": False})
        timings: cost.Timings = {"onnxruntime": (Timing(1, 1, 2.0, 0.1),)}
        return {name: replace(each, timings=timings, memory_mb={1: 10.0}) for name, each in found.items()}

    measure = cost.measure_costs
    monkeypatch.setattr(cost, "measure_costs", counted)
    data = library.from_arrays(GREY, BINARY)
    small = library.prune(whole, method="l1", keep_flops=0.5, epochs=2, steps=2, data=data, out=tmp_path / "pruned")
    found = compare_runs([whole.path, small.path], data=data)
    costs = found.costs.drop_duplicates("network").set_index("network")
    assert costs.kind.to_dict() == {"unet": "baseline", "unet-l1-50": "pruned"}
    assert costs.parameters["unet-l1-50"] == parameters(small) < costs.parameters["unet"]
    assert costs.pruned_from.to_dict() == {"unet": "", "unet-l1-50": "unet"}
    asked = costs.loc["unet-l1-50"]
    assert (asked.method, asked.target, asked.keep, asked.kept) == ("l1", "flops", 0.5, read_record(small).last.kept)
    assert json.loads(asked.settings) == {"steps": 2, "epochs": 2, "finetune_lr": 0.1}
    found.write(tmp_path / "compared")
    pd.testing.assert_frame_equal(Comparison.read(tmp_path / "compared").costs, found.costs, check_dtype=False)
    # Without it, and beside it, what was fine-tuned of the same weights takes its place, or does not.
    control = library.train(initial=whole.path, recipe=RECIPE, data=data, out=tmp_path / "control")
    for paths, origin in (
        ([control.path, small.path], "unet"),
        ([control.path, whole.path, small.path], "unet (run)"),
        ([small.path], ""),
    ):
        columns = pruning_columns(group_runs(paths))
        assert columns["unet-l1-50"]["pruned_from"] == origin
    assert KINDS.keys() == {*get_args(Kind)}
