"""A training run as a model: its network in PyTorch, and what its recipe says of the images."""

import datetime
from collections import Counter

import torch

import medarts
from medarts.config import Recipe, fingerprint
from medarts.config.data import BACKGROUND
from medarts.data.manifest import ReadingRules
from medarts.data.sources import scaling_of
from medarts.deploy.calibration import kept_calibration
from medarts.deploy.deployable import Deployable
from medarts.deploy.info import ModelInfo, Provenance
from medarts.engine.checkpoint import of_weights
from medarts.engine.directory import RunDirectory
from medarts.engine.listing import read_listing
from medarts.errors import DataError, quoted
from medarts.network import Network
from medarts.training.trained import folds_of, is_ensemble, load_network


def deployable_of(
    run: RunDirectory, *, checkpoint: str = "best", domain: str | None = None, head: str | None = None
) -> Deployable:
    """Returns the network of a training run with what comes before and after it, in evaluation mode.

    Args:
        run: the training run.
        checkpoint: "best", by the validation score, or "last".
        domain: the data set whose scaling of intensities is used, where those of the run differ.
        head: an earlier head, or "average". Default: the last.

    Raises:
        RunError: the run has no checkpoint yet, or no such head.
        DataError: the data sets of the run differ in their scaling, and ``domain`` names none of them.
    """
    network = load_network(run, checkpoint).eval()
    info = info_of(run, network, domain=domain, head=network.head_named(head))
    if checkpoint == "best":
        info = info.model_copy(update={"calibration": kept_calibration(run, head=head)})
    return Deployable(network, info).eval()


def info_of(run: RunDirectory, network: Network, *, domain: str | None, head: str) -> ModelInfo:
    """Returns what is known of a run without its images."""
    recipe, data = run.recipe, run.recipe.data
    rules = _rules(recipe, run.facts["network"], domain)
    if data.task == "classification":
        outputs = tuple(data.findings or ())
    else:
        outputs = data.class_names
        if data.outputs > 1 and not data.overlap:
            outputs = ("class 0" if isinstance(data.classes, int) else BACKGROUND, *outputs)
    return ModelInfo(
        name=run.facts["network"],
        task=data.task,
        outputs=outputs,
        overlap=data.overlap,
        in_channels=data.in_channels,
        size=data.size,
        resize=data.resize,
        scale=data.scale,
        spacing_mm=data.spacing_mm,
        context=data.context,
        parts=tuple((folds_of(run)[0] if is_ensemble(run) else run).facts.get("parts", ())),
        head=head,
        window=rules.window,
        percentiles=rules.percentiles,
        threshold=recipe.evaluation.threshold,
        provenance=Provenance(
            medarts=medarts.__version__,
            torch=torch.__version__,
            created=datetime.date.today().isoformat(),
            recipe=fingerprint(recipe),
            weights=of_weights(network.state_dict()),
            architecture=run.facts["network"],
            seed=recipe.seed,
            images=_counts(run),
        ),
    )


def _rules(recipe: Recipe, name: str, domain: str | None) -> ReadingRules:
    """Returns how intensities are scaled: the rules of one data set, or those that all share."""
    rules = {source.domain: scaling_of(source) for source in recipe.data.sources}
    if domain is not None and domain not in rules:
        raise DataError(f"{name} was not trained on {quoted(domain)}.", fix=f"Choose one of {', '.join(rules)}.")
    found = set(rules.values()) if domain is None else {rules[domain]}
    if len(found) > 1:
        raise DataError(
            f"The data sets of {name} differ in their scaling of intensities.",
            fix=f"Give domain, one of {', '.join(rules)}.",
        )
    return found.pop()


def _counts(run: RunDirectory) -> dict[str, dict[str, int]]:
    """Returns how many images of each data set and split a run was trained beside."""
    counts = Counter((domain, about["split"]) for (domain, _), about in read_listing(run.path / "manifest.csv").items())
    found: dict[str, dict[str, int]] = {}
    for (domain, split), number in sorted(counts.items()):
        found.setdefault(domain, {})[split] = number
    if run.recipe.data.is_divided:  # what is tested in one fold is learned from in the others
        found = {domain: {"train": of["test"], **of} for domain, of in found.items()}
    return found
