"""How fast are networks where they are used, and how good? PyTorch, ONNX Runtime, OpenVINO and int8 side by side.

    export MEDARTS_DATA=/folder/with/the/data/sets
    python benchmarks/deploy.py FOLDER [--part time dice] [--genotype NAME] [--networks NAME ...] [--json]
    python benchmarks/deploy.py FOLDER --part dice --seeds 0 1 [--sets isic] [--epochs N]

Time: networks with fresh weights, alone, on one image of their size, in turns, with as many threads in every form;
milliseconds are medians after passes that warm up, with the interquartile range. Exporting takes most of the half hour.

Dice: networks are trained at 96 px by recipes/norm-cpu.yaml, exported, and the test images are predicted by the
exported files themselves, at 96 px. U-Net and the searched network have the better one of two learning rates
(docs/results.md), other networks that of their kind. Finished runs in FOLDER are kept, interrupted ones resumed.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _running import medarts, note

from medarts import create_model, from_arrays
from medarts.data.opening import open_data
from medarts.data.reading import MaskState
from medarts.deploy.deployable import Deployable, TorchEngine
from medarts.deploy.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine
from medarts.deploy.graphs import network_to_onnx, to_onnx
from medarts.deploy.info import ModelInfo, Provenance
from medarts.deploy.quantization import as_stored, quantized
from medarts.deploy.runs import deployable_of
from medarts.engine.directory import RunDirectory
from medarts.metrics.masks import mask_scores
from medarts.network import Network
from medarts.network.inference import shipped
from medarts.profiling.cost import count_parameters
from medarts.profiling.latency import threads_of_cpu, time_in_turns, usual_threads
from medarts.system.files import write_whole

RECIPE = Path(__file__).parents[1] / "recipes" / "norm-cpu.yaml"
SEARCHED = "alpha0_5_stage1_nodouble_deep_ep80"
FORMS = {
    "torch": "PyTorch",
    "shipped": "inference form",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "int8": "int8, ONNX Runtime",
}
SIZES = (96, 256)
SETS = ("isic", "cvc")
TRAINED_AT = 96

SMALL, FULL = "U-Net, width 16", "U-Net, width 64"
SMALL_TENTH, FULL_TENTH = f"searched, a tenth of {SMALL}", f"searched, a tenth of {FULL}"


class Architecture(NamedTuple):
    """A network by its words of ``create_model``."""

    name: str
    about: dict[str, Any]
    weaved: bool = True

    def build(self) -> Network:
        torch.manual_seed(0)
        return create_model(self.name, in_channels=3, outputs=1, **self.about).eval()


def _baseline(name: str, width: int) -> tuple[str, tuple[str, ...]]:
    return f"{name}-w{width}", ("--model", name, f"train.model.width={width}", "train.lr=0.002")


def _weaved(
    genotype: str, channels: int, *, beginning: str | None = None, norm: str = "batch"
) -> tuple[str, tuple[str, ...]]:
    words = ("--genotype", genotype, "--init-channel", str(channels), f"train.norm={norm}")
    rate = "0.005" if norm == "batch" else "0.002"
    return f"{beginning or genotype}-c{channels}-{norm}", (*words, f"train.lr={rate}")


TRAINED = {
    SMALL: _baseline("unet", 16),
    "Attention U-Net, width 16": _baseline("attention-unet", 16),
    "U-Net++, width 16": _baseline("unetpp", 16),
    "residual encoder U-Net, width 8": _baseline("resenc-unet", 8),
    "R2U-Net, width 8": _baseline("r2unet", 8),
    "Attention R2U-Net, width 8": _baseline("attention-r2unet", 8),
    "MultiResUNet, width 8": _baseline("multiresunet", 8),
    "searched, C = 8, batch norm": _weaved("{genotype}", 8, beginning="searched"),
    "searched, C = 8, group norm": _weaved("{genotype}", 8, beginning="searched", norm="group"),
    "layer7_double_deep, C = 4": _weaved("layer7_double_deep", 4),
    "stage0_double_deep_ep80_newim, C = 4": _weaved("stage0_double_deep_ep80_newim", 4),
    "stage1_layer9_110epoch_double_deep_final, C = 8": _weaved("stage1_layer9_110epoch_double_deep_final", 8),
}
"""Networks that are trained: the beginning of the name of a run, and words of ``medarts train``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the trainings")
    parser.add_argument("--part", nargs="+", choices=("time", "dice"), default=("time", "dice"))
    parser.add_argument("--genotype", default=SEARCHED, help="the searched network: of the zoo, a file, or a run")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="default: all; a part of a name suffices")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="of Dice")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,), help="of the trainings")
    parser.add_argument("--epochs", type=int, help="of the trainings; default: as the recipe has it")
    parser.add_argument("--size", nargs="+", type=int, default=SIZES)
    parser.add_argument("--threads", nargs="+", type=int, default=usual_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()

    def chosen(name: str) -> bool:
        return arguments.networks is None or any(part in name for part in arguments.networks)

    found: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, PyTorch {torch.__version__}"}
    if "dice" in arguments.part:
        names = [name for name in TRAINED if chosen(name)]
        found["dice"] = [
            {
                "network": name, "set": data, "seed": seed,
                "dice": dice_of(arguments.folder, name, data, arguments.genotype, seed=seed, epochs=arguments.epochs),
            }
            for seed in arguments.seeds  # so that all networks have the first when this is stopped
            for name in names
            for data in arguments.sets
        ]  # fmt: skip
    if "time" in arguments.part:
        networks = {name: each for name, each in architectures(arguments.genotype).items() if chosen(name)}
        rows: list[dict[str, Any]] = []
        for size in arguments.size:
            rows += times(networks, size=size, threads=arguments.threads, repeats=arguments.repeats)
        found |= {"time": rows, "targets": targets(rows)}
    print(json.dumps(found, indent=1) if arguments.json else tables(found))


def architectures(genotype: str) -> dict[str, Architecture]:
    """Returns the networks that are timed, by name."""
    small, full = Architecture("unet", {"width": 16}, weaved=False), Architecture("unet", {"width": 64}, weaved=False)
    batch = {"norm": "batch"}
    return {
        "searched, C = 8, batch norm": Architecture(genotype, {"init_channel": 8, **batch}),
        "searched, C = 8, group norm": Architecture(genotype, {"init_channel": 8, "norm": "group"}),
        SMALL_TENTH: Architecture(genotype, {"init_channel": width_of_tenth(genotype, small), **batch}),
        FULL_TENTH: Architecture(genotype, {"init_channel": width_of_tenth(genotype, full), **batch}),
        "layer7_double_deep, C = 4": Architecture("layer7_double_deep", {"init_channel": 4, **batch}),
        "stage1_layer9_110epoch_double_deep_final, C = 16": Architecture(
            "stage1_layer9_110epoch_double_deep_final", {"init_channel": 16, **batch}
        ),
        SMALL: small,
        FULL: full,
        "Attention U-Net, width 16": Architecture("attention-unet", {"width": 16}, weaved=False),
        "residual encoder U-Net, width 8": Architecture("resenc-unet", {"width": 8}, weaved=False),
    }


def width_of_tenth(genotype: str, other: Architecture) -> int:
    """Returns the largest C with which a genotype has at most a tenth of the parameters of another network."""
    with torch.device("meta"):
        most = count_parameters(other.build()) / 10
        low, high = 2, 256
        while high - low > 1:
            middle = (low + high) // 2
            network = Architecture(genotype, {"init_channel": middle, "norm": "batch"}).build()
            low, high = (middle, high) if count_parameters(network) <= most else (low, middle)
    return low


# --- time -------------------------------------------------------------------------------------------------------


def times(
    networks: Mapping[str, Architecture], *, size: int, threads: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """Returns the milliseconds of all forms of all networks, timed in turns; a row for each network and threads."""
    built, files = {name: each.build() for name, each in networks.items()}, {}
    for number, (name, network) in enumerate(built.items(), 1):
        note(f"{size} px, export {number} of {len(built)}: {name}")
        content = network_to_onnx(network, in_channels=3, size=size)
        files[name] = content, in_int8(content, size)
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    rows = []
    for number in threads:
        note(f"{size} px, {number} threads")
        passes: dict[tuple[str, str], Callable[[], object]] = {}
        for name, network in built.items():
            with threads_of_cpu(number):
                form = shipped(network, in_channels=3, size=size)
            engines: dict[str, Engine] = {"onnxruntime": OnnxRuntimeEngine(files[name][0], threads=number)}
            if find_spec("openvino"):
                engines["openvino"] = OpenVinoEngine(files[name][0], threads=number)
            engines["int8"] = OnnxRuntimeEngine(files[name][1], threads=number)
            passes[name, "torch"] = partial(network, image)
            if form is not network:
                passes[name, "shipped"] = partial(form, image)
            for key, engine in engines.items():
                passes[name, key] = partial(engine.run, image.numpy(), np.zeros((1, 2), np.float32))
        timed = time_in_turns([*passes.values()], threads=number, batch=1, repeats=repeats)
        timing_of = dict(zip(passes, timed, strict=True))
        for name, network in built.items():
            of = {form: timing_of.get((name, form), timing_of[name, "torch"]) for form in FORMS if form != "openvino"}
            if (name, "openvino") in timing_of:
                of["openvino"] = timing_of[name, "openvino"]
            rows.append(
                {
                    "network": name, "weaved": networks[name].weaved, "parameters": count_parameters(network),
                    "size": size, "threads": number,
                    "ms": {form: [of[form].median_ms, of[form].spread_ms] for form in FORMS if form in of},
                }
            )  # fmt: skip
    return rows


def in_int8(content: bytes, size: int) -> bytes:
    """Returns a network alone in int8, with ranges from noise, as they do not matter to its time."""
    noise = np.random.default_rng(0).random((4, size, size, 3), dtype=np.float32)
    store = from_arrays(noise, np.ones((4, size, size), np.uint8), splits=["val"] * 4)
    provenance = Provenance(medarts="", torch="", created="", recipe="", weights="", architecture="", seed=0, images={})
    info = ModelInfo(
        name="", task="segmentation", outputs=("foreground",), in_channels=3, size=size, head="last",
        expected_range=(0.0, 1.0), provenance=provenance,
    )  # fmt: skip
    return quantized(content, info, store)


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns every target for which there are measurements, with the ratio that was found."""
    ms = {(row["network"], row["size"], row["threads"]): row["ms"] for row in rows}
    found = []
    for threads in sorted({row["threads"] for row in rows}):
        for size, target in ((96, 2.5), (256, 1.5)):
            for row in rows:
                if (row["weaved"], row["size"], row["threads"]) == (True, size, threads):
                    of = ms[row["network"], size, threads]
                    what = f"PyTorch as built / ONNX Runtime, {row['network']}"
                    found.append(_target(what, size, threads, target, of["torch"][0] / of["onnxruntime"][0]))
        for size, target, searched, unet in ((96, 1.0, SMALL_TENTH, SMALL), (256, 3.0, FULL_TENTH, FULL)):
            pair = (unet, size, threads), (searched, size, threads)
            if all(key in ms for key in pair):
                slow, fast = (ms[key]["onnxruntime"][0] for key in pair)
                what = f"{unet} / {searched}, ONNX Runtime"
                found.append(_target(what, size, threads, target, slow / fast))
    return found


def _target(what: str, size: int, threads: int, target: float, ratio: float) -> dict[str, Any]:
    return {
        "ratio": what, "size": size, "threads": threads, "target": target, "found": ratio, "met": ratio >= target
    }  # fmt: skip


# --- Dice -------------------------------------------------------------------------------------------------------


def dice_of(
    folder: Path, name: str, data: str, genotype: str, *, seed: int = 0, epochs: int | None = None
) -> dict[str, float]:
    """Returns the mean Dice of the test images of a trained network in all forms."""
    beginning, words = TRAINED[name]
    given = [*(word.format(genotype=genotype) for word in words), f"seed={seed}"]
    called = [beginning, data]
    if seed:
        called.append(f"seed{seed}")
    if epochs is not None:
        called.append(f"{epochs}epochs")
        given += [f"train.epochs={epochs}", f"train.warmup_epochs={min(1, epochs - 1)}"]
    run = trained(folder / "-".join(called), given, data)
    kept = run.path / "dice.json"
    if not kept.exists():
        note(f"{run.path.name}: Dice of all forms")
        write_whole(kept, json.dumps({form: dice(engine, run) for form, engine in engines_of(run).items()}))
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def trained(path: Path, words: Sequence[str], data: str) -> RunDirectory:
    """Returns a finished training, made where it is not there."""
    finished = (path / "run.json").exists() and RunDirectory.open(path).facts["finished"]
    if not finished:
        note(f"{path.name}: training")
        if (path / "run.json").exists():
            medarts("train", "--resume", path)
        else:
            given = (f"data.size={TRAINED_AT}", "--recipe", RECIPE, "--data", data, "--out", path)
            medarts("train", *words, *given)
    return RunDirectory.open(path, kind="train")


def engines_of(run: RunDirectory) -> dict[str, Engine]:
    """Returns what predicts in all forms; the exported files are beside the run's own."""
    deployable = deployable_of(run)
    assert isinstance(deployable.network, Network)
    form = shipped(deployable.network, in_channels=deployable.info.in_channels, size=deployable.info.size)
    # Not by `medarts export`, which refuses a network that loses much in int8; that is what is measured here.
    files = {kind: run.path / f"deploy-{kind}.onnx" for kind in ("onnx", "int8")}
    if not all(path.exists() for path in files.values()):
        content = to_onnx(deployable)
        store = open_data(run.recipe.data, needs=("val",))
        write_whole(files["onnx"], content)
        write_whole(files["int8"], quantized(content, deployable.info, store))
    found: dict[str, Engine] = {
        "torch": TorchEngine(deployable),
        "shipped": TorchEngine(Deployable(form, deployable.info)),
        "onnxruntime": OnnxRuntimeEngine(files["onnx"]),
    }
    if find_spec("openvino"):
        found["openvino"] = OpenVinoEngine(files["onnx"])
    return found | {"int8": OnnxRuntimeEngine(files["int8"])}


def dice(engine: Engine, run: RunDirectory) -> float:
    """Returns the mean Dice of the test images, at the size of the network."""
    settings, info = run.recipe.data, deployable_of(run).info
    store = open_data(settings, needs=("test",))
    values = []
    for index in store.indices(store.manifest.part("test")):
        images, limits = as_stored(store.images[np.array([index])].astype(np.float32), info)
        (predicted,) = engine.run(images, limits)["mask"]
        vanished = bool(store.truths[index, 0] == MaskState.VANISHED)
        values.append(mask_scores(predicted == 1, store.targets[index] == 1, vanished=vanished)["dice"])
    return float(np.nanmean(values))


# --- tables -----------------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Any]) -> str:
    """Writes everything as Markdown."""
    lines: list[str] = []
    for size, threads in dict.fromkeys((row["size"], row["threads"]) for row in found.get("time", ())):
        rows = [row for row in found["time"] if (row["size"], row["threads"]) == (size, threads)]
        forms = [form for form in FORMS if form in rows[0]["ms"]]
        lines += [
            f"{size} px, threads: {threads}; ms (interquartile range)",
            "",
            f"| network | parameters | {' | '.join(FORMS[form] for form in forms)} | PyTorch / ONNX Runtime |",
            f"| --- | --- |{' --- |' * len(forms)} --- |",
        ]
        for row in rows:
            cells = [f"{row['ms'][form][0]:.1f} ({row['ms'][form][1]:.1f})" for form in forms]
            ratio = row["ms"]["torch"][0] / row["ms"]["onnxruntime"][0]
            lines.append(f"| {row['network']} | {row['parameters']:,} | {' | '.join(cells)} | {ratio:.2f} |")
        lines.append("")
    if found.get("targets"):
        lines += ["| ratio | px | threads | found | target |", "| --- | --- | --- | --- | --- |"]
        for one in found["targets"]:
            verdict = f"{one['target']:g}: {'met' if one['met'] else '**missed**'}"
            lines.append(f"| {one['ratio']} | {one['size']} | {one['threads']} | {one['found']:.2f} | {verdict} |")
        lines.append("")
    if "dice" in found:
        lines += table_of_dice(found["dice"])
    return "\n".join(lines)


def table_of_dice(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes a line for each network and set: means over seeds, and how far the worst seed falls from PyTorch."""
    forms = [form for form in FORMS if all(form in row["dice"] for row in rows)]
    exported = [form for form in forms if form not in ("torch", "shipped")]
    lines = [
        f"| network | set | seeds | {' | '.join(FORMS[form] for form in forms)} | largest loss, float | int8 |",
        f"| --- | --- | --- |{' --- |' * len(forms)} --- | --- |",
    ]
    for network, data in dict.fromkeys((row["network"], row["set"]) for row in rows):
        of = [row["dice"] for row in rows if (row["network"], row["set"]) == (network, data)]
        means = [f"{np.mean([dice[form] for dice in of]):.4f}" for form in forms]
        in_float = max(dice["torch"] - dice[form] for dice in of for form in exported if form != "int8")
        in_int8 = max(dice["torch"] - dice["int8"] for dice in of)
        lines.append(f"| {network} | {data} | {len(of)} | {' | '.join(means)} | {in_float:.4f} | {in_int8:.4f} |")
    return lines


if __name__ == "__main__":
    main()
