"""A comparison from start to end: what may be compared is checked first, then scored, measured and put together."""

import json
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from medarts.comparison.candidates import Candidate, check_comparable
from medarts.comparison.findings import FindingMeasures
from medarts.comparison.front import pareto_front
from medarts.comparison.masks import MaskMeasures
from medarts.comparison.overlays import most_differing, predict_overlays
from medarts.comparison.paired import Measured, differences
from medarts.comparison.result import Comparison, DifferingImage, ImageRow, MetricScore, Missing, NetworkResult
from medarts.comparison.scored import scores_of
from medarts.comparison.words import definitions, name_test
from medarts.data.manifest import Part
from medarts.errors import RunError, did_you_mean
from medarts.evaluation import cost
from medarts.evaluation.cost import Cost
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.scores import Scores, number
from medarts.recipe import ComputeSettings
from medarts.run.device import environment, make_fabric
from medarts.run.directory import RunDirectory
from medarts.run.progress import progress_bar

__all__ = ["Comparison", "Missing", "compare"]


def compare(
    candidates: Sequence[Candidate],
    *,
    reference: str | None = None,
    split: Part = "test",
    missing: Sequence[Missing] = (),
    threads: Sequence[int] = (1, 2),
    repeats: int = 20,
) -> Comparison:
    """Compares networks that were trained by one recipe, on the images of a split.

    Scores that the runs have are taken where they still hold, others are made; costs are measured now, all networks in
    turns. With several seeds a value of an image is its mean over the seeds.

    Args:
        candidates: the networks, with unique names; one alone is measured and compared with none.
        reference: name of the network from which the others are told apart; the first where None.
        split: the images.
        missing: runs that should have been compared; where there are some, the seeds of the networks may differ.
        threads: threads of the CPU by which latency is measured; 1 is always among them.
        repeats: timed passes.

    Raises:
        RunError: the runs may not be compared, or there is no such reference.
        MedartsError: a run cannot be evaluated or a network not be measured.
    """
    names = [candidate.name for candidate in candidates]
    if not names:
        raise RunError("There is no run to compare.", fix="Give training runs, or wait until one has finished.")
    if reference is not None and reference not in names:
        raise RunError(f"There is no network '{reference}' to compare with.", fix=did_you_mean(reference, names))
    check_comparable(candidates, same_seeds=not missing)
    main, recipe = reference if reference is not None else names[0], candidates[0].recipes[0]
    measures = _measures(candidates, split)
    scores = {name: measures.measured(name) for name in names}
    costs = _costs(candidates, threads=sorted({1, *threads}), repeats=repeats)
    differing = _differing_images(names, measures) if isinstance(measures, MaskMeasures) else ()
    people, task, size = measures.people, recipe.data.task, recipe.data.size
    draws, others = recipe.evaluation.bootstrap, len(names) - 1
    return Comparison(
        task=task,
        score=measures.metrics[0],
        split=split,
        reference=main,
        domains=measures.domains,
        images=len(measures.images),
        patients=people,
        size=size,
        metrics=measures.metrics,
        test=name_test(task, reference=main, patients=people, comparisons=others, draws=draws),
        definitions=definitions(task, recipe.evaluation, size=size, reference=main, repeats=repeats),
        machine=_machine(),
        networks=_networks(candidates, scores, costs, p_values=measures.p_values(main), reference=main),
        differing_images=differing,
        missing=tuple(missing),
        image_rows=_image_rows(names, measures) if isinstance(measures, MaskMeasures) else (),
        overlays=predict_overlays(candidates, [(image.domain, image.key) for image in differing], split=split),
    )


