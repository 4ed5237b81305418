"""Exporting a training run: a file is written once it has been verified on real images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from medarts.data.opening import open_data
from medarts.data.store import ImageStore
from medarts.deploy.deployable import Deployable
from medarts.deploy.engines import Engine, OnnxRuntimeEngine
from medarts.deploy.graphs import TorchArchive, to_onnx, to_torch
from medarts.deploy.info import ModelInfo
from medarts.deploy.package import Package
from medarts.deploy.quantization import quantized, score
from medarts.deploy.reference_images import Example, check_present, observed, of_files, of_run, of_store
from medarts.deploy.runs import deployable_of
from medarts.deploy.verification import TOLERANCE, Verification, verify
from medarts.engine.directory import RunDirectory
from medarts.errors import DataError, RunError
from medarts.network import Network
from medarts.system.console import counted
from medarts.system.files import check_writable, exists, make_folder, write_whole

Form = Literal["onnx", "int8", "torch"]

SUFFIXES: dict[Form, str] = {"onnx": ".onnx", "int8": "-int8.onnx", "torch": ".pt2"}
"""Ends of the names of files."""

ALLOWED_LOSS = 0.01
"""By which the score of validation may fall in int8."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported network.

    Attributes:
        path: the file.
        info: what it expects and gives.
        megabytes: size of the file.
        verification: how far it is from PyTorch; of a network in int8, that of the network in float that it is made of.
        scores: of a network in int8: mean Dice, or mean AUROC, on the validation images, of the network in float and
            in int8.
    """

    path: Path
    info: ModelInfo
    megabytes: float
    verification: Verification
    scores: tuple[float, float] | None = None

    @property
    def summary(self) -> str:
        """Size, differences and scores in a few lines of text."""
        verified, what = self.verification, "pixels" if self.info.task == "segmentation" else "decisions"
        images = counted(verified.images, "image")
        lines = [
            f"{self.megabytes:.1f} MB, verified on {images}: probabilities differ from PyTorch by up "
            f"to {verified.difference:.1e}, {verified.decisions:.4%} of {what} differ."
        ]
        if self.scores is not None:
            in_float, in_int8 = self.scores
            name = "Dice" if self.info.task == "segmentation" else "AUROC"
            lines[0] = f"In float: {lines[0]}"
            lines.append(f"Mean {name} on the validation images: {in_float:.4f} in float, {in_int8:.4f} in int8.")
        return "\n".join(lines)


def export_run(
    run: RunDirectory,
    out: Path | None,
    *,
    form: Form = "onnx",
    checkpoint: str = "best",
    domain: str | None = None,
    head: str | None = None,
    images: Sequence[Path | str] | None = None,
    data: ImageStore | None = None,
    allow_loss: float = ALLOWED_LOSS,
    force: bool = False,
) -> Exported:
    """Writes the network of a training run as one file, after it has been verified.

    Args:
        run: the training run.
        out: the file. Default: in the folder of the run, by the name of the network.
        form: of the file.
        checkpoint: "best", by the validation score, or "last".
        domain: the data set whose scaling of intensities is used, where those of the run differ.
        head: an earlier head, or "average". Default: the last.
        images: files or folders of images to verify it on, instead of the run's own.
        data: images in memory instead of the run's own.
        allow_loss: by how much the score may fall in int8.
        force: replace a file.

    Raises:
        RunError: the run has no checkpoint, or no such head; the file is there, or cannot be written; the exported
            network differs from PyTorch, or loses too much in int8.
        DataError: the images are gone or cannot be read, or the data sets of the run differ in their scaling.
    """
    if form == "int8" and run.recipe.data.is_divided:
        raise RunError(
            f"Int8 needs validation images that no network of {run.path} has learned from, which folds do not leave.",
            fix=f"Export it in float, or one of its networks: {run.path / 'folds' / '1'}.",
        )
    deployable = deployable_of(run, checkpoint=checkpoint, domain=domain, head=head)
    path = _place(run, deployable, form) if out is None else out
    _check_free(path, force=force)
    examples = _examples(run, deployable.info, images, data, domain)
    info = observed(deployable.info, examples)
    deployable = Deployable(deployable.network, info).eval()
    content, engine, verification = verified(deployable, examples, form=form)
    scores = None
    if form == "int8":
        store = _for_validation(run, domain) if data is None else data
        content = quantized(content, info, store)
        in_int8 = OnnxRuntimeEngine(content)
        scores = score(engine, run.recipe, info, store), score(in_int8, run.recipe, info, store)
        _check_loss(scores, info, allow_loss)
    make_folder(path.parent)
    write_whole(path, content)
    return Exported(path, info, len(content) / 1e6, verification, scores)


def export_package(
    package: Package,
    out: Path | None,
    *,
    form: Form = "onnx",
    head: str | None = None,
    images: Sequence[Path | str] | None = None,
    data: ImageStore | None = None,
    force: bool = False,
) -> Exported:
    """Writes the network of a package as one file, after it has been verified on images that are given.

    Args:
        package: the package.
        out: the file. Default: beside the package, by its name.
        form: of the file; "int8" needs the validation images, which a package has not.
        head: see `export_run`.
        images: files or folders of images.
        data: images in memory.
        force: replace a file.

    Raises:
        RunError: see `export_run`; or it is to be in int8.
        DataError: no images are given, or they cannot be read.
    """
    if form == "int8":
        raise RunError(
            "Int8 needs the validation images with their masks or findings, which a package has not.",
            fix="Export its training run (medarts export RUN --int8), or the package in float (--images FOLDER).",
        )
    path = package.path.with_suffix(SUFFIXES[form]) if out is None else out
    _check_free(path, force=force)
    deployable = package.deployable(head)
    content, _, verification = verified(deployable, examples_for(package, images, data), form=form)
    make_folder(path.parent)
    write_whole(path, content)
    return Exported(path, deployable.info, len(content) / 1e6, verification)


def examples_for(package: Package, images: Sequence[Path | str] | None, data: ImageStore | None) -> list[Example]:
    """Returns the images that a package is verified on.

    Raises:
        DataError: none are given.
    """
    if images is not None:
        return of_files(images, package.info)
    if data is None:
        raise DataError(
            f"{package.path} has no images; an exported network is verified on some.",
            fix="Give such images: --images FOLDER (images=FOLDER), or in Python data=(images, targets).",
        )
    return of_store(data, package.info)


def verified(deployable: Deployable, examples: Sequence[Example], *, form: Form) -> tuple[bytes, Engine, Verification]:
    """Returns a network as the content of a file, what runs it, and how far that is from PyTorch.

    Args:
        deployable: the network.
        examples: images that it is verified on.
        form: "torch", or ONNX.

    Raises:
        RunError: it differs from PyTorch.
    """
    engine: Engine
    if form == "torch":
        content = to_torch(deployable)
        engine = TorchArchive(content)
    else:
        content = to_onnx(deployable)
        engine = OnnxRuntimeEngine(content)
    verification = verify(deployable, engine, examples)
    _check(verification)
    return content, engine, verification


def _check_free(path: Path, *, force: bool) -> None:
    if exists(path) and not force:
        raise RunError(f"{path} is there already.", fix="Replace it with --force (force=True), or choose another name.")
    check_writable(path, kind="file")


def _place(run: RunDirectory, deployable: Deployable, form: Form) -> Path:
    """Returns where a network is exported to by default; a head that is not the last is part of the name."""
    info, last = deployable.info, cast(Network, deployable.network).heads[-1]
    head = "" if info.head == last else "-head-" + info.head.replace("/", "-").replace(",", "-")
    return run.path / f"{info.name}{head}{SUFFIXES[form]}"


def _examples(
    run: RunDirectory,
    info: ModelInfo,
    images: Sequence[Path | str] | None,
    data: ImageStore | None,
    domain: str | None,
) -> list[Example]:
    if images is not None:
        return of_files(images, info)
    return of_run(run, domain=domain) if data is None else of_store(data, info)


def _for_validation(run: RunDirectory, domain: str | None) -> ImageStore:
    """Returns the validation images of a run, whose data sets may be narrowed to one."""
    check_present(run)
    settings = run.recipe.data
    if domain is not None:
        settings = settings.model_copy(update={"sources": tuple(s for s in settings.sources if s.domain == domain)})
    return open_data(settings, needs=("val",), threads=run.recipe.compute.threads)


def _check(verification: Verification) -> None:
    """Refuses an exported network that differs from PyTorch.

    Raises:
        RunError: it does.
    """
    if verification.difference > TOLERANCE:
        raise RunError(
            f"The exported network differs from PyTorch by up to {verification.difference:.1e} in its probabilities, "
            f"in {verification.decisions:.2%} of its decisions; nothing was written.",
            fix="Update onnxruntime and torch. If it persists, report it with the architecture of the run.",
        )


def _check_loss(scores: tuple[float, float], info: ModelInfo, allowed: float) -> None:
    """Refuses a network that loses too much in int8.

    Raises:
        RunError: it does.
    """
    (in_float, in_int8), name = scores, "Dice" if info.task == "segmentation" else "AUROC"
    if not in_float - in_int8 <= allowed:
        raise RunError(
            f"In int8 the mean {name} on the validation images falls from {in_float:.4f} to {in_int8:.4f}; at most "
            f"{allowed:g} is allowed, so nothing was written.",
            fix="Export it in float, or allow more: --allow-loss (allow_loss).",
        )
