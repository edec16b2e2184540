"""Requests to Ollama: OpenAI's chat, completions and embeddings in its native words. Pure."""

from collections.abc import Mapping
from typing import Any

from appliance.backends.ollama_fields import (
    check_known,
    format_of,
    keep_alive_of,
    options_of,
    present,
    think_of,
    tools_of,
)
from appliance.backends.ollama_messages import native_messages
from appliance.protocol.fields import invalid, json_object, string, unsupported
from appliance.protocol.language import LanguageKind

PATHS: Mapping[LanguageKind, str] = {"chat": "/api/chat", "completions": "/api/generate", "embeddings": "/api/embed"}

_GENERAL = frozenset({"model", "stream", "stream_options", "stop", "keep_alive"})
_CHAT = _GENERAL | {"messages", "tools", "tool_choice", "response_format", "reasoning_effort", "think"}
_COMPLETIONS = _GENERAL | {"prompt", "suffix"}
_EMBEDDINGS = frozenset({"model", "input", "dimensions", "encoding_format", "keep_alive", "truncate"})


def native_request(kind: LanguageKind, body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
    """Every field is mapped, without meaning to Ollama, or refused: raises InvalidRequest naming it."""
    asked = present(body)
    if kind == "embeddings":
        return _embeddings(asked, model)
    native = _chat(asked) if kind == "chat" else _completion(asked)
    native |= {"model": model, "stream": stream} | keep_alive_of(asked)
    options = options_of(asked)
    return native | ({"options": options} if options else {})


def _chat(body: Mapping[str, Any]) -> dict[str, Any]:
    check_known(body, _CHAT)
    native: dict[str, Any] = {"messages": native_messages(body["messages"])} | tools_of(body) | think_of(body)
    if "response_format" in body:
        json_object(body["response_format"], "response_format")
        native |= format_of(body["response_format"])
    return native


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    """A completion goes on from its prompt, as with every other server: no template is put around it, unless there is
    a suffix, for which a model has a template of its own."""
    check_known(body, _COMPLETIONS)
    prompt = body["prompt"]
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise unsupported("prompt", "ollama takes one prompt at a time, as text.")
        prompt = prompt[0]
    suffix = body.get("suffix")
    if not suffix:
        return {"prompt": prompt, "raw": True}
    string(suffix, "suffix")
    return {"prompt": prompt, "suffix": suffix}


def _embeddings(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    check_known(body, _EMBEDDINGS)
    options = options_of(body)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    if not all(isinstance(text, str) for text in texts):
        raise unsupported("input", "ollama reads no tokens: send text.")
    native: dict[str, Any] = {"model": model, "input": texts} | keep_alive_of(body)
    native |= {name: body[name] for name in ("dimensions", "truncate") if name in body}
    if not isinstance(native.get("truncate", True), bool):
        raise invalid("truncate", "it must be true or false.")
    return native | ({"options": options} if options else {})
