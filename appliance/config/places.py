"""Places: the state directory, and the absolute form of every path among the settings."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.config.errors import Findings
from appliance.config.reading import Given
from appliance.config.settings import Settings

# Files that are used where they are found and their setting is empty.
_FOUND_FILES = {
    "backends_config_path": "backends.yaml",
    "model_aliases_path": "model_aliases.json",
    "tools_registry_path": "tools_registry.json",
    "agent_specs_path": "agent_specs.json",
}
_BELOW_STATE = frozenset(
    {"request_log_path", "ui_image_dir", "tools_log_path", "tools_log_dir", "agent_runs_log_dir", "agent_runs_log_path"}
)


def choose_state_dir(environ: Mapping[str, str], findings: Findings) -> Path:
    """`$STATE_DIRECTORY` (systemd's; the first of several), else `$XDG_STATE_HOME/appliance`, else below the home."""
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        if not Path(given).is_absolute():
            findings.refuse("STATE_DIRECTORY", "is not absolute: write a path that begins with /")
        return Path(given)
    base = environ.get("XDG_STATE_HOME", "")
    if base and Path(base).is_absolute():  # the XDG specification: a relative one is ignored
        return Path(base) / "appliance"
    home = _home(environ)
    if home is None:
        findings.refuse("STATE_DIRECTORY", "is not set, and there is no home directory: set it to an absolute path")
    return (home or Path("/")) / ".local" / "state" / "appliance"


def place_paths(given: Given, environ: Mapping[str, str], state_dir: Path, root: Path) -> Given:
    """Journals and pictures lie below the state directory unless their path is absolute; other relative paths are
    taken from the working directory; a leading `~/` is the home. Files found below `root` are used when none was
    named."""
    placed: dict[str, Any] = {}
    origins = dict(given.origins)
    for field in Settings.model_fields:
        value = getattr(given.settings, field)
        if isinstance(value, Path):
            base = state_dir if field in _BELOW_STATE else Path.cwd()
            placed[field] = _absolute(value, base, environ)
    placed["tools_fs_roots"] = tuple(_absolute(root, Path.cwd(), environ) for root in given.settings.tools_fs_roots)
    for field, name in _FOUND_FILES.items():
        if getattr(given.settings, field) is None and _exists(root / name):
            placed[field] = root / name
            origins[field] = f"found in {root}"
    return Given(given.settings.model_copy(update=placed), origins)


def _absolute(path: Path, base: Path, environ: Mapping[str, str]) -> Path:
    home = _home(environ)
    if path.parts[:1] == ("~",) and home is not None:
        return home.joinpath(*path.parts[1:])
    return Path(os.path.normpath(base / path))


def _home(environ: Mapping[str, str]) -> Path | None:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def _exists(path: Path) -> bool:
    """A file behind a closed directory counts: reading it then says what is wrong."""
    try:
        return path.exists()
    except PermissionError:
        return True
