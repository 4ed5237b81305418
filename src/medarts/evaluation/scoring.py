"""What a network predicts for every image, scored, with examples for the page and Grad-CAM."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medarts.config import Recipe
from medarts.config.data import IGNORE
from medarts.data.batches import Batches
from medarts.data.manifest import Sample
from medarts.data.reading import MaskState
from medarts.errors import RunError
from medarts.evaluation.deciding import OtherWays
from medarts.evaluation.files import Fingerprints
from medarts.evaluation.grouping import with_groups
from medarts.evaluation.pictures import Picture, Pictures, as_arrays
from medarts.evaluation.scores import Calibration, Scores, image_values, of_images, table_of
from medarts.evaluation.summary import SENSITIVE, YOUDEN, summarized
from medarts.evaluation.truths import Truth, Truths, described
from medarts.evaluation.volumes import Volumes
from medarts.metrics import metrics_of
from medarts.metrics.calibration import fit_temperature, probabilities_of
from medarts.metrics.ranking import threshold_for_sensitivity, threshold_youden
from medarts.network import FindingNetwork
from medarts.system.console import progress_bar

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]

EXAMPLES = ("best", "median", "worst")

WORST, WORST_OF_PATIENT = 12, 3
"""Images of the gallery, and at most of one patient: more would be neighbours, frames of a video or slices."""

_TRUTHS = {MaskState.EMPTY: "empty", MaskState.PRESENT: "present", MaskState.VANISHED: "vanished"}
_OF_LABELS = {0: "empty", 1: "present", IGNORE: "unknown"}


@dataclass(frozen=True)
class Extras:
    """What scores say beside those of single images.

    Attributes:
        groups: of images, by data set and name; images without one are in none.
        by: name of the column that the groups come from; None for the usual one.
        external: data sets of which the network was not trained on any image; None where that is not known.
        worst: images with the worst scores in the gallery of the page; None for `WORST`, of few images a third.
    """

    groups: Mapping[tuple[str, str], str] = field(default_factory=dict)
    by: str | None = None
    external: tuple[str, ...] | None = None
    worst: int | None = None


def score_masks(
    model: nn.Module,
    batches: Batches,
    recipe: Recipe,
    *,
    head: str,
    folder: Path,
    made_of: Fingerprints,
    others: OtherWays,
    extras: Extras,
) -> Scores:
    """Scores the masks that a network predicts, and writes scores and examples.

    Args:
        model: the network as shipped for inference.
        batches: the images; their name is that of the split.
        recipe: classes, threshold, resolution and bootstrap.
        head: the head to use.
        folder: gets the files.
        made_of: of the images, the network's weights and the metrics.
        others: other decisions, heads and passes, which are scored beside.
        extras: groups and the like.
    """
    truths = Truths(batches.store, recipe)
    volumes = Volumes(truths, batches.indices.tolist(), recipe.data.class_names)
    rows: list[tuple[Any, ...]] = []
    of_volumes: list[tuple[Any, ...]] = []
    with progress_bar(f"evaluate {batches.name}", len(batches.indices)) as bar, torch.inference_mode():
        for batch in batches.all():
            probabilities = others.probabilities(batch, model(batch.images, head))
            for place, index in enumerate(batch.indices.tolist()):
                truth = truths.of(index)
                own = {key: truths.at_its_size(index, of[place]).numpy() for key, of in probabilities.items()}
                decided = others.add(own, truth, truths)
                sample = batches.store.manifest.samples[index]
                group = extras.groups.get((sample.domain, sample.key), "")
                of_image = _mask_rows(sample, truths, decided, truth, recipe.data.class_names)
                rows += ((*row, group) for row in of_image)
                of_volumes += ((*row, group) for row in volumes.add(index, decided, truth))
                bar.advance()
    scores = with_groups(
        summarized(
            Scores(
                table=table_of([*rows, *of_volumes]),
                split=batches.name,
                head=head,
                draws=recipe.evaluation.bootstrap,
                seed=recipe.seed,
                made_of=made_of,
                about={**described(recipe.evaluation), "by": extras.by},
                external=extras.external,
            )
        )
    )
    scores = replace(scores, decisions=others.summary(scores))
    chosen = examples_of(scores.table, worst=extras.worst)
    pictures = [] if chosen.empty else mask_examples(model, batches, recipe, chosen, head=head)
    scores.write(folder, examples=as_arrays(pictures) if pictures else None)
    return scores


def _mask_rows(
    sample: Sample, truths: Truths, decided: NDArray[np.uint8], truth: Truth, names: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of an image, of every foreground class and metric."""
    metrics = metrics_of("segmentation")
    for number, (name, state) in enumerate(zip(names, truth.states.tolist(), strict=True)):
        vanished = state == MaskState.VANISHED
        found = truths.scores(decided, truth.stored, number, vanished=vanished, spacing=truth.spacing)
        about = (sample.domain, sample.key, sample.patient, name, _TRUTHS[state])
        for one in metrics:
            unit = truths.unit(one, truth.spacing, axes=2)
            yield *about, one.name, found[one.name], "image", unit


