"""The executable: built from the locks, in an environment of its own, and sealed with its own digest."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .files import exclusive, replace_text
from .paths import BUILD_LOCK, PACKAGING, ROOT, RUNTIME_LOCK, cache_dir
from .venv import SetupFailed, ensure_venv

DIST = ROOT / "dist"
SEAL = b"appliance-sha256:"  # `appliance.host.seal` reads it
NEEDED = {"strip": "binutils", "objcopy": "binutils", "objdump": "binutils"}
BUILD_TIMEOUT_S = 900.0


def binary(_arguments: Sequence[str]) -> int:
    """Build `dist/appliance`."""
    file = ensure_executable(anew=True)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size / 1e6:.1f} MB, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")
    return 0


def build_executable(dist: Path) -> Path:
    """Build `appliance` into the folder `dist`; what was there is replaced when it is whole. Raises SetupFailed."""
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            raise SetupFailed(f"{program} is missing: install {package}")
    python = ensure_build_venv()
    dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="appliance-build-") as scratch:
        made = _run_pyinstaller(python, Path(scratch))
        seal(made)
        whole = dist / ".appliance.new"
        shutil.copy2(made, whole)
        whole.replace(dist / "appliance")
    return dist / "appliance"


def ensure_executable(*, anew: bool = False) -> Path:
    """`dist/appliance` of this very tree: built if anything that goes into it has changed since, or `anew`. Raises
    SetupFailed."""
    stamp = DIST / "appliance.from"
    sources = _digest_of_sources()
    with exclusive(stamp):
        fresh = not anew and stamp.exists() and stamp.read_text(encoding="utf-8") == sources
        if not fresh or not (DIST / "appliance").exists():
            build_executable(DIST)
            replace_text(stamp, sources)
    return DIST / "appliance"


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    tools = [ROOT / "tools" / "devtools" / name for name in ("binary.py", "bom.py")]
    resources = [file for file in (ROOT / "systemd").glob("*") if file.is_file()]
    for file in sorted([*(ROOT / "appliance").rglob("*.py"), *PACKAGING.glob("*.*"), *tools, *resources]):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def ensure_build_venv() -> Path:
    """The Python that holds what ships and what builds it, nothing else. Raises SetupFailed."""
    key = hashlib.sha256(RUNTIME_LOCK.read_bytes() + BUILD_LOCK.read_bytes()).hexdigest()[:12]
    return ensure_venv(cache_dir() / f"build-{key}", RUNTIME_LOCK, BUILD_LOCK)


def _run_pyinstaller(python: Path, scratch: Path) -> Path:
    spec = str(PACKAGING / "appliance.spec")
    places = ["--distpath", str(scratch / "dist"), "--workpath", str(scratch / "work")]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(scratch),
        "LC_ALL": "C",
        "PYTHONHASHSEED": "0",  # the order of sets goes into the code
        "PYINSTALLER_CONFIG_DIR": str(scratch / "config"),  # one's own: its cache of stripped files knows no versions
        "SOURCE_DATE_EPOCH": "0",
    }
    done = subprocess.run(
        ["nice", str(python), "-P", "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", *places, spec],
        cwd=scratch,
        env=environment,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SetupFailed(f"PyInstaller ended with {done.returncode}: see above")
    return scratch / "dist" / "appliance"


def seal(file: Path) -> None:
    """Append the digest of all bytes before it: a copy that was cut or flipped is told from a whole one."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with file.open("ab") as out:
        out.write(SEAL + digest.encode("ascii") + b"\n")
