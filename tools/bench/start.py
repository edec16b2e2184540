"""Start: CPU to the first 200, idle memory, and what a light command costs."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import trio

from tools.bench.common import (
    Figure,
    at_most,
    cpu_s,
    fetch,
    free_port,
    open_fds,
    parse_arguments,
    percentile,
    report,
    rss_mb,
    told,
)
from tools.bench.gateway_process import appliance_command, gateway_environment, stop_process

RUNS = 5
SETTLE_S = 2.0  # the first round of probes and the listeners' start are over
START_TIMEOUT_S = 30.0
GOAL_START_CPU_S = 1.0
GOAL_VERSION_CPU_S = 0.15
GOAL_IDLE_RSS_MB = 60.0
TITLE = f"start: medians of {RUNS}"


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = parse_arguments(argv, TITLE)
    starts = [trio.run(measure_start) for _ in range(RUNS)]
    versions = [measure_version() for _ in range(RUNS + 1)][1:]  # the first one warms the page cache
    return report(TITLE, _figures(starts, versions), arguments.json)


def _figures(starts: Sequence[tuple[float, float, float, float]], versions: Sequence[float]) -> list[Figure]:
    cpu, wall, rss, fds = (statistics.median(column) for column in zip(*starts, strict=True))
    return [
        at_most("serve: CPU to the first 200 on /health", cpu, "s", GOAL_START_CPU_S),
        told("serve: the slowest of them", max(start[0] for start in starts), "s"),
        told("serve: wall time to the first 200", wall, "s"),
        at_most("serve: resident memory when idle", rss, "MB", GOAL_IDLE_RSS_MB),
        told("serve: open fds when idle", fds, ""),
        at_most("version: CPU", percentile(versions, 50), "s", GOAL_VERSION_CPU_S),
        told("version: the slowest of them", max(versions), "s"),
    ]


async def measure_start() -> tuple[float, float, float, float]:
    """CPU s and wall s to the first 200, then MB and fds at rest."""
    with tempfile.TemporaryDirectory(prefix="bench-start-") as state:
        ports = (free_port(), free_port())
        environment = gateway_environment(state, ports, "bench-" + os.urandom(16).hex(), {})
        started_s = time.perf_counter()
        process = await trio.lowlevel.open_process(
            [appliance_command(), "serve"],
            env=environment,
            cwd=state,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with trio.fail_after(START_TIMEOUT_S):
                await _first_answer(process, ports[0])
            cpu, wall = cpu_s(process.pid), time.perf_counter() - started_s
            await trio.sleep(SETTLE_S)
            return cpu, wall, rss_mb(process.pid), float(len(open_fds(process.pid)))
        finally:
            with trio.CancelScope(shield=True):  # bounded by the two deadlines within
                await stop_process(process)


async def _first_answer(process: trio.Process, port: int) -> None:
    while process.poll() is None:
        try:
            status, _ = await fetch(port, "GET", "/health")
        except OSError:
            status = 0
        if status == 200:
            return
        await trio.sleep(0.005)
    raise RuntimeError(f"the gateway exited with {process.returncode} instead of answering")


def measure_version() -> float:
    """CPU s of `appliance version`, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([appliance_command(), "version"], check=True, stdout=subprocess.DEVNULL, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
