"""Is anything lost by a kill? Runs are killed at random moments, resumed to their end, and compared bit for bit.

    OMP_NUM_THREADS=1 python benchmarks/reliability.py [--kills 10] [--seed 0] [--only search train pool benchmark]
                                                       [--folder FOLDER] [--json]

Searches, trainings, searches by training and benchmarks, all tiny, on synthetic images; every second one works in two
processes. First each is left alone. Then it begins anew for every kill: at a moment drawn from all of the time that it
took alone, imports included, SIGKILL goes to all of its processes, as where the power fails, or to one of them, as
where memory runs out. A moment that came after the end is drawn again. The command that goes on is given, as a user
would give it, until it ends well; that may be no more than three times.

Every file but those with times has to be that of the run that was left alone. The exit status is 1 if one differs or a
run has not come to its end.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from _running import note

from medarts.data.synthetic import write_phantoms

KINDS = ("search", "train", "pool", "benchmark")

TIMED = {"run.json", "timing.jsonl", "timing.json", "cost.json", "report.html", ".lock", ".owner.json"}
"""Files of a run that say when, how long or where."""

TIMED_FOLDERS = {"logs"}
"""Folders of such files."""

BENCHMARK = """
import sys
from pathlib import Path
from medarts.config.study import load_study
from medarts.study.benchmark import available_runs, benchmark
if __name__ == "__main__":
    recipe, out = map(Path, sys.argv[1:3])
    benchmark(load_study(recipe), out, jobs=int(sys.argv[3]))
    sys.exit(any(group.missing for group in available_runs(out).values()))
"""
"""The trainings and scores of ``medarts benchmark``, without the tables and pages that it makes of them at the end."""

ATTEMPTS = 3
PATIENCE = 600.0
"""Seconds that processes have to end when one of them was killed: they save what they do."""


@dataclass
class Kill:
    """What became of a run that was killed.

    Attributes:
        kind: of the run.
        processes: it has.
        number: of the kill, which with the seed decides moment and victim.
        moment: seconds from its start.
        share: the same as part of the time that the run took alone.
        victim: who was killed.
        before: how many files it had then.
        attempts: commands that were given until it ended well.
        ended: whether it did.
        differing: files that are not those of the run that was left alone.
        said: last words of the commands that failed.
    """

    kind: str
    processes: int
    number: int
    moment: float
    share: float
    victim: str
    before: int = 0
    attempts: int = 0
    ended: bool = False
    differing: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, help="for the runs, which stay there; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.folder is not None:
        kills = killed_runs(given.folder.resolve(), given.only, kills=given.kills, seed=given.seed)
    else:
        with tempfile.TemporaryDirectory(prefix="medarts-reliability-") as folder:
            kills = killed_runs(Path(folder), given.only, kills=given.kills, seed=given.seed)
    print(json.dumps([asdict(kill) for kill in kills], indent=1) if given.json else table(kills))
    sys.exit(any(kill.differing or not kill.ended for kill in kills))


def killed_runs(folder: Path, kinds: Sequence[str], *, kills: int, seed: int) -> list[Kill]:
    """Returns what became of the runs, of which those that went well are removed again."""
    write_phantoms(folder / "phantoms", seed=0, images=25, size=32)
    for kind, recipe in recipes(folder).items():
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    found = []
    for kind in kinds:
        alone: dict[int, tuple[Path, float]] = {}
        for number in range(kills):
            processes = 1 + number % 2
            if processes not in alone:
                alone[processes] = left_alone(folder, kind, processes)
            whole, took = alone[processes]
            kill = killed(folder, kind, processes, number=number, seed=seed, took=took)
            place = folder / f"{kind}-{number}"
            if kill.ended:
                kill.differing = differing(whole, place)
            if kill.ended and not kill.differing:
                shutil.rmtree(place)
            found.append(kill)
            note(line(kill))
    return found


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the recipe of each kind: some seconds of work each, in several stages, epochs and candidates."""
    data = {
        "sources": [{"kind": "isic", "path": str(folder / "phantoms" / "isic"), "name": "isic"}],
        "size": 16,
        "cache": str(folder / "cache"),
    }
    shared: dict[str, Any] = {
        "data": data,
        "space": {
            "init_channel": 2, "intermediate_nodes": 1, "stem_channels": 2,
            "operations": {"down": ["max_pool", "down_conv"], "normal": ["identity", "conv"], "up": ["up_conv"]},
        },
        "evaluation": {"batch": 4, "bootstrap": 100},
        "compute": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    stages = [{"depth": 3, "epochs": 4, "batch": 4, "keep": {"down": 1}}]
    stages += [{"depth": 3, "epochs": 4, "batch": 4}]
    unet = {"name": "unet", "width": 4, "depth": 2}
    train = {"epochs": 40, "batch": 4, "ema": 0.9, "norm": "batch"}
    pool = {
        **shared,
        "space": {"init_channel": 2, "choices": {"depth": [3], "intermediate_nodes": [1, 2]}},
        "search": {
            "method": "pool",
            "select": {
                "candidates": 2, "rungs": [1, 2], "keep": 0.5, "neighbours": 1, "checkpoints": 1,
                "supernets": [{"relaxation": "gumbel"}], "retrain": 1,
            },
            "stages": [{"depth": 3, "epochs": 1, "batch": 4}],
            "arch_after": 0,
        },
        "train": {"epochs": 2, "batch": 4},
    }  # fmt: skip
    study = {
        "recipe": {**shared, "train": {"epochs": 6, "batch": 4}, "search": {"stages": [{**stages[1], "epochs": 2}]}},
        "networks": [{"name": "searched", "searched_on": "isic"}, {"name": "unet", "model": unet}],
        "trained_on": [{"data": "isic", "seeds": [0]}],
    }
    return {
        "search": {**shared, "search": {"stages": stages, "arch_after": 2}},
        "train": {**shared, "train": {**train, "model": unet}},
        "pool": pool,
        "benchmark": study,
    }


def command(folder: Path, kind: str, place: Path, processes: int) -> list[str]:
    """Returns the command that begins a run, or goes on with it where it has begun."""
    run, recipe = place / "run", folder / f"{kind}.yaml"
    if kind == "benchmark":
        return [sys.executable, "-c", BENCHMARK, str(recipe), str(run), str(processes)]
    shared = ["--jobs" if kind == "pool" else "--devices", str(processes)]
    words = ["--resume", str(run)] if (run / "run.json").exists() else [str(recipe), "--out", str(run)]
    return [sys.executable, "-m", "medarts", "train" if kind == "train" else "search", *words, *shared]


def begun(folder: Path, kind: str, place: Path, processes: int) -> "subprocess.Popen[bytes]":
    """Starts the command of a run, whose output is kept beside it."""
    with (place / "said.txt").open("wb") as said:
        words = command(folder, kind, place, processes)
        return subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True, cwd=folder)


