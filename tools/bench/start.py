"""Start: CPU to the first 200, idle memory, and what a light command costs: the source, and the executable if it was built."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from tools.bench.common import (
    Figure,
    at_most,
    cpu_s,
    fetch,
    free_port,
    open_fds,
    parse_arguments,
    report,
    rss_mb,
    told,
)
from tools.bench.gateway_process import appliance_command, gateway_environment, stop_process
from tools.devtools.paths import ROOT

RUNS = 5
SETTLE_S = 2.0  # the first round of probes and the listeners' start are over
START_TIMEOUT_S = 30.0
EXECUTABLE = ROOT / "dist" / "appliance"
TITLE = f"start: medians of {RUNS}"


@dataclass(frozen=True, slots=True)
class Program:
    """One way to start the appliance, and what it should cost. Of the executable both processes count."""

    name: str
    command: str
    start_cpu_s: float
    idle_rss_mb: float
    light_cpu_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """One start: CPU and wall time to the first 200, then memory and descriptors at rest."""

    cpu_s: float
    wall_s: float
    rss_mb: float
    fds: float


@dataclass(frozen=True, slots=True)
class Light:
    """One run of a light command."""

    cpu_s: float
    wall_s: float


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    arguments = parse_arguments(argv, TITLE)
    figures = [figure for program in _programs() for figure in _measure(program)]
    return report(TITLE, figures, arguments.json)


def _programs() -> list[Program]:
    programs = [Program("source", appliance_command(), start_cpu_s=1.0, idle_rss_mb=60, light_cpu_s=0.15)]
    if EXECUTABLE.exists():
        programs.append(Program("executable", str(EXECUTABLE), start_cpu_s=1.0, idle_rss_mb=70, light_cpu_s=0.3))
    return programs


def _measure(program: Program) -> list[Figure]:
    starts = [trio.run(measure_start, program.command) for _ in range(RUNS)]
    light = {
        name: [measure_light(program.command, name) for _ in range(RUNS + 1)][1:]  # the first warms the page cache
        for name in ("version", "--help")
    }

    def median(column: Callable[[Start], float]) -> float:
        return statistics.median(map(column, starts))

    name = program.name
    figures = [
        at_most(f"{name}: CPU to the first 200 on /health", median(lambda s: s.cpu_s), "s", program.start_cpu_s),
        told(f"{name}: the slowest of them", max(start.cpu_s for start in starts), "s"),
        told(f"{name}: wall time to the first 200", median(lambda s: s.wall_s), "s"),
        at_most(f"{name}: resident memory when idle", median(lambda s: s.rss_mb), "MB", program.idle_rss_mb),
        told(f"{name}: open fds when idle", median(lambda s: s.fds), ""),
    ]
    for command, runs in light.items():
        cpu = statistics.median(run.cpu_s for run in runs)
        figures.append(at_most(f"{name} {command}: CPU", cpu, "s", program.light_cpu_s))
        figures.append(told(f"{name} {command}: wall time", statistics.median(run.wall_s for run in runs), "s"))
    return figures


async def measure_start(command: str) -> Start:
    """Start a gateway, wait for its first answer, look at it, and stop it."""
    with tempfile.TemporaryDirectory(prefix="bench-start-") as state:
        ports = (free_port(), free_port())
        environment = gateway_environment(state, ports, "bench-" + os.urandom(16).hex(), {})
        started_s = time.perf_counter()
        process = await trio.lowlevel.open_process(
            [command, "serve"],
            env=environment,
            cwd=state,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with trio.fail_after(START_TIMEOUT_S):
                await _first_answer(process, ports[0])
            wall_s = time.perf_counter() - started_s
            processes = _family(process.pid)
            used_s = sum(map(cpu_s, processes))
            await trio.sleep(SETTLE_S)
            return Start(used_s, wall_s, sum(map(rss_mb, processes)), float(len(open_fds(processes[-1]))))
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


def _family(pid: int) -> list[int]:
    """A process and its children: the bootloader's is the gateway."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def measure_light(program: str, command: str) -> Light:
    """A command that ends by itself, its children included."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([program, command], check=True, stdout=subprocess.DEVNULL, timeout=30)
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began_s
    return Light((after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime), wall_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
