"""How well does a plan predict what a search takes? Estimated against measured, for time, memory and parameters.

    python benchmarks/plan.py [RECIPE [KEY=VALUE ...]] [--repeats N] [--json]

Without a recipe it plans a search on synthetic images that takes about three minutes on one core. The plan, and then
the search, run in processes of their own on the same machine; nothing else should run beside them. The target is a
ratio of time and of memory between 1/1.5 and 1.5, and equal parameters in the first stage. Those of later stages depend
on which operations the search keeps.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from medarts.config import Recipe, apply_overrides, load, parse
from medarts.data.synthetic import write_phantoms
from medarts.engine import checkpoint
from medarts.engine.directory import RunDirectory
from medarts.nas.search import start_search
from medarts.profiling.plan import plan

TARGET = 1.5
ARCHITECTURE = ("alphas.", "betas")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="RECIPE [KEY=VALUE ...]")
    parser.add_argument("--repeats", type=int, default=1, help="plans and searches; the median ratio counts")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    files = [word for word in arguments.words if "=" not in word]
    changes = [word for word in arguments.words if "=" in word]
    with tempfile.TemporaryDirectory() as folder:
        recipe = load(Path(files[0]), changes) if files else synthetic_recipe(Path(folder), changes)
        comparisons = [compare(recipe, Path(folder) / f"run{number}") for number in range(arguments.repeats)]
    result = {
        "comparisons": comparisons,
        "time_ratio": statistics.median(comparison["seconds"]["ratio"] for comparison in comparisons),
        "memory_ratio": statistics.median(comparison["memory_mb"]["ratio"] for comparison in comparisons),
    }
    result["within_target"] = all(1 / TARGET < result[name] < TARGET for name in ("time_ratio", "memory_ratio"))
    print(json.dumps(result) if arguments.json else table(result))


def synthetic_recipe(folder: Path, changes: list[str]) -> Recipe:
    sources = write_phantoms(folder / "phantoms", seed=0, images=60, size=64)
    content = {
        "data": {
            "sources": [source.model_dump(mode="json") for source in sources],
            "size": 64,
            "cache": str(folder / "cache"),
        },
        "space": {"init_channel": 8, "double_down_channel": False},
        "search": {
            "stages": [
                {"depth": 3, "epochs": 4, "batch": 8, "keep": {"down": 4, "normal": 4, "up": 2}},
                {"depth": 4, "epochs": 3, "batch": 8},
            ],
            "arch_after": 1,
        },
        "compute": {"device": "cpu", "threads": 1},
    }
    return parse(apply_overrides(content, changes))


def compare(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Plans, searches, and returns estimated and measured values."""
    planned = plan(recipe)
    # A process of its own: the peak memory of this one holds more than the search.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        run = pool.submit(start_search, recipe, out).result()
    lines = [json.loads(line) for line in (run.path / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": _pair(planned.search_seconds, sum(line["seconds"] for line in lines)),
        "memory_mb": _pair(planned.search_memory_mb, max(line["peak_memory_mb"] for line in lines)),
        "last_stage_parameters": _pair(planned.stages[-1].parameters, _parameters(run)),
        "stage_seconds": [
            _pair(stage.seconds, sum(line["seconds"] for line in lines if line["stage"] == number))
            for number, stage in enumerate(planned.stages)
        ],
    }


def table(result: dict[str, Any]) -> str:
    rows = [f"{'':24}{'estimated':>14}{'measured':>14}{'ratio':>8}"]
    for comparison in result["comparisons"]:
        stages = {f"seconds of stage {n}": pair for n, pair in enumerate(comparison["stage_seconds"], 1)}
        for name, pair in {**{k: v for k, v in comparison.items() if k != "stage_seconds"}, **stages}.items():
            rows.append(f"{name:24}{pair['estimated']:14,.1f}{pair['measured']:14,.1f}{pair['ratio']:8.2f}")
    rows.append(f"within a factor of {TARGET}: {'yes' if result['within_target'] else 'no'}")
    return "\n".join(rows)


def _pair(estimated: float, measured: float) -> dict[str, float]:
    return {"estimated": estimated, "measured": measured, "ratio": estimated / measured}


def _parameters(run: RunDirectory) -> int:
    """Returns the number of weights of the last stage's supernet, alphas and betas not counted."""
    point = checkpoint.load(run.checkpoints, "last")
    assert point is not None
    return sum(tensor.numel() for name, tensor in point.weights.items() if not name.startswith(ARCHITECTURE))


if __name__ == "__main__":
    main()
