"""Virtual environments made from a hashed lock: whole and current, or made again."""

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .files import exclusive, replace_text
from .interpreter import base_python
from .paths import DEV_LOCK, ROOT, VENV

STAMP = ".from-lock"
REPORT = "installed.json"  # pip's own: which archive, of those that the lock allows, was taken
LAYOUT = "2"  # raise it when an environment made by this file has to be made again
SHEBANG_LIMIT = 120  # Linux cuts the line at 127 bytes on older kernels

LAUNCHER = """#!{python}
import sys

from appliance.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""


class SetupFailed(Exception):
    """An environment could not be made; the message says what to do."""


def project_python() -> Path:
    """The Python of the project's own environment."""
    return VENV / "bin" / "python"


def ensure_project() -> Path:
    """Make `.venv` current, with the `appliance` command in it; returns its Python. Raises SetupFailed."""
    return ensure_venv(VENV, DEV_LOCK, project=ROOT)


def ensure_venv(venv: Path, *locks: Path, project: Path | None = None) -> Path:
    """Make `venv` hold exactly what the `locks` say; quick when it does already. Raises SetupFailed."""
    if not _is_current(venv, locks, project):
        with exclusive(venv):
            if not _is_current(venv, locks, project):
                _make(venv, locks, project)
                replace_text(venv / STAMP, stamp_of(venv, locks, project))
    return venv / "bin" / "python"


def stamp_of(venv: Path, locks: Sequence[Path], project: Path | None) -> str:
    """What `venv` was made from: the locks, the tree, and the Python its link leads to, which an upgrade may move."""
    python = os.path.realpath(venv / "bin" / "python")
    digests = [hashlib.sha256(lock.read_bytes()).hexdigest() for lock in locks]
    return "\n".join((LAYOUT, python, str(project or ""), *digests)) + "\n"


def _is_current(venv: Path, locks: Sequence[Path], project: Path | None) -> bool:
    try:
        found = (venv / STAMP).read_text(encoding="utf-8")
    except OSError:
        return False
    return found == stamp_of(venv, locks, project) and os.access(venv / "bin" / "python", os.X_OK)


def _make(venv: Path, locks: Sequence[Path], project: Path | None) -> None:
    names = " and ".join(lock.name for lock in locks)
    print(f"setting up {venv} from {names}: about half a minute", file=sys.stderr, flush=True)
    (venv / STAMP).unlink(missing_ok=True)  # from here on an interrupted run is seen and done again
    _step([base_python(), "-m", "venv", "--clear", str(venv)], NO_VENV)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    install = ["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--report", str(venv / REPORT)]
    wanted = [argument for lock in locks for argument in ("-r", str(lock))]
    _step([*pip, *install, *wanted], f"pip could not install {names}: see above; is a package index reachable?")
    if project is not None:
        _add_project(venv, project)


NO_VENV = "python -m venv failed: install its package (Debian: apt install python3-venv) or use another Python"


def _step(command: Sequence[str], failure: str) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupFailed(failure)


def _add_project(venv: Path, project: Path) -> None:
    """One path line and one script: an editable install costs an import hook at every start."""
    site = next((venv / "lib").glob("python3.*/site-packages"))
    (site / "appliance-tree.pth").write_text(f"{project}\n", encoding="utf-8")
    python = str(venv / "bin" / "python")
    command = venv / "bin" / "appliance"
    command.write_text(launcher(python), encoding="utf-8")
    command.chmod(0o755)


def launcher(python: str) -> str:
    """The text of the `appliance` command; by way of a shell where the kernel could not read the path."""
    if len(python) <= SHEBANG_LIMIT and not any(c.isspace() for c in python):
        return LAUNCHER.format(python=python)
    # -P: a folder with a trio.py in it must not become part of the program
    return f'#!/bin/sh\nexec {shlex.quote(python)} -P -m appliance "$@"\n'
