"""The page of comparisons: networks trained alike and compared on one data set or on several."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medarts.comparison.overall import of_single_sets
from medarts.comparison.overlays import Overlays
from medarts.comparison.result import Comparison, Missing
from medarts.comparison.words import missing_lines
from medarts.errors import RunError
from medarts.reporting.comparison_plots import plot_differences, plot_intervals
from medarts.reporting.comparison_points import KINDS, best_first, points_of
from medarts.reporting.comparison_summary import summarise
from medarts.reporting.comparison_tables import latency_figure, network_table
from medarts.reporting.comparison_words import score_cards, verdict
from medarts.reporting.content import Content, card, counted, decimals
from medarts.reporting.masks import PREDICTED, TRUE
from medarts.reporting.outlines import SCALE, inline_jpeg, outline
from medarts.reporting.plots import SCORE_NAMES
from medarts.reporting.style import inline_svg
from medarts.reporting.templates import render
from medarts.system.files import write_whole

FILES = ("comparison.json", "networks.csv", "images.csv")


def write_comparisons(
    folders: Mapping[str, Path],
    target: Path,
    *,
    title: str,
    note: str = "",
    without_runs: Mapping[str, Sequence[Missing]] | None = None,
) -> Path:
    """Writes one page over one or several comparisons; it opens offline.

    Args:
        folders: by the name of the group of data sets the folder that `Comparison.write` filled, in the order in
            which they are shown; all of one score.
        target: the HTML file; files of comparisons that lie beside or below it are linked.
        title: of the page.
        note: what a reader is to know first.
        without_runs: by the name of the group the runs of groups of which none has finished, which are listed.

    Returns:
        The file written.

    Raises:
        RunError: there is no comparison, a folder holds none, or the comparisons are of different scores.
    """
    if not folders:
        raise RunError("There is no comparison to show.", fix="Compare some runs first.")
    comparisons = {name: Comparison.read(folder) for name, folder in folders.items()}
    _check_scores(comparisons)
    counted_sets = of_single_sets(comparisons)
    summary = summarise(counted_sets) if len(counted_sets) > 1 else None
    sections = [
        {**_section(f"set-{number}", name, comparison), "files": _files(folders[name], target.parent)}
        for number, (name, comparison) in enumerate(comparisons.items(), 1)
    ]
    content = {
        "title": title,
        "note": note,
        "cards": summary["cards"] if summary else _cards(next(iter(counted_sets.values()))),
        "summary": summary,
        "mixed": [name for name in comparisons if name not in counted_sets] if summary else [],
        "sections": sections,
        "without_runs": [
            {"id": f"none-{number}", "name": name, "missing": _missing(missing)}
            for number, (name, missing) in enumerate((without_runs or {}).items(), 1)
        ],
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
        "true_color": TRUE,
        "predicted_color": PREDICTED,
    }
    write_whole(target, render("comparison.html", content))
    return target


def _check_scores(comparisons: Mapping[str, Comparison]) -> None:
    first, *others = comparisons
    for name in others:
        one, other = comparisons[first].score, comparisons[name].score
        if one != other:
            raise RunError(f"{first} is compared by {one} and {name} by {other}.", fix="Write a page for each.")


def _cards(comparison: Comparison) -> list[Content]:
    title = SCORE_NAMES[comparison.score]
    return [
        card("network" if len(comparison.networks) == 1 else "networks", str(len(comparison.networks))),
        card(f"{_images(comparison)} of {counted(comparison.patients, 'patient')}", f"{comparison.images:,}"),
        *score_cards(points_of(comparison), title=title, reference=comparison.reference),
    ]


def _images(comparison: Comparison) -> str:
    return "image" if comparison.images == 1 else "images"


def _section(identifier: str, name: str, comparison: Comparison) -> Content:
    """Returns what the page shows of one comparison."""
    title, reference, networks = SCORE_NAMES[comparison.score], comparison.reference, best_first(comparison)
    scores = {network.name: network.scores[comparison.score] for network in networks}
    kinds = {network.name: network.kind for network in networks}
    intervals = plot_intervals(scores, kinds, title=title, reference=reference)
    return {
        "id": identifier,
        "name": name,
        "title": title,
        "comparison": comparison,
        "missing": _missing(comparison.missing),
        "images": f"{counted(comparison.images, 'image')} of {counted(comparison.patients, 'patient')}",
        "verdict": verdict(comparison),
        "table": network_table(name, comparison),
        "intervals": inline_svg(intervals, f"{title} of every network on {name}"),
        "latency": latency_figure(name, points_of(comparison), title=title, reference=reference),
        "differences": _differences(name, comparison),
        "several_seeds": any(len(network.seeds) > 1 for network in networks),
        "pictures": _pictures(identifier, comparison, comparison.overlays) if comparison.overlays else [],
        "networks": networks,
    }


def _missing(runs: Sequence[Missing]) -> list[str]:
    return missing_lines((run.name, run.seed, run.state, run.reason) for run in runs)


def _files(folder: Path, beside: Path) -> list[tuple[str, str]]:
    """Returns the files that still lie where they do when the page and what is beside it are moved together."""
    inner, outer = folder.resolve(), beside.resolve()
    if not inner.is_relative_to(outer):
        return []
    return [(file, (inner / file).relative_to(outer).as_posix()) for file in FILES if (inner / file).exists()]


def _differences(name: str, comparison: Comparison) -> Markup | None:
    """Returns the figure of the differences image by image; None where there are no scores of single images."""
    names, reference = [network.name for network in comparison.networks], comparison.reference
    values = np.asarray([row.values for row in comparison.image_rows], dtype=float).reshape(-1, len(names))
    differences: dict[str, NDArray[np.float64]] = {}
    for network in best_first(comparison):
        against = values[:, names.index(network.name)] - values[:, names.index(reference)]
        defined = against[~np.isnan(against)]
        if network.name != reference and defined.size:
            differences[network.name] = defined
    if not differences:
        return None
    kinds = {network.name: network.kind for network in comparison.networks if network.name in differences}
    title = SCORE_NAMES[comparison.score]
    figure = plot_differences(differences, kinds, title=title, reference=reference)
    return inline_svg(figure, f"{title} of every image against {reference} on {name}")


def _pictures(identifier: str, comparison: Comparison, overlays: Overlays) -> list[Content]:
    """Returns the images on which the networks differ most, each with the outlines of all, the reference first."""
    ordered = [network.name for network in best_first(comparison)]
    ordered.sort(key=lambda name: name != comparison.reference)
    columns = [overlays.networks.index(name) for name in ordered]
    return [
        {
            "id": f"{identifier}-image-{number}",
            "domain": row.domain,
            "key": row.key,
            "height": SCALE * image.shape[0],
            "width": SCALE * image.shape[1],
            "lowest": decimals(min(row.values.values())),
            "highest": decimals(max(row.values.values())),
            "source": inline_jpeg(image),
            "truth": outline(target),
            "networks": [
                {"name": name, "score": decimals(row.values[name]), "path": outline(predicted[column])}
                for name, column in zip(ordered, columns, strict=True)
            ],
        }
        for number, (row, image, target, predicted) in enumerate(
            zip(comparison.differing_images, overlays.images, overlays.targets, overlays.predictions, strict=True), 1
        )
    ]
