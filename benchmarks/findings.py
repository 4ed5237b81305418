"""How do networks compare, finding by finding? A Markdown table of the AUROC of evaluated training runs.

    python benchmarks/findings.py RUN [RUN ...] [--split test] [--json]

The runs must have been scored on the same images; intervals are 95 % over patients, as in the score files.
"""

import argparse
import json
from pathlib import Path

from medarts.engine.directory import RunDirectory
from medarts.errors import MedartsError
from medarts.evaluation.finding_table import MEANS, FindingRow
from medarts.evaluation.findings import FindingScores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    alike = len({path.name for path in arguments.runs}) < len(arguments.runs)
    names = [str(path) if alike else path.name for path in arguments.runs]
    try:
        runs = {n: RunDirectory.open(path, kind="train") for n, path in zip(names, arguments.runs, strict=True)}
        scores = {name: FindingScores.read(run.path / "scores" / arguments.split) for name, run in runs.items()}
    except MedartsError as error:
        raise SystemExit(str(error)) from None
    check_same_images(scores)
    sizes = {name: run.read_json("cost.json")["parameters"] for name, run in runs.items()}
    tables = {name: {row.finding: row for row in one.table()} for name, one in scores.items()}
    if arguments.json:
        values = {name: {finding: row.auroc.mean for finding, row in rows.items()} for name, rows in tables.items()}
        print(json.dumps({"parameters": sizes, "auroc": values}))
    else:
        print(table(tables, sizes))


def check_same_images(scores: dict[str, FindingScores]) -> None:
    seen = {name: list(zip(one.predictions.domains, one.predictions.keys, strict=True)) for name, one in scores.items()}
    first = next(iter(seen))
    for name, images in seen.items():
        if images != seen[first]:
            raise SystemExit(f"{name} and {first} were not scored on the same images.")


def table(tables: dict[str, dict[str, FindingRow]], sizes: dict[str, int]) -> str:
    lines = [
        "| finding (test positives) | " + " | ".join(tables) + " |",
        "| --- |" + " --- |" * len(tables),
        "| parameters | " + " | ".join(f"{size:,}" for size in sizes.values()) + " |",
    ]
    for finding, row in next(iter(tables.values())).items():
        name = finding if finding in MEANS else f"{finding} ({row.positives})"
        lines.append(f"| {name} | " + " | ".join(cell(rows[finding]) for rows in tables.values()) + " |")
    return "\n".join(lines)


def cell(row: FindingRow) -> str:
    value = row.auroc
    if value.mean != value.mean:
        return "excluded"
    interval = "" if value.low != value.low else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.mean:.3f}{interval}"


if __name__ == "__main__":
    main()
