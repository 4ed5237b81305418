"""The two matrices: networks against the data sets they are retrained on, and groups against the data sets tested."""

from collections.abc import Collection, Mapping, Sequence

from medarts.comparison.overall import mean_ranks, shared_sets
from medarts.comparison.paired import Measured
from medarts.comparison.pooled import counting_sets, mean_measured
from medarts.study.generalization import Domain, Group, Mark, Network, Retrained, RetrainedRow, Trained, TrainedRow
from medarts.study.measures import Measures, Trainee, as_score


def retrained_matrix(
    networks: Sequence[Network], groups: Sequence[Group], measures: Measures, *, planned: Collection[Trainee]
) -> Retrained:
    """Returns the matrix of networks, each trained and tested on one data set after another.

    Means and ranks are over data sets of several patients alone; see `counting_sets`.

    Args:
        networks: the rows.
        groups: all groups; those of one data set are the columns.
        measures: the scores.
        planned: all trainings of the study.
    """
    alone = [group for group in groups if len(group.domains) == 1]
    found: dict[str, dict[str, Measured]] = {}
    for network in networks:
        of_groups = {group.name: measures.get((group.name, network.name), group.domains[0]) for group in alone}
        found[network.name] = {name: measured for name, measured in of_groups.items() if measured is not None}
    scores = {
        group.name: {name: cells[group.name].mean for name, cells in found.items() if group.name in cells}
        for group in alone
    }
    patients = {group.name: measures.size(group.domains[0])[1] for group in alone if scores[group.name]}
    counting = counting_sets(patients)
    shared = shared_sets({name: scores[name] for name in counting})
    ranks = mean_ranks(scores, shared)
    means = {name: mean_measured({group: found[name][group] for group in shared}) for name in ranks}
    return Retrained(
        groups=tuple(group.name for group in alone),
        shared=shared,
        left_out=tuple(name for name in patients if name not in counting),
        rows=tuple(
            RetrainedRow(
                network=name,
                cells={group.name: as_score(cells[group.name]) if group.name in cells else None for group in alone},
                planned=tuple(group.name for group in alone if (group.name, name) in planned),
                mean=as_score(means[name]) if name in means else None,
                rank=ranks.get(name),
            )
            for name, cells in found.items()
        ),
    )


def trained_matrices(
    planned: Mapping[str, Sequence[Group]], domains: Sequence[Domain], measures: Measures
) -> tuple[Trained, ...]:
    """Returns for every network that is trained on several groups how well it does on every data set.

    Args:
        planned: by network the groups that it is to be trained on.
        domains: the columns.
        measures: the scores; networks without any are left out.
    """
    matrices = []
    for network, groups in planned.items():
        rows = tuple(_trained_row(network, group, domains, measures) for group in groups)
        if len(groups) > 1 and any(cell is not None for row in rows for cell in row.cells.values()):
            matrices.append(Trained(network, rows))
    return tuple(matrices)


def _trained_row(network: str, group: Group, domains: Sequence[Domain], measures: Measures) -> TrainedRow:
    found = {domain.name: measures.get((group.name, network), domain.name) for domain in domains}
    cells = {name: None if measured is None else as_score(measured) for name, measured in found.items()}
    return TrainedRow(group.name, cells, marks={domain.name: mark_of(domain, group) for domain in domains})


def mark_of(domain: Domain, group: Group) -> Mark:
    """Returns how a data set tested stands to the group trained on."""
    if domain.external:
        return "external"
    if domain.name not in group.domains:
        return "unseen"
    return "own" if len(group.domains) == 1 else "part of the mix"
