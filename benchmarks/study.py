"""What did a benchmark find? Its networks as Markdown tables, one over all data sets and one of each.

    python benchmarks/study.py FOLDER [--json]

FOLDER is that of ``medarts benchmark``, compared by it or by ``medarts compare FOLDER``. Intervals are 95 % over
patients.
"""

import argparse
import json
from pathlib import Path

from medarts.comparison.overall import mean_ranks, shared_sets
from medarts.comparison.result import Comparison, MetricScore, NetworkResult
from medarts.errors import MedartsError


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
    singles = {name: one for name, one in found.items() if len(one.domains) == 1}
    if arguments.json:
        print(json.dumps({name: scores_of(one) for name, one in found.items()}))
        return
    print(overall(singles))
    for name, comparison in found.items():
        print(f"\n{name}: {comparison.images} images of {comparison.patients} patients\n\n{table(comparison)}")


def scores_of(comparison: Comparison) -> dict[str, float]:
    means = {network.name: network.scores[comparison.score].mean for network in comparison.networks}
    return {name: mean for name, mean in means.items() if mean is not None}


def overall(comparisons: dict[str, Comparison]) -> str:
    scores = {name: scores_of(comparison) for name, comparison in comparisons.items()}
    sets = shared_sets(scores)
    ranks = mean_ranks(scores, sets)
    means = {name: sum(scores[one][name] for one in sets) / len(sets) for name in ranks}
    known = {network.name: network for one in comparisons.values() for network in one.networks}
    lines = [
        f"| network | {' | '.join(comparisons)} | mean of {', '.join(sets)} | mean rank | parameters | ms |",
        "| --- |" + " --- |" * (len(comparisons) + 4),
    ]
    for name in sorted(known, key=lambda one: -means.get(one, 0)):
        cells = [f"{scores[one][name]:.3f}" if name in scores[one] else "" for one in comparisons]
        both = (f"{means[name]:.3f}", f"{ranks[name]:.1f}") if name in means else ("", "")
        lines.append(f"| {' | '.join([name, *cells, *both, *cost(known[name])])} |")
    return "\n".join(lines)


def table(comparison: Comparison) -> str:
    lines = [
        f"| network | {' | '.join(comparison.metrics)} | against {comparison.reference} | p | parameters | ms |",
        "| --- |" + " --- |" * (len(comparison.metrics) + 4),
    ]
    for network in sorted(comparison.networks, key=lambda one: -(one.scores[comparison.score].mean or 0)):
        scores = [cell(network.scores[metric]) for metric in comparison.metrics]
        lines.append(f"| {' | '.join([network.name, *scores, *against(network), *cost(network)])} |")
    return "\n".join(lines)


def cell(score: MetricScore) -> str:
    if score.mean is None:
        return ""
    interval = "" if score.low is None else f" ({score.low:.3f} to {score.high:.3f})"
    return f"{score.mean:.3f}{interval}"


def against(network: NetworkResult) -> tuple[str, str]:
    found = network.difference
    if found is None:
        return "", ""
    return f"{found.mean:+.3f}", "" if found.p_corrected is None else f"{found.p_corrected:.3f}"


def cost(network: NetworkResult) -> tuple[str, str]:
    return f"{network.parameters:,}", f"{network.latency_ms[1]:.1f}"


if __name__ == "__main__":
    main()
