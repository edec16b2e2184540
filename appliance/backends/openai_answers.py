"""What OpenAI-style servers answer: checked to be of its kind, quirks mended, refusals told apart. No I/O."""

from typing import Any

from pydantic_core import from_json

from appliance.backends.base import LanguageCall, ModelEntry
from appliance.backends.openai_vectors import mended_embeddings, mended_rerank, unusable
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.language import LanguageKind
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer, parse_json_object

MAX_MODELS = 2000
MAX_MODEL_NAME_CHARS = 256

# What every choice must hold, by kind; an empty string is an answer too.
_CHOICE: dict[LanguageKind, tuple[str, type]] = {"chat": ("message", dict), "completions": ("text", str)}


def checked_answer(body: bytes, call: LanguageCall, *, content_type: str = "application/json") -> bytes:
    """The body of a 200, unchanged where it is what it should be. Raises UpstreamFailed (502) for anything else."""
    name = call.backend_class.name
    if call.kind == "embeddings":
        return mended_embeddings(body, _parsed(body, name, content_type), call)
    if call.kind == "rerank":
        return mended_rerank(_parsed(body, name, content_type), call)
    parse_answer(body, call.kind, upstream=name, content_type=content_type)
    return body


def parse_answer(
    body: bytes, kind: LanguageKind, *, upstream: str, content_type: str = "application/json"
) -> dict[str, Any]:
    """A whole chat, completions or responses answer. Raises UpstreamFailed for what is none, an error in a 200 too."""
    said = parse_json_object(body, upstream=upstream)
    if said.get("error") and "choices" not in said and "output" not in said:
        raise failure_from_answer(UpstreamAnswer(200, content_type, None, body, 0.0), upstream=upstream)
    if kind == "responses":
        if not isinstance(said.get("output"), list):
            raise unusable(upstream, "a response without a list of output")
        return said
    choices = said.get("choices")
    if not isinstance(choices, list) or not choices:
        raise unusable(upstream, "JSON without a list of choices")
    key, wanted = _CHOICE[kind]
    if not all(isinstance(choice, dict) and isinstance(choice.get(key), wanted) for choice in choices):
        raise unusable(upstream, f"a choice without a {key}")
    return said


def refusal(said: UpstreamAnswer, *, upstream: str, path: str) -> UpstreamFailed:
    """The error for a status that is not 200. A 404 is the client's fault only where it is about the model."""
    error = failure_from_answer(said, upstream=upstream)
    if said.status not in (404, 405):
        return error
    if said.status == 404 and b"model" in said.body.lower():
        error.code = "model_not_found"
        return error
    body = error.extra.get("body")
    return UpstreamFailed(
        f"{upstream} has no {path}: it answered {said.status}.",
        upstream=upstream,
        upstream_status=said.status,
        body=body if isinstance(body, str) else None,
    )


def models_in(body: bytes, *, upstream: str) -> tuple[ModelEntry, ...]:
    """The models of a list, in its order, each once. Raises UpstreamFailed for what is no list of models."""
    said = _parsed(body, upstream, "application/json")
    items = said
    if isinstance(said, dict):
        items = said["data"] if isinstance(said.get("data"), list) else said.get("models")
    if not isinstance(items, list):
        raise unusable(upstream, f"{type(said).__name__} where a list of models was asked for")
    found: dict[str, ModelEntry] = {}
    for item in items[:MAX_MODELS]:
        entry = _model(item)
        if entry is not None:
            found.setdefault(entry.name, entry)
    return tuple(found.values())


def _model(item: object) -> ModelEntry | None:
    """An entry that has a name fit to be shown; what a server lists beside models is left out."""
    if isinstance(item, str):
        item = {"id": item}
    if not isinstance(item, dict):
        return None
    name = next((item[key] for key in ("id", "name", "model") if item.get(key)), None)
    if not isinstance(name, str) or len(name) > MAX_MODEL_NAME_CHARS or not name.isprintable() or not name.strip():
        return None
    created = item.get("created")
    return ModelEntry(name.strip(), created if type(created) is int and 0 <= created < 1 << 40 else 0)


def _parsed(body: bytes, upstream: str, content_type: str) -> Any:
    try:
        said = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise unusable(upstream, "something that is not JSON") from None
    if isinstance(said, dict) and said.get("error"):
        raise failure_from_answer(UpstreamAnswer(200, content_type, None, body, 0.0), upstream=upstream)
    return said
