"""Records: what appending costs, and that a million of them are opened and looked up as a thousand are."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.bench.common import Figure, at_most, exactly, parse_arguments, report, told

FEW, MANY = 1_000, 1_000_000
TIMEOUT_S = 300.0
GOAL_APPEND_CPU_US = 80.0
GOAL_LOOK_UP_RATIO = 2.0
GOAL_OPEN_S = 2.0
GOAL_RSS_MB = 100.0
TITLE = f"records: {FEW} beside {MANY}"

Measured = Mapping[str, float]


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a record was not found."""
    arguments = parse_arguments(argv, TITLE)
    with tempfile.TemporaryDirectory(prefix="bench-records-") as name:
        return report(TITLE, measure(Path(name)), arguments.json)


def measure(directory: Path) -> list[Figure]:
    """Each figure comes from a process of its own, so that memory is its own too."""
    appends = _run("append", directory / "append")
    empty = _run("open", directory / "empty")
    for count in (FEW, MANY):
        _run("make", directory / str(count), str(count))
    few, many = (_run("open", directory / str(count)) for count in (FEW, MANY))
    (directory / str(MANY) / "invocations.jsonl.index").unlink()
    rebuilt = _run("open", directory / str(MANY))
    return [
        *(told(f"append: CPU, {name}", value, "us") for name, value in appends.items() if "batch of 32" not in name),
        *(at_most(f"append: CPU, {n}", v, "us", GOAL_APPEND_CPU_US) for n, v in appends.items() if "batch of 32" in n),
        told("look-up among few: p50", few["p50_us"], "us"),
        told("look-up among few: p99", few["p99_us"], "us"),
        told("look-up among many: p50", many["p50_us"], "us"),
        told("look-up among many: p99", many["p99_us"], "us"),
        at_most("look-up: p99 among many beside few", many["p99_us"] / few["p99_us"], "times", GOAL_LOOK_UP_RATIO),
        exactly("look-up: records not found", few["lost"] + many["lost"] + rebuilt["lost"], "", 0),
        told("start: empty", empty["open_s"], "s"),
        at_most("start: with many, beyond empty", many["open_s"] - empty["open_s"], "s", GOAL_OPEN_S),
        at_most("memory: with many, beyond empty", many["rss_mb"] - empty["rss_mb"], "MB", GOAL_RSS_MB),
        at_most("index deleted: start beyond empty", rebuilt["open_s"] - empty["open_s"], "s", GOAL_OPEN_S),
        told("index deleted: first look-up", rebuilt["first_s"], "s"),
        told("index deleted: made anew after", rebuilt["indexed_s"], "s"),
        at_most("index deleted: memory beyond empty", rebuilt["rss_mb"] - empty["rss_mb"], "MB", GOAL_RSS_MB),
    ]


def _run(*arguments: str | Path) -> Measured:
    command = [sys.executable, "-m", "tools.bench.records_process", *map(str, arguments)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=TIMEOUT_S)
    measured: Measured = json.loads(ended.stdout)
    return measured


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
