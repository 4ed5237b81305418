"""What the search does between its first and its last epoch."""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from medarts.config import Recipe, apply_overrides, parse
from medarts.config.reading import fingerprint_without_seed
from medarts.data.batches import Batches
from medarts.data.opening import open_data
from medarts.engine import checkpoint
from medarts.errors import DivergedError
from medarts.metrics.masks import mask_scores
from medarts.nas.search import Search, prepare_search, start_search
from medarts.spaces.genotype import load_genotype
from medarts.spaces.nas_wdan import NasWdan
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet
from medarts.system.randomness import seed_torch


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """Two stages of two epochs of two steps, the first epoch of each with frozen alphas and betas."""
    return changed(small_recipe, "data.size=16", "space.intermediate_nodes=2")


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return parse(apply_overrides(recipe.model_dump(mode="json"), changes))


def fresh_supernet(recipe: Recipe, stage: int, candidates=None) -> NasWdanSupernet:
    seed_torch(recipe.seed, "supernet", stage)
    supernet = NasWdan(recipe.space, in_channels=3, outputs=1).supernet(recipe.search.stages[stage], candidates)
    search = prepare_search(recipe)
    search.task.begin(supernet.output_biases, search.data.weights)
    return supernet


def lines(run: Path, journal: str) -> list[dict]:
    return [json.loads(line) for line in (run / journal).read_text().splitlines()]


@pytest.fixture
def watched(monkeypatch) -> dict[tuple[int, int, int], dict[str, torch.Tensor]]:
    """The supernet's tensors before every step (stage, epoch, step), and behind the last of an epoch (step 2)."""
    seen = {}
    step, validate = Search._step, Search.validate

    def note(job):
        tensors = {name: tensor.clone() for name, tensor in job.supernet.state_dict().items()}
        seen.setdefault(job.position, tensors)

    def watched_step(job):
        note(job)
        step(job)

    def watched_validate(job):
        note(job)
        return validate(job)

    monkeypatch.setattr(Search, "_step", watched_step)
    monkeypatch.setattr(Search, "validate", watched_validate)
    return seen


def test_architecture_is_frozen_then_learns(recipe, tmp_path, watched):
    start_search(changed(recipe, "search.stages.1.epochs=1"), tmp_path / "run")
    initial = fresh_supernet(recipe, 0).state_dict()
    names = [name for name in initial if name.startswith(("alphas", "betas"))]
    assert sorted(names) == ["alphas.down", "alphas.normal", "alphas.up", "betas"]
    for place in ((0, 0, 1), (0, 0, 2), (0, 1, 0)):
        assert all(torch.equal(watched[place][name], initial[name]) for name in names), place
        assert not torch.equal(watched[place]["frame.stem.0.0.weight"], initial["frame.stem.0.0.weight"])
    for name in names:
        assert not torch.equal(watched[0, 1, 1][name], initial[name]), name
        assert not torch.equal(watched[0, 1, 2][name], watched[0, 1, 1][name]), name
    arch_losses = [record["arch_loss"] for record in lines(tmp_path / "run", "metrics.jsonl")]
    assert arch_losses[0] is None
    assert arch_losses[1] > 0
    assert arch_losses[2] is None  # every stage freezes afresh


def test_a_step_in_parts_is_the_step_of_the_whole_batch(recipe, tmp_path, exact):
    """Also where the parts are uneven. Images are normalised one by one, so nothing but rounding may differ."""
    recipe = changed(recipe, "search.arch_after=0", "search.mixing.images=3")
    seen = {}
    for parts in (1, 2, 3, 4):
        job = prepare_search(changed(recipe, f"search.stages.0.accumulate={parts}"))
        job.trial(steps=3)  # four steps of the architecture and of the weights
        seen[parts] = (job.state, job.supernet.state_dict())
    place, tensors = seen.pop(1)
    initial = fresh_supernet(recipe, 0).state_dict()
    for name in ("alphas.down", "alphas.normal", "alphas.up", "betas", "frame.stem.0.0.weight"):
        assert tensors[name].dtype == torch.float64
        assert (tensors[name] - initial[name]).abs().max() > 1e-4, name
    for parts, (other, others) in seen.items():
        assert other.train_loss == pytest.approx(place.train_loss, rel=1e-12), parts
        assert other.arch_loss == pytest.approx(place.arch_loss, rel=1e-12), parts
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, rtol=0, atol=1e-10, msg=f"{name}, {parts} parts")


