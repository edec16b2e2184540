"""Outcomes of programs: what a tool shows of a run, and whether it counts as failed."""

import signal
from typing import Any

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import parse_object
from appliance.toolbus.base import Outcome, ToolFailed
from appliance.toolbus.program import Program, ProgramResult

_NO_JSON = object()


def command_outcome(program: Program, result: ProgramResult) -> Outcome:
    """What `shell` and `git` show; `stdout_json` where all of stdout is JSON."""
    parsed = _parsed(result)
    fields: dict[str, Any] = {"returncode": result.returncode, "stdout": result.stdout, "stderr": result.stderr}
    if parsed is not _NO_JSON:
        fields["stdout_json"] = parsed
    return _outcome(program, result, fields)


def declared_outcome(program: Program, result: ProgramResult) -> Outcome:
    """What declared tools show (contract 6); `stdout_json` is null where stdout is no JSON."""
    parsed = _parsed(result)
    fields = {
        "ok": result.returncode == 0 and not result.timed_out,
        "exit_code": result.returncode,
        "stdout": result.stdout,
        "stdout_json": None if parsed is _NO_JSON else parsed,
        "stderr": result.stderr,
    }
    return _outcome(program, result, fields)


def _parsed(result: ProgramResult) -> Any:
    """All of stdout as the strict JSON that requests are held to; any value may stand at the top."""
    if result.stdout_cut or not result.stdout.strip():
        return _NO_JSON
    try:
        wrapped = parse_object(f'{{"value":{result.stdout}}}'.encode())
    except InvalidRequest:
        return _NO_JSON
    return wrapped["value"] if len(wrapped) == 1 else _NO_JSON


def _outcome(program: Program, result: ProgramResult, fields: dict[str, Any]) -> Outcome:
    return Outcome(fields, io_bytes=result.io_bytes, cpu_s=result.cpu_s, failure=_failure(program, result))


def _failure(program: Program, result: ProgramResult) -> ToolFailed | None:
    if result.timed_out:
        return ToolFailed(
            "timeout", f"{program.name} did not end within {round(program.timeout_s, 1):g} s and was killed."
        )
    if result.returncode == 0:
        return None
    if result.returncode > 0:
        return ToolFailed("nonzero_exit", f"{program.name} ended with exit status {result.returncode}: see stderr.")
    return ToolFailed("nonzero_exit", f"{program.name} was ended by {_signal(-result.returncode)}.")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time ones have no name
        return f"signal {number}"
