"""The page of a comparison: networks trained alike and compared on one group of data sets or on several."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medarts.comparison.compare import NAME, TABLES, Comparison
from medarts.comparison.overall import OVERALL
from medarts.reporting.comparison_plots import plot_intervals, plot_latency
from medarts.reporting.comparison_tables import (
    KINDS,
    missing_table,
    network_frame,
    network_table,
    random_table,
    reference_of,
    scores_by_group,
    title_of_score,
)
from medarts.reporting.content import Content, card, counted, decimals
from medarts.reporting.outlines import SCALE, inline_jpeg, outline
from medarts.reporting.score_plots import PREDICTED, TRUE
from medarts.reporting.style import inline_svg
from medarts.reporting.templates import render
from medarts.system.files import write_whole


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes ``report.html``, which opens offline, into the folder of a comparison, and returns its path."""
    about = comparison.about
    has_overall = OVERALL in set(comparison.networks.group)
    groups = [OVERALL] * has_overall + [*comparison.groups]
    content = {
        "title": about["title"],
        "note": about["note"],
        "score": title_of_score(comparison),
        "cards": _cards(comparison, groups[0]),
        "sections": [_section(comparison, group, number) for number, group in enumerate(groups)],
        "by_group": scores_by_group(comparison),
        "random": random_table(comparison),
        "missing": missing_table(about["missing"]),
        "machine": about["machine"],
        "runs": [
            (group, name, network["runs"])
            for group in comparison.groups
            for name, network in about["groups"][group]["networks"].items()
        ],
        "files": [f"{NAME}.json", *(f"{name}.csv" for name in TABLES)],
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
        "true_color": TRUE,
        "predicted_color": PREDICTED,
    }
    target = folder / "report.html"
    write_whole(target, render("comparison.html", content))
    return target


def _cards(comparison: Comparison, group: str) -> list[Content]:
    frame = network_frame(comparison, group)
    groups = [comparison.about["groups"][name] for name in (comparison.groups if group == OVERALL else [group])]
    patients = counted(sum(one["patients"] for one in groups), "patient")
    cards = [
        card("networks", str(len(frame))),
        card(f"images of {patients}", f"{sum(one['images'] for one in groups):,}"),
    ]
    if len(frame):
        best = frame.iloc[0]
        cards.append(card(f"best {title_of_score(comparison)}: {best.network}", decimals(best.score)))
    reference = frame[frame.is_reference]
    if len(reference):
        rank = f"{reference['rank'].iloc[0]:.3g} of {len(frame)}"
        cards.append(card(f"{'mean ' * (group == OVERALL)}rank of {reference.network.iloc[0]}", rank))
    return cards


def _section(comparison: Comparison, group: str, number: int) -> Content:
    """Returns what the page shows of one group of data sets."""
    about, reference = comparison.about, reference_of(comparison, group)
    title, frame = title_of_score(comparison), network_frame(comparison, group)
    seeds = comparison.seeds[(comparison.seeds.group == group) & (comparison.seeds.metric == about["score"])]
    scored = frame[frame.score.notna()]
    of_group = about["groups"].get(group)
    latency = plot_latency(scored, title=title, reference=reference) if len(scored) else None
    return {
        "id": f"set-{number}",
        "name": group,
        "about": None if of_group is None else of_group | {"split": about["split"]},
        "reference": reference,
        "began": frame[frame.began_from != ""][["network", "began_from"]].to_dict("records"),
        "table": network_table(comparison, group),
        "intervals": inline_svg(
            plot_intervals(frame, seeds, title=title, reference=reference), f"{title} of every network on {group}"
        ),
        "latency": None if latency is None else inline_svg(latency, f"{title} against latency on {group}"),
        "pictures": _pictures(comparison, group, f"set-{number}"),
    }


def _pictures(comparison: Comparison, group: str, identifier: str) -> list[Content]:
    """Returns the images on which the networks differ most, each with the outlines of all, the reference first."""
    overlays = comparison.overlays.get(group)
    if overlays is None:
        return []
    names = [*comparison.about["groups"][group]["networks"]]
    frame = network_frame(comparison, group).sort_values("is_reference", ascending=False, kind="stable")
    images = comparison.images[comparison.images.group == group]
    values = images.pivot(index=["dataset", "image"], columns="network", values="value")
    differing = comparison.differing[comparison.differing.group == group]
    pictures = []
    rows: Iterable[Any] = differing.itertuples()
    for number, row in enumerate(rows):
        of_image, image = values.loc[(row.dataset, row.image)], overlays.images[number]
        masks = [
            {
                "name": name,
                "score": decimals(of_image[name]),
                "path": outline(overlays.predictions[number][names.index(name)]),
            }
            for name in frame.network
        ]
        pictures.append(
            {
                "id": f"{identifier}-image-{number}",
                "name": f"{row.dataset} · {row.image}",
                "height": SCALE * image.shape[0],
                "width": SCALE * image.shape[1],
                "lowest": decimals(of_image.min()),
                "highest": decimals(of_image.max()),
                "source": Markup(inline_jpeg(image)),
                "truth": outline(overlays.targets[number]),
                "networks": masks,
            }
        )
    return pictures