def mask_examples(
    model: nn.Module, batches: Batches, recipe: Recipe, chosen: pd.DataFrame, *, head: str
) -> list[Picture]:
    """Returns images for the report, with their masks and those that a network predicts.

    They are predicted again, so that the predictions of all images need not be kept until the scores are known.

    Args:
        model: the network as shipped for inference.
        batches: images, those that were chosen among them.
        recipe: classes, threshold and resolution.
        chosen: at least one row of `examples_of`.
        head: the head to use.
    """
    names = {*zip(chosen["dataset"], chosen["image"], strict=True)}
    part = batches.store.manifest.where(lambda sample: (sample.domain, sample.key) in names)
    few = Batches(batches.store, part, batch=batches.batch, name=batches.name, device=batches.device)
    pictures = Pictures(batches.store, recipe)
    predicted: dict[int, NDArray[np.uint8]] = {}
    with torch.inference_mode():
        for batch in few.all():
            for index, logits in zip(batch.indices.tolist(), model(batch.images, head), strict=True):
                predicted[index] = pictures.predicted(index, logits)
    samples = batches.store.manifest.samples
    place = {(samples[index].domain, samples[index].key): index for index in predicted}
    rows: Iterable[Any] = chosen.itertuples()
    return [
        Picture(
            pictures.image(index),
            pictures.target(index),
            predicted[index],
            row.title,
            row.dataset,
            bool(row.of_gallery),
            pictures.stretch(index),
        )
        for row in rows
        for index in [place[row.dataset, row.image]]
    ]


