"""Tool roots: the directories of file tools lie apart from what the gateway itself reads, keeps and trusts."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.config.environment import ENV_FILE_VARIABLE
from appliance.config.errors import Findings
from appliance.config.reading import Given
from appliance.config.settings import Settings
from appliance.config.values import split_csv

_NOT_OURS = frozenset({"tools_shell_cwd", "tools_git_cwd"})  # the operator's, for other tools
_KERNEL = (Path("/proc"), Path("/sys"))
_NAMED_IN_ENVIRONMENT = ("CREDENTIALS_DIRECTORY", ENV_FILE_VARIABLE)


def check_file_roots(
    given: Given, environ: Mapping[str, str], *, state_dir: Path, etc: Path, findings: Findings
) -> None:
    """Refuse a root that holds, or lies within, a token, a record, or a file that says which programs to run.

    A directory of its own below the state directory is fine: for a hardened service there may be no other.
    """
    settings = given.settings
    roots, where = settings.tools_fs_roots, given.where("tools_fs_roots")
    if (settings.tools_allow_fs or settings.tools_allow_fs_write) and not roots:
        findings.warn(where, "is empty: file tools are on and have no directory")
    ours = [*_KERNEL, *(_real(path) for path in (etc, *_own_paths(settings, environ)))] if roots else []
    for root in roots:
        real = _real(root)
        found = next((path for path in ours if path.is_relative_to(real) or real.is_relative_to(path)), None)
        if found is None and _real(state_dir).is_relative_to(real):
            found = state_dir
        if found is not None:
            findings.refuse(where, f"{root} is not apart from {found}, which is the gateway's own: write another")
        elif not os.path.isdir(real):  # a closed directory above is no reason to fail
            findings.warn(where, f"{root} is no directory: file tools fail there until it is")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises where links lead in a circle


def _own_paths(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    for field in Settings.model_fields:
        value = getattr(settings, field)
        if isinstance(value, Path) and field not in _NOT_OURS:
            yield value
    named = (*split_csv(settings.backend_client_cert), *(environ.get(name, "") for name in _NAMED_IN_ENVIRONMENT))
    yield from (Path(name) for name in named if name)
