"""What a comparison found, and the files it is kept in."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medarts.comparison.arrays import read_arrays, write_arrays
from medarts.comparison.candidates import Kind
from medarts.comparison.controls import Control
from medarts.comparison.overlays import Overlays
from medarts.comparison.paired import Difference
from medarts.comparison.pairs import Pairs
from medarts.config import Task
from medarts.data.manifest import Part
from medarts.errors import RunError
from medarts.evaluation.files import csv_text
from medarts.system.files import open_table, read_whole, write_whole

_IMAGE_COLUMNS = ("domain", "key", "patient")


@dataclass(frozen=True, slots=True)
class Missing:
    """A run that should have been compared and is not there.

    Attributes:
        name: of its network.
        seed: its seed.
        state: what became of it.
        reason: why, where that is known.
    """

    name: str
    seed: int
    state: Literal["failed", "unfinished", "not begun"]
    reason: str


@dataclass(frozen=True, slots=True)
class MetricScore:
    """A metric of one network; None where undefined.

    Attributes:
        mean: over the seeds.
        low: lower end of its interval over patients.
        high: upper end.
        by_seed: of every seed alone.
        undefined: values left out of the mean.
    """

    mean: float | None
    low: float | None
    high: float | None
    by_seed: tuple[float | None, ...]
    undefined: int


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """What was found of one network.

    Attributes:
        name: of the network.
        kind: where it comes from.
        began_from: name of the file of trained weights that its training began from; None where it began from scratch.
        seeds: it was trained with.
        runs: folders of its runs, one a seed.
        scores: by metric.
        difference: of its main score to that of the reference, over the seeds that both have; None for the reference,
            and where they have none in common.
        parameters: trainable parameters.
        flops: floating point operations for one image.
        latency_ms: milliseconds for one image, median of the passes, by threads of the CPU.
        latency_spread_ms: interquartile range of the passes, by threads.
        memory_mb: peak memory of inference of one image.
        training_seconds: of a run, mean over the seeds.
        front: whether it is on the Pareto front of main score and latency on one thread; see ``comparison.front``.
    """

    name: str
    kind: Kind
    began_from: str | None
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    scores: dict[str, MetricScore]
    difference: Difference | None
    parameters: int
    flops: int
    latency_ms: dict[int, float]
    latency_spread_ms: dict[int, float]
    memory_mb: float
    training_seconds: float
    front: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "NetworkResult":
        """Returns what stands in comparison.json."""
        scores = {
            name: MetricScore(**{**score, "by_seed": tuple(score["by_seed"])})
            for name, score in content["scores"].items()
        }
        changed = {
            "seeds": tuple(content["seeds"]),
            "runs": tuple(content["runs"]),
            "scores": scores,
            "difference": None if content["difference"] is None else Difference(**content["difference"]),
            **{
                name: {int(threads): value for threads, value in content[name].items()}
                for name in ("latency_ms", "latency_spread_ms")
            },
        }
        return cls(**{**content, **changed})

    def as_cells(self) -> dict[str, object]:
        """Returns the network as it stands in networks.csv, by column."""
        cells: dict[str, object] = {"name": self.name, "kind": self.kind, "seeds": " ".join(map(str, self.seeds))}
        for metric, score in self.scores.items():
            cells |= {metric: score.mean, f"{metric}_low": score.low, f"{metric}_high": score.high}
            cells[f"{metric}_undefined"] = score.undefined
        for part in ("mean", "low", "high", "p", "p_corrected"):
            cells[f"difference_{part}"] = None if self.difference is None else getattr(self.difference, part)
        cells |= {"parameters": self.parameters, "flops": self.flops}
        for name in ("latency_ms", "latency_spread_ms"):
            cells |= {f"{name}_{threads}": value for threads, value in getattr(self, name).items()}
        others = ("memory_mb", "training_seconds", "front", "began_from")
        return cells | {name: getattr(self, name) for name in others}


@dataclass(frozen=True, slots=True)
class DifferingImage:
    """An image on which the networks' scores lie far apart.

    Attributes:
        domain: its data set.
        key: its name.
        patient: its patient.
        spread: largest score minus smallest.
        values: score of every network, mean over its seeds.
    """

    domain: str
    key: str
    patient: str
    spread: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """The main score of every network on one image, mean over its seeds, in the order of the networks."""

    domain: str
    key: str
    patient: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Networks side by side on the images of a split.

    Attributes:
        task: what the networks do.
        score: the main score, by which differences are tested.
        split: the split.
        reference: name of the network with which the others are compared.
        planned_reference: name of the one that should have been it and has no finished run; None where there is none.
        domains: data sets of the images.
        images: number of images.
        patients: number of patients.
        size: height and width of the images, in pixels.
        metrics: names of the scores, the main one first.
        test: a sentence on the test and its correction.
        definitions: what the numbers mean.
        machine: where latency and memory were measured.
        networks: what was found of each.
        differing_images: where the networks differ most, the furthest first; masks only.
        missing: runs that should have been compared.
        controls: networks against those drawn at random like them.
        excluded: by data set the classes that no image shows, or the findings that all or none show, which are left
            out of the means.
        pairs: all differences, as they are taken together with those on other data sets.
        image_rows: the main score image by image; masks only.
        overlays: the differing images, in their order; masks only.
    """

    task: Task
    score: str
    split: Part
    reference: str
    domains: tuple[str, ...]
    images: int
    patients: int
    size: int
    metrics: tuple[str, ...]
    test: str
    definitions: dict[str, str]
    machine: dict[str, str | int]
    networks: tuple[NetworkResult, ...]
    planned_reference: str | None = None
    differing_images: tuple[DifferingImage, ...] = ()
    missing: tuple[Missing, ...] = ()
    controls: tuple[Control, ...] = ()
    excluded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=Pairs)
    image_rows: tuple[ImageRow, ...] = ()
    overlays: Overlays | None = None

    @property
    def differences(self) -> dict[str, Difference | None]:
        """The difference of every network but the reference, by name."""
        return {network.name: network.difference for network in self.networks if network.name != self.reference}

    def write(self, folder: Path) -> None:
        """Writes the comparison; undefined values are empty in CSV and null in JSON.

        * ``comparison.json``: all but the last three attributes.
        * ``networks.csv``: the networks as a table.
        * ``images.csv``: the main score of every image, one column a network; masks only.
        * ``overlays.npz``: the attributes of ``Overlays``; only where networks differ on an image.
        * ``pairs.npz``: the differences with their draws and what every patient adds; only where there are some.

        Raises:
            RunError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        cells = [network.as_cells() for network in self.networks]
        write_whole(folder / "networks.csv", csv_text([*cells[0]], (row.values() for row in cells)))
        if self.image_rows:
            names = [network.name for network in self.networks]
            write_whole(folder / "images.csv", csv_text([*_IMAGE_COLUMNS, *names], self._image_cells()))
        if self.overlays is None:
            (folder / "overlays.npz").unlink(missing_ok=True)  # of an earlier comparison
        else:
            write_arrays(folder / "overlays.npz", self.overlays.as_arrays())
        self.pairs.write(folder / "pairs.npz")
        content = asdict(replace(self, image_rows=(), overlays=None, pairs=Pairs()))
        del content["image_rows"], content["overlays"], content["pairs"]
        text = json.dumps(content, indent=1, allow_nan=False)  # in ASCII, as paths need not be UTF-8
        write_whole(folder / "comparison.json", text + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Comparison":
        """Reads what `write` wrote.

        Raises:
            RunError: a file is missing or is not one that `write` wrote.
        """
        try:
            content = json.loads(read_whole(folder / "comparison.json"))
            changed = {
                "domains": tuple(content["domains"]),
                "metrics": tuple(content["metrics"]),
                "networks": tuple(map(NetworkResult.from_json, content["networks"])),
                "differing_images": tuple(DifferingImage(**image) for image in content["differing_images"]),
                "missing": tuple(Missing(**run) for run in content["missing"]),
                "controls": tuple(map(Control.from_json, content["controls"])),
                "excluded": {domain: tuple(names) for domain, names in content["excluded"].items()},
            }
            masks = content["task"] == "segmentation"
            rows = _read_images(folder / "images.csv") if masks else ()
            overlays = _read_overlays(folder / "overlays.npz") if content["differing_images"] else None
            found = cls(**{**content, **changed}, image_rows=rows, overlays=overlays)
            return replace(found, pairs=_read_pairs(folder / "pairs.npz", found))
        except FileNotFoundError as error:
            raise RunError(f"{error.filename} does not exist.", fix="Compare the runs again.") from error
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RunError(f"The comparison in {folder} cannot be read ({reason}).", fix="Compare again.") from error

    def _image_cells(self) -> Iterator[list[object]]:
        for row in self.image_rows:
            yield [row.domain, row.key, row.patient, *row.values]


def _read_images(path: Path) -> tuple[ImageRow, ...]:
    with open_table(path) as file:
        _, *lines = csv.reader(file, strict=True)
    return tuple(ImageRow(domain, key, patient, tuple(map(float, row))) for domain, key, patient, *row in lines)


def _read_overlays(path: Path) -> Overlays:
    arrays = read_arrays(path)
    images, targets, predictions = (arrays[name] for name in ("images", "targets", "predictions"))
    return Overlays(images, targets, predictions, networks=tuple(map(str, arrays["networks"])))


def _read_pairs(path: Path, comparison: Comparison) -> Pairs:
    """Returns the differences of a comparison; none where it has none.

    Raises:
        ValueError: they are those of another one.
    """
    networks = {name for name, difference in comparison.differences.items() if difference is not None}
    controls = {control.network for control in comparison.controls}
    if not networks and not controls:
        return Pairs()
    pairs = Pairs.read(path)
    patients = {pair.patients for of in (pairs.to_reference, pairs.of_controls) for pair in of.values()}
    if ({*pairs.to_reference}, {*pairs.of_controls}, patients) != (networks, controls, {comparison.patients}):
        raise ValueError(f"{path.name} is of another comparison")
    return pairs
