"""Tokens: which there are, and that no one else may read the files that hold secrets."""

import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.config.environment import ENV_FILE_VARIABLE
from appliance.config.loading import ETC, Configuration
from appliance.config.tokens import TOKEN_FILE
from appliance.doctor.patient import Patient, Result


def check_tokens(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    if configuration.tokens:
        yield Result("tokens", "ok", f"{len(configuration.tokens)}, from {configuration.token_source}")
    else:
        made = "has one" if (configuration.state_dir / TOKEN_FILE).exists() else "makes one at the first start"
        yield Result("tokens", "ok", f"none set: the gateway {made} in {configuration.state_dir / TOKEN_FILE}")
    for name, path in _secret_files(patient, configuration):
        if (result := _look(f"secret_file.{name}", path, patient.uid)) is not None:
            yield result


def _secret_files(patient: Patient, configuration: Configuration) -> Iterator[tuple[str, Path]]:
    settings = configuration.settings
    credentials = patient.environ.get("CREDENTIALS_DIRECTORY")
    env_file = patient.environ.get(ENV_FILE_VARIABLE)
    named = {
        "env": Path(env_file) if env_file else ETC / "appliance.env",
        "own_token": configuration.state_dir / TOKEN_FILE,
        "tokens": settings.gateway_token_file,
        "credentials": Path(credentials) / "tokens" if credentials else None,
        "tls_key": settings.gateway_tls_key_path,
    }
    return ((name, path) for name, path in named.items() if path is not None)


def _look(place: str, path: Path, uid: int) -> Result | None:
    """None for what is not there, and for what is no file: `/dev/null` is an env file too."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except PermissionError:
        return Result(place, "warning", f"{path} may not be looked at", "ask as root, or as the gateway's user")
    if not stat.S_ISREG(status.st_mode):
        return None
    mode = stat.S_IMODE(status.st_mode)
    seen = f"{path}, owner {status.st_uid}, mode {mode:o}"
    if mode & 0o077:
        return Result(place, "failure", f"{seen}: others may read or write it", f"chmod 600 {path}")
    if status.st_uid not in {uid, 0}:
        return Result(place, "failure", f"{seen}: it is another user's", f"chown {uid} {path}")
    return Result(place, "ok", seen)
