"""Packages: a trained network in one file, for people who have neither its run nor its images.

A package is a ZIP file without compression whose name ends in ``.medarts``:

    package.json         format, and the SHA-256 of the other files
    weights.safetensors  tensors of the network
    model.json           what it expects and gives, a `ModelInfo`
    recipe.yaml          by which it was trained, without paths; with the settings of a baseline
    genotype.json        of a derived network
    structure.json       what was cut away of a pruned one
    ensemble.json        of the networks of all folds
    scores.json          means with intervals
    card.json            the model card, in numbers
    MODEL_CARD.md        the model card, to read
    examples/1.png ...   a few images, where they were asked for

Nothing is unpacked to a disk, nothing in it is code, and only files of these names are read. As nothing is compressed,
no file can be larger than the package.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ValidationError
from safetensors.torch import load as load_tensors

from medarts.config import Recipe, parse
from medarts.config.section import as_before
from medarts.config.yaml_text import YamlError, read_yaml
from medarts.deploy.deployable import Deployable
from medarts.deploy.info import ModelInfo
from medarts.errors import MedartsError, RunError
from medarts.models import Architecture, without_weights
from medarts.models.ensemble import FILE as ENSEMBLE
from medarts.models.ensemble import ensemble_from_json
from medarts.models.pruned import FILE as STRUCTURE
from medarts.models.pruned import pruned_from_json
from medarts.spaces.genotype import Genotype, from_json
from medarts.system.files import read_whole
from medarts.training.trained import TrainedNetwork

ABOUT, WEIGHTS, MODEL, RECIPE = "package.json", "weights.safetensors", "model.json", "recipe.yaml"
GENOTYPE, SCORES, CARD, CARD_TEXT = "genotype.json", "scores.json", "card.json", "MODEL_CARD.md"

FORMAT = 1
"""Raise it when what a package holds changes."""

_NEEDED = (WEIGHTS, MODEL, RECIPE, SCORES, CARD, CARD_TEXT)
_EXAMPLE = re.compile(r"examples/[1-9][0-9]?\.png", re.ASCII)
_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that ZIP knows: equal content gives equal bytes."""

_FIX = "Get the file again from whoever packed it."


class _DamagedError(Exception):
    """What is wrong with the content of a package."""


@dataclass(frozen=True, eq=False)
class Package:
    """A packed network.

    Attributes:
        path: its file.
        trained: recipe, architecture and weights.
        info: what it expects and gives.
        scores: content of scores.json.
        card: content of card.json.
        files: all files by name, except for the weights.
    """

    path: Path
    trained: TrainedNetwork
    info: ModelInfo
    scores: Mapping[str, Any]
    card: Mapping[str, Any]
    files: Mapping[str, bytes]

    def deployable(self, head: str | None = None) -> Deployable:
        """Returns the network with what comes before and after it, in evaluation mode.

        Args:
            head: an earlier head, or "average"; what was fitted to the outputs of the packed one is not used then.

        Raises:
            RunError: there is no such head, or the weights are those of another network.
        """
        network = self.trained.build().eval()
        info = self.info
        named = network.head_named(info.head if head is None else head)
        if named != info.head:
            info = info.model_copy(update={"head": named, "calibration": None})
        return Deployable(network, info).eval()


def package_bytes(files: Mapping[str, bytes]) -> bytes:
    """Returns a package with files by name, and with their digests; equal files give equal bytes.

    Raises:
        ValueError: a package has no file of that name.
    """
    for name in files:
        if not _is_known(name):
            raise ValueError(f"a package has no file {name}")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    about = json.dumps({"format": FORMAT, "sha256": digests}, indent=1).encode() + b"\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {ABOUT: about, **{name: files[name] for name in sorted(files)}}.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # of Unix, on every system
            archive.writestr(entry, content)
    return target.getvalue()


def open_package(path: Path) -> Package:
    """Reads a package.

    Raises:
        RunError: it is missing, damaged, no package, or of another format.
        MedartsError: it has a network, loss or the like that is not registered here.
    """
    try:
        content = read_whole(path, fix=_FIX)
    except FileNotFoundError:
        raise RunError(f"There is no file {path}.", fix="Give a run, or a file of medarts pack.") from None
    return read_package(content, path)


