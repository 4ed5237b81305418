"""How do networks compare, finding by finding? A Markdown table of the AUROC of evaluated training runs.

    python benchmarks/findings.py RUN [RUN ...] [--split test]

The runs must have been scored on the same images; intervals are 95 % over patients, as in the score files.
"""

import argparse
from pathlib import Path

import pandas as pd

from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError
from medarts.evaluation.scores import Scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    try:
        runs = {str(path): RunDirectory.open(path, kind="train") for path in arguments.runs}
        scores = {name: Scores.read(run.path / "scores" / arguments.split) for name, run in runs.items()}
    except MedartsError as error:
        raise SystemExit(str(error)) from None
    images = {
        name: frozenset(zip(one.table["dataset"], one.table["image"], strict=True)) for name, one in scores.items()
    }
    if len({*images.values()}) > 1:
        raise SystemExit("The runs were not scored on the same images.")
    columns = {name: cells(one.summary) for name, one in scores.items() if one.summary is not None}
    print("| finding | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    parameters = [f"{run.read_json('cost.json')['parameters']:,}" for run in runs.values()]
    print("| parameters | " + " | ".join(parameters) + " |")
    for finding, row in pd.DataFrame(columns).iterrows():
        print(f"| {finding} | " + " | ".join(map(str, row)) + " |")


def cells(summary: pd.DataFrame) -> "pd.Series[str]":
    """Returns AUROC and interval by finding, of all data sets together where there are several."""
    rows = summary[(summary["metric"] == "auroc") & (summary["dataset"] == summary["dataset"].iloc[-1])]
    texts = [
        f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" if row.low == row.low else f"{row.value:.3f}"
        for row in rows.itertuples()
    ]
    return pd.Series(texts, index=[*rows["class"]])


if __name__ == "__main__":
    main()
