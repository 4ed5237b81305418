"""A comparison from start to end: what may be compared is checked first, then scored, measured and put together."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medarts.comparison.candidates import Candidate, check_comparable, training_seconds
from medarts.comparison.controls import Control, Likes, controls_of
from medarts.comparison.costs import costs_of
from medarts.comparison.findings import FindingMeasures
from medarts.comparison.front import Place, pareto_front
from medarts.comparison.masks import MaskMeasures
from medarts.comparison.overlays import most_differing, predict_overlays
from medarts.comparison.paired import Difference, Measured
from medarts.comparison.pairs import Pairs
from medarts.comparison.pooled import differences_of
from medarts.comparison.result import Comparison, DifferingImage, ImageRow, MetricScore, Missing, NetworkResult
from medarts.comparison.scored import AnyScores, scores_of_all
from medarts.comparison.words import definitions, name_test
from medarts.config import ComputeSettings
from medarts.data.manifest import Part
from medarts.engine.device import environment, make_fabric, preserved_process_state
from medarts.engine.directory import RunDirectory
from medarts.errors import RunError, did_you_mean
from medarts.evaluation.findings import FindingScores
from medarts.evaluation.mask_scores import Scores, number
from medarts.profiling.cost import Cost

__all__ = ["Comparison", "Missing", "compare"]


@preserved_process_state()
def compare(
    candidates: Sequence[Candidate],
    *,
    reference: str | None = None,
    split: Part = "test",
    missing: Sequence[Missing] = (),
    controls: Likes | None = None,
    scores: Mapping[RunDirectory, AnyScores] | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Comparison:
    """Compares networks that were trained by one recipe, on the images of a split.

    Scores that the runs have are taken where they still hold, others are made. With several seeds a value of an image
    is its mean over the seeds; differences are over the seeds that a network and the reference both have.

    Args:
        candidates: the networks, with unique names; one alone is measured and compared with none.
        reference: name of the network from which the others are told apart. The first where None, and where the network
            of that name is one of the missing, which the comparison then says.
        split: the images.
        missing: runs that should have been compared; where there are some, the seeds of the networks may differ.
        controls: networks with those drawn at random like them; what is not among the candidates is passed over.
        scores: of all runs on these images, where they have been read already.
        costs: of all networks by name, where they were measured already; else they are measured now, in turns.

    Raises:
        RunError: the runs may not be compared, or there is no such reference.
        MedartsError: a run cannot be evaluated or a network not be measured.
    """
    main = _reference(candidates, reference, missing)
    check_comparable(candidates, same_seeds=not missing)
    names = [candidate.name for candidate in candidates]
    measures = _measures(candidates, scores or scores_of_all(candidates, split))
    found = _found(names, measures, reference=main, likes=controls or {}, missing=missing)
    differing = _differing_images(names, measures) if isinstance(measures, MaskMeasures) else ()
    data, evaluation = candidates[0].recipes[0].data, candidates[0].recipes[0].evaluation
    return Comparison(
        task=data.task,
        score=measures.metrics[0],
        split=split,
        reference=main,
        planned_reference=None if reference in (None, main) else reference,
        domains=measures.domains,
        images=len(measures.images),
        patients=measures.people,
        size=data.size,
        metrics=measures.metrics,
        test=name_test(data.task, found.differences, reference=main, patients=measures.people),
        definitions=definitions(data.task, evaluation, size=data.size, reference=main, controls=bool(found.controls)),
        machine=_machine(),
        networks=_networks(candidates, measures, costs or costs_of(candidates), found.differences),
        differing_images=differing,
        missing=tuple(missing),
        controls=found.controls,
        excluded=measures.excluded,
        pairs=found.pairs,
        image_rows=_image_rows(names, measures) if isinstance(measures, MaskMeasures) else (),
        overlays=predict_overlays(candidates, [(image.domain, image.key) for image in differing], split=split),
    )


def _reference(candidates: Sequence[Candidate], wanted: str | None, missing: Sequence[Missing]) -> str:
    """Returns the name of the network with which the others are compared.

    Raises:
        RunError: there is no network, or none of the wanted name, missing or not.
    """
    names = [candidate.name for candidate in candidates]
    if not names:
        raise RunError("There is no run to compare.", fix="Give training runs, or wait until one has finished.")
    if wanted is None or wanted in names:
        return wanted or names[0]
    if wanted not in {run.name for run in missing}:
        raise RunError(f"There is no network '{wanted}' to compare with.", fix=did_you_mean(wanted, names))
    return names[0]


def _measures(
    candidates: Sequence[Candidate], of_runs: Mapping[RunDirectory, AnyScores]
) -> MaskMeasures | FindingMeasures:
    scores = {candidate.name: [of_runs[run] for run in candidate.runs] for candidate in candidates}
    draws = candidates[0].recipes[0].evaluation.bootstrap
    seeds = {candidate.name: candidate.seeds for candidate in candidates}
    lowest = min(map(min, seeds.values()))
    masks = {name: [one for one in of if isinstance(one, Scores)] for name, of in scores.items()}
    if all(masks.values()):
        return MaskMeasures(masks, draws=draws, seed=lowest, seeds=seeds)
    findings = {name: [one for one in of if isinstance(one, FindingScores)] for name, of in scores.items()}
    return FindingMeasures(findings, draws=draws, seed=lowest, seeds=seeds)


class _Found(NamedTuple):
    """All differences of a comparison.

    Attributes:
        differences: of every network but the reference, by name.
        controls: of networks to those drawn at random like them.
        pairs: the same differences, as they are kept.
    """

    differences: dict[str, Difference | None]
    controls: tuple[Control, ...]
    pairs: Pairs


def _found(
    names: Sequence[str],
    measures: MaskMeasures | FindingMeasures,
    *,
    reference: str,
    likes: Likes,
    missing: Sequence[Missing],
) -> _Found:
    pairs = {name: measures.paired(name, reference) for name in names if name != reference}
    planned = {*names, *(run.name for run in missing)}
    controls, of_controls = controls_of(
        likes, trained=names, planned=planned, paired=measures.paired, seed=measures.seed
    )
    kept = Pairs({name: pair for name, pair in pairs.items() if pair is not None}, of_controls)
    return _Found(differences_of(pairs, seed=measures.seed), controls, kept)


def _networks(
    candidates: Sequence[Candidate],
    measures: MaskMeasures | FindingMeasures,
    costs: Mapping[str, Cost],
    found: Mapping[str, Difference | None],
) -> tuple[NetworkResult, ...]:
    scores = {candidate.name: measures.measured(candidate.name) for candidate in candidates}
    timings = {name: {timing.threads: timing for timing in costs[name].timings} for name in scores}
    front = pareto_front(
        {
            name: Place(of[measures.metrics[0]].mean, timings[name][1].median_ms, timings[name][1].spread_ms)
            for name, of in scores.items()
        }
    )
    return tuple(
        NetworkResult(
            name=candidate.name,
            kind=candidate.kind,
            began_from=candidate.began_from,
            seeds=candidate.seeds,
            runs=tuple(str(run.path) for run in candidate.runs),
            scores={metric: _score(of) for metric, of in scores[candidate.name].items()},
            difference=found.get(candidate.name),
            parameters=costs[candidate.name].parameters,
            flops=costs[candidate.name].flops,
            latency_ms={threads: timing.median_ms for threads, timing in timings[candidate.name].items()},
            latency_spread_ms={threads: timing.spread_ms for threads, timing in timings[candidate.name].items()},
            memory_mb=costs[candidate.name].memory_mb[1],
            training_seconds=statistics.mean(map(training_seconds, candidate.runs)),
            front=candidate.name in front,
        )
        for candidate in candidates
    )


def _score(measured: Measured) -> MetricScore:
    low, high = measured.interval()
    by_seed = tuple(number(value) for value in measured.by_seed)
    return MetricScore(number(measured.mean), low, high, by_seed=by_seed, undefined=measured.undefined)


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
