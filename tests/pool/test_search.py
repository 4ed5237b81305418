"""Searches by training from their recipe to the genotype: what is trained, kept, dropped and refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from medarts.config import Recipe
from medarts.config.reading import deciding_values, fingerprint
from medarts.config.sections import SearchSettings
from medarts.data.store import open_store
from medarts.engine.directory import RunDirectory, epochs_done
from medarts.errors import DataError, DivergedError, MedartsError, RecipeError, RunError
from medarts.models import scaled
from medarts.nas.search import Search
from medarts.pool import search, trainings
from medarts.pool.candidates import Candidate, read_candidates
from medarts.pool.delivery import within_budget
from medarts.pool.drawing import Drawing
from medarts.pool.preparing import numbers_of_candidates, planned_epochs
from medarts.pool.result import compute_of
from medarts.profiling.budget import measure
from medarts.profiling.plan import Known
from medarts.reporting.page import write_report
from medarts.spaces import space_of
from medarts.spaces.genotype import load_genotype
from medarts.spaces.nas_wdan import NasWdan
from medarts.system.memory import OutOfMemoryError
from medarts.system.workers import ProcessEndedError
from medarts.training.trainer import Training, start_training

from ..conftest import write_folder_data
from .conftest import Here, changed, random_of

pytestmark = pytest.mark.usefixtures("here")


def test_a_pool_has_genotypes_of_supernets_random_ones_and_neighbours(pool: RunDirectory) -> None:
    found = read_candidates(pool)
    assert [(each.name, each.source) for each in found] == [
        ("1-01", "supernet"), ("1-02", "random"), ("1-03", "random"), ("2-01", "neighbour"), ("2-02", "neighbour"),
    ]  # fmt: skip
    finalists = sorted((each for each in found[:3] if 2 in each.scores), key=lambda each: -each.scores[2])
    assert [each.parent for each in found[3:]] == [each.name for each in finalists]
    assert found[0].origin == "supernet 1 (relaxation gumbel), as it was chosen"
    assert RunDirectory(trainings.folder_of_supernet(pool, 1)).recipe.search.relaxation.name == "gumbel"
    assert [each.genotype.provenance["of"] for each in found[3:]] == [each.genotype.name for each in finalists]
    assert len({space_of(each.genotype).fingerprint(each.genotype) for each in found}) == 5


def test_the_best_of_a_rung_go_on_and_the_best_of_the_last_rung_wins(pool: RunDirectory) -> None:
    found = read_candidates(pool)
    for generation, kept in ((1, 2), (2, 1)):
        members = [each for each in found if each.generation == generation]
        ranked = sorted(members, key=lambda each: -each.scores[1])
        assert [2 in each.scores for each in ranked] == [place < kept for place in range(len(ranked))]
    for each in found:
        folder = trainings.folder_of_candidate(pool, each.name)
        assert epochs_done(folder) == max(each.scores)
        assert RunDirectory.open(folder, kind="train").facts["finished"] == (2 in each.scores)
    winner = max((each for each in found if 2 in each.scores), key=lambda each: each.scores[2])
    summary = pool.read_json("summary.json")
    assert (summary["candidate"], summary["best_score"]) == (winner.name, winner.scores[2])
    assert summary["budget"] == {"flops": {"limit": 4e6, "measured": winner.cost.flops}}
    genotype = load_genotype(pool.path)
    assert (genotype.cells, genotype.settings) == (winner.genotype.cells, winner.genotype.settings)
    assert genotype.provenance["candidate"] == winner.name
    assert "source" not in genotype.provenance  # or a comparison would take it for a network that was not chosen


def test_candidates_are_within_the_budget_and_no_wider_ones_are(pool: RunDirectory, recipe: Recipe) -> None:
    budget = recipe.budget.at(16)
    for each in read_candidates(pool):
        assert each.cost.flops <= 4e6
        width = each.genotype.settings["init_channel"]
        wider = [one for one in space_of(each.genotype).scaled(each.genotype) if one.settings["init_channel"] > width]
        if wider:
            assert measure(wider[0], budget, in_channels=3, outputs=1).flops > 4e6


def test_a_candidate_is_trained_as_a_training_by_itself(pool: RunDirectory, recipe: Recipe, tmp_path: Path) -> None:
    """One learning rate schedule over the whole, although it has paused at the first rung."""
    winner = next(each for each in read_candidates(pool) if 2 in each.scores)
    alone = start_training(trainings.recipe_of_candidates(recipe), winner.genotype, tmp_path / "alone")
    folder = trainings.folder_of_candidate(pool, winner.name)
    for name in ("metrics.jsonl", "summary.json", "genotype.json"):
        assert (folder / name).read_bytes() == (alone.path / name).read_bytes()
    assert winner.scores == {1: score(folder, 0), 2: score(folder, 1)}


def score(run: Path, epoch: int) -> float:
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[epoch])["val_dice"])


def test_the_computing_that_a_control_may_have(pool: RunDirectory, recipe: Recipe) -> None:
    compute = compute_of(pool)
    assert (compute.epochs, compute.supernet_epochs) == (3 + 2 + 2 + 1, 2)
    assert compute.epochs + compute.supernet_epochs == planned_epochs(recipe)
    per_epoch = compute.seconds / compute.epochs
    assert compute.equal_epochs * per_epoch == pytest.approx(
        compute.seconds + compute.supernet_seconds, abs=per_epoch / 2
    )
    control = random_of(recipe, "search.select.epochs=8")
    assert numbers_of_candidates(control) == [5]  # a sixth would take one epoch more
    assert planned_epochs(control) == 8


def test_another_seed_gives_another_search(control: RunDirectory, recipe: Recipe, tmp_path: Path) -> None:
    other = search.start(random_of(recipe, "seed=1", "search.select.rungs=[1]"), tmp_path / "run")
    assert not {each.origin for each in read_candidates(control)} & {each.origin for each in read_candidates(other)}


def test_the_winner_is_trained_with_several_seeds(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medarts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `medarts train` would train it; and after a kill the rest of it."""
    given = random_of(
        recipe, "search.select.candidates=1", "search.select.rungs=[1]", "search.select.retrain=2", "train.epochs=2",
        "search.select.norms=[batch]",
    )  # fmt: skip
    now, draw = [0.0], Drawing.first

    def slowly(*about: Any) -> Any:
        now[0] += 6000
        return draw(*about)

    with monkeypatch.context() as patch:
        failing(patch, {"2": RunError("The disk is full.", fix="")})
        patch.setattr(Drawing, "first", slowly)
        patch.setattr("medarts.system.console.time", SimpleNamespace(monotonic=lambda: now[0]))
        with pytest.raises(RunError, match="The disk is full"):
            search.start(given, tmp_path / "run")
    told = capsys.readouterr().err
    assert "generation 1: drawing 1 candidate" in told
    assert "at epoch 1; 0 of 1 left at this rung, 4 epochs left, about 0.0 s" in told  # drawing is no epoch
    run = search.resume(tmp_path / "run")
    assert "search resumes after 4 of about 5 epochs." in capsys.readouterr().err
    scores = {str(seed): best for seed, best in enumerate(best_scores(run, 2))}
    assert run.read_json("summary.json")["retrained"] == {"scores": scores, "failures": {}}
    status, _, errors = medarts("train", run.path, "--out", "alone")
    assert status == 0, errors
    for name in ("metrics.jsonl", "summary.json", "genotype.json", "recipe.yaml"):
        assert (run.path / "retrained" / "1" / name).read_bytes() == Path("alone", name).read_bytes(), name
    assert compute_of(run).epochs == 1  # what it was chosen by
    assert planned_epochs(given) == 1 + 2 * 2
    status, output, _ = medarts("search", "--resume", run.path)
    mean = sum(scores.values()) / 2
    assert f"retrained: best validation dice {mean:.3f} ± " in output


