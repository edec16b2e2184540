"""The bill of materials: what the executable is made of, written into it while it is built."""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .locks import PIN
from .paths import BUILD_LOCK, RUNTIME_LOCK
from .venv import REPORT, SetupFailed

SCHEMA = "appliance_build.v1"
VERSION_NEED = re.compile(r"\bGLIBC_(\d+(?:\.\d+)+)\b")
RELATIVE_RELOCATIONS = "GLIBC_ABI_DT_RELR"  # no number of its own: glibc has it from 2.36 on
COMMAND_TIMEOUT_S = 60.0


def write_buildinfo(target: Path, *, root: Path, binaries: Sequence[str]) -> None:
    """Write the bill of one build as JSON: the same tree, locks and machine give the same bytes.

    `binaries`: the shared objects that go into the file. Runs in the build's own environment.
    """
    bootloader = _bootloader()
    objects = [*map(Path, binaries), bootloader]
    bill = {
        "schema": SCHEMA,
        "version": _version(root),
        **_commit(root),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": platform.machine(),
        "glibc_floor": glibc_floor(map(_version_needs, objects)),
        "distributions": _distributions(),
        "libraries": _libraries(objects),
    }
    target.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def glibc_floor(needs: Iterable[str]) -> str:
    """The oldest glibc that has every symbol version in `needs`, the `objdump -p` texts of all objects."""
    found: set[tuple[int, ...]] = {(2, 17)}  # x86-64 wheels ask for this at least (PEP 599)
    for text in needs:
        found |= {tuple(map(int, version.split("."))) for version in VERSION_NEED.findall(text)}
        if RELATIVE_RELOCATIONS in text:
            found.add((2, 36))
    return ".".join(map(str, max(found)))


def _version_needs(file: Path) -> str:
    return _output(["objdump", "-p", str(file)]) or ""


def _version(root: Path) -> str:
    text = (root / "appliance" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError("appliance/__init__.py names no version")
    return found[1]


def _commit(root: Path) -> dict[str, Any]:
    """Commit and tree, and whether the tree was changed since; all None outside a clone."""

    def git(*arguments: str) -> str | None:
        return _output(["git", "-C", str(root), *arguments])

    changed = git("status", "--porcelain", "--untracked-files=all", "--", "appliance", "packaging", "tools")
    return {
        "commit": git("rev-parse", "HEAD"),
        "tree": git("rev-parse", "HEAD^{tree}"),
        "changed": None if changed is None else changed != "",
    }


def _distributions() -> list[dict[str, Any]]:
    """What was installed from both locks, each with the digest of the archive that pip checked."""
    report = json.loads((Path(sys.prefix) / REPORT).read_text(encoding="utf-8"))
    digests = {
        _plain(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in report["install"]
    }
    rows = []
    for lock, use in ((RUNTIME_LOCK, "runtime"), (BUILD_LOCK, "build")):
        for name in sorted(digests.keys() & dict(PIN.findall(lock.read_text(encoding="utf-8"))).keys()):
            facts = importlib.metadata.metadata(name)
            rows.append(
                {
                    "name": name,
                    "version": facts["Version"],
                    "licence": _licence(facts),
                    "sha256": digests[name],
                    "use": use,
                }
            )
    return rows


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(facts: Any) -> str | None:
    """An SPDX expression where there is one, else the first line of what the package calls its licence."""
    if expression := facts.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier") or () if c.startswith("License ::")]
    if classifiers:
        return "; ".join(classifiers)
    stated = str(facts.get("License") or "").strip()
    return stated.splitlines()[0] if stated else None


def _libraries(objects: Iterable[Path]) -> list[dict[str, str | None]]:
    """Every shared object that no distribution brought: the interpreter's, the system's, and the bootloader."""
    packages = Path(sysconfig.get_path("purelib")).resolve()
    rows = []
    for file in objects:
        if file.resolve().is_relative_to(packages) and file != _bootloader():
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows.append({"name": file.name, "sha256": digest, "package": _package(file)})
    return sorted(rows, key=lambda row: str(row["name"]))


def _package(file: Path) -> str | None:
    """The system's package and its version; None for what no package owns."""
    for path in dict.fromkeys((file, file.resolve(), Path(str(file.resolve()).removeprefix("/usr")))):
        owner = _output(["dpkg-query", "-S", str(path)])
        if owner:
            name = owner.partition(":")[0]
            return _output(["dpkg-query", "-W", "-f", "${Package} ${Version}", name])
    return None


def _bootloader() -> Path:
    """The program that starts everything else: PyInstaller's, the very first bytes of the file."""
    package = importlib.util.find_spec("PyInstaller")
    if package is None or package.origin is None:
        raise SetupFailed("PyInstaller is not in this environment: run `python3 tools/dev.py binary`")
    return Path(package.origin).parent / "bootloader" / f"{platform.system()}-64bit-intel" / "run"


def _output(command: Sequence[str]) -> str | None:
    """What a program says; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
