"""Memory that runs out: the run goes on in more parts, as if it had had them from the start, and keeps them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.nas.search import start_search
from medarts.reporting.page import write_report
from medarts.system.memory import OutOfMemoryError
from medarts.tasks import SegmentationTask
from medarts.training.trainer import Training, resume_training, start_training, try_training

OF_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
OF_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
UNET = "train.model={name: unet, width: 4, depth: 2}"


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


@pytest.fixture
def training(small_recipe: Recipe) -> Recipe:
    """Two epochs of four steps; batch norms, whose running statistics a step that fails has changed already."""
    chosen = ("train.norm=batch", "train.ema=0.9", "train.mixing={alpha: 0.4, images: 2}", "space.dropout_prob=0.1")
    return changed(small_recipe, "data.size=16", UNET, *chosen)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Gives room for so many images at a time, and returns how many were tried; None for any number."""
    loss, scored = SegmentationTask.loss, SegmentationTask._scored
    room: dict[str, Any] = {"training": None, "validation": None, "error": OF_GPU}
    tried: list[int] = []

    def checked(images: int, of: str) -> None:
        tried.append(images)
        if room[of] is not None and images > room[of]:
            raise room["error"]

    def lossy(task: SegmentationTask, outputs: Any, mixture: Any) -> Any:
        if torch.is_grad_enabled():  # after the forward pass, which has changed running statistics
            checked(len(mixture.images), "training")
        return loss(task, outputs, mixture)

    def scoring(task: SegmentationTask, outputs: Any, batch: Any) -> Any:
        checked(len(batch.images), "validation")
        return scored(task, outputs, batch)

    def give(**changes: Any) -> list[int]:
        room.update(changes)
        tried.clear()
        return tried

    monkeypatch.setattr(SegmentationTask, "loss", lossy)
    monkeypatch.setattr(SegmentationTask, "_scored", scoring)
    return give


def assert_equal(run: RunDirectory, other: RunDirectory) -> None:
    one, two = (checkpoint.load(each.checkpoints, "last") for each in (run, other))
    assert one is not None
    assert two is not None
    for name, tensor in two.weights.items():
        assert torch.equal(one.weights[name], tensor), name
    assert (run.path / "metrics.jsonl").read_bytes() == (other.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("error", [OF_GPU, OF_CPU, MemoryError()], ids=["gpu", "cpu", "python"])
def test_a_training_goes_on_as_with_smaller_parts_from_the_start(training, tmp_path, memory, capsys, error):
    in_parts = changed(training, "train.accumulate=2", "evaluation.batch=1")
    expected = start_training(in_parts, training.train.model, tmp_path / "expected")
    memory(training=2, validation=1, error=error)
    run = start_training(training, training.train.model, tmp_path / "run")
    assert_equal(run, expected)
    assert [(each["of"], each["before"], each["after"], each["position"]) for each in run.facts["splits"]] == [
        ("training", 1, 2, [0, 0]),
        ("validation", 1, 2, [0, 4]),
        ("validation", 2, 4, [0, 4]),
    ]
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "Memory ran out during training with 4 images at a time (epoch 0, step 0). From here on it is 2 images" in said
    )
    assert "batch norms see the parts alone" in said
    page = write_report(run.path).read_text()
    assert "parts of a training batch, as memory ran out" in page


def test_the_parts_are_kept_by_a_run_that_goes_on(training, tmp_path, memory, monkeypatch):
    """Killed right after the step that needed them, in the middle of the second epoch."""
    step = Training._step

    def at_a_step(job: Training, *, killed: bool) -> None:
        memory(training=2 if job.position == (1, 1) else None)
        if killed and job.position == (1, 2):
            raise KeyboardInterrupt
        step(job)

    runs = {}
    for name, killed in (("whole", False), ("killed", True)):
        with monkeypatch.context() as patch:
            patch.setattr(Training, "_step", lambda job, killed=killed: at_a_step(job, killed=killed))
            if killed:
                with pytest.raises(KeyboardInterrupt):
                    start_training(training, training.train.model, tmp_path / name)
            else:
                runs[name] = start_training(training, training.train.model, tmp_path / name)
    tried = memory(training=None)
    runs["killed"] = resume_training(tmp_path / "killed")
    assert [images for images in tried if images == 4] == [4]  # of the validation
    assert_equal(runs["killed"], runs["whole"])
    assert [each["position"] for each in runs["killed"].facts["splits"]] == [[1, 1]]


@pytest.mark.parametrize("gradient", ["first_order", "second_order"])
def test_a_search_goes_on_as_with_smaller_parts_from_the_start(small_recipe, tmp_path, memory, gradient):
    """In every stage anew, as the next one may take less."""
    chosen = ("data.size=16", "space.intermediate_nodes=1", "space.dropout_prob=0.3", f"search.gradient={gradient}")
    one_epoch = [f"search.stages.{stage}.epochs=1" for stage in (0, 1)]
    recipe = changed(small_recipe, *chosen, *one_epoch, "search.arch_after=0", "search.stages.0.keep={normal: 2}")
    in_parts = changed(recipe, *(f"search.stages.{stage}.accumulate=2" for stage in (0, 1)))
    expected = start_search(in_parts, tmp_path / "expected" / "run")
    memory(training=2)
    run = start_search(recipe, tmp_path / "run")
    assert_equal(run, expected)
    assert [(each["after"], each["position"]) for each in run.facts["splits"]] == [(2, [0, 0, 0]), (2, [1, 0, 0])]


def test_single_images_are_the_last_that_is_tried(training, tmp_path, memory):
    memory(training=0)
    with pytest.raises(
        OutOfMemoryError, match=r"during training with 1 image at a time\. Use smaller images"
    ) as caught:
        start_training(training, training.train.model, tmp_path / "run")
    assert "accumulate" not in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_parts_in_which_a_norm_would_see_one_value_are_not_tried(training, tmp_path, memory):
    recipe = changed(training, "train.model={name: unet, width: 4, depth: 5}")  # its lowest maps have one pixel
    tried = memory(training=1)
    with pytest.raises(OutOfMemoryError, match=r"with 2 images at a time, and with fewer: .* one pixel alone"):
        start_training(recipe, recipe.train.model, tmp_path / "run")
    assert tried == [4, 2]


def test_what_is_tried_for_a_plan_is_not_split(training, memory):
    memory(training=2)
    with pytest.raises(torch.OutOfMemoryError):
        try_training(training, training.train.model, steps=1)
