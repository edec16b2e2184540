"""JSON files of the operator's: read whole and strictly, or every reason why not."""

import json
from pathlib import Path
from typing import Any

from appliance.config.errors import Findings

MAX_FILE_BYTES = 1_000_000


class _Mistake(ValueError):
    """What is wrong with the text; the message says what to write."""


def read_json_file(path: Path, variable: str, example: str, findings: Findings) -> dict[str, Any] | None:
    """The one object in the file, None where it was refused. `variable` names the file, `example` what to write."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "unreadable"
        findings.refuse(str(path), f"cannot be read ({reason}): name a readable file in {variable}")
        return None
    try:
        return parse_json_object(data, example)
    except json.JSONDecodeError as error:
        findings.refuse(f"{path}:{error.lineno}", f"is no JSON at column {error.colno}: {error.msg}: write {example}")
    except _Mistake as mistake:
        findings.refuse(str(path), str(mistake))
    return None


def parse_json_object(data: bytes, example: str) -> dict[str, Any]:
    """Raises JSONDecodeError, or ValueError with what to write."""
    if len(data) > MAX_FILE_BYTES:
        raise _Mistake(f"is larger than {MAX_FILE_BYTES} bytes: write {example}")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_no_repeats, parse_constant=_no_constants)
    except UnicodeDecodeError:
        raise _Mistake("is not UTF-8: save the file as UTF-8") from None
    except RecursionError:
        raise _Mistake(f"is nested too deeply: write {example}") from None
    if not isinstance(value, dict):
        raise _Mistake(f"is no JSON object: write {example}")
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Mistake(f"{key[:64]!r} is there twice: write it once")
        found[key] = value
    return found


def _no_constants(text: str) -> Any:
    raise _Mistake(f"holds {text}, which is no JSON number: write a number")
