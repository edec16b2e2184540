"""The gates: everything that must hold before a change is offered, each a program with an exit code."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT

GATE_TIMEOUT_S = 300.0  # a cold mypy on a busy machine; a gate that takes longer hangs
ASYNC_WORD = re.compile(rb"\b(?:async|trio)\b")
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


def gates(root: Path = ROOT) -> tuple[Gate, ...]:
    """All of them, the slowest first: two run at a time."""
    return (
        Gate("flake8-async", ("-m", "flake8", "--select", "ASYNC", *async_files(root))),
        Gate("mypy", ("-m", "mypy")),
        Gate("ruff", ("-m", "ruff", "check", *CODE)),
        Gate("format", ("-m", "ruff", "format", "--check", *CODE)),
        Gate("layers", ("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")),
        Gate("locks", ("-m", "tools.devtools.locks")),
    )


def async_files(root: Path) -> list[str]:
    """The files flake8-async can say something about: it takes 0.2 s for each of the others too."""
    code = [file for folder in CODE for file in (root / folder).rglob("*.py")]
    return sorted(str(file.relative_to(root)) for file in code if ASYNC_WORD.search(file.read_bytes()))


def run_gates(python: Path, chosen: Sequence[Gate]) -> list[str]:
    """Run every gate, print a line for each and what the failing ones said; returns the names of those."""
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for running in as_completed([pool.submit(run_gate, python, gate) for gate in chosen]):
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
