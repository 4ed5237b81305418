"""By how much scores differ by chance."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t
from tests.conftest import write_folder_data
from tests.small_runs_of_tests import SMALL, InThisProcess

import medarts as library
from medarts.engine.directory import RunDirectory
from medarts.errors import RecipeError, RunError
from medarts.evaluation.scores import table_of
from medarts.study.comparing import _noise_of
from medarts.study.noise import noise_of, read_noise


def scores(per_patient: np.ndarray) -> pd.DataFrame:
    """Returns the table of a training, one image a patient."""
    return table_of(
        ("set", f"i{n}", f"p{n}", "foreground", "present", "dice", value) for n, value in enumerate(per_patient)
    )


def test_seeds_that_shift_all_patients_alike_count_by_their_spread() -> None:
    patients = np.random.default_rng(0).uniform(0.5, 0.9, 40)
    shifts = np.array([-0.02, 0.0, 0.01, 0.03])
    found = noise_of(
        {seed: scores(patients + shift) for seed, shift in enumerate(shifts)}, network="x", draws=500, seed=0
    )
    (dice,) = found.metrics
    assert dice.between_seeds == pytest.approx(np.std(shifts, ddof=1))
    assert dice.between_patients == pytest.approx(0, abs=1e-12), "the same patients are hard for all"
    expected = t.ppf(0.975, 3) * math.sqrt(2) * dice.between_seeds
    assert dice.smallest[1] == pytest.approx(expected)
    assert dice.smallest[5] == pytest.approx(expected / math.sqrt(5))
    assert (found.patients, found.images, found.seeds) == (40, 40, (0, 1, 2, 3))


def test_patients_on_whom_trainings_disagree_count_where_means_happen_to_agree() -> None:
    generator = np.random.default_rng(1)
    trainings = [generator.normal(0.7, 0.1, 50) for _ in range(2)]
    trainings = [values - values.mean() + 0.7 for values in trainings]
    (dice,) = noise_of(dict(enumerate(map(scores, trainings))), network="x", draws=4000, seed=0).metrics
    standard_error = np.std(trainings[0] - trainings[1], ddof=1) / math.sqrt(50)
    assert dice.between_seeds == pytest.approx(0, abs=1e-12)
    assert dice.between_patients == pytest.approx(standard_error, rel=0.05)
    assert dice.smallest[1] == pytest.approx(t.ppf(0.975, 1) * dice.between_patients)


def test_chance_alone_is_rarely_called_a_difference() -> None:
    """Two further trainings of one recipe differ by more than the limit in about 5 % of cases."""
    generator, above = np.random.default_rng(2), 0
    for _ in range(200):
        means = generator.normal(0, 1, 6)
        limit = t.ppf(0.975, 3) * math.sqrt(2) * np.std(means[:4], ddof=1)
        above += abs(means[4] - means[5]) > limit
    assert 0 < above < 24


def test_a_run_is_trained_again_with_other_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medarts.system.workers.Processes", InThisProcess)
    data = write_folder_data(tmp_path / "data", images=16)
    source = {"kind": "folder", "path": str(data), "name": "blobs"}
    recipe = {**SMALL, "data": {"sources": [source], "size": 16}}
    run = library.train(recipe=recipe, out=tmp_path / "run")
    found = library.noise(run, seeds=1)
    assert found.seeds == (0, 1)
    again = library.noise(run, seeds=2)
    assert again.seeds == (0, 1, 2)
    assert RunDirectory.open(run.path / "noise" / "seed-2").recipe.seed == 2
    kept = read_noise(run)
    assert kept is not None
    assert kept.to_json() == again.to_json()
    compared = type("Compared", (), {"about": {"score": "dice"}})
    candidate = type("Candidate", (), {"name": "unet", "runs": (run,)})
    assert _noise_of([candidate], compared, "test") == [
        {"network": "unet", "trainings": 3, "of_each": 1, "smallest": again.metrics[0].smallest[1]}
    ]
    with pytest.raises(RunError, match="no training of one network from scratch"):
        library.noise(library.train(initial=run, changes="train.epochs=1", out=tmp_path / "tuned"))
    with pytest.raises(RecipeError, match="seeds is 0"):
        library.noise(run, seeds=0)


def test_test_images_that_compare_nothing_are_refused_before_others_are_trained(tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data", images=16)
    tested = [row.split(",")[0] for row in (data / "splits.csv").read_text().splitlines() if row.endswith(",test")]
    for name in tested:
        Image.new("L", (32, 32)).save(data / "masks" / f"{name}.png")
    recipe = {**SMALL, "data": {"sources": [{"kind": "folder", "path": str(data), "name": "blobs"}], "size": 16}}
    run = library.train(recipe=recipe, out=tmp_path / "run")
    with pytest.raises(RunError, match="No image shows a class"):
        library.noise(run, seeds=1)
    assert not (run.path / "noise").exists()
