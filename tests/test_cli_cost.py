"""`medarts cost`: what it prints, what it measures a network with, and what it refuses."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine.directory import RunDirectory
from medarts.models import build_network
from medarts.models.unet import UNetSettings
from medarts.models.unetpp import UNetPPSettings
from medarts.profiling.cost import Cost, Timings, count_parameters
from medarts.profiling.latency import Timing

PUBLISHED = "alpha0_5_stage1_nodouble_deep_ep80"
SMALL = ("model.width=4", "model.depth=3", "--size", "32")


def refused(answer: tuple[int, str, str], *parts: str) -> None:
    """Holds that a command failed with one line that has these parts."""
    status, output, errors = answer
    assert (status, output) == (1, "")
    assert errors.startswith("medarts: ")
    assert errors.count("\n") == 1, errors
    for part in parts:
        assert part in errors


def answered(answer: tuple[int, str, str]) -> str:
    status, output, errors = answer
    assert (status, errors) == (0, "")
    return output


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Nothing is measured but parameters; holds what was to be."""
    of_last: dict[str, Any] = {}

    def measure(architectures: dict[str, Any], *, threads: tuple[int, ...], batches: tuple[int, ...], **about: Any):
        of_last.update(about, architectures=architectures, threads=tuple(threads), batches=tuple(batches))
        built = tuple(Timing(one, batch, 10.0 * batch / one, 0.5) for one in threads for batch in batches)
        halves = tuple(Timing(each.threads, each.batch, each.median_ms / 2, 0.2) for each in built)
        quarters = tuple(Timing(each.threads, each.batch, each.median_ms / 4, 0.1) for each in built)
        size = {key: about[key] for key in ("in_channels", "outputs", "size")}
        costs = {}
        for name, architecture in architectures.items():
            network = build_network(architecture, in_channels=about["in_channels"], outputs=about["outputs"])
            timings: Timings = {"torch": built, "onnxruntime": quarters}
            if name == PUBLISHED:
                timings = {"torch": built, "inference form": halves, "onnxruntime": quarters}
            memory = {batch: 2.0 * batch for batch in batches}
            costs[name] = Cost(count_parameters(network), 1, **size, timings=timings, memory_mb=memory)
        return costs

    monkeypatch.setattr("medarts.profiling.named.measure_costs", measure)
    return of_last


def trained(path: Path, recipe: Recipe, *changes: str) -> Path:
    """A training run, as far as its recipe goes."""
    changed = parse(apply_overrides(recipe.model_dump(mode="json"), changes))
    return RunDirectory.create(path, changed, kind="train", data_fingerprint="x", network="unet").path


# --- measured ---------------------------------------------------------------------------------------------------


def test_the_cost_of_a_network_made_by_hand(medarts, monkeypatch: pytest.MonkeyPatch):
    """Everything is measured, memory in a process of its own, the exported network by what runs it."""
    monkeypatch.setattr("medarts.system.console.SECONDS_A_LINE", float("inf"))  # a busy machine would tell progress
    words = ("cost", "unet", *SMALL, "--threads", "1", "--batch", "2", "--repeats", "2", "--json")
    found = json.loads(answered(medarts(*words)))
    network = build_network(UNetSettings(width=4, depth=3), in_channels=3, outputs=1)
    assert found["parameters"] == count_parameters(network)
    assert (found["name"], found["in_channels"], found["outputs"], found["size"]) == ("unet", 3, 1, 32)
    assert found["flops"] > found["parameters"]
    assert [*found["timings"]] == [
        "torch",
        "inference form",
        "onnxruntime",
        *["openvino"] * bool(find_spec("openvino")),
    ]
    for (timing,) in found["timings"].values():
        assert (timing["threads"], timing["batch"]) == (1, 2)
        assert timing["median_ms"] > 0
    assert list(found["memory_mb"]) == ["2"]
    assert found["memory_mb"]["2"] > 2 * 3 * 32 * 32 * 4 / 1e6
    assert Cost.read(found).parameters == found["parameters"]


# --- what is measured -------------------------------------------------------------------------------------------


def test_the_cost_of_a_genotype(medarts, asked):
    words = ("cost", PUBLISHED, "--size", "32", "--threads", "1")
    output = answered(medarts(*words, "--in-channels", "1", "--outputs", "4"))
    for part in (
        "with 1 channel, 4 outputs, images of 32 x 32",
        "as built",
        "inference",
        "Runtime",
        "10.0 (0.5)",
        "5.0 (0.2)",
        "2.5 (0.1)",
        "400.0",
        "peak memory  2.0 MB with a batch of 1",
    ):
        assert part in output
    found = json.loads(answered(medarts(*words, "--json")))
    assert (found["name"], found["in_channels"], found["outputs"], found["size"]) == (PUBLISHED, 3, 1, 32)
    larger = json.loads(answered(medarts(*words, "--init-channel", "24", "--json")))
    assert larger["parameters"] > found["parameters"]


def test_several_networks_are_a_list(medarts, asked):
    found = json.loads(answered(medarts("cost", "unet", "unetpp", *SMALL, "--json")))
    assert [each["name"] for each in found] == ["unet", "unetpp"]
    settings = [UNetSettings(width=4, depth=3), UNetPPSettings(width=4, depth=3)]
    networks = [build_network(each, in_channels=3, outputs=1) for each in settings]
    assert [each["parameters"] for each in found] == [count_parameters(network) for network in networks]
    output = answered(medarts("cost", "unet", "unetpp", *SMALL, "--threads", "1", "--batch", "1", "4"))
    assert output.count("parameters") == 2
    assert "2.0 MB with a batch of 1, 8.0 MB with a batch of 4" in output
    assert "form" not in output.partition("Latency on")[0]


