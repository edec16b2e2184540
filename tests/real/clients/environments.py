"""Where the client programs run: an environment each, made of pins or of a package lock, kept outside the clone."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.real.venvs import CannotInstall, run_step
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

HERE = Path(__file__).parent
LITELLM_PINS = HERE / "litellm.txt"
LANGCHAIN_PINS = HERE / "langchain.txt"
NODE = HERE / "node"

RUN_TIMEOUT_S = 120.0


def ensure_node_modules() -> Path:
    """The folder `node_modules` of the package lock. Raises CannotInstall."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotInstall("no node and npm on PATH")
    lock = (NODE / "package-lock.json").read_bytes()
    key = hashlib.sha256(lock).hexdigest()[:12]
    try:
        folder = make_once(cache_dir() / f"node-{key}", _install)
    except (OSError, subprocess.SubprocessError) as problem:
        raise CannotInstall(f"npm: {type(problem).__name__}: {problem}") from problem
    return folder / "node_modules"


def _install(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE / name, folder)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    run_step(["npm", "ci", *quiet], "npm could not install the clients; is a registry reachable?")


def run_client(command: Sequence[str | Path], *, url: str, token: str, model: str, folder: Path) -> dict[str, Any]:
    """Run one client program to its end; what it found. Raises AssertionError with its output if it failed."""
    environment: Mapping[str, str] = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GATEWAY_URL": url,
        "GATEWAY_TOKEN": token,
        "GATEWAY_MODEL": model,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches a list of prices at its start
        "LANGSMITH_TRACING": "false",
    }
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"the client ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
