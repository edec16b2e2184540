"""The lock files: made from pyproject's ranges, and held to them without a network."""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import replace_text
from .paths import BUILD_LOCK, DEV_LOCK, PYPROJECT, ROOT, RUNTIME_LOCK, TOOLS_LOCK
from .toolbox import ensure_toolbox

HEADER = "# {title}\n# Made by `python3 tools/dev.py lock`; do not edit.\n# ranges: sha256:{digest}\n"
TITLES = {
    RUNTIME_LOCK: "What the appliance ships, Python 3.11 and later on Linux, every platform's hashes.",
    DEV_LOCK: "What .venv holds: the appliance's own, its gates and its tests.",
    TOOLS_LOCK: "What makes the locks and builds the real servers, in an environment of its own.",
    BUILD_LOCK: "What makes the executable, in an environment that holds requirements.lock and this.",
}
GROUPS = {TOOLS_LOCK: "tools", BUILD_LOCK: "build"}
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def ranges_of(lock: Path, pyproject: Mapping[str, object]) -> list[str]:
    """The requirement lines that `lock` answers, sorted."""
    if lock in GROUPS:
        return sorted(_table(pyproject, "dependency-groups", GROUPS[lock]))
    runtime = _table(pyproject, "project", "dependencies")
    if lock == RUNTIME_LOCK:
        return sorted(runtime)
    return sorted([*runtime, *_table(pyproject, "project", "optional-dependencies", "dev")])


def _table(document: Mapping[str, object], *keys: str) -> list[str]:
    value: object = document
    for key in keys:
        value = value[key] if isinstance(value, Mapping) else None
    if not isinstance(value, list):
        raise TypeError(f"pyproject.toml: {'.'.join(keys)} must be a list of requirements")
    return [str(line) for line in value]


def digest_of(ranges: Sequence[str]) -> str:
    """One name for a set of ranges, whatever their order and the comments beside them."""
    return hashlib.sha256(json.dumps(sorted(ranges)).encode()).hexdigest()


def stale_locks(texts: Mapping[Path, str], pyproject: Mapping[str, object]) -> list[str]:
    """What is wrong with the locks' `texts`, one line each; empty when every lock answers today's ranges."""
    problems = []
    for lock, text in texts.items():
        if f"sha256:{digest_of(ranges_of(lock, pyproject))}\n" not in text.partition("\n\n")[0] + "\n":
            problems.append(f"{lock.name}: pyproject.toml's ranges have changed since; run `python3 tools/dev.py lock`")
        if "://" in text:
            problems.append(f"{lock.name}: names an address; a lock holds names, versions and hashes")
    runtime, dev = dict(PIN.findall(texts[RUNTIME_LOCK])), dict(PIN.findall(texts[DEV_LOCK]))
    for name, version in runtime.items():
        if dev.get(name) != version:
            problems.append(f"{RUNTIME_LOCK.name}: ships {name} {version}, but {DEV_LOCK.name} tests {dev.get(name)}")
    return problems


def check_locks() -> int:
    """The gate: say what is stale and return an exit code."""
    texts = {lock: lock.read_text(encoding="utf-8") for lock in TITLES}
    problems = stale_locks(texts, _pyproject())
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _pyproject() -> dict[str, object]:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))


def write_locks(arguments: Sequence[str]) -> int:
    """Make all of them again; pins are kept where the ranges allow, unless `--upgrade` is among the arguments."""
    uv = ensure_toolbox() / "uv"
    pyproject = _pyproject()
    for lock, extra in (
        (DEV_LOCK, [str(PYPROJECT), "--extra", "dev"]),
        (RUNTIME_LOCK, [str(PYPROJECT), "--constraints", str(DEV_LOCK)]),  # what is shipped is what was tested
        (TOOLS_LOCK, ["--group", GROUPS[TOOLS_LOCK]]),
        (BUILD_LOCK, ["--group", GROUPS[BUILD_LOCK], "--constraints", str(DEV_LOCK)]),  # no two versions of one name
    ):
        body = _compile(uv, lock, [*extra, *arguments])
        if body is None:
            return 1
        header = HEADER.format(title=TITLES[lock], digest=digest_of(ranges_of(lock, pyproject)))
        replace_text(lock, f"{header}\n{body}")
        print(f"{lock.relative_to(ROOT)}: {len(PIN.findall(body))} packages")
    return 0


def _compile(uv: Path, lock: Path, arguments: Sequence[str]) -> str | None:
    command = [str(uv), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    quiet = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    out = lock.with_name(f".{lock.name}.new")
    if lock.exists():
        out.write_text(lock.read_text(encoding="utf-8"), encoding="utf-8")  # uv keeps the pins it finds there
    try:
        done = subprocess.run([*command, *quiet, *arguments, "-o", str(out)], cwd=ROOT, check=False)
        return without_platform(out.read_text(encoding="utf-8")) if done.returncode == 0 else None
    finally:
        out.unlink(missing_ok=True)


def without_platform(body: str) -> str:
    """Drop the marker that the resolution itself was limited to."""
    return re.sub(r" (?:;|and) sys_platform == 'linux'", "", body)


if __name__ == "__main__":
    sys.exit(check_locks())
