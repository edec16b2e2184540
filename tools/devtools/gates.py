"""The gates: everything that must hold before a change is offered, each a program with an exit code."""

import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT

GATE_TIMEOUT_S = 300.0  # a cold mypy on a busy machine; a gate that takes longer hangs
CODE = ("appliance", "tests", "tools")


@dataclass(frozen=True, slots=True)
class Gate:
    """One program of the environment, run in the tree."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said, and how long it took to say it."""

    gate: Gate
    passed: bool
    output: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.gate.name:<12} {'ok' if self.passed else 'FAILED':<7} {self.seconds:5.1f} s"


GATES = (  # the slowest first: two run at a time
    Gate("mypy", ("-m", "mypy")),
    Gate("flake8-async", ("-m", "flake8", "--select", "ASYNC", *CODE)),
    Gate("ruff", ("-m", "ruff", "check", *CODE)),
    Gate("format", ("-m", "ruff", "format", "--check", *CODE)),
    Gate("layers", ("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")),
    Gate("locks", ("-m", "tools.devtools.locks")),
)


def run_gates(python: Path, gates: Sequence[Gate] = GATES) -> list[str]:
    """Run every gate, print a line for each and what the failing ones said; returns the names of those."""
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for running in as_completed([pool.submit(run_gate, python, gate) for gate in gates]):
            verdict = running.result()
            print(verdict, flush=True)
            if not verdict.passed:
                print(verdict.output.strip(), flush=True)
                failed.append(verdict.gate.name)
    return failed


def run_gate(python: Path, gate: Gate) -> Verdict:
    """Run one; a gate that does not end in time has failed."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [str(python), *gate.command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=GATE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(gate, False, f"no answer in {GATE_TIMEOUT_S:.0f} s", GATE_TIMEOUT_S)
    return Verdict(gate, done.returncode == 0, done.stdout + done.stderr, time.monotonic() - began)