def examples_of(table: pd.DataFrame, *, worst: int | None) -> pd.DataFrame:
    """Returns the images that pages show, by their mean Dice over classes: best, median and worst, and the gallery.

    Images of an empty truth are none of them.

    Args:
        table: the long table.
        worst: images of the gallery: the worst of all data sets, of one patient at most `WORST_OF_PATIENT`. None takes
            `WORST`, at most a third of the images: nearly all would be no worst ones.

    Returns:
        dataset, image, title, and of_gallery: whether it is in the gallery.
    """
    table = of_images(table)
    shows = table.loc[table["truth"] != "empty", ["dataset", "image"]].drop_duplicates()
    values = image_values(table[table["metric"] == "dice"]).merge(shows, on=["dataset", "image"])
    values = values[values["value"].notna()]
    rows: list[tuple[str, str, str, bool]] = []

    def add(title: str, of: pd.Series, *, of_gallery: bool) -> None:
        words = [of["dataset"], *([title] if title else []), of["image"], f"Dice {of['value']:.3f}"]
        rows.append((of["dataset"], of["image"], " · ".join(map(str, words)), of_gallery))

    for _, of_set in values.sort_values("dataset", kind="stable").groupby("dataset"):
        ranked = of_set.sort_values(["value", "image"], ascending=[False, True])
        for title, place in zip(EXAMPLES, (0, len(ranked) // 2, -1), strict=True):
            add(title, ranked.iloc[place], of_gallery=False)
    ranked = values.sort_values(["value", "dataset", "image"])
    most = min(WORST, -(-len(ranked) // 3)) if worst is None else worst
    for _, of in ranked.groupby(["dataset", "patient"], sort=False).head(WORST_OF_PATIENT).head(most).iterrows():
        add("", of, of_gallery=True)
    return pd.DataFrame(rows, columns=["dataset", "image", "title", "of_gallery"])


def score_findings(
    network: FindingNetwork,
    batches: Batches,
    recipe: Recipe,
    *,
    validation: Batches | Calibration,
    folder: Path,
    made_of: Fingerprints,
    extras: Extras,
) -> Scores:
    """Scores the findings that a network predicts, and writes scores and examples.

    Args:
        network: the network.
        batches: the images to score; their name is that of the split.
        recipe: bootstrap and sensitivity.
        validation: images by which thresholds and temperature are chosen, or what was chosen before.
        folder: gets the files.
        made_of: of all of these images, the network's weights and the metrics.
        extras: groups and the like.
    """
    network.eval()
    findings = batches.store.manifest.findings
    logits, labels = predict_findings(network, batches, recipe)
    if isinstance(validation, Calibration):
        calibration = validation
    else:
        of_validation = predict_findings(network, validation, recipe)
        calibration = calibrate(*of_validation, findings=findings, sensitivity=recipe.evaluation.sensitivity)
    about = [(sample.domain, sample.key, sample.patient) for sample in _samples(batches)]
    table = finding_table(about, findings, logits, labels, temperature=calibration.temperature)
    groups = [extras.groups.get(name, "") for name in zip(table["dataset"], table["image"], strict=True)]
    scores = with_groups(
        summarized(
            Scores(
                table=table.assign(group=groups),
                split=batches.name,
                draws=recipe.evaluation.bootstrap,
                seed=recipe.seed,
                made_of=made_of,
                calibration=calibration,
                about={"by": extras.by},
                external=extras.external,
            )
        )
    )
    probabilities = probabilities_of(logits, calibration.temperature)
    scores.write(folder, examples=_finding_examples(network, batches, labels, probabilities))
    return scores


def finding_table(
    images: Sequence[tuple[str, str, str]],
    findings: Sequence[str],
    logits: Floats,
    labels: Labels,
    *,
    temperature: float,
) -> pd.DataFrame:
    """Returns the long table of predicted findings.

    Args:
        images: data set, name and patient of every image.
        findings: names of the network's outputs.
        logits: (N, F), finite.
        labels: (N, F), 0 or 1, or `IGNORE`.
        temperature: divides the logits before the sigmoid.

    Raises:
        RunError: a logit is not finite.
    """
    broken = int((~np.isfinite(logits)).any(1).sum())
    if broken:
        raise RunError(
            f"The network's outputs for {broken} of {len(images)} images are not finite.",
            fix="Evaluate it in fp32, or train it again with a smaller learning rate.",
        )
    known = np.where(labels == IGNORE, np.nan, labels)
    values = np.stack([known, logits, probabilities_of(logits, temperature)], axis=-1)
    return table_of(
        (*image, finding, _OF_LABELS[int(labels[row, f])], metric, value)
        for row, image in enumerate(images)
        for f, finding in enumerate(findings)
        for metric, value in zip(("label", "logit", "probability"), values[row, f].tolist(), strict=True)
    )


def calibrate(logits: Floats, labels: Labels, *, findings: Sequence[str], sensitivity: float) -> Calibration:
    """Chooses temperature and thresholds on validation images.

    Args:
        logits: of the validation images (N, F).
        labels: (N, F), 0 or 1, or `IGNORE`.
        findings: names of the network's outputs.
        sensitivity: what the second threshold of every finding is to reach, above 0, at most 1.
    """
    known = labels != IGNORE
    temperature = fit_temperature(logits[known], labels[known])
    probabilities = probabilities_of(logits, temperature)
    thresholds: dict[str, dict[str, float | None]] = {YOUDEN: {}, SENSITIVE: {}}
    without = {}
    for f, name in enumerate(findings):
        column = (probabilities[known[:, f], f], truth := labels[known[:, f], f])
        if truth.any() and not truth.all():
            thresholds[YOUDEN][name] = threshold_youden(*column)
            thresholds[SENSITIVE][name] = threshold_for_sensitivity(*column, sensitivity)
        else:
            thresholds[YOUDEN][name] = thresholds[SENSITIVE][name] = None
            without[name] = (
                f"no {'negatives' if truth.any() else 'positives' if len(truth) else 'labels'} in validation"
            )
    return Calibration(temperature, sensitivity, thresholds, without)


def predict_findings(network: FindingNetwork, batches: Batches, recipe: Recipe) -> tuple[Floats, Labels]:
    """Returns logits and labels of all images, both (N, F), in their order, by a network in evaluation mode."""
    logits = []
    dtype = torch.bfloat16 if recipe.compute.precision == "bf16" else None
    device = batches.device.type
    with (
        progress_bar(f"evaluate {batches.name}", len(batches.indices)) as bar,
        torch.inference_mode(),
        torch.autocast(device, dtype=dtype, enabled=dtype is not None),
    ):
        for batch in batches.all():
            logits.append(network(batch.images).float().cpu().numpy())
            bar.advance(len(batch.images))
    labels = np.asarray(batches.store.targets[batches.indices], dtype=np.uint8)
    return np.concatenate(logits).astype(np.float64), labels


def _samples(batches: Batches) -> list[Any]:
    return [batches.store.manifest.samples[index] for index in batches.indices]


def _finding_examples(
    network: FindingNetwork, batches: Batches, labels: Labels, probabilities: Floats
) -> dict[str, NDArray[Any]] | None:
    """Returns an image of every finding with the places that speak for it; None where no image shows a finding.

    The image is the one that shows least else, the first of these by name: the same for every network.
    """
    keys, findings = [sample.key for sample in _samples(batches)], batches.store.manifest.findings
    rows: list[int] = []
    shown: list[int] = []
    for finding in range(labels.shape[1]):
        having = np.flatnonzero(labels[:, finding] == 1).tolist()
        if having:
            rows.append(min(having, key=lambda row: ((labels[row] == 1).sum(), keys[row])))
            shown.append(finding)
    if not rows:
        return None
    images = torch.from_numpy(batches.store.images[batches.indices[rows]]).to(batches.device).float()
    maps = torch.cat([grad_cam(network, images[at : at + 1], [finding]) for at, finding in enumerate(shown)])
    titles = [
        f"{findings[finding]} · {keys[row]} · probability {probabilities[row, finding]:.2f}"
        for row, finding in zip(rows, shown, strict=True)
    ]
    return {
        "images": images.cpu().numpy().transpose(0, 2, 3, 1),
        "maps": maps.cpu().numpy(),
        "titles": np.asarray(titles),
    }


def grad_cam(network: FindingNetwork, images_bchw: Tensor, finding: Sequence[int]) -> Tensor:
    """Returns how much every place of an image speaks for a finding, by Grad-CAM.

    Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017
    (arXiv:1610.02391): the last feature maps, each weighted by the spatial mean of the logit's gradient with respect
    to it, are summed, rectified and enlarged bilinearly to the size of the image.

    The network is run in evaluation mode; the modes of its modules and the gradients of its parameters are afterwards
    what they were before. The caller may have gradients switched off.

    Args:
        network: on the device of the images.
        images_bchw: images as the network takes them, 0..1.
        finding: for every image the index of a finding.

    Returns:
        Maps (B, H, W) of the images' size, each divided by its maximum: 0..1. A map is zero where nothing in the image
        speaks for the finding.

    Raises:
        ValueError: there are not as many findings as images.
        IndexError: the network has no finding of an index.
    """
    if len(finding) != len(images_bchw):
        raise ValueError(f"{len(finding)} findings for {len(images_bchw)} images")
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode(False):
            with torch.no_grad():
                maps = network.features(images_bchw)
            gradients = _gradients(network, maps, finding).to(images_bchw.dtype)
    finally:
        for module, training in modes:
            module.training = training
    weights = gradients.mean((2, 3), keepdim=True)
    evidence = (weights * maps).sum(1, keepdim=True).relu()
    large = F.interpolate(evidence, size=images_bchw.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return large / torch.where(highest > 0, highest, 1)


def _gradients(network: FindingNetwork, maps_bchw: Tensor, finding: Sequence[int]) -> Tensor:
    """Returns the gradient of every image's logit of its finding with respect to its feature maps."""
    with torch.enable_grad():
        maps = maps_bchw.detach().requires_grad_()
        logits = network.classify(maps)
        chosen = logits[torch.arange(len(finding)), list(finding)]
        return torch.autograd.grad(chosen.sum(), maps)[0]
