"""What did a benchmark find? Its networks as Markdown tables, one over all data sets and one of each.

    python benchmarks/study.py FOLDER [--json]

FOLDER is that of ``medarts benchmark``, compared by it or by ``medarts compare FOLDER``. Intervals are 95 % over
patients.
"""

import argparse
import json
from pathlib import Path

from medarts.comparison.overall import Overall, of_single_sets, overall, scores_of
from medarts.comparison.paired import Difference
from medarts.comparison.result import Comparison, MetricScore, NetworkResult
from medarts.errors import MedartsError
from medarts.reporting.comparison_controls import control_sentences, overall_control_sentences
from medarts.reporting.content import counted, p_text
from medarts.reporting.plots import SCORE_NAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folders = sorted((arguments.folder / "comparisons").glob("*/comparison.json"))
    if not folders:
        raise SystemExit(f"{arguments.folder} holds no comparisons; medarts compare {arguments.folder} makes them.")
    try:
        found = {path.parent.name: Comparison.read(path.parent) for path in folders}
    except MedartsError as error:
        raise SystemExit(str(error)) from None
    if arguments.json:
        print(json.dumps({name: scores_of(one) for name, one in found.items()}))
        return
    singles = of_single_sets(found)
    together, title = overall(singles), SCORE_NAMES[next(iter(singles.values())).score]
    print(overall_table(together, list(singles)))
    for sentence in overall_control_sentences(together.controls, title=title):
        print(f"\n{sentence}")
    for name, comparison in found.items():
        patients = counted(comparison.patients, "patient")
        print(f"\n{name}: {comparison.images} images of {patients}. {comparison.test}\n\n{table(comparison)}")
        for sentence in control_sentences(comparison.controls, title=title, patients=comparison.patients):
            print(f"\n{sentence}")


def overall_table(found: Overall, names: list[str]) -> str:
    """The mean is over data sets of several patients; where there are others, one over these too stands beside it."""
    uncounted = bool(found.uncounted)
    against = [f"against {found.reference}", "p"] if found.reference else []
    with_all = [f"mean of {', '.join(found.all_sets)}"] if uncounted else []
    titles = ["network", *names, f"mean of {', '.join(found.sets)}", *against, "mean rank", *with_all]
    lines = [heading([*titles, "parameters", "ms"])]
    for name, row in found.rows.items():
        cells = [decimals(row.scores.get(of_set)) for of_set in names]
        difference = difference_cells(row.difference) if found.reference else ()
        rank = "" if row.rank is None else f"{row.rank:.1f}"
        last = [decimals(row.mean_of_all)] if uncounted else []
        lines.append(line([name, *cells, decimals(row.mean), *difference, rank, *last, *cost(row.any)]))
    return "\n".join(lines)


def table(comparison: Comparison) -> str:
    titles = ["network", *comparison.metrics, f"against {comparison.reference}", "p", "parameters", "ms"]
    lines = [heading(titles)]
    for network in sorted(comparison.networks, key=lambda one: -(one.scores[comparison.score].mean or 0)):
        scores = [cell(network.scores[metric]) for metric in comparison.metrics]
        lines.append(line([network.name, *scores, *difference_cells(network.difference), *cost(network)]))
    return "\n".join(lines)


def heading(titles: list[str]) -> str:
    return f"{line(titles)}\n|{' --- |' * len(titles)}"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(score: MetricScore) -> str:
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{decimals(score.mean)}{interval}"


def decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def difference_cells(found: Difference | None) -> tuple[str, str]:
    """The difference with its interval, and its corrected p."""
    if found is None:
        return "", ""
    interval = "" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{interval}", "" if found.p_corrected is None else p_text(found.p_corrected)


def cost(network: NetworkResult) -> tuple[str, str]:
    return f"{network.parameters:,}", f"{network.latency_ms[1]:.1f}"


if __name__ == "__main__":
    main()
