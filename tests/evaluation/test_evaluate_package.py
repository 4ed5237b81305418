"""Scores of a packed network: those that its run gets on the same images, by the thresholds that were packed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.small_runs_of_tests import GREY, LABELS, SMALL, of_findings

import medarts as library
from medarts.deploy.package import open_package
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, MedartsError, RunError
from medarts.evaluation.scores import Scores

OTHER = np.random.default_rng(1).integers(0, 256, (6, 32, 32)).astype(np.uint8)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = library.train(None, SMALL, data=(GREY, GREY > 128), out=tmp_path_factory.mktemp("masks") / "run")
    library.evaluate(run, data=(GREY, GREY > 128))
    library.pack(run)
    return run


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = of_findings(tmp_path_factory.mktemp("findings") / "run", auxiliary=False)
    library.pack(run)
    return run


def packed(run: RunDirectory) -> Path:
    return run.path.with_name("run.medarts")


def test_masks_get_the_scores_of_the_run(masks: RunDirectory) -> None:
    data = library.from_arrays(OTHER, OTHER > 100, name="elsewhere")
    found, wanted = (library.evaluate(of, data=data, split="all") for of in (packed(masks), masks))
    pd.testing.assert_frame_equal(found.table, wanted.table)
    assert found.made_of == wanted.made_of
    (folder,) = masks.path.with_name("run-scores").iterdir()
    assert folder.name.startswith("all-elsewhere-")
    pd.testing.assert_frame_equal(Scores.read(folder).table, wanted.table)


def test_decisions_are_by_the_calibration_that_was_packed(masks: RunDirectory) -> None:
    package = open_package(packed(masks))
    assert package.info.calibration is not None
    assert package.info.calibration.thresholds["validation"]["foreground"] is not None
    found = library.evaluate(packed(masks), data=(GREY, GREY > 128), heads=True)
    wanted = library.evaluate(masks, data=(GREY, GREY > 128), heads=True)
    assert found.decisions is not None
    assert wanted.decisions is not None
    pd.testing.assert_frame_equal(found.decisions, wanted.decisions)


def test_findings_are_scored_by_the_thresholds_that_were_packed(findings: RunDirectory) -> None:
    found, wanted = (library.evaluate(of, data=(GREY, LABELS), split="all") for of in (packed(findings), findings))
    pd.testing.assert_frame_equal(found.table, wanted.table)
    assert found.summary is not None
    assert wanted.summary is not None
    pd.testing.assert_frame_equal(found.summary, wanted.summary)
    with pytest.raises(RunError, match="for masks alone"):
        library.evaluate(packed(findings), data=(GREY, LABELS), flip=True)


def test_a_folder_of_images_is_scored(masks: RunDirectory, folder_data: Path) -> None:
    found = library.evaluate(packed(masks), data=str(folder_data), split="test")
    wanted = library.evaluate(masks, data=str(folder_data), split="test")
    pd.testing.assert_frame_equal(found.table, wanted.table)


def test_images_are_needed_and_must_fit(masks: RunDirectory, findings: RunDirectory) -> None:
    with pytest.raises(DataError, match=r"run\.medarts has no images to score it on\. Give data"):
        library.evaluate(packed(masks))
    with pytest.raises(MedartsError, match=r"findings|classification"):
        library.evaluate(packed(masks), data=(GREY, LABELS))
    with pytest.raises(DataError, match=r"in_channels 3, but the network of .*run\.medarts was trained with 1"):
        library.evaluate(packed(masks), data=(np.repeat(GREY[..., None], 3, -1), GREY > 128))
    with pytest.raises(RunError, match="no head 'first'"):
        library.evaluate(packed(masks), data=(GREY, GREY > 128), head="first")
