"""Deadlines: the phases of a call to a backend, and what is said when one takes too long."""

from typing import Literal

from appliance.protocol.errors import UpstreamTimeout

Phase = Literal["connect", "first byte", "idle", "total"]

_IN_PLAIN_WORDS: dict[Phase, str] = {
    "connect": "took no connection within {:g} s",
    "first byte": "did not answer within {:g} s",
    "idle": "fell silent for {:g} s in the middle of its answer",
    "total": "did not finish its answer within {:g} s",
}


def timeout_error(backend_class: str, phase: Phase, limit_s: float) -> UpstreamTimeout:
    """The answer when a deadline passed: which one, in plain words."""
    words = _IN_PLAIN_WORDS[phase].format(limit_s)
    return UpstreamTimeout(f"{backend_class} {words} ({phase} deadline).", upstream=backend_class)