def left_alone(folder: Path, kind: str, processes: int) -> tuple[Path, float]:
    """Returns the place of a run that nobody has killed, and the seconds that it took."""
    place = folder / f"{kind}-alone-{processes}"
    place.mkdir()
    began = time.monotonic()
    if begun(folder, kind, place, processes).wait() != 0:
        raise SystemExit(f"{kind} failed by itself: {(place / 'said.txt').read_text(encoding='utf-8')}")
    took = time.monotonic() - began
    note(f"{kind} in {processes}: {took:.1f} s if left alone")
    return place, took


def killed(folder: Path, kind: str, processes: int, *, number: int, seed: int, took: float) -> Kill:
    """Returns what became of a run that was killed and then went on to its end."""
    draw = random.Random(f"{seed} {kind} {number}")
    place = folder / f"{kind}-{number}"
    while True:
        share = draw.random()
        place.mkdir()
        process = begun(folder, kind, place, processes)
        with suppress(subprocess.TimeoutExpired):
            process.wait(share * took)
        members = [process.pid, *below(process.pid)]
        if process.poll() is None:
            break
        shutil.rmtree(place)
    victims = members if draw.random() < 0.5 else [draw.choice(members)]
    who = "all" if victims == members else "main" if victims == members[:1] else "another"
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    kill = Kill(kind, processes, number, share * took, share, f"{who} of {len(members)}")
    kill.before = sum(1 for _ in files(place))
    process.wait()
    wait_for(members)
    while kill.attempts < ATTEMPTS and not kill.ended:
        kill.attempts += 1
        kill.ended = begun(folder, kind, place, processes).wait() == 0
        if not kill.ended:
            kill.said.append((place / "said.txt").read_text(encoding="utf-8")[-500:])
    return kill


def below(process: int) -> Iterator[int]:
    """Yields the processes that a process has started, and those that they have."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            after_name = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == process:
                child = int(path.parent.name)
                yield child
                yield from below(child)


def wait_for(members: Sequence[int]) -> None:
    """Waits until processes have ended, of which those that were not killed save first."""
    until = time.monotonic() + PATIENCE
    while any(is_alive(member) for member in members):
        if time.monotonic() > until:
            raise SystemExit(f"Processes of a run that was killed do not end: {members}")
        time.sleep(0.2)


def is_alive(process: int) -> bool:
    """Whether a process has not ended; one that nobody has asked for its status has."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def files(place: Path) -> Iterator[Path]:
    """Yields the files of a run that hold no times, from its place on."""
    for path in sorted((place / "run").rglob("*")):
        within = path.relative_to(place)
        if path.is_file() and path.name not in TIMED and TIMED_FOLDERS.isdisjoint(within.parts):
            yield within


def differing(whole: Path, place: Path) -> list[str]:
    """Returns the files that two runs do not have alike, to the byte."""
    ours, theirs = set(files(whole)), set(files(place))
    return sorted(
        str(each)
        for each in ours | theirs
        if each not in ours or each not in theirs or digest(whole / each) != digest(place / each)
    )


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def line(kill: Kill) -> str:
    state = "not ended" if not kill.ended else f"differs: {', '.join(kill.differing)}" if kill.differing else "equal"
    place = f"{kill.moment:.1f} s ({kill.share:.0%}), {kill.victim} killed"
    return f"{kill.kind} {kill.number} in {kill.processes}: {place}, {kill.attempts} more: {state}"


def table(kills: Sequence[Kill]) -> str:
    """Returns the kills as a table, a row for each kind and number of processes."""
    titles = ("run", "processes", "kills", "all killed", "one killed", "ended", "equal to the bit")
    rows = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for kind, processes in dict.fromkeys((kill.kind, kill.processes) for kill in kills):
        of = [kill for kill in kills if (kill.kind, kill.processes) == (kind, processes)]
        everyone = sum(kill.victim.startswith("all") for kill in of)
        ended, equal = sum(kill.ended for kill in of), sum(kill.ended and not kill.differing for kill in of)
        rows.append(f"| {kind} | {processes} | {len(of)} | {everyone} | {len(of) - everyone} | {ended} | {equal} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
