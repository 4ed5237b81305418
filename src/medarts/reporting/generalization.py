"""The page of a generalization: claims with their contrasts, and both matrices as heat maps and tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medarts.comparison.overall import OVERALL
from medarts.reporting.comparison_tables import KINDS, missing_table
from medarts.reporting.content import Content, card
from medarts.reporting.generalization_plots import HeatCell, HeatRow, Scale, plot_heat_map
from medarts.reporting.generalization_tables import (
    CLAIMS,
    claim_verdict,
    contrast_table,
    means_table,
    sides_table,
    tested_table,
)
from medarts.reporting.style import inline_svg
from medarts.reporting.templates import render
from medarts.study.generalize import NAME, TABLES, Generalization
from medarts.system.files import write_whole

_OPEN = 3
"""Heat maps of trained networks that are unfolded when the page opens."""

_FRAMES = {"own": "solid", "part of the mix": "dashed"}


def write_generalization(found: Generalization, folder: Path) -> Path:
    """Writes ``report.html``, which opens offline, into the folder of a generalization, and returns its path."""
    about, score = found.about, str(found.about["title_of_score"])
    content = {
        "title": about["title"],
        "note": about["note"],
        "score": score,
        "cards": _cards(found),
        "claims": [_claim(found, claim) for claim in CLAIMS],
        "retrained": _retrained(found, score),
        "trained": _trained(found, score),
        "datasets": about["datasets"],
        "missing": missing_table(about["missing"]),
        "untested": missing_table(about["untested"]),
        "files": [f"{NAME}.json", *(f"{name}.csv" for name in TABLES)],
        "kinds": {kind: color for kind, (color, _) in KINDS.items()},
    }
    target = folder / "report.html"
    write_whole(target, render("generalization.html", content))
    return target


def _cards(found: Generalization) -> list[Content]:
    about = found.about
    datasets = about["datasets"].values()
    external = sum(one["external"] for one in datasets)
    cards = [
        card("networks", str(len(about["networks"]))),
        card(f"data sets, {external} external" if external else "data sets", str(len(datasets))),
        card("images tested on", f"{sum(one['images'] for one in datasets):,}"),
    ]
    return cards + [
        card(f"{title.lower()}, against one", claim_verdict(found, claim)) for claim, title in CLAIMS.items()
    ]


def _claim(found: Generalization, claim: str) -> Content:
    return {
        "title": CLAIMS[claim],
        "verdict": claim_verdict(found, claim),
        "means": means_table(found, claim),
        "contrasts": contrast_table(found, claim),
        "sides": sides_table(found, claim),
    }


def _retrained(found: Generalization, score: str) -> Content | None:
    """Returns the matrix of networks against the data sets that they are retrained on; None where it is empty."""
    rows = found.retrained
    if rows["mean"].isna().all():
        return None
    cells = {(row.network, row.group): row for row in rows.itertuples()}
    networks = [*rows.network.unique()]
    groups = [*rows[rows.group != OVERALL].group.unique()]
    means = rows[rows.group == OVERALL].set_index("network")["mean"]
    order = sorted(networks, key=lambda name: -means.get(name, -np.inf))
    middles = rows.groupby("group")["mean"].median()
    heat = [
        _retrained_row(found, name, cells, groups=groups, middles=middles, has_mean=len(means) > 0) for name in order
    ]
    shades = [cell.shade for row in heat for cell in row.cells if cell.shade is not None]
    scale = Scale.around_zero(f"{score} minus the median of the column", shades)
    columns = [*groups, *(["mean", "mean rank"] if len(means) else [])]
    figure = plot_heat_map(heat, columns, scale, title="trained and tested on", apart=2 * (len(means) > 0))
    return {"svg": inline_svg(figure, f"{score} of every network, trained and tested on one data set after another")}


def _retrained_row(
    found: Generalization, network: str, cells: Any, *, groups: list[str], middles: "pd.Series[float]", has_mean: bool
) -> HeatRow:
    about = found.about["networks"][network]
    shown = []
    for group in groups:
        row = cells.get((network, group))
        frame = "solid" if found.about["groups"][group][0] in about["searched_on"] else None
        shade = None if row is None or np.isnan(row.mean) else row.mean - middles[group]
        shown.append(_heat_cell(row, shade=shade, frame=frame, hatched=row is not None))
    if has_mean:
        overall = cells.get((network, OVERALL))
        rank = "" if overall is None else f"{overall.rank:.1f}"
        shown += [_heat_cell(overall, hatched=False), HeatCell(rank)]
    below = f"searched on {', '.join(about['searched_on'])}" if about["searched_on"] else about["kind"]
    return HeatRow(network, below, shown, strong=bool(about["searched_on"]))


def _heat_cell(
    row: Any, *, shade: float | None = None, frame: str | None = None, mark: str | None = None, hatched: bool = True
) -> HeatCell:
    """Returns the cell of a score; ``hatched`` is whether it is so where there is none."""
    if row is None or np.isnan(row.mean):
        return HeatCell("", (), frame=frame, hatched=hatched)
    marks = () if mark is None else (mark,)
    interval = () if np.isnan(row.low) else (f"{row.low:.3f}–{row.high:.3f}",)
    return HeatCell(f"{row.mean:.3f}", (*interval, *marks), shade, frame)


def _trained(found: Generalization, score: str) -> Content | None:
    """Returns for every network trained on several groups the matrix of groups against data sets; None without any."""
    tested = found.tested
    several = [
        str(name)
        for name, of in tested.groupby("network", sort=False)
        if of.group.nunique() > 1 and of["mean"].notna().any()
    ]
    if not several:
        return None
    shown = tested[tested.network.isin(several)]
    scale = Scale.over(score, [*shown["mean"].dropna()])
    maps = [
        {"network": name, "svg": _trained_map(found, name, scale), "open": number < _OPEN}
        for number, name in enumerate(several)
    ]
    return {"maps": maps, "table": tested_table(found, several)}


def _trained_map(found: Generalization, network: str, scale: Scale) -> str:
    about = found.about
    external = sum(one["external"] for one in about["datasets"].values())
    columns = [f"{name}\n(external)" if one["external"] else name for name, one in about["datasets"].items()]
    rows = []
    for group, of in found.tested[found.tested.network == network].groupby("group", sort=False):
        tested: Iterable[Any] = of.itertuples()
        cells = [_heat_cell(row, shade=row.mean, frame=_FRAMES.get(row.mark), mark=row.mark) for row in tested]
        joined = ", ".join(about["groups"][group])
        rows.append(HeatRow(str(group), joined if "-".join(about["groups"][group]) != group else "", cells))
    figure = plot_heat_map(rows, columns, scale, title="trained on / tested on", apart=external)
    return inline_svg(figure, f"{scale.title} of {network} on every data set, by what it was trained on")
