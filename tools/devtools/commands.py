"""The commands of `tools/dev.py`, one function each, and the table that names them."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .binary import binary
from .gates import gates, run_gates
from .locks import write_locks
from .paths import ROOT, VENV
from .venv import SetupFailed, ensure_project

BENCHES = ROOT / "tools" / "bench"


def main(argv: Sequence[str], usage: str) -> int:
    """Run one command; 2 is for a command line that is wrong, 130 for ^C."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(usage, end="")
        return 0 if argv else 2
    command = COMMANDS.get(argv[0])
    if command is None:
        print(f"no command {argv[0]!r}\n\n{usage}", end="", file=sys.stderr)
        return 2
    try:
        return command(list(argv[1:]))
    except SetupFailed as failure:
        print(f"dev.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def setup(_arguments: list[str]) -> int:
    """Make `.venv` current."""
    ensure_project()
    return 0


def run(arguments: list[str]) -> int:
    """Become the appliance: signals reach it and not us. A fresh box has no model yet, so the scripted one is offered."""
    ensure_project()
    os.environ.setdefault("MOCK_CHAT_SCRIPT", "builtin")
    program = str(VENV / "bin" / "appliance")
    os.execv(program, [program, "serve", *arguments])


def check(_arguments: list[str]) -> int:
    """Every gate."""
    return 1 if run_gates(ensure_project(), gates()) else 0


def test(arguments: list[str]) -> int:
    """The tests; with `--all` the gates and the real programs too. The last lines are pytest's unless a gate failed."""
    python = ensure_project()
    everything = "--all" in arguments
    failed_gates = run_gates(python, gates()) if everything else []
    if everything:
        real([])  # said and done before the tests, which say nothing for the minutes it takes
    code = _call(python, ["-m", "pytest", *coverage_arguments(arguments), *arguments])
    if failed_gates:
        print(f"gates FAILED: {', '.join(sorted(failed_gates))}", file=sys.stderr)
    return code or (1 if failed_gates else 0)


def coverage_arguments(arguments: Sequence[str]) -> list[str]:
    """Branches are always measured; the table is shown where it was asked for, or where everything ran."""
    if any(argument.startswith(("--cov", "--no-cov")) for argument in arguments):
        return []
    return ["--cov", "--cov-report=term:skip-covered" if "--all" in arguments else "--cov-report="]


def bench(arguments: list[str]) -> int:
    """Run the named measurements, or all; each prints its own table and says by its exit code whether it was met."""
    python = ensure_project()
    known = bench_names(BENCHES)
    names = [a for a in arguments if not a.startswith("-")] or known
    flags = [a for a in arguments if a.startswith("-")]
    if unknown := set(names) - set(known):
        print(f"no measurement {', '.join(sorted(unknown))}; there are: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    start = "import importlib, sys; sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))"
    codes = [_call(python, ["-c", start, f"tools.bench.{name}", *flags]) for name in names]
    return max(codes, default=0)


def bench_names(folder: Path) -> list[str]:
    """The measurements in `folder`: its modules that have a `main`, helpers left out."""
    return sorted(f.stem for f in folder.glob("[!_]*.py") if "\ndef main(" in f.read_text(encoding="utf-8"))


def real(_arguments: list[str]) -> int:
    """Build the real image server and its weights into the cache."""
    return _call(ensure_project(), ["-m", "tests.real.sdserver"])


def man(_arguments: list[str]) -> int:
    """Write the man page anew."""
    return _call(ensure_project(), ["-m", "tools.devtools.manpage"])


def _call(python: Path, arguments: Sequence[str]) -> int:
    sys.stdout.flush()
    return subprocess.call([str(python), *arguments], cwd=ROOT)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "setup": setup,
    "run": run,
    "test": test,
    "check": check,
    "bench": bench,
    "binary": binary,
    "real": real,
    "lock": write_locks,
    "man": man,
}
