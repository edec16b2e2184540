"""The real InvokeAI: an environment of pinned wheels and two models made on the spot, kept outside the clone."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.real.venvs import CannotInstall, ensure_pinned, run_step
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

HERE = Path(__file__).parent
PINS = HERE / "invokeai.txt"
WEIGHTS = HERE / "weights.py"
SERVE = HERE / "serve.py"
ROOM_BYTES = 8 * 1024**3  # 2.7 GB stay; pip unpacks beside what it has downloaded


@dataclass(frozen=True, slots=True)
class InvokeAI:
    """The Python that runs the server, and the folder with a folder for each model: `tiny-sd` and `tiny-sdxl`."""

    python: Path
    models: Path

    def arguments(self, root: Path) -> list[str]:
        """The command line for a server whose configuration is in `root`."""
        return [str(self.python), str(SERVE), "--root", str(root)]


def ensure_invokeai() -> InvokeAI:
    """Install what is missing: 100 s on two quiet cores the first time. Raises CannotInstall."""
    cache = cache_dir()
    if not any(cache.glob(f"venv-{PINS.stem}-*/bin/python")):
        _check_room(cache)
    python = ensure_pinned(PINS)
    key = hashlib.sha256(WEIGHTS.read_bytes() + PINS.read_bytes()).hexdigest()[:12]
    make = [str(python), str(WEIGHTS)]
    try:
        models = make_once(cache / f"invokeai-models-{key}", lambda folder: _make_models(make, folder))
    except (OSError, subprocess.SubprocessError) as problem:
        raise CannotInstall(f"InvokeAI's weights: {type(problem).__name__}: {problem}") from problem
    return InvokeAI(python, models)


def _check_room(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < ROOM_BYTES:
        raise CannotInstall(
            f"NOT TESTED AGAINST A REAL INVOKEAI: it wants {ROOM_BYTES >> 30} GB below {cache}, {free >> 30} are free"
        )


def _make_models(make: list[str], folder: Path) -> None:
    print("making InvokeAI's models", file=sys.stderr, flush=True)
    run_step([*make, str(folder)], "InvokeAI's weights could not be made")