def test_in_parts_a_step_holds_the_activations_of_one(recipe):
    recipe = changed(recipe, "search.arch_after=0")
    peaks = {}
    for parts in (1, 2, 4):
        job = prepare_search(changed(recipe, f"search.stages.0.accumulate={parts}"))
        with saved_for_backward() as saved:
            job.trial(steps=1)
        assert saved.now == 0
        peaks[parts] = saved.peak
    # Activations of so many images, and what is saved of weights and alphas, which is the same for all.
    assert peaks[2] < 0.6 * peaks[1]
    assert peaks[4] < 0.4 * peaks[1]


class Saved:
    """Bytes that autograd keeps for the backward pass: now, and at most."""

    now = 0
    peak = 0

    def pack(self, tensor: torch.Tensor) -> "Held":
        size = tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        held = Held(tensor)
        weakref.finalize(held, self.free, size)
        return held

    def free(self, size: int) -> None:
        self.now -= size


class Held:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


@contextmanager
def saved_for_backward() -> Iterator[Saved]:
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        yield saved


def test_betas_end_elsewhere_than_they_began(recipe, tmp_path):
    start_search(changed(recipe, "search.arch_lr=0.1"), tmp_path / "run")
    first, last = (lines(tmp_path / "run", "architecture.jsonl")[number]["betas"] for number in (0, 1))
    assert first.keys() == last.keys()
    several = {node: transitions for node, transitions in first.items() if len(transitions) > 1}
    assert several
    for node, transitions in several.items():
        assert sum(last[node].values()) == pytest.approx(1, abs=1e-5)
        # Two steps of Adam with 0.1 move a logit by about 0.2.
        assert max(abs(last[node][transition] - transitions[transition]) for transition in transitions) > 0.01, node


def test_second_stage_starts_afresh_with_the_strongest_candidates(recipe, tmp_path, watched):
    start_search(recipe, tmp_path / "run")
    records = lines(tmp_path / "run", "architecture.jsonl")
    candidates = {}
    for kind, number in {"down": 4, "normal": 4, "up": 2}.items():
        before, after = records[1]["alphas"][kind], records[2]["alphas"][kind]
        assert before["edges"] == after["edges"]
        for names, weights, kept in zip(before["operations"], before["weights"], after["operations"], strict=True):
            assert len(names) > number
            ranked = sorted(zip(weights, names, strict=True), reverse=True)
            assert sorted(kept) == sorted(name for _, name in ranked[:number])
            assert kept == [name for name in names if name in kept]  # in the order of the set
        candidates[kind] = tuple(map(tuple, after["operations"]))
    expected = fresh_supernet(recipe, 1, candidates).state_dict()
    assert expected.keys() == watched[1, 0, 0].keys()
    assert all(torch.equal(watched[1, 0, 0][name], tensor) for name, tensor in expected.items())
    assert not torch.equal(watched[1, 0, 0]["frame.stem.0.0.weight"], watched[0, 1, 2]["frame.stem.0.0.weight"])
    last = checkpoint.load(tmp_path / "run" / "checkpoints", "last")
    assert last.weights["alphas.up"].shape[1] == 2


def test_the_halves_share_no_patient_and_no_image_of_them_is_validated(recipe, tmp_path, monkeypatch):
    seen: dict[str, set[str]] = {}
    load = Batches._load

    def noted(batches, indices):
        samples = [batches.store.manifest.samples[index] for index in indices]
        seen.setdefault(batches.name, set()).update(sample.patient for sample in samples)
        return load(batches, indices)

    monkeypatch.setattr(Batches, "_load", noted)
    start_search(changed(recipe, "search.stages.0.epochs=6", "search.arch_after=0"), tmp_path / "run")
    assert len(seen) == 3
    weights, alphas, validation = (seen[name] for name in ("weight half", "alpha half", "validation set"))
    assert weights
    assert alphas
    assert validation
    assert weights.isdisjoint(alphas)
    assert validation.isdisjoint(weights | alphas)
    assert weights | alphas == {f"p{number}" for number in range(9)}
    assert abs(len(weights) - len(alphas)) <= 1


def test_a_huge_learning_rate_stops_with_the_step_named(recipe, tmp_path):
    """Without poison in the loss: the weights themselves overflow."""
    # Beyond what a recipe allows, so that it does not take hundreds of steps.
    wild = recipe.search.model_copy(update={"lr": 1e30, "grad_clip": 0.0})
    recipe = recipe.model_copy(update={"search": wild})
    with pytest.raises(DivergedError, match=r"run diverged: .* at stage 0, epoch 0, step \d"):
        start_search(recipe, tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "checkpoints", "last") is None  # nothing good was there to be kept
    assert (tmp_path / "run" / "recipe.yaml").exists()