def read_package(content: bytes, path: Path) -> Package:
    """Reads the bytes of a package; ``path`` names it in errors.

    Raises:
        RunError, MedartsError: see `open_package`.
    """
    try:
        files = _files(content, path)
        recipe, info = _recipe(files[RECIPE], path), ModelInfo.model_validate_json(files[MODEL])
        _check_info(info, recipe)
        trained = TrainedNetwork(str(path), recipe, _architecture(files, recipe, path), load_tensors(files[WEIGHTS]))
        scores, card = _mapping(files, SCORES), _mapping(files, CARD)
    except _DamagedError as error:
        raise RunError(f"{path} is damaged or no package of medarts: {error}.", fix=_FIX) from None
    except (ValidationError, safetensors.SafetensorError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path} holds no trained network: {reason}.", fix=_FIX) from None
    others = {name: of for name, of in files.items() if name != WEIGHTS}
    return Package(path, trained, info, scores, card, others)


def _files(content: bytes, path: Path) -> dict[str, bytes]:
    """Returns the files of a package, once they are known to be those that were written."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            _check(entries, names, len(content))
            about = json.loads(archive.read(ABOUT))
            written, digests = about["format"], dict(about["sha256"])
            if written != FORMAT:
                raise RunError(
                    f"{path} has format {written}, but this medarts reads {FORMAT}.",
                    fix="Use the version of medarts that packed it, or have it packed again.",
                )
            files = {name: archive.read(name) for name in names if name != ABOUT}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        raise _DamagedError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    except RecursionError:
        raise _DamagedError(f"{ABOUT} is nested too deeply") from None
    for name in (*_NEEDED, *digests):
        if name not in files:
            raise _DamagedError(f"{name} is missing")
    for name, found in files.items():
        if hashlib.sha256(found).hexdigest() != digests.get(name):
            raise _DamagedError(f"{name} has other bytes than were written")
    return files


def _check(entries: list[zipfile.ZipInfo], names: list[str], size: int) -> None:
    """Refuses an archive that `package_bytes` does not write, before anything of it is read."""
    if ABOUT not in names:
        raise _DamagedError(f"it has no {ABOUT}")
    for entry in entries:
        if not (_is_known(entry.filename) or entry.filename == ABOUT):
            raise _DamagedError(f"it holds {entry.filename[:100]!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise _DamagedError(f"{entry.filename} is compressed or encrypted")
    if len(set(names)) < len(names):
        raise _DamagedError("a file is in it twice")
    if sum(entry.file_size for entry in entries) > size:
        raise _DamagedError("its files are larger than it")


def _is_known(name: str) -> bool:
    return name in (*_NEEDED, GENOTYPE, STRUCTURE, ENSEMBLE) or _EXAMPLE.fullmatch(name) is not None


def _recipe(content: bytes, path: Path) -> Recipe:
    try:
        values = read_yaml(content.decode())
    except YamlError as error:
        raise _DamagedError(f"{RECIPE} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise _DamagedError(f"{RECIPE} holds no keys")
    recipe = parse(as_before(values, Recipe), origin=f"{path}: {RECIPE}")
    # A recipe from elsewhere must not name files of this machine.
    if not all(source.is_in_memory for source in recipe.data.sources) or recipe.data.cache is not None:
        raise _DamagedError(f"{RECIPE} names data on a disk")
    return recipe


def _check_info(info: ModelInfo, recipe: Recipe) -> None:
    """Refuses a description of another network than that of the recipe."""
    data = recipe.data
    for name, said, meant in (
        ("task", info.task, data.task),
        ("in_channels", info.in_channels, data.in_channels),
        ("number of outputs", len(info.outputs), data.outputs),
        ("overlap", info.overlap, data.overlap),
        ("size", info.size, data.size),
        ("resize", info.resize, data.resize),
        ("scale", info.scale, data.scale),
        ("spacing_mm", info.spacing_mm, data.spacing_mm),
        ("context", info.context, data.context),
    ):
        if said != meant:
            raise _DamagedError(f"{MODEL} has the {name} {said}, but {RECIPE} {meant}")


def _architecture(files: Mapping[str, bytes], recipe: Recipe, path: Path) -> Architecture:
    base = recipe.train.model or _genotype(files, path)
    try:
        if ENSEMBLE in files:
            return without_weights(ensemble_from_json(files[ENSEMBLE], base, origin=ENSEMBLE))
        if STRUCTURE in files:
            return without_weights(pruned_from_json(files[STRUCTURE], base, origin=STRUCTURE))
    except RunError as error:
        raise _DamagedError(error.problem.rstrip(".")) from None
    return without_weights(base)


def _genotype(files: Mapping[str, bytes], path: Path) -> Genotype:
    if GENOTYPE not in files:
        raise _DamagedError(f"{GENOTYPE} is missing")
    try:
        return from_json(files[GENOTYPE].decode(), origin=f"{path}: {GENOTYPE}")
    except MedartsError as error:
        raise _DamagedError(error.problem.rstrip(".")) from None


def _mapping(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        content = json.loads(files[name])
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _DamagedError(f"{name} is not a JSON object")
    return content