def test_threads_and_batches(medarts, asked, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    answered(medarts("cost", "unet", *SMALL))
    assert (asked["threads"], asked["batches"], asked["memory"]) == ((1, 2), (1,), True)
    answered(medarts("cost", "unet", *SMALL, "--threads", "3", "1", "--batch", "8", "2", "--repeats", "5"))
    assert (asked["threads"], asked["batches"], asked["repeats"]) == ((3, 1), (8, 2), 5)


def test_changes_stand_wherever_one_writes_them(medarts, asked):
    for words in (
        ("unet", "--size", "32", "model.width=6"),
        ("unet", "model.width=6", "--size", "32"),
        ("model.width=6", "unet", "--size", "32"),
    ):
        answered(medarts("cost", *words))
        assert asked["architectures"] == {"unet": UNetSettings(width=6)}


def test_changes_are_of_the_networks_that_have_them(medarts, asked):
    words = ("model.width=6", "space.search_channel=8", "--init-channel", "4", "--size", "32", "--outputs", "1")
    refused(medarts("cost", "unet", "darts_v2", *words), "no setting 'search_channel'")
    answered(medarts("cost", "unet", "darts_v2", words[0], "space.layers=6", *words[2:]))
    assert asked["architectures"]["unet"] == UNetSettings(width=6)
    settings = asked["architectures"]["darts_v2"].settings
    assert (settings["layers"], settings["init_channel"]) == (6, 4)


def test_a_run_says_what_it_is_measured_with(medarts, asked, small_recipe, tmp_path):
    own = ("train.model={name: unet, width: 6}", "train.norm=group", "data.size=64", "data.in_channels=1")
    run = str(trained(tmp_path / "a", small_recipe, *own))
    answered(medarts("cost", run))
    assert asked["architectures"] == {run: UNetSettings(width=6)}
    assert (asked["size"], asked["in_channels"], asked["outputs"], asked["norm"]) == (64, 1, 1, {run: "group"})
    answered(medarts("cost", run, "unetpp", "model.width=4"))
    assert (asked["size"], asked["norm"]) == (64, {run: "group", "unetpp": None})
    assert asked["architectures"][run] == UNetSettings(width=4)
    other = trained(tmp_path / "b", small_recipe, "train.model=unet")
    refused(medarts("cost", run, other, "--in-channels", "3"), "differ in size: 32, 64.", "Give size, one for all")
    answered(medarts("cost", run, other, "--in-channels", "3", "--size", "32"))
    assert (asked["size"], asked["in_channels"]) == (32, 3)


def test_a_figure_of_several(medarts, asked, tmp_path):
    words = ("cost", "unet", "unetpp", *SMALL)
    for name, begin in (("o.svg", b"<?xml"), ("o.png", b"\x89PNG")):
        assert answered(medarts(*words, "--figure", name)).endswith(f"\n{name}\n")
        assert (tmp_path / name).read_bytes().startswith(begin)
    assert "unetpp" in (tmp_path / "o.svg").read_text()
    json.loads(answered(medarts(*words, "--figure", "p.svg", "--json")))
    assert (tmp_path / "p.svg").exists()


# --- refused ----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_anything_is_measured(medarts, asked, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    refused(medarts("cost"), "do not fit together", "Usage: medarts cost ")
    refused(medarts("cost", "unet", "model.widht=8"), "unet: widht is not a key of a model", "Did you mean 'width'?")
    refused(medarts("cost", "unet", "model.width=none"), "unet: width: Input should be a valid integer")
    refused(medarts("cost", "unet", "model.width=1"), "greater than or equal to 2")
    refused(medarts("cost", "unet", "space.layers=8"), "unet has no space.layers")
    refused(medarts("cost", "unet", "train.lr=8"), "unet has no train.lr")
    refused(medarts("cost", PUBLISHED, "model.width=8"), f"{PUBLISHED} has no model.width")
    refused(medarts("cost", "unet", "--init-channel", "8"), "unet has no init_channel")
    refused(medarts("cost", "unet", "chexnet"), "differ in outputs: 1, 14.")
    refused(medarts("cost", "unet", "--threads", "1", "3"), "threads is 3", "Use 1 to 2")
    refused(medarts("cost", "unet", "--threads", "0"), "threads is 0", "Use 1 to 2, as")
    refused(medarts("cost", "unet", "--batch", "0"), "batch is 0", "Use 1 to 1,024")
    refused(medarts("cost", "unet", "--repeats", "1"), "repeats is 1", "Use 2 to 10,000")
    refused(medarts("cost", "unet", "--size", "0"), "size is 0", "Use 16 to 4,096")
    refused(medarts("cost", "unet", "unetpp", "--figure", "o.jpg"), "figure is 'o.jpg'", ".svg or .png")
    refused(medarts("cost", "unet", "--figure", "o.svg"), "there is one", "Name several")
    assert not asked


def test_a_figure_that_cannot_be_written_is_refused_before_anything_is_measured(medarts, asked, tmp_path):
    (tmp_path / "file").touch()
    refused(
        medarts("cost", "unet", "unetpp", *SMALL, "--figure", "file/o.svg"), "file could not be written (File exists)."
    )
    assert asked == {}
