"""Environments of client and server programs: made once from a list of pins, kept outside the clone, out of .venv."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

INSTALL_TIMEOUT_S = 900.0  # the largest is litellm's, 120 packages: 35 s on two quiet cores


class CannotInstall(Exception):
    """This machine cannot have the environment; the message is the reason a skipped test gives."""


def ensure_pinned(pins: Path, *, python: Path = Path(sys.executable), before: str = "") -> Path:
    """The Python of an environment that holds exactly what `pins` lists. Raises CannotInstall.

    `before`: one requirement that is installed first, with whatever its wheel for this machine needs.
    """
    key = hashlib.sha256(pins.read_bytes() + _identity(python).encode() + before.encode()).hexdigest()[:12]
    try:
        folder = make_once(
            cache_dir() / f"venv-{pins.stem}-{key}", lambda scratch: _make(scratch, python, pins, before)
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise CannotInstall(f"{pins.name}: {type(problem).__name__}: {problem}") from problem
    return folder / "bin" / "python"


def find_python(major: int, minor: int) -> Path:
    """A Python of this version that runs: on PATH, else one of pyenv's. Raises CannotInstall."""
    name = f"python{major}.{minor}"
    on_path = shutil.which(name)
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{major}.{minor}.*/bin/{name}"), reverse=True)
    for candidate in [*([Path(on_path)] if on_path else []), *homes]:
        if _runs(candidate):  # a pyenv shim is on PATH for versions that are not switched on
            return candidate
    raise CannotInstall(f"no {name} on PATH or among pyenv's versions")


def check_room(wanted_bytes: int, *, unless: Path) -> None:
    """Raises CannotInstall where the cache's disk has no room for what is not there yet."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(cache).free
    if not unless.exists() and free_bytes < wanted_bytes:
        raise CannotInstall(f"NO ROOM: {cache} has {free_bytes >> 20} MB left, and {wanted_bytes >> 20} are wanted")


def run_step(command: Sequence[str], failure: str, *, env: Mapping[str, str] | None = None) -> str:
    """Run one step of a making. Raises CannotInstall with the last lines it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, env=env)
    if done.returncode != 0:
        raise CannotInstall(f"{failure}: {' | '.join((done.stdout + done.stderr).strip().splitlines()[-3:])}")
    return done.stdout


def _make(folder: Path, python: Path, pins: Path, before: str) -> None:
    print(f"setting up an environment from {pins.name}", file=sys.stderr, flush=True)
    run_step([str(python), "-m", "venv", str(folder)], "python -m venv failed")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    if before:
        run_step(["nice", *pip, "install", "--only-binary", ":all:", before], f"pip could not install {before}")
    hashes = ["--require-hashes"] if "--hash" in pins.read_text(encoding="utf-8") else []
    install = ["install", "--no-deps", "--only-binary", ":all:", *hashes, "-r", str(pins)]
    run_step(["nice", *pip, *install], "pip could not install it; is a package index reachable?")


def _identity(python: Path) -> str:
    return run_step(
        [str(python), "-c", "import sys; print(sys.version, sys.base_prefix)"], f"{python.name} does not run"
    )


def _runs(python: Path) -> bool:
    try:
        _identity(python)
    except (CannotInstall, OSError, subprocess.SubprocessError):
        return False
    return True
