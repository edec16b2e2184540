"""Manifest: what a release is made of, a pure function of its bytes. Of the executable, or of the tree where none is."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.verification.archive import read_archive
from appliance.verification.sealed_json import digest, digest_of_file, spell

SCHEMA = "gateway_appliance_release_manifest.v1"
EXECUTABLE = "appliance"
TREE = Path(__file__).resolve().parents[2]
ASK_TIMEOUT_S = 60.0

_TREE_PARTS = ("appliance", "packaging", "systemd", "tools", "docs", "pyproject.toml", "README.md")
_NOT_FROZEN = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)==(\S+)((?: \\\n\s+--hash=sha256:[0-9a-f]{64})*)", re.MULTILINE)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class CannotFreeze(Exception):
    """There is no release there; the message says what to name."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is frozen: the executable, or a source tree."""

    folder: Path
    executable: Path | None

    @property
    def command(self) -> list[str]:
        """What starts it."""
        if self.executable is not None:
            return [str(self.executable)]
        own = self.folder / ".venv" / "bin" / "python"
        return [str(own) if own.exists() else sys.executable, "-m", "appliance"]


def find_release(folder: Path | None) -> Release:
    """What `folder` holds; without one: the executable that runs, else the tree's own, else the tree. Raises
    CannotFreeze."""
    if folder is None and getattr(sys, "frozen", False):
        file = Path(sys.executable)
        return Release(file.parent, file)
    if folder is None:
        built = TREE / "dist" / EXECUTABLE
        return Release(built.parent, built) if built.is_file() else Release(TREE, None)
    if folder.is_file():
        return Release(folder.parent, folder)
    if (folder / EXECUTABLE).is_file():
        return Release(folder, folder / EXECUTABLE)
    if (folder / "appliance" / "__init__.py").is_file():
        return Release(folder, None)
    raise CannotFreeze(f"{folder} holds neither an executable named {EXECUTABLE} nor a source tree")


def make_manifest(release: Release) -> dict[str, Any]:
    """The manifest, without its seal. Raises NoArchive, OSError, ValueError."""
    made = _of_executable(release.executable) if release.executable is not None else _of_tree(release.folder)
    return {"schema": SCHEMA, **made, "definitions": ask(release, ["release", "definitions"], {})}


def ask(release: Release, arguments: Sequence[str], more: Mapping[str, str]) -> Any:
    """What the release says to a command that answers JSON; `{"unknown": reason}` where it does not."""
    given = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(more)
    # What our own bootloader left there would have another executable use our unpacked files.
    environment = {name: value for name, value in given.items() if not name.startswith("_PYI_")}
    try:
        done = subprocess.run(  # noqa: S603 -- the release itself
            [*release.command, *arguments],
            cwd=release.folder,
            env=environment,
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            return {"unknown": f"`appliance {' '.join(arguments)}` ended with {done.returncode}: {_last(done.stderr)}"}
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return {"unknown": f"`appliance {' '.join(arguments)}`: {type(error).__name__}"}


def _last(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _of_executable(file: Path) -> dict[str, Any]:
    archive = read_archive(file)
    build: dict[str, Any] = json.loads(archive.buildinfo)
    return {
        "version": build["version"],
        "source": {name: build[name] for name in ("commit", "tree", "changed")},
        "executable": {"name": file.name, "sha256": digest_of_file(file), "size": file.stat().st_size},
        "entries": [asdict(entry) for entry in archive.entries],
        "files": [],
        "python": build["python"],
        "machine": build["machine"],
        "glibc_floor": build["glibc_floor"],
        "distributions": [
            {**{k: row[k] for k in ("name", "version", "licence", "use")}, "sha256": [row["sha256"]]}
            for row in build["distributions"]
        ],
        "libraries": build["libraries"],
    }


def _of_tree(folder: Path) -> dict[str, Any]:
    version = _VERSION.search((folder / "appliance" / "__init__.py").read_text(encoding="utf-8"))
    if version is None:
        raise CannotFreeze(f"{folder}/appliance/__init__.py names no version")
    return {
        "version": version[1],
        "source": _commit(folder),
        "executable": None,
        "entries": [],
        "files": [tree_row(folder, file) for file in tree_files(folder)],
        "python": None,
        "machine": None,
        "glibc_floor": None,
        "distributions": list(_pins(folder / "packaging" / "requirements.lock")),
        "libraries": [],
    }


def tree_row(folder: Path, file: Path) -> dict[str, Any]:
    return {"name": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "sha256": digest_of_file(file)}


def tree_files(folder: Path) -> list[Path]:
    """The files of a tree that make the product."""
    found = []
    for part in _TREE_PARTS:
        start = folder / part
        files = [start] if start.is_file() else start.rglob("*")
        found += [file for file in files if file.is_file() and not _NOT_FROZEN & set(file.parts)]
    return sorted(found)


def _commit(folder: Path) -> dict[str, Any]:
    """Commit and tree, and whether the tree was changed since; all None outside a clone."""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *_TREE_PARTS)
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "tree": _git(folder, "rev-parse", "HEAD^{tree}"),
        "changed": None if changed is None else changed != "",
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 -- git, which answers or does not
            ["git", "-C", str(folder), *arguments],  # noqa: S607 -- the one on PATH
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _pins(lock: Path) -> Iterator[dict[str, Any]]:
    """What the lock pins. It names no licences: those are known once something is installed from it."""
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    for name, version, hashes in _PIN.findall(text):
        row = {"name": name, "version": version, "licence": None, "use": "runtime"}
        yield {**row, "sha256": sorted(_HASH.findall(hashes))}


def stem_of(manifest: Mapping[str, Any]) -> str:
    """What the manifest's files are called: version, and the first 12 digits of the executable's digest."""
    if manifest["executable"] is not None:
        return f"release-{manifest['version']}-{manifest['executable']['sha256'][:12]}"
    return f"release-{manifest['version']}-tree-{digest(spell({'files': manifest['files']}))[:12]}"
