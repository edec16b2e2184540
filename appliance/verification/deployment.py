"""Deployment: how a release stands on a box, as a record that names the one before by its digest."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.verification.http import Answer, Gateway, Unreachable
from appliance.verification.manifest import Release, ask
from appliance.verification.sealed_json import Damaged, digest, read_sealed

SCHEMA = "gateway_appliance_deployment_record.v1"
UNIT = Path("/etc/systemd/system/appliance.service")
RESULTS = {"smoke": "smoke.json", "evals": "latest.json"}

_NAME = re.compile(r"deployment-([0-9]{6})\.json")
_ENVIRONMENT = re.compile(r'^(\s*Environment\s*=\s*"?[A-Za-z_][A-Za-z0-9_]*)=.*$', re.MULTILINE)


class BrokenChain(Damaged):
    """The records are not the ones that were written one after the other."""


@dataclass(frozen=True, slots=True)
class Running:
    """The gateway that is asked; None: no address was given, or no token. `reason`: why, for what stays unknown."""

    api: Gateway | None
    observability: Gateway | None
    reason: str = "not asked: no --base-url"


def records_in(folder: Path) -> list[Path]:
    """The deployment records of a folder, oldest first."""
    return sorted(file for file in folder.glob("deployment-*.json") if _NAME.fullmatch(file.name))


def check_chain(folder: Path) -> list[dict[str, Any]]:
    """All records, each checked against its seal and the one before. Raises BrokenChain, Damaged, OSError."""
    found: list[dict[str, Any]] = []
    for number, file in enumerate(records_in(folder), start=1):
        record = read_sealed(file)
        if record.get("schema") != SCHEMA:
            raise BrokenChain(f"{file.name}: its schema is {str(record.get('schema'))[:80]!r}, not {SCHEMA}")
        if file.name != name_of(number) or record["sequence"] != number:
            raise BrokenChain(f"{file.name}: a record is missing before it: {name_of(number)} was to come")
        before = found[-1]["sha256"] if found else None
        if record["previous"] != before:
            raise BrokenChain(f"{file.name}: it follows {record['previous']}, and the record before it is {before}")
        found.append(record)
    return found


def name_of(sequence: int) -> str:
    return f"deployment-{sequence:06d}.json"


def make_record(
    release: Release,
    manifest_name: str,
    manifest_sha256: str,
    out: Path,
    running: Running,
    *,
    now_s: float | None = None,
) -> dict[str, Any]:
    """The next record for `out`, without its seal. Raises BrokenChain, Damaged, OSError."""
    before = check_chain(out)
    configuration = ask(release, ["config", "show", "--json"], os.environ)
    moment = time.gmtime(time.time() if now_s is None else now_s)
    return {
        "schema": SCHEMA,
        "sequence": len(before) + 1,
        "previous": before[-1]["sha256"] if before else None,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
        "manifest": {"name": manifest_name, "sha256": manifest_sha256},
        "configuration": configuration,
        "definitions": ask(release, ["release", "definitions", "--effective"], os.environ),
        "unit": read_unit(UNIT),
        "gateway": _gateway(running),
        "backends": _backends(running, configuration),
        **{name: _result(out / file) for name, file in RESULTS.items()},
    }


def read_unit(file: Path) -> dict[str, Any]:
    """The unit as it is installed; values of its environment are left out, the digest is of all of it."""
    try:
        data = file.read_bytes()
    except OSError as error:
        return {"unknown": f"{file}: {error.strerror}"}
    text = data.decode("utf-8", "replace")
    return {"path": str(file), "sha256": digest(data), "text": _ENVIRONMENT.sub(r"\1=***", text)}


def _gateway(running: Running) -> dict[str, Any]:
    if running.api is None:
        return {"unknown": running.reason}
    status = _json(running.api, "/v1/gateway/status")
    if "unknown" in status:
        return status
    try:
        document = running.api.get("/openapi.json", token=running.api.token)
    except Unreachable as error:
        return {"unknown": str(error)}
    return {
        "base_url": running.api.base_url,
        "version": status.get("version"),
        "openapi": digest(document.body) if document.status == 200 else {"unknown": document.brief()},
        "readyz": _json(running.observability, "/readyz") if running.observability else _json(running.api, "/readyz"),
    }


def _backends(running: Running, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Every class that is configured, with what is known of it or why nothing is."""
    known = configuration.get("backends")
    names = sorted(known) if isinstance(known, dict) else []
    if running.api is None:
        return {name: {"unknown": running.reason} for name in names}
    status = _json(running.api, "/v1/gateway/status")
    health = status.get("backend_health")
    if not isinstance(health, dict):
        return {name: {"unknown": str(status.get("unknown", "the gateway says nothing of it"))} for name in names}
    return {name: _backend(health.get(name)) for name in sorted({*names, *health})}


def _backend(health: object) -> dict[str, Any]:
    if not isinstance(health, dict):
        return {"unknown": "the gateway that was asked has no such class"}
    if not health.get("ready"):
        return {"unknown": f"not ready: {health.get('error') or 'not probed yet'}", "required": health.get("required")}
    return {"ready": True, "required": health.get("required")}


def _json(gateway: Gateway, target: str) -> dict[str, Any]:
    try:
        answer: Answer = gateway.get(target, token=gateway.token or None)
    except Unreachable as error:
        return {"unknown": str(error)}
    body = answer.json()
    return body if isinstance(body, dict) and answer.status in {200, 503} else {"unknown": answer.brief()}


def _result(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
        return {"sha256": digest(data), "result": json.loads(data)}
    except FileNotFoundError:
        return {"unknown": f"no {file.name} beside the record"}
    except (OSError, ValueError) as error:
        return {"unknown": f"{file.name} cannot be read: {type(error).__name__}"}