def best_scores(run: RunDirectory, number: int) -> list[float]:
    folders = [trainings.folder_of_retraining(run, each) for each in range(1, number + 1)]
    return [RunDirectory(folder).read_json("summary.json")["best_score"] for folder in folders]


# --- failures --------------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, MedartsError]) -> None:
    """Lets the trainings of some candidates end with an error in their second epoch."""
    step = Training._step

    def fail(job: Training) -> None:
        name = job.directory.path.name
        if name in errors and job.state.epoch == 1:
            raise errors[name]
        step(job)

    monkeypatch.setattr(Training, "_step", fail)


def test_a_candidate_that_fails_is_dropped(
    control: RunDirectory,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = [each.name for each in read_candidates(control) if 2 in each.scores]
    failing(monkeypatch, {kept[0]: DivergedError("It diverged.", fix="")})
    run = search.start(random_of(recipe), tmp_path / "run")
    found = {each.name: each for each in read_candidates(run)}
    assert found[kept[0]].failure == "It diverged."
    assert set(found[kept[0]].scores) == {1}
    assert found[kept[1]].scores == next(each.scores for each in read_candidates(control) if each.name == kept[1])
    assert run.read_json("summary.json")["candidate"] == kept[1]
    assert f"{kept[0]} (random): dropped: It diverged; " in capsys.readouterr().err


def test_all_that_are_left_fail(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {f"1-{number:02d}": OutOfMemoryError("Memory ran out.", fix="") for number in range(1, 4)}
    failing(monkeypatch, errors)
    with pytest.raises(RunError, match=r"generation 1 failed on the way to epoch 2; 1-0\d: Memory ran"):
        search.start(random_of(recipe), tmp_path / "run")


def test_what_is_no_fault_of_a_candidate_ends_the_search(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, dict.fromkeys(["1-01", "1-02", "1-03"], RunError("The disk is full.", fix="")))
    with pytest.raises(RunError, match="The disk is full"):
        search.start(random_of(recipe), tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("medarts.system.workers.Processes", Here)
    assert search.resume(tmp_path / "run").facts["finished"]


def test_a_process_that_ends_is_given_its_candidate_once_more(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, ends = Training._step, []

    def end(job: Training) -> None:
        name = job.directory.path.name
        if job.state.epoch == 0 and (name == "1-01" or (name == "1-02" and name not in ends)):
            ends.append(name)
            raise ProcessEndedError("The system killed its process.", fix="")
        step(job)

    monkeypatch.setattr(Training, "_step", end)
    run = search.start(random_of(recipe), tmp_path / "run")
    assert ends == ["1-01", "1-02", "1-01"]  # once more when the third is done, too
    first, second = read_candidates(run)[:2]
    assert (first.failure, second.failure) == ("The system killed its process.", None)
    assert "1-02: The system killed its process. It is tried once more, alone." in capsys.readouterr().err


def test_an_infinite_score_drops_a_candidate(pool: RunDirectory, tmp_path: Path) -> None:
    for value, expected in (("NaN", None), ("Infinity", None), ("null", None), ("0.5", 0.5)):
        (tmp_path / "metrics.jsonl").write_text(f'{{"val_dice": {value}}}\n')
        assert trainings.score_at(tmp_path, 1, "val_dice") == expected


def test_a_supernet_that_fails_is_on_record(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Search._step

    def fail(job: Search) -> None:
        if job.directory.path.name == "1":
            raise DivergedError("It <diverged>.", fix="")
        step(job)

    monkeypatch.setattr(Search, "_step", fail)
    run = search.start(
        changed(
            recipe,
            "search.select.supernets=2",
            "search.select.generations=1",
            "search.select.rungs=[1]",
            "budget.flops=null",
        ),
        tmp_path / "run",
    )
    assert run.read_json("summary.json")["supernet_failures"] == {"1": "It <diverged>."}
    assert [each.origin[:10] for each in read_candidates(run) if each.source == "supernet"] == ["supernet 2"]
    page = write_report(run.path).read_text()
    assert "Supernet 1 failed, and random genotypes stand in for its candidates: It &lt;diverged&gt;." in page


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["search.select.keep=0.1"], r"search.select.keep 0.1 leaves none of 3 candidates after rung 1"),
        (["search.select.keep=0.2"], r"search.select.keep 0.2 leaves none of 2 candidates .* or search.select.neighb"),
        (["search.select.checkpoints=4"], r"3 candidates, but 1 supernets with 4 checkpoints give 4"),
        (["search.select.epochs=20"], r"search.select.epochs sets the number of candidates of method random alone"),
        (["search.method=random", "search.select.epochs=1"], r"epochs 1 do not allow one candidate of 2 epochs"),
        (["search.method=random", "budget.flops=1000"], r"The narrowest network .* is over the budget: flops"),
        (["budget.flops=1000"], r"The narrowest network .* is over the budget: flops"),
        (["train.batch=400"], r"The images of the training set are 18, fewer than a batch of 400"),
        (
            ["space.stem_channels=16"],
            r"stem_channels is 16, but only candidates of supernets would have that, and random ones have one of "
            r"space.choices.stem_channels: 64\. Use space.choices.stem_channels=\[16\]\.",
        ),
        *(
            (["space.stem_channels=16", change], "stem_channels is 16, but candidates have one of space.choices.stem_")
            for change in ("search.method=random", "search.select.supernets=0")
        ),
        (["space.choices.depth=[3, 6]"], r"space.choices.depth has 6, but images of data.size 16 cannot be halved"),
        (["budget.size=24", "space.choices.depth=[3, 4]"], r"space.choices.depth has 4, but images of budget.size 24"),
        (
            ["budget.size=24", "space.choices.depth=[3]", "search.stages.0.depth=4"],
            r"search.stages.0 cannot be measured at budget.size 24",
        ),
        (
            ["search.select.supernets=[{relaxation: gumbl}]"],
            r"^search.select.supernets.0: search.relaxation.name cannot be 'gumbl'",
        ),
        (["search.select.supernets=[{}, {method: random}]"], r"select.supernets.1.method is not for one supernet"),
        (["search.select.supernets=[{arch_after: 0}, {stages: [{depth: 9}]}]"], r"16 .*depth 9"),
        (["train.model=unet"], r"train.model is the baseline unet, but search.method=pool trains genotypes"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_trained(
    recipe: Recipe, tmp_path: Path, changes: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medarts.pool.drawing.MISSES", 2)
    keep = ["search.select.candidates=4"] if "search.select.keep=0.2" in changes else []
    with pytest.raises(MedartsError) as caught:
        search.start(changed(recipe, *changes, *keep), tmp_path / "run")
    assert re.search(says, str(caught.value))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("search.select.rungs=[2, 6, 6]", r"rungs 2, 6, 6 do not rise; write them as \[2, 6, 12\]"),
        ("search.select.norms=[group, group]", "norms names one twice"),
        ("train.warmup_epochs=2", r"train.warmup_epochs 2 leave nothing of the 2 epochs of the last rung"),
        ("search.method=best", "search.method"),
        ("search.select.supernets=-1", r"search.select.supernets: write a number of supernets, 0 to 100, or a list"),
        ("search.select.supernets=[]", r"search.select.supernets: write a number of supernets"),
    ],
)
def test_recipes_that_contradict_themselves(recipe: Recipe, change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        changed(recipe, change)


def test_images_to_choose_by_are_needed(recipe: Recipe, tmp_path: Path) -> None:
    folder = write_folder_data(tmp_path / "blobs", size=16, images=2)
    (folder / "splits.csv").unlink()
    with pytest.raises(DataError, match=r"No image of blobs is in the split 'val'\. There are 2 patients"):
        search.start(changed(recipe, f"data.sources.0.path={folder}"), tmp_path / "run")


def test_several_jobs_need_several_trainings(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="jobs is 2, but the search of a supernet is one training"):
        search.start(changed(recipe, "search.method=supernet"), tmp_path / "run", jobs=2)
    with pytest.raises(RecipeError, match="jobs is 0"):
        search.start(recipe, tmp_path / "run", jobs=0)


def test_the_genotype_of_a_supernet_is_scaled_to_the_budget(
    recipe: Recipe, tmp_path: Path, medarts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = changed(recipe, "search.method=supernet", "search.stages.0.epochs=1")
    opened = Mock(side_effect=open_store)
    monkeypatch.setattr("medarts.nas.search.open_store", opened)
    run = search.start(given, tmp_path / "run")
    opened.assert_called_once()
    found, budget = load_genotype(run.path), given.budget.at(16)
    cost = measure(found, budget, in_channels=3, outputs=1)
    assert run.read_json("summary.json")["budget"] == {"flops": {"limit": 4e6, "measured": cost.flops}}
    wider = next(each for each in scaled(found) if each.settings["init_channel"] > found.settings["init_channel"])
    assert cost.flops <= 4e6 < measure(wider, budget, in_channels=3, outputs=1).flops
    status, output, _ = medarts("show", run.path)
    assert status == 0
    assert re.search(rf"MFLOPs\W+4\W+{cost.flops / 1e6:.4g}\b", output)
    assert "What the network costs, and may cost, for one image of 16 × 16 pixels" in write_report(run.path).read_text()


def test_a_budget_that_no_genotype_of_a_supernet_meets(recipe: Recipe, tmp_path: Path) -> None:
    given = changed(recipe, "search.method=supernet", "budget.flops=1000")
    says = "narrowest network of genotype 'untrained', reduced as far as it can be, is over the budget: fl"
    for do in (search.check, lambda given: search.start(given, tmp_path / "run"), Known().untrained):
        with pytest.raises(RecipeError, match=says):
            do(given)
    assert not (tmp_path / "run").exists()
    chosen = NasWdan.sample(given.space, seed=0)  # another than that which was tried at the start may be over
    with pytest.raises(
        RecipeError, match=r"over the budget: flops .* genotype\.json of the run has it as it was chosen"
    ):
        within_budget(chosen, given)


def test_older_recipes_keep_their_fingerprints(recipe: Recipe) -> None:
    supernet = changed(recipe, "search.method=supernet")
    assert "method" not in deciding_values(supernet)["search"]
    assert fingerprint(supernet) != fingerprint(changed(recipe, "search.method=random"))
    usual = Recipe(data=recipe.data)
    assert "select" not in deciding_values(usual)["search"]
    assert "choices" not in deciding_values(usual)["space"]


def test_a_pool_is_described_by_its_defaults_too(recipe: Recipe) -> None:
    usual = Recipe(data=recipe.data)
    values = deciding_values(usual.model_copy(update={"search": SearchSettings(method="pool")}))
    assert values["search"]["select"]["candidates"] == 16
    assert values["space"]["choices"]["depth"] == usual.space.model_dump(mode="json")["choices"]["depth"]


def test_a_damaged_line_is_named(pool: RunDirectory, tmp_path: Path) -> None:
    text = (pool.path / "candidates.jsonl").read_text()
    shutil.copy(pool.path / "run.json", tmp_path)
    shutil.copy(pool.path / "recipe.yaml", tmp_path)
    copy = RunDirectory(tmp_path)
    for line, before, after, says in (
        (2, '"random"', '"chance"', "source"),
        (1, '"scores": {', '"scores": {"x": 1, ', "scores.x"),
        (1, '"scores": {"1": ', '"scores": {"5": ', "not the first rungs"),
        (1, '"scores": {"1": ', '"scores": {"1": NaN, "2": ', "finite"),
        (1, '"scores": {"1": ', '"scores": {"1": true, "2": ', "valid number"),
        (1, '"norm": null, ', "", "norm"),
        (1, '"name": "1-01"', '"name": "../../1-01"', "name"),
        (2, '"name": "1-02"', '"name": "1-01"', "not the next one"),
        (1, '"failure": null', '"failure": 3', "failure"),
        (1, '"parent": null', '"parent": "2-01"', "none of the candidates before"),
    ):
        assert before in text
        (tmp_path / "candidates.jsonl").write_text(text.replace(before, after))
        with pytest.raises(RunError, match=rf"candidates.jsonl is damaged in line {line} \(.*{re.escape(says)}"):
            read_candidates(copy)
    (tmp_path / "candidates.jsonl").write_text(text[: len(text) // 2])
    with pytest.raises(RunError, match="its end is missing"):
        read_candidates(copy)


def test_norms_are_a_choice(recipe: Recipe, tmp_path: Path, medarts: Any) -> None:
    run = search.start(
        random_of(recipe, "seed=2", "search.select.norms=[group, batch]", "search.select.rungs=[1]"), tmp_path / "run"
    )
    found: list[Candidate] = read_candidates(run)
    assert {each.norm for each in found} == {"group", "batch"}
    norm = run.read_json("summary.json")["norm"]
    for each in found:
        folder = trainings.folder_of_candidate(run, each.name)
        assert RunDirectory.open(folder).recipe.train.norm == each.norm
    status, _, errors = medarts("train", run.path, "train.epochs=1", "--out", "trained")
    assert (status, RunDirectory(Path("trained")).recipe.train.norm) == (0, norm), errors
