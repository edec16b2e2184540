"""The bug report: what somebody else needs to understand this box, in one archive, and no secret in it."""

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import appliance
from appliance.config.errors import ConfigError
from appliance.config.loading import Configuration
from appliance.config.shown import show_configuration
from appliance.doctor.journals import read_tail
from appliance.doctor.patient import Patient, Result
from appliance.doctor.ports import listener_url
from appliance.doctor.secrets import find_secrets, without_secrets
from appliance.host.buildinfo import load_buildinfo

MAX_LINES = 500  # of the request journal
# Of a line of it, what says nothing of who asked. Whatever is added to it later stays out until it stands here.
_KEPT = (
    "ts", "method", "route", "status", "outcome", "code", "backend_class", "bytes_in", "bytes_out", "ttfb_ms",
    "duration_ms", "release_ms",
)  # fmt: skip


def make_report(patient: Patient, results: tuple[Result, ...]) -> dict[str, bytes]:
    """The files of the archive by name, without secrets."""
    configuration = patient.configuration
    parts: dict[str, Any] = {
        "doctor.json": [asdict(result) for result in results],
        "version.json": _version(),
        "config.json": _config(configuration),
    }
    lines: list[Any] = []
    metrics = None
    if not isinstance(configuration, ConfigError):
        lines = _requests(configuration)
        metrics = _metrics(patient, configuration)
    secrets = find_secrets(patient)
    files = {name: _json(without_secrets(part, secrets), indent=2) for name, part in parts.items()}
    files["requests.jsonl"] = b"".join(_json(without_secrets(line, secrets)) for line in lines)
    if metrics is not None:
        files["metrics.txt"] = without_secrets(metrics, secrets).encode()
    return files


def write_report(path: Path, files: Mapping[str, bytes], now: float) -> None:
    """A `.tar.gz` that its owner alone may read. Raises OSError; FileExistsError rather than replace a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"appliance-bug-report/{name}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(now)
                archive.addfile(member, io.BytesIO(data))
    except BaseException:
        path.unlink()
        raise


def report_name(now: float) -> str:
    return f"appliance-bug-report-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.tar.gz"


def _version() -> dict[str, Any]:
    build = load_buildinfo()
    return {
        "version": appliance.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "build": asdict(build) if build else None,
    }


def _config(configuration: Configuration | ConfigError) -> Any:
    if isinstance(configuration, ConfigError):
        return {"mistakes": [asdict(mistake) for mistake in configuration.mistakes]}
    shown = show_configuration(configuration)
    registry = shown["tool_registry"]
    for tool in registry["tools"] if registry else ():
        tool["argv"] = [*tool["argv"][:1], f"({len(tool['argv']) - 1} arguments)"]  # one may hold a key
    return shown


def _requests(configuration: Configuration) -> list[Any]:
    if not configuration.settings.request_log_enabled:
        return []
    try:
        lines, _ = read_tail(configuration.settings.request_log_path)
    except OSError:
        return []  # none yet, or not for our eyes: the doctor's answer says so
    return [_kept(line) for line in lines[-MAX_LINES:]]


def _kept(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return {"unreadable_bytes": len(line)}
    return {name: fields[name] for name in _KEPT if name in fields} if isinstance(fields, dict) else {}


def _metrics(patient: Patient, configuration: Configuration) -> str | None:
    settings = configuration.settings
    if not settings.observability_enabled or not settings.observability_port:
        return None
    reply = patient.ask(f"{listener_url(settings.observability_host, settings.observability_port)}/metrics")
    return reply.body.decode("utf-8", "replace") if reply is not None and reply.status == 200 else None


def _json(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(value, indent=indent) + "\n").encode()
