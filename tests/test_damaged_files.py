"""Whatever happens to a file of a finished run: the result is right, or one error names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import write_folder_data

from medarts import api
from medarts.comparison.candidates import group_runs, read_files
from medarts.config import parse
from medarts.errors import MedartsError
from medarts.evaluation.evaluate import current_scores
from medarts.models.pruned import Pruned
from medarts.models.unet import UNetSettings
from medarts.network.structure import Structure
from medarts.reporting.page import write_report
from medarts.training.trainer import start_training


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "removed": None,
    "cut": lambda content: content[: len(content) // 2],
    "a flipped bit": flipped,
    "an object": lambda content: b"{}",
}
MADE_AGAIN = ("report.html", "cost.json", "scores")
"""What a run holds beside what it is made of."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and scored training run of a pruned network."""
    root = tmp_path_factory.mktemp("whole")
    data = write_folder_data(root / "blobs", images=16, size=16)
    recipe = parse(
        {
            "data": {
                "sources": [{"kind": "folder", "path": str(data), "name": "blobs"}],
                "size": 16,
                "cache": str(root / "cache"),
            },
            "train": {"epochs": 1, "batch": 4},
            "evaluation": {"batch": 4, "bootstrap": 100},
            "compute": {"device": "cpu", "threads": 1},
        }
    )
    layers = {"encoder.0.0.conv": {"out": 1}, "encoder.0.0.norm": {"channels": 1}, "encoder.0.1.conv": {"in": 1}}
    pruned = Pruned("unet-l1-50", UNetSettings(width=2, depth=2), Structure(layers=layers))
    run = start_training(recipe, pruned, root / "run")
    api.evaluate(run)
    api.report(run)
    return run.path


def report(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def evaluate(run: Path) -> str:
    return api.evaluate(run).table.to_csv()


def compare(run: Path) -> str:
    (candidate,) = group_runs([run])
    read_files(candidate.runs[0])
    return current_scores(candidate.runs[0], "test").to_csv()


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not written, which takes most of the time of a page."""
    for name in ("style.inline_svg", "scores.inline_svg", "scores.inline_png"):
        monkeypatch.setattr(f"medarts.reporting.{name}", lambda figure, label="": label)


@pytest.mark.parametrize(
    ("use", "damage"),
    [*((report, each) for each in DAMAGE), (evaluate, "cut"), (compare, "a flipped bit"), (compare, "removed")],
)
@pytest.mark.usefixtures("without_pictures")
def test_a_damaged_file_is_named_or_does_no_harm(
    whole: Path,
    tmp_path: Path,
    use: Callable[[Path], str],
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    right = use(run)
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.name != "report.html"):
        inside = path.relative_to(run)
        can_be_made = inside.parts[0] in ("cost.json", "scores")
        if inside.parts[0] == "checkpoints" and use is report:
            continue  # it does not read them
        kept, make = path.read_bytes(), DAMAGE[damage]
        if make is None:
            path.unlink()
        else:
            path.write_bytes(make(kept))
        capsys.readouterr()
        found, error = result_of(use, run)
        said = capsys.readouterr().err
        if error:
            assert path.name in error or path.parent.name in error, inside
            assert not can_be_made, inside
        else:
            assert found == right or (use is report and can_be_made and path.name in said), inside
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kept)


def result_of(use: Callable[[Path], str], run: Path) -> tuple[str, str]:
    """Returns what comes of a run, or the error."""
    try:
        return use(run), ""
    except MedartsError as error:
        return "", str(error)
