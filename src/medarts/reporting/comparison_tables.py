"""Tables of comparisons and of generalisation, for their pages and the terminal."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from medarts.comparison.candidates import Kind
from medarts.comparison.chance import SeedSpread, seed_spread
from medarts.comparison.compare import Comparison
from medarts.comparison.costs import latency_columns
from medarts.comparison.overall import OVERALL
from medarts.evaluation.stats import ALPHA
from medarts.profiling.budget import QUANTITIES
from medarts.profiling.cost import BACKENDS
from medarts.reporting.score_tables import unit_text
from medarts.reporting.tables import Column, Table, decimals, p_text, significant, table
from medarts.study.generalize import Generalization
from medarts.system.console import counted

KINDS: Mapping[Kind, tuple[str, str]] = {
    "searched": ("blue", "o"),
    "random": ("slate", "s"),
    "published": ("purple", "D"),
    "baseline": ("orange", "^"),
    "pruned": ("green", "P"),
}
"""Colour of the palette and marker of every kind of network; the same in all figures and tables."""


ONE_SEED = "one seed"
"""Stands with every verdict on networks of which one was trained only once; `ONE_SEED_NOTE` is its footnote."""

ONE_SEED_NOTE = f"{ONE_SEED}: holds for these trained networks only"


def _with_seed_mark(differences: pd.DataFrame) -> pd.DataFrame:
    """Adds the column seed_mark: `ONE_SEED` in rows whose difference is of one seed, empty in others."""
    return differences.assign(seed_mark=[ONE_SEED if seeds == 1 else "" for seeds in differences.seeds])


def _seed_note(marks: pd.Series) -> str:
    """Returns the footnote of a table with these marks; empty where none is marked."""
    return ONE_SEED_NOTE if (marks == ONE_SEED).any() else ""


def _in(unit: float) -> Any:
    """Returns a function that writes a number in a unit."""
    return lambda value: significant(value / unit)


@dataclass(frozen=True)
class Shown:
    """A column of the table of networks.

    Attributes:
        value: column of `network_frame`, or a function that computes the values from that frame.
        column: its heading and format. ``{score}`` stands for the title of the main score, ``{metric}`` and ``{title}``
            for name and title of another metric, ``{n}`` for a number of threads, ``{limit}``, ``{amount}`` and
            ``{most}`` for name, title and value of what the budget limits.
        each: "brief" for a column that the terminal has, too; "known" for one that is left out where nothing is known;
            "metrics" for one for every other metric; "threads" for one for every further number of threads that
            latencies were measured on; "limits" for one for everything that the budget limits.
    """

    value: str | Callable[[pd.DataFrame], Any]
    column: Column
    each: Literal["", "brief", "known", "metrics", "threads", "limits"] = ""


BRIEF: Literal["brief"] = "brief"
METRICS: Literal["metrics"] = "metrics"
THREADS: Literal["threads"] = "threads"
LIMITS: Literal["limits"] = "limits"
KNOWN: Literal["known"] = "known"

COLUMNS: list[Shown] = [
    Shown("network", Column("network", "ascending", below="role", strong="is_reference", swatch="color"), BRIEF),
    Shown("score", Column("{score}", sorted="descending", form=decimals, below=("low", "high")), BRIEF),
    Shown("difference", Column("difference", form="+.3f", below=("low_difference", "high_difference")), BRIEF),
    Shown("by_chance", Column("by chance", form=".3f"), KNOWN),
    Shown("p", Column("p", "ascending", form=p_text)),
    Shown("p_corrected", Column("p corrected", "ascending", form=p_text), BRIEF),
    Shown("verdict", Column("verdict", "ascending", words=True, below="seed_mark", strong="is_significant"), BRIEF),
    Shown("{metric}", Column("{title}", form=significant, below="below_{metric}"), METRICS),
    Shown("parameters", Column("parameters, M", "ascending", form=_in(1e6)), BRIEF),
    Shown("flops", Column("GFLOPs", "ascending", form=_in(1e9))),
    Shown("latency_ms_1", Column("ONNX ms, 1 thread", "ascending", form=significant, below="range_1"), BRIEF),
    Shown(
        "latency_ms_{n}",
        Column("ONNX ms, {n} threads", "ascending", form=significant, below="range_{n}"),
        THREADS,
    ),
    Shown("budget_{limit}", Column("{amount} (≤ {most})", "ascending", form=significant), LIMITS),
    Shown("memory_mb", Column("memory, MB", "ascending", form=significant)),
    Shown("training_seconds", Column("training, min", "ascending", form=_in(60))),
    Shown("search_seconds", Column("search, min", "ascending", form=_in(60)), KNOWN),
    Shown("seeds", Column("seeds", form="g")),
]


def network_frame(comparison: Comparison, group: str) -> pd.DataFrame:
    """Returns a row for each network of a group, the best first, with everything that is known of it.

    The columns are score, low, high, rank, patients and seeds; difference, low_difference, high_difference, by_chance
    (see `medarts.comparison.chance`), p, p_corrected, verdict and seed_mark; every metric by its name; and those of the
    table of costs.
    """
    reference = reference_of(comparison, group)
    networks, differences, costs = (
        table[table.group == group].drop(columns="group").set_index("network")
        for table in (comparison.networks, comparison.differences, comparison.costs)
    )
    frame = networks[networks.metric == comparison.about["score"]].rename(columns={"mean": "score"})
    for metric, of in networks.groupby("metric", sort=False):
        frame[metric] = of["mean"]
        frame[f"unit_{metric}"] = of.get("unit", "")
        frame[f"below_{metric}"] = [f"{count:g} undefined" if count else None for count in of.undefined]
    differences = _with_seed_mark(differences[differences.family == "reference"]).rename(
        columns={"low": "low_difference", "high": "high_difference"}
    )
    differences["by_chance"] = _by_chance(comparison, group, differences)
    chosen = [
        "difference",
        "low_difference",
        "high_difference",
        "by_chance",
        "p",
        "p_corrected",
        "verdict",
        "seed_mark",
    ]
    frame = frame.drop(columns="metric").join(differences[chosen]).join(costs)
    frame = pd.DataFrame(frame.sort_values("score", ascending=False, kind="stable").reset_index())
    for threads in _threads(frame):
        frame[f"range_{threads}"] = [f"± {significant(ms / 2)}" for ms in frame[f"latency_spread_ms_{threads}"]]
    frame["is_reference"] = frame.network.isin(networks_of(comparison, reference))
    frame["is_significant"] = frame.p_corrected < ALPHA
    frame["color"] = [KINDS[kind][0] for kind in frame.kind]
    frame["role"] = (
        frame.kind
        + frame.is_reference.map({True: ", reference", False: ""})
        + frame.front.map({True: ", Pareto front", False: ""})
        + frame.network.map(_own_trainings(comparison)).fillna("")
    )
    return frame


def noise_lines(comparison: Comparison) -> list[str]:
    """Returns a line for each group and network of which it is known how much trainings differ by chance."""
    title = title_of_score(comparison)
    spreads = {group: _seed_spread(comparison, group) for group in comparison.groups}
    return [
        f"{group}: {spread.trainings} trainings with several seeds; seeds alone change the difference of two networks "
        f"in {title} by up to "
        + ", ".join(
            f"{spread.smallest([n], [n]):.3g} ({counted(n, 'seed')})"
            for n in sorted({*_seeds_of(comparison, group).values()})
        )
        + ", 95 %."
        for group, spread in spreads.items()
        if spread is not None
    ] + [
        f"{one['network']}: trained {one['trainings']} times by one recipe, {title} differs by chance by up to "
        f"{one['smallest']:.3g} (95 %, {counted(one['of_each'], 'training')} of each network); less means nothing."
        for one in comparison.about.get("noise", ())
    ]


def _seed_spread(comparison: Comparison, group: str) -> SeedSpread | None:
    """Returns how much trainings of one network differ in the main score, where any was trained with several seeds."""
    seeds = comparison.seeds
    of_score = seeds[(seeds.group == group) & (seeds.metric == comparison.about["score"])]
    return seed_spread(of.tolist() for _, of in of_score.groupby("network")["value"])


def _by_chance(comparison: Comparison, group: str, differences: pd.DataFrame) -> list[float]:
    """Returns by how much seeds alone change the differences of a group, whose index names the networks."""
    spread, seeds = _seed_spread(comparison, group), _seeds_of(comparison, group)
    if spread is None:
        return [math.nan] * len(differences)
    sides = [
        [[seeds[one] for one in networks_of(comparison, name) if one in seeds] for name in pair]
        for pair in zip(differences.index, differences.reference, strict=True)
    ]
    return [spread.smallest(one, other) for one, other in sides]


def _seeds_of(comparison: Comparison, group: str) -> dict[str, int]:
    """Returns by network of a group with how many seeds it was trained; nothing for means over data sets."""
    networks = comparison.about["groups"].get(group, {"networks": {}})["networks"]
    return {name: len(one["seeds"]) for name, one in networks.items()}


def title_of_score(comparison: Comparison) -> str:
    """Returns the title of the main score."""
    return str(comparison.about["metrics"][comparison.about["score"]]["title"])


def reference_of(comparison: Comparison, group: str) -> str | None:
    """Returns the network with which those of a group are compared; None where the data sets have several."""
    groups = comparison.about["groups"]
    names = {groups[name]["reference"] for name in (comparison.groups if group == OVERALL else [group])}
    return names.pop() if len(names) == 1 else None


def networks_of(comparison: Comparison, name: str | None) -> list[str]:
    """Returns the networks that a name stands for: itself, or those of a method; none without a name."""
    return comparison.about["methods"].get(name, [] if name is None else [name])  # type: ignore[no-any-return]


def _own_trainings(comparison: Comparison) -> dict[str, str]:
    """Returns by network what its trainings alone have, as words; those of networks without such are left out."""
    groups = comparison.about["groups"].values()
    return {
        name: "".join(f", {change.removeprefix('train.')}" for change in one["own"])
        for group in groups
        for name, one in group["networks"].items()
    }


def budget_text(comparison: Comparison) -> str:
    """Returns what all networks were scaled to, in a line; empty where that is nothing."""
    budget = comparison.about["budget"]
    if budget is None:
        return ""
    limits = [f"{title} ≤ {most}" for _, title, most in _limits(comparison)]
    measured = f"{budget['size']} × {budget['size']} pixels, {counted(budget['threads'], 'thread')}"
    return f"Budget of all networks: {', '.join(limits)} ({measured})."


def _limits(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """Yields name, title and value of what the budget limits, in the unit of the title."""
    for name, most in (comparison.about["budget"] or {"limits": {}})["limits"].items():
        title, unit = QUANTITIES[name]
        yield name, title, significant(most / unit)


def network_table(comparison: Comparison, group: str, *, brief: bool = False) -> Table:
    """Returns the table of the networks of a group, by `COLUMNS`."""
    frame, columns = network_frame(comparison, group), {}
    metrics, main = comparison.about["metrics"], comparison.about["score"]
    words_of: dict[str, list[dict[str, Any]]] = {
        "metrics": [
            {"metric": name, **one, "title": _with_unit(one["title"], frame, name)}
            for name, one in metrics.items()
            if name != main
        ],
        "threads": [{"n": threads} for threads in _threads(frame)[1:]],
        "limits": [{"limit": name, "amount": title, "most": most} for name, title, most in _limits(comparison)],
    }
    for name, (_, unit) in QUANTITIES.items():
        if f"budget_{name}" in frame:
            frame[f"budget_{name}"] /= unit
    for one in COLUMNS:
        if (brief and one.each != "brief") or (one.each == "known" and frame[one.value].isna().all()):
            continue
        for words in words_of.get(one.each, [{"score": metrics[main]["title"]}]):
            column = replace(one.column, title=one.column.title.format(**words))
            if isinstance(column.below, str):
                column = replace(column, below=column.below.format(**words))
            if not words.get("larger_is_better", True):
                column = replace(column, first="ascending")
            key = one.value.format(**words) if isinstance(one.value, str) else column.title
            if not isinstance(one.value, str):
                frame[key] = one.value(frame)
            columns[key] = column
    notes = [_seed_note(frame.seed_mark)]
    if any(" and " in str(unit) for name in metrics for unit in frame[f"unit_{name}"]):
        notes.append("Images differ in the unit of a metric, which has no mean.")
    return table(frame, columns, caption=f"Networks compared on {group}", note=" ".join(filter(None, notes)))


def _with_unit(title: str, frame: pd.DataFrame, metric: str) -> str:
    """Returns the header of a metric with its unit; where images differ in it, with all units, and no number below."""
    units = [unit for unit in frame[f"unit_{metric}"].dropna().unique() if unit]
    return f"{title}, {unit_text(units[0])}" if units else title


def latency_table(comparison: Comparison, group: str) -> Table:
    """Returns a table of latencies of one image: a column for each number of threads and backend."""
    frame = network_frame(comparison, group)
    columns = {"network": Column("network", "ascending", strong="is_reference")}
    for threads in _threads(frame):
        for backend, title in BACKENDS.items():
            median, spread = latency_columns(backend, threads)
            if median in frame and not frame[median].isna().all():
                frame[f"range {median}"] = (frame[spread] / 2).map(
                    lambda ms: f"± {significant(ms)}", na_action="ignore"
                )
                heading = f"{title}, {counted(threads, 'thread')}"
                columns[median] = Column(heading, "ascending", form=significant, below=f"range {median}")
    return table(frame, columns, caption=f"Latency on {group}")


def scores_by_group(comparison: Comparison) -> Table | None:
    """Returns the main score of every network on every group, with the verdict below; None for a single group."""
    if OVERALL not in set(comparison.networks.group):
        return None
    main, title = comparison.about["score"], title_of_score(comparison)
    frame = network_frame(comparison, OVERALL)[["network", "color", "score", "rank"]]
    networks = comparison.networks[comparison.networks.metric == main]
    scores = networks[networks.group != OVERALL].pivot(index="network", columns="group", values="mean")
    differences = _with_seed_mark(comparison.differences[comparison.differences.family == "reference"])
    marks = [f" ({mark})" if mark else "" for mark in differences.seed_mark]
    verdicts = differences.assign(marked=differences.verdict + marks).pivot(
        index="network", columns="group", values="marked"
    )
    kinds = comparison.costs.drop_duplicates("network").set_index("network").kind
    frame = frame.merge(scores.reset_index(), on="network", how="outer").sort_values("score", ascending=False)
    frame["color"] = [KINDS[kinds[name]][0] for name in frame.network]
    columns = {
        "network": Column("network", first="ascending", swatch="color"),
        "score": Column(f"mean {title}", sorted="descending", form=decimals),
        "rank": Column("mean rank", first="ascending", form=".1f"),
    }
    for group in comparison.groups:
        below = frame.network.map(verdicts[group]) if group in verdicts else None
        frame[f"{group} verdict"] = below
        columns[group] = Column(group, form=decimals, below=f"{group} verdict")
    note = _seed_note(differences.seed_mark)
    return table(frame, columns, caption=f"{title} of every network on every data set", note=note)


def methods_table(comparison: Comparison) -> Table | None:
    """Returns the methods that several networks stand for, with the spread of these; None where there are none."""
    if comparison.methods.empty:
        return None
    columns = {
        "method": Column("method", "ascending", words=True),
        "group": Column("data set", "ascending", words=True),
        "mean": Column(f"mean {title_of_score(comparison)}", form=decimals),
        "deviation": Column("SD of networks", "ascending", form=decimals, below=("lowest", "highest")),
        "networks": Column("networks", form="g"),
        "latency_ms_1": Column("ONNX ms, 1 thread", "ascending", form=significant),
    }
    if comparison.methods.search_seconds.notna().any():
        columns["search_seconds"] = Column("search, min", "ascending", form=_in(60))
    # Data sets in their order, the best method of each first.
    order = {group: place for place, group in enumerate(comparison.methods.group.unique())}
    frame = comparison.methods.sort_values("mean", ascending=False, kind="stable")
    frame = frame.sort_values("group", key=lambda groups: groups.map(order), kind="stable")
    return table(frame, columns, caption="Methods that several networks stand for")


def random_table(comparison: Comparison) -> Table | None:
    """Returns what searches add: against random networks, the reference, or each other; None where there are none."""
    return _methods_compared(comparison, ("random", "methods"), caption="What the search adds")


def pairs_table(comparison: Comparison) -> Table | None:
    """Returns all pairs of methods where those of `random_table` are with a reference; None where there are none."""
    return _methods_compared(comparison, ("pairs",), caption="All pairs of methods")


def _methods_compared(comparison: Comparison, families: Collection[str], *, caption: str) -> Table | None:
    differences = comparison.differences[comparison.differences.family.isin(families)]
    deviations = {
        (group, method): f"SD {decimals(deviation)}"
        for group, method, deviation in comparison.methods[["group", "method", "deviation"]].to_numpy()
    }
    differences = differences.copy()
    for side in ("network", "reference"):
        places = zip(differences.group, differences[side], strict=True)
        differences[f"{side}_deviation"] = [deviations.get(place) for place in places]
    return difference_table(
        differences,
        {"network": "network", "reference": "against", "group": "data set"},
        caption=caption,
        below={"network": "network_deviation", "reference": "reference_deviation"},
    )


def difference_table(
    frame: pd.DataFrame, names: Mapping[str, str], *, caption: str, below: Mapping[str, str] | None = None
) -> Table | None:
    """Returns differences with their interval, p-values and verdict; None where there are none.

    Args:
        frame: columns difference, low, high, p, p_corrected, patients, seeds, verdict, and those of ``names``.
        names: columns of text that come first, with their headings.
        caption: what it holds.
        below: by these columns those whose text stands small below.
    """
    if frame.empty:
        return None
    columns = {
        key: Column(title, first="ascending", words=True, below=(below or {}).get(key)) for key, title in names.items()
    }
    columns |= {
        "difference": Column("difference", form="+.3f", below=("low", "high")),
        "p": Column("p", first="ascending", form=p_text),
        "p_corrected": Column("p corrected", first="ascending", form=p_text),
        "verdict": Column("verdict", first="ascending", words=True, below="seed_mark", strong="is_significant"),
        "patients": Column("patients", form="g"),
        "seeds": Column("seeds", form="g"),
    }
    frame = _with_seed_mark(frame).assign(is_significant=frame.p_corrected < ALPHA)
    return table(frame, columns, caption=caption, note=_seed_note(frame.seed_mark))


def missing_table(missing: list[dict[str, Any]]) -> Table | None:
    """Returns the planned runs that could not be compared or tested; None where there are none."""
    if not missing:
        return None
    titles = {"group": "trained on", "network": "network", "seed": "seed", "dataset": "tested on", "state": "state"}
    frame = pd.DataFrame(missing)
    columns = {key: Column(title, first="ascending", words=True) for key, title in titles.items() if key in frame}
    columns["reason"] = Column("reason", words=True)
    return table(frame, columns, caption="Missing runs")


def _threads(frame: pd.DataFrame) -> list[int]:
    names = map(str, frame.columns)
    found = [name.removeprefix("latency_ms_") for name in names if name.startswith("latency_ms_")]
    return sorted(int(name) for name in found if not frame[f"latency_ms_{name}"].isna().all())


CLAIMS = {"search": "Searched on several data sets", "training": "Trained on several data sets"}
"""What is compared with one data set; see ``medarts.study.contrasts``."""


def claim_verdict(found: Generalization, claim: str) -> str:
    """Returns the verdict on several data sets against one where the side of one has not been trained.

    A verdict from one seed is marked as in tables.
    """
    rows = found.contrasts[(found.contrasts.claim == claim) & (found.contrasts.relation == "not seen by one")]
    if len(rows):
        word, mark = _with_seed_mark(rows).iloc[0][["verdict", "seed_mark"]]
        return f"{word} ({mark})" if mark else str(word)
    return "missing runs" if found.about["planned"][claim] else "not in this study"


def claim_tables(found: Generalization) -> Iterator[tuple[str, Table | None]]:
    """Yields the title and the means of every claim."""
    for claim, title in CLAIMS.items():
        yield f"{title}, against one: {claim_verdict(found, claim)}", means_table(found, claim)


def means_table(found: Generalization, claim: str) -> Table | None:
    """Returns the means of the contrasts of a claim; None where there are none."""
    rows = found.contrasts[(found.contrasts.claim == claim) & (found.contrasts.dataset == OVERALL)]
    return difference_table(rows, {"relation": "data sets"}, caption=f"{CLAIMS[claim]}: means")


def contrast_table(found: Generalization, claim: str) -> Table | None:
    """Returns the single contrasts of a claim; None where there are none."""
    rows = found.contrasts[(found.contrasts.claim == claim) & (found.contrasts.dataset != OVERALL)]
    names = {"several": CLAIMS[claim].lower(), "single": "against", "common": "network", "dataset": "tested on"}
    if claim == "search":
        del names["common"]
        names["dataset"] = "retrained and tested on"
    return difference_table(rows, names | {"relation": "data set is"}, caption=f"{CLAIMS[claim]}: contrasts")


def sides_table(found: Generalization, claim: str) -> Table | None:
    """Returns what the sides of contrasts differ in besides their data sets; None where that is nothing."""
    titles = {"field": "field", "several": "several data sets", "single": "one data set"}
    columns = {key: Column(title, "ascending", words=True) for key, title in titles.items()}
    sides = found.sides[found.sides.claim == claim]
    return table(sides, columns, caption=f"{CLAIMS[claim]}: other differences") if len(sides) else None


def retrained_table(found: Generalization) -> Table | None:
    """Returns networks against the data sets that they are trained and tested on; None where there is no score."""
    rows = found.retrained
    if rows["mean"].isna().all():
        return None
    frame = rows.pivot(index="network", columns="group", values="mean").reset_index()
    columns = {"network": Column("network", "ascending")}
    columns |= {group: Column(group, form=decimals) for group in rows.group.unique() if group != OVERALL}
    if OVERALL in frame:
        overall = rows[rows.group == OVERALL].set_index("network")
        frame = frame.join(overall[["low", "high", "rank"]], on="network").sort_values(OVERALL, ascending=False)
        title = f"mean {found.about['title_of_score']}"
        columns[OVERALL] = Column(title, sorted="descending", form=decimals, below=("low", "high"))
        columns["rank"] = Column("mean rank", "ascending", form=".1f")
    return table(frame, columns, caption="Networks trained and tested on one data set after another")


def tested_table(found: Generalization, networks: list[str]) -> Table:
    """Returns the scores of networks on every data set, by what they were trained on."""
    shown = found.tested[found.tested.network.isin(networks)]
    frame = shown[["network", "group"]].drop_duplicates().reset_index(drop=True)
    columns = {
        "network": Column("network", first="ascending"),
        "group": Column("trained on", first="ascending", words=True),
    }
    for dataset, of in shown.groupby("dataset", sort=False):
        by_row = of.set_index(["network", "group"]).reindex(pd.MultiIndex.from_frame(frame[["network", "group"]]))
        frame[f"{dataset} mean"], frame[f"{dataset} mark"] = [*by_row["mean"]], [*by_row.mark]
        columns[f"{dataset} mean"] = Column(str(dataset), form=decimals, below=f"{dataset} mark")
    return table(frame, columns, caption="Scores on every data set, by what networks were trained on")
