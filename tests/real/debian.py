"""Programs that Debian has and the tests only look on with: found on PATH, else unpacked from their package."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

DOWNLOAD_TIMEOUT_S = 600.0


class NotAvailable(Exception):
    """This machine has no such program and could not get it; the message is the reason a skipped test gives."""


def find_prometheus() -> Path:
    """The Prometheus server. Raises NotAvailable."""
    return find_program("prometheus", package="prometheus")


def find_promtool() -> Path:
    """Prometheus's checker. Raises NotAvailable."""
    return find_program("promtool", package="prometheus")


def find_nginx() -> Path:
    """The nginx server. Raises NotAvailable."""
    return find_program("nginx", package="nginx", folder="sbin")


def find_strace() -> Path:
    """What shows a program's system calls. Raises NotAvailable."""
    return find_program("strace", package="strace")


def find_wrk() -> tuple[Path, Mapping[str, str]]:
    """The load generator, and what its environment needs beside. Raises NotAvailable."""
    found = find_program("wrk", package="wrk")
    if shutil.which("wrk"):
        return found, {}
    library = _unpacked("libluajit-5.1-2") / "usr" / "lib"
    return found, {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in library.glob("*-linux-gnu"))}


def find_program(program: str, *, package: str, folder: str = "bin") -> Path:
    """A program on PATH, or of its unpacked package. Raises NotAvailable."""
    if found := shutil.which(program):
        return Path(found)
    unpacked = _unpacked(package) / "usr" / folder / program
    if not unpacked.exists():
        raise NotAvailable(f"the package {package} has no {program}")
    return unpacked


def _unpacked(package: str) -> Path:
    try:
        return make_once(cache_dir() / f"debian-{package}", lambda scratch: _unpack(package, scratch))
    except (OSError, subprocess.SubprocessError) as problem:
        raise NotAvailable(f"the package {package} could not be had: {type(problem).__name__}") from problem


def _unpack(package: str, folder: Path) -> None:
    """Fetch and unpack without installing: no service is started, nothing outside the cache is touched."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise NotAvailable(f"{package} is not on PATH, and this is no Debian to fetch it from")
    if not _download(package, folder):
        if os.geteuid() == 0:
            _run(["apt-get", "-qq", "update"], folder)  # a fresh image has no lists
        if not _download(package, folder):
            raise NotAvailable(f"apt-get could not download {package}; as root: apt-get update")
    archive = next(folder.glob("*.deb"))
    if _run(["dpkg", "-x", archive.name, "."], folder) != 0:
        raise NotAvailable(f"dpkg could not unpack {archive.name}")
    archive.unlink()


def _download(package: str, folder: Path) -> bool:
    return _run(["apt-get", "-qq", "download", package], folder) == 0


def _run(command: Sequence[str], folder: Path) -> int:
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S, check=False).returncode
