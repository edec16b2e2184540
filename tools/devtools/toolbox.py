"""The cached environment of programs that make locks (uv) and real servers (cmake, ninja)."""

import hashlib
from pathlib import Path

from .paths import TOOLS_LOCK, cache_dir
from .venv import ensure_venv


def ensure_toolbox() -> Path:
    """The toolbox's `bin` folder, made on first use. Raises SetupFailed."""
    key = hashlib.sha256(TOOLS_LOCK.read_bytes()).hexdigest()[:12]
    return ensure_venv(cache_dir() / f"tools-{key}", TOOLS_LOCK).parent
