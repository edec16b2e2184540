"""The log: one-line JSON events in the past tense, on stderr; never a token, a prompt or a header value."""

import json
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

Level = Literal["info", "warning", "error"]
Log = Callable[..., None]


def open_log(stream: TextIO | None = None, *, now: Callable[[], float] = time.time) -> Log:
    """Make the one function that logs: `log("lease_refused", level="warning", backend_class="gpu_heavy")`.

    A log that cannot be written (a closed pipe, a full disk) is dropped: the gateway does not stop for it.
    """
    out = stream if stream is not None else sys.stderr

    def log(event: str, *, level: Level = "info", **fields: object) -> None:
        line = json.dumps({"ts": round(now(), 3), "level": level, "event": event, **fields}, default=str)
        try:
            out.write(line + "\n")
            out.flush()
        except (OSError, ValueError):
            return

    return log
