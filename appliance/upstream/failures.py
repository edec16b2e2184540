"""Failures: what a backend's refusal or nonsense becomes for the client, bounded and redacted."""

import math
import re
from typing import Any

from pydantic_core import from_json

from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.exchange import UpstreamAnswer

MAX_BODY_BYTES = 2048  # of an upstream's error body, after redaction (contract 3)
MAX_MESSAGE_CHARS = 300

# The client asked for something this backend cannot do: asking again in the same way is pointless.
_CLIENT_FAULTS = frozenset({400, 404, 413, 422})
_DEFAULT_RETRY_S = 5.0
_MAX_RETRY_S = 120.0  # openai-python gives up on a Retry-After above this
_READ_CHARS = 16 * MAX_BODY_BYTES  # redaction only ever looks at this much of a body

_TRACEBACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_FRAME = re.compile(r'File "[^"\n]{0,400}", line \d+[^\n]{0,400}')
_SECRET_FIELD = re.compile(  # quotes may be escaped: servers put JSON into the strings of their JSON
    r"""((?:authorization|api[-_]?key|x-api-key|access[-_]?token|token|secret|password|passwd|cookie)[\\"']{0,2}"""
    r"""\s{0,8}[:=]\s{0,8})(?:[\\]?["'][^"'\n]{0,4096}["']|(?:(?:bearer|basic)\s{1,8})?[^\s"',;}]{1,4096})""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)
_KEY = re.compile(r"\b(?:sk|hf|ghp|gho|pat|xox[a-z])[-_][A-Za-z0-9_-]{8,}")
_OPAQUE = re.compile(r"\b(?=[A-Za-z_-]{0,200}[0-9])[A-Za-z0-9_-]{40,}\b")  # long, with digits: a key, a hash, an id
_USERINFO = re.compile(r"(?<=://)[^\s/@]{1,400}@")
_PATH = re.compile(r"""(?<![\w/:.<])(?:/[\w.@+ -]{1,120}?){2,}(?=[\s"'):;,<]|$)|\b[A-Za-z]:\\[^\s"'<>|]{1,400}""")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_TAGS = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]{0,1000}>", re.IGNORECASE | re.DOTALL)
_SPACE = re.compile(r"\s+")


def redact(text: str) -> str:
    """Take out what a client must not see: control characters, secrets, tracebacks, paths of the backend's machine."""
    clean = _CONTROL.sub("", text[:_READ_CHARS].replace("\r\n", "\n"))
    clean = _TRACEBACK.sub("[traceback removed]", clean)
    clean = _FRAME.sub("[traceback removed]", clean)
    clean = _SECRET_FIELD.sub(r"\1[removed]", clean)
    clean = _SCHEME.sub(r"\1 [removed]", clean)
    clean = _USERINFO.sub("", clean)
    for secret in (_KEY, _OPAQUE):
        clean = secret.sub("[removed]", clean)
    return _PATH.sub("[path removed]", clean)


def failure_from_answer(answer: UpstreamAnswer, *, upstream: str) -> UpstreamFailed:
    """Make the error for an answer that is not a success (contract 3).

    400, 404, 413 and 422 keep their status, 429 is passed on with a bounded Retry-After, the rest is 502.
    """
    said = _message_in(answer)
    client_fault = answer.status in _CLIENT_FAULTS or answer.status == 429
    return UpstreamFailed(
        f"{upstream} answered {answer.status}" + (f": {said}" if said else "."),
        upstream=upstream,
        upstream_status=answer.status,
        body=_bounded(redact(_text(answer.body))),
        status=answer.status if client_fault else None,
        retry_after_s=_retry_after_s(answer.retry_after) if answer.status == 429 else None,
    )


def parse_json_object(body: bytes, *, upstream: str) -> dict[str, Any]:
    """Parse a backend's success body. Raises UpstreamFailed (502) when it is not one JSON object within bounds."""
    try:
        value = from_json(body)  # strict UTF-8, bounded nesting, and 35 ms where the standard library takes 300
    except ValueError:
        raise UpstreamFailed(f"{upstream} answered something that is not JSON.", upstream=upstream) from None
    if not isinstance(value, dict):
        raise UpstreamFailed(f"{upstream} answered JSON that is not an object.", upstream=upstream)
    return value


def _retry_after_s(header: str | None) -> float:
    """Seconds only: a date needs the upstream's clock. Bounded, so that a client neither hammers nor gives up."""
    try:
        seconds = float(header or "")
    except ValueError:
        return _DEFAULT_RETRY_S
    if not math.isfinite(seconds):
        return _DEFAULT_RETRY_S
    return min(max(seconds, 1.0), _MAX_RETRY_S)


def _text(body: bytes) -> str:
    return body[:_READ_CHARS].decode("utf-8", "replace")


def _bounded(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_BODY_BYTES].decode("utf-8", "ignore")


def _message_in(answer: UpstreamAnswer) -> str:
    """The sentence in an error body: OpenAI, FastAPI, Flask, A1111, Ollama shapes, a bare string, HTML or plain text."""
    text = _text(answer.body)
    try:
        found = _sentence(from_json(answer.body[:_READ_CHARS]))
    except ValueError:
        found = _TAGS.sub(" ", text)
    found = _SPACE.sub(" ", redact(found)).strip()
    return found if len(found) <= MAX_MESSAGE_CHARS else found[: MAX_MESSAGE_CHARS - 1] + "…"


def _sentence(value: object) -> str:
    """Look where servers put it, at most three levels down."""
    for _ in range(3):
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, dict):
            break
        keys = ("message", "msg", "errors", "detail", "error")
        value = next((value[key] for key in keys if value.get(key) not in (None, "", [], {})), "")
    return value if isinstance(value, str) else ""
