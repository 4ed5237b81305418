"""The matrices and contrasts of a generalization as tables that sort."""

from collections.abc import Sequence

from medarts.comparison.paired import ALPHA, Difference
from medarts.comparison.result import MetricScore
from medarts.reporting.comparison_points import KINDS
from medarts.reporting.content import decimals
from medarts.reporting.tables import Cell, Column, Table, number, probability
from medarts.study.generalization import Claim, Generalization, RetrainedRow, Trained

_RELATIONS = {
    "search": {
        "own": "of the single search",
        "of the mix": "of the mixed search",
        "unseen": "of neither search",
    },
    "training": {"unseen": "unseen", "external": "external"},
}


def retrained_table(found: Generalization, rows: Sequence[RetrainedRow], title: str) -> Table:
    """Returns the matrix of networks against the data sets that they are retrained on.

    Args:
        found: everything.
        rows: the rows, highest mean first.
        title: what the score is called.
    """
    networks = {network.name: network for network in found.networks}
    columns = [
        Column("network", first="ascending"),
        Column(f"mean {title}", sorted="descending"),
        Column("mean rank", first="ascending"),
        *(Column(group) for group in found.retrained.groups),
        Column("kind", first="ascending", words=True),
    ]
    table = []
    for row in rows:
        network = networks[row.network]
        swatch, _ = KINDS[network.kind]
        searched = f"searched on {', '.join(network.searched_on)}" if network.searched_on else None
        table.append(
            [
                Cell(row.network, row.network, searched, strong=searched is not None, swatch=swatch),
                _score(row.mean, strong=True, lacking="lacks some"),
                number(row.rank, ".1f"),
                *(
                    _score(row.cells[group], lacking="missing" if group in row.planned else "not in the study")
                    for group in found.retrained.groups
                ),
                Cell(network.kind, network.kind),
            ]
        )
    return Table("Networks, trained and tested on one data set after another", columns, table)


def trained_table(found: Generalization, matrices: Sequence[Trained], title: str) -> Table:
    """Returns the matrices of groups against data sets, one below the other.

    Args:
        found: everything.
        matrices: of the networks.
        title: what the score is called.
    """
    columns = [
        Column("network", first="ascending"),
        Column("trained on", first="ascending", words=True),
        *(Column(f"{domain.name} (external)" if domain.external else domain.name) for domain in found.domains),
    ]
    rows = [
        [
            Cell(matrix.network, matrix.network),
            Cell(row.group, row.group),
            *(_score(row.cells[domain.name], note=row.marks[domain.name]) for domain in found.domains),
        ]
        for matrix in matrices
        for row in matrix.rows
    ]
    return Table(f"{title} of networks on every data set, by what they were trained on", columns, rows)


def contrast_table(claim: Claim, title: str) -> Table:
    """Returns the contrasts of a claim.

    Args:
        claim: what was found of it; at least one contrast.
        title: what the score is called.
    """
    searched = claim.about == "search"
    columns = [
        Column(f"{'searched' if searched else 'trained'} on several sets", first="ascending"),
        Column(f"difference of {title}"),
        Column("corrected p", first="ascending"),
        Column("p", first="ascending"),
        *([] if searched else [Column("network", first="ascending", words=True)]),
        Column("retrained and tested on" if searched else "tested on", first="ascending", words=True),
        Column("this data set is", first="ascending", words=True),
        Column("patients"),
        Column("seeds"),
    ]
    rows = [
        [
            Cell(one.several, f"{one.several} {one.single}", f"against {one.single}"),
            _difference(one.difference),
            probability(one.difference.p_corrected, limit=ALPHA),
            probability(one.difference.p, limit=0),
            *([] if searched else [Cell(one.common, one.common)]),
            Cell(one.domain, one.domain),
            Cell(relation := _RELATIONS[claim.about][one.relation], relation),
            number(one.patients, ",.0f", below=None if one.decidable else "too few"),
            number(one.seeds, ".0f"),
        ]
        for one in claim.contrasts
    ]
    return Table(f"Several data sets against one, in the {claim.about}", columns, rows)


def _score(
    found: MetricScore | None, *, strong: bool = False, note: str | None = None, lacking: str = "missing"
) -> Cell:
    """Returns a cell of a score: below it its interval, its seeds where there are several, and a note."""
    notes = [] if note is None else [note]
    if found is None:
        return Cell("–", None, "\n".join([lacking, *notes]))
    below = [] if found.low is None or found.high is None else [f"{found.low:.3f} to {found.high:.3f}"]
    if len(found.by_seed) > 1:
        below.append(f"seeds {', '.join(map(decimals, found.by_seed))}")
    return Cell(decimals(found.mean), found.mean, "\n".join([*below, *notes]) or None, strong)


def _difference(found: Difference) -> Cell:
    below = None if found.low is None or found.high is None else f"{found.low:+.3f} to {found.high:+.3f}"
    return number(found.mean, "+.3f", below=below)
