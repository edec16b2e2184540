"""Where the tools find the tree, the locks and the caches."""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYPROJECT = ROOT / "pyproject.toml"
PACKAGING = ROOT / "packaging"
RUNTIME_LOCK = PACKAGING / "requirements.lock"  # what the executable ships
DEV_LOCK = PACKAGING / "dev.lock"  # the same, with the gates and the tests
TOOLS_LOCK = PACKAGING / "tools.lock"  # what makes the locks and builds the real servers
BUILD_LOCK = PACKAGING / "build.lock"  # what makes the executable, beside RUNTIME_LOCK


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder outside the clone that survives it: tool environments, built servers, weights."""
    base = environ.get("XDG_CACHE_HOME", "")
    # The base-directory specification: a relative path is to be ignored.
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "appliance-dev"
