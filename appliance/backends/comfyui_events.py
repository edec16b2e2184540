"""ComfyUI's WebSocket, sans-IO: a message in, a preview or the end of our own job out; nothing of anybody else's.

Formats: `server.py` of ComfyUI (send_json, send_image, send_image_with_metadata), all numbers big-endian 32 bits:
`1, format, picture`, and `4, length, JSON, picture` for clients that said they know it. Jobs that were submitted without
a client_id are told to everybody, so a preview counts only when its job is known to be ours.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

HELLO = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'

_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


@dataclass(frozen=True, slots=True)
class Preview:
    """The bytes of a picture, unchecked, and how much of its node's work was done then, 0 to 1, if that was told."""

    data: bytes
    progress: float | None = None


Told = Preview | Literal["ended"] | None


class Listener:
    """What is heard on the socket of one job."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._ours_runs = False
        self._progress: float | None = None

    def hear(self, message: str | bytes) -> Told:
        """`ended`: worth a look into the history. Whatever cannot be read is nothing."""
        return self._hear_bytes(message) if isinstance(message, bytes) else self._hear_text(message)

    def _hear_text(self, message: str) -> Told:
        told = _object(message)
        kind, data = told.get("type"), told.get("data")
        if not isinstance(data, dict) or "prompt_id" not in data:
            return None
        self._ours_runs = data["prompt_id"] == self._prompt_id
        if not self._ours_runs:
            return None
        if kind == "progress":
            self._progress = _share(data)
        if kind == "progress_state":  # comes before the preview of its step, `progress` may come after it
            self._progress = _share_of_nodes(data.get("nodes"))
        if kind in _ENDS or (kind == "executing" and data.get("node") is None):
            return "ended"
        return None

    def _hear_bytes(self, message: bytes) -> Told:
        event, second = (int.from_bytes(message[at : at + 4], "big") for at in (0, 4))
        if event == _PREVIEW and self._ours_runs:
            return Preview(message[8:], self._progress)
        if event == _PREVIEW_WITH_METADATA and _object(message[8 : 8 + second]).get("prompt_id") == self._prompt_id:
            return Preview(message[8 + second :], self._progress)
        return None


def _share_of_nodes(nodes: object) -> float | None:
    """Of the node that is at work: `{id: {state, value, max}}`."""
    listed = nodes.values() if isinstance(nodes, dict) else ()
    return next((_share(one) for one in listed if isinstance(one, dict) and one.get("state") == "running"), None)


def _share(told: dict[str, Any]) -> float | None:
    value, most = told.get("value"), told.get("max")
    if not isinstance(value, int | float) or not isinstance(most, int | float) or not 0 <= value <= most or not most:
        return None
    return value / most


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        value = from_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
