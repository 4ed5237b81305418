"""The page of a generalization: the verdict, the heat maps, and all of their numbers as tables that sort."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medarts.comparison.result import MetricScore
from medarts.reporting.comparison_points import KINDS
from medarts.reporting.content import Content, card
from medarts.reporting.generalization_plots import HeatCell, HeatRow, Scale, plot_heat_map
from medarts.reporting.generalization_tables import contrast_table, retrained_table, trained_table
from medarts.reporting.style import inline_svg
from medarts.reporting.templates import render
from medarts.study.generalization import (
    Claim,
    Domain,
    Generalization,
    MissingTest,
    RetrainedRow,
    Trained,
    TrainedRow,
)
from medarts.study.words import TITLES, excluded_of, means_words, missing_of
from medarts.system.files import write_whole

_OPEN = 3
"""Heat maps of trained networks that are unfolded when the page opens."""

_FRAMES = {"own": "solid", "part of the mix": "dashed"}


def write_generalization(found: Generalization, target: Path, *, title: str) -> Path:
    """Writes the page of a generalization; it opens offline.

    Args:
        found: what was found.
        target: the HTML file.
        title: of the page.

    Returns:
        The file written.

    Raises:
        RunError: the page cannot be written.
    """
    score = TITLES[found.task]
    content = {
        "title": title,
        "note": found.note,
        "score": score,
        "cards": _cards(found),
        "claims": [_claim(claim, score) for claim in found.claims],
        "retrained": _retrained(found, score),
        "trained": _trained(found, score),
        "domains": found.domains,
        "excluded": excluded_of(found),
        "groups": found.groups,
        "missing": missing_of(found),
        "untested": _untested(found.untested),
        "definitions": found.definitions,
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, render("generalization.html", content))
    return target


def _cards(found: Generalization) -> list[Content]:
    images = sum(domain.images for domain in found.domains)
    external = sum(domain.external for domain in found.domains)
    sets = f"data sets, {external} of them external" if external else "data sets"
    cards = [
        card("networks", str(len(found.networks))),
        card(sets, str(len(found.domains))),
        card("images tested on", f"{images:,}"),
    ]
    return cards + [
        card(f"{claim.about} on several sets", claim.verdict or ("not yet" if claim.planned else "not in the study"))
        for claim in found.claims
    ]


def _untested(tests: Sequence[MissingTest]) -> list[Content]:
    """Returns the tests that could not be made, those of one data set and reason together."""
    runs: dict[tuple[str, str], list[str]] = {}
    for test in tests:
        name = f"{test.network} trained on {test.group}, seed {test.seed}"
        runs.setdefault((test.domain, test.reason), []).append(name)
    return [{"domain": domain, "reason": reason, "runs": of} for (domain, reason), of in runs.items()]


def _claim(claim: Claim, score: str) -> Content:
    head, *others = claim.words
    return {
        "head": head,
        "words": others,
        "table": contrast_table(claim, score) if claim.contrasts else None,
    }


def _retrained(found: Generalization, score: str) -> Content | None:
    """Returns the matrix of networks against the data sets that they are retrained on; None where it is empty."""
    matrix = found.retrained
    if not any(cell is not None for row in matrix.rows for cell in row.cells.values()):
        return None
    middles = {group: _median(row.cells[group] for row in matrix.rows) for group in matrix.groups}
    ordered = sorted(matrix.rows, key=_place)
    rows = [_retrained_row(found, row, middles) for row in ordered]
    scale = Scale.around_zero(
        f"{score} minus the median of the column",
        [cell.shade for row in rows for cell in row.cells if cell.shade is not None],
    )
    columns = [*matrix.groups, *(["mean", "mean rank"] if matrix.shared else [])]
    figure = plot_heat_map(rows, columns, scale, title="trained and tested on", apart=2 * bool(matrix.shared))
    return {
        "svg": inline_svg(figure, f"{score} of every network, trained and tested on one data set after another"),
        "table": retrained_table(found, ordered, score),
        "means": means_words(matrix),
    }


def _place(row: RetrainedRow) -> float:
    return np.inf if row.mean is None or row.mean.mean is None else -row.mean.mean


def _median(cells: Iterable[MetricScore | None]) -> float:
    present = [cell.mean for cell in cells if cell is not None and cell.mean is not None]
    return float(np.median(present)) if present else 0.0


def _retrained_row(found: Generalization, row: RetrainedRow, middles: dict[str, float]) -> HeatRow:
    network = next(network for network in found.networks if network.name == row.network)
    alone = {group.name: group.domains[0] for group in found.groups}
    cells = []
    for group, score in row.cells.items():
        shade = None if score is None or score.mean is None else score.mean - middles[group]
        frame = "solid" if alone[group] in network.searched_on else None
        cells.append(_heat_cell(score, shade=shade, frame=frame, hatched=group in row.planned))
    if found.retrained.shared:
        cells += [_heat_cell(row.mean, hatched=False), HeatCell("" if row.rank is None else f"{row.rank:.1f}")]
    below = f"searched on {', '.join(network.searched_on)}" if network.searched_on else network.kind
    return HeatRow(row.network, below, cells, strong=bool(network.searched_on))


def _heat_cell(
    score: MetricScore | None,
    *,
    shade: float | None = None,
    frame: str | None = None,
    mark: str | None = None,
    hatched: bool = True,
) -> HeatCell:
    """Returns the cell of a score; ``hatched`` says whether it is where there is none."""
    marks = () if mark is None else (mark,)
    if score is None or score.mean is None:
        return HeatCell("", (), frame=frame, hatched=hatched)
    interval = () if score.low is None or score.high is None else (f"{score.low:.3f}–{score.high:.3f}",)
    return HeatCell(f"{score.mean:.3f}", (*interval, *marks), shade, frame)


def _trained(found: Generalization, score: str) -> Content | None:
    """Returns for every network trained on several groups the matrix of groups against data sets; None without any."""
    if not found.trained:
        return None
    shades = [
        cell.mean
        for matrix in found.trained
        for row in matrix.rows
        for cell in row.cells.values()
        if cell is not None and cell.mean is not None
    ]
    scale = Scale.over(score, shades)
    ordered = sorted(found.trained, key=lambda matrix: not _has_mix(found, matrix))
    return {
        "maps": [
            {"network": matrix.network, "svg": _trained_map(found, matrix, scale), "open": number < _OPEN}
            for number, matrix in enumerate(ordered)
        ],
        "table": trained_table(found, ordered, score),
    }


def _has_mix(found: Generalization, matrix: Trained) -> bool:
    mixes = {group.name for group in found.groups if len(group.domains) > 1}
    return any(row.group in mixes for row in matrix.rows)


def _trained_map(found: Generalization, matrix: Trained, scale: Scale) -> str:
    external = sum(domain.external for domain in found.domains)
    columns = [f"{domain.name}\n(external)" if domain.external else domain.name for domain in found.domains]
    groups = {group.name: group.domains for group in found.groups}
    rows = [_trained_row(row, found.domains, groups[row.group]) for row in matrix.rows]
    figure = plot_heat_map(rows, columns, scale, title="trained on / tested on", apart=external)
    return inline_svg(figure, f"{scale.title} of {matrix.network} on every data set, by what it was trained on")


def _trained_row(row: TrainedRow, domains: Iterable[Domain], on: tuple[str, ...]) -> HeatRow:
    cells = []
    for domain in domains:
        score, mark = row.cells[domain.name], row.marks[domain.name]
        shade = None if score is None else score.mean
        cells.append(_heat_cell(score, shade=shade, frame=_FRAMES.get(mark), mark=mark))
    joined = ", ".join(on)
    return HeatRow(row.group, joined if len(on) > 1 and "-".join(on) != row.group else "", cells)