def test_searches_that_differ_in_their_seed_alone_say_so(recipe, tmp_path):
    short = changed(recipe, "search.stages=[{depth: 3, epochs: 1, batch: 4}]")
    first, second = (
        load_genotype(start_search(changed(short, f"seed={seed}"), tmp_path / str(seed)).path).provenance
        for seed in (0, 1)
    )
    assert first["recipe_fingerprint_without_seed"] == fingerprint_without_seed(short)
    assert {name for name in first if first[name] != second[name]} == {"recipe_fingerprint", "seed"}


def test_gap_is_supernet_minus_discretised_dice(recipe, tmp_path):
    run = start_search(recipe, tmp_path / "run")
    summary = json.loads((run.path / "summary.json").read_text())
    assert len(summary["stages"]) == 2
    for gap in summary["stages"]:
        assert gap["gap"] == pytest.approx(gap["supernet"] - gap["discrete"], abs=1e-12)
    assert summary["stages"][-1].items() <= summary.items()
    assert summary["supernet"] == lines(run.path, "metrics.jsonl")[-1]["val_dice"]

    point = checkpoint.load(run.checkpoints, "last")
    supernet = fresh_supernet(recipe, 1, point.state["loop"]["candidates"]).eval()
    supernet.load_state_dict(point.weights)
    assert mean_dice(supernet, recipe) == pytest.approx(summary["supernet"], abs=1e-6)
    supernet.discretise(load_genotype(run.path))
    assert mean_dice(supernet, recipe) == pytest.approx(summary["discrete"], abs=1e-6)


def mean_dice(supernet: NasWdanSupernet, recipe: Recipe) -> float:
    """Returns the mean Dice of single images of the validation set, computed the long way."""
    store = open_data(recipe.data, needs=("val",))
    scores = []
    for position in store.indices(store.manifest.of_split("val")):
        image = torch.from_numpy(store.images[[position]]).float()
        with torch.no_grad():
            predicted = supernet(image)[0, 0].sigmoid() >= 0.5
        scores.append(mask_scores(predicted.numpy(), store.targets[position] != 0)["dice"])
    return sum(scores) / len(scores)


def test_alphas_move_as_far_in_a_short_search_as_in_a_long_one(recipe, tmp_path):
    """With ``arch_steps`` the learning rate follows the number of steps; without, a short search stays near uniform."""
    moved, rates = {}, {}
    for epochs, steps in ((1, "null"), (1, "5000"), (4, "5000")):
        stage = f"search.stages=[{{depth: 3, epochs: {epochs}, batch: 4}}]"
        changes = (stage, "space.intermediate_nodes=1", "search.arch_after=0", f"search.arch_steps={steps}")
        job = prepare_search(changed(recipe, *changes))
        run = start_search(job.recipe, tmp_path / f"{epochs}-{steps}")
        job.set_up()
        job.begin_epoch()
        rates[epochs, steps] = job.architecture_optimizer.param_groups[0]["lr"]
        weights = torch.tensor(lines(run.path, "architecture.jsonl")[-1]["alphas"]["up"]["weights"])
        moved[epochs, steps] = float((weights - 1 / weights.shape[-1]).abs().max())
    assert rates[1, "null"] == recipe.search.arch_lr
    assert rates[1, "5000"] == pytest.approx(recipe.search.arch_lr * 5000 / 2)
    assert rates[4, "5000"] == pytest.approx(recipe.search.arch_lr * 5000 / 8)
    assert moved[1, "null"] < 0.005
    assert moved[1, "5000"] > 0.05
    assert 0.4 < moved[1, "5000"] / moved[4, "5000"] < 2.5


def test_foreground_is_drawn_as_often_as_none_in_both_halves(recipe, monkeypatch):
    """One image of each half shows something, which fills half of an epoch."""

    def first_alone(batches):
        return np.where(np.arange(len(batches.indices)) == 0, 0, -1)

    monkeypatch.setattr(Batches, "rarest_shown", property(first_alone))
    job = prepare_search(changed(recipe, "data.sampling=foreground"))
    job.set_up()
    job.begin_epoch()
    for half, order in zip((job.data.weights, job.data.architecture), job.orders, strict=True):
        assert len(half.indices) > 4
        assert np.mean(order == half.indices[0]) == pytest.approx(0.5, abs=0.1)
