"""The tables of a generalization, for its page and the terminal."""

from collections.abc import Iterator

import pandas as pd

from medarts.comparison.overall import OVERALL
from medarts.reporting.comparison_tables import difference_table
from medarts.reporting.content import decimals
from medarts.reporting.tables import Column, Table, table
from medarts.study.generalize import Generalization

CLAIMS = {"search": "Searched on several data sets", "training": "Trained on several data sets"}
"""What is compared with one data set; see ``medarts.study.contrasts``."""


def claim_verdict(found: Generalization, claim: str) -> str:
    """Returns the verdict on several data sets against one where the side of one has not been trained."""
    rows = found.contrasts[(found.contrasts.claim == claim) & (found.contrasts.relation == "not seen by one")]
    if len(rows):
        return str(rows.verdict.iloc[0])
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