def _measures(candidates: Sequence[Candidate], split: Part) -> MaskMeasures | FindingMeasures:
    scores: dict[str, list[Scores | FindingScores]] = {}
    with progress_bar("scores", sum(len(candidate.runs) for candidate in candidates)) as bar:
        for candidate in candidates:
            for run in candidate.runs:
                scores.setdefault(candidate.name, []).append(scores_of(run, split))
                bar.advance()
    draws = candidates[0].recipes[0].evaluation.bootstrap
    seed = min(seed for candidate in candidates for seed in candidate.seeds)
    masks = {name: [one for one in of if isinstance(one, Scores)] for name, of in scores.items()}
    if all(masks.values()):
        return MaskMeasures(masks, draws=draws, seed=seed)
    findings = {name: [one for one in of if isinstance(one, FindingScores)] for name, of in scores.items()}
    return FindingMeasures(findings, draws=draws, seed=seed)


def _costs(candidates: Sequence[Candidate], *, threads: Sequence[int], repeats: int) -> dict[str, Cost]:
    recipe = candidates[0].recipes[0]
    with progress_bar("costs", 0) as bar:
        return cost.measure_costs(
            {candidate.name: candidate.architecture for candidate in candidates},
            in_channels=recipe.data.in_channels,
            outputs=recipe.data.outputs,
            size=recipe.data.size,
            norm=recipe.train.norm,
            threads=threads,
            repeats=repeats,
            progress=bar.reach,
        )


def _networks(
    candidates: Sequence[Candidate],
    scores: Mapping[str, Mapping[str, Measured]],
    costs: Mapping[str, Cost],
    *,
    p_values: Mapping[str, float | None],
    reference: str,
) -> tuple[NetworkResult, ...]:
    main = {name: next(iter(of.values())) for name, of in scores.items()}
    found = differences(main, p_values, reference=reference)
    front = pareto_front({name: (of.mean, costs[name].latency_ms(threads=1)) for name, of in main.items()})
    return tuple(
        NetworkResult(
            name=candidate.name,
            kind=candidate.kind,
            seeds=candidate.seeds,
            runs=tuple(str(run.path) for run in candidate.runs),
            scores={metric: _score(of) for metric, of in scores[candidate.name].items()},
            difference=found.get(candidate.name),
            parameters=measured.parameters,
            flops=measured.flops,
            latency_ms={timing.threads: timing.median_ms for timing in measured.timings},
            memory_mb=measured.memory_mb[1],
            training_seconds=statistics.mean(map(_training_seconds, candidate.runs)),
            front=candidate.name in front,
        )
        for candidate in candidates
        for measured in [costs[candidate.name]]
    )


def _score(measured: Measured) -> MetricScore:
    low, high = measured.interval()
    by_seed = tuple(number(value) for value in measured.by_seed)
    return MetricScore(number(measured.mean), low, high, by_seed=by_seed, undefined=measured.undefined)


def _training_seconds(run: RunDirectory) -> float:
    path = run.path / "timing.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return sum(float(json.loads(line)["seconds"]) for line in lines)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}.", fix="Copy the run again.") from error


def _differing_images(names: Sequence[str], measures: MaskMeasures) -> tuple[DifferingImage, ...]:
    values = {name: measures.values(name)[:, 0] for name in names}
    return tuple(
        DifferingImage(
            *measures.images[position],
            patient=measures.patients[position],
            spread=spread,
            values={name: float(of[position]) for name, of in values.items()},
        )
        for position, spread in most_differing(values, measures.images, measures.patients)
    )


def _image_rows(names: Sequence[str], measures: MaskMeasures) -> tuple[ImageRow, ...]:
    table = np.stack([measures.values(name)[:, 0] for name in names], axis=1).tolist()
    about = zip(measures.images, measures.patients, table, strict=True)
    return tuple(ImageRow(domain, key, patient, tuple(row)) for (domain, key), patient, row in about)


def _machine() -> dict[str, str | int]:
    """Returns what a reader of latencies must know of the machine, which need not be that of the runs."""
    settings = ComputeSettings(device="cpu")
    facts = environment(make_fabric(settings), settings)
    return {name: facts[name] for name in ("processor", "cores", "platform", "python", "torch")}
