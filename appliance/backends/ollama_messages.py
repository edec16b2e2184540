"""Messages for Ollama: OpenAI's messages in the words of its native chat. Pure."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.fields import invalid, unsupported

_ROLES = {"developer": "system", "function": "tool"}
_IMAGE = re.compile(r"data:(?:image/[\w.+-]+)?;base64,", re.IGNORECASE)

_READ = frozenset(
    {"role", "content", "tool_calls", "tool_call_id", "name", "refusal", "reasoning_content", "reasoning", "thinking"}
    | {"function_call"}
)
# What servers and SDKs put into the messages that they give out, and clients send back with them.
_WITHOUT_MEANING = frozenset({"annotations", "id", "type", "index", "status", "logprobs", "finish_reason"})


def native_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises InvalidRequest for what Ollama has no words for, by its place: `messages[2].content[0]`."""
    names: dict[str, str] = {}
    native = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        _refuse_unknown(message, place)
        native.append(_native(message, place, names))
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
    return native


def _native(message: Mapping[str, Any], place: str, names: Mapping[str, str]) -> dict[str, Any]:
    """`names`: tool call id -> tool, of the messages before: Ollama's results name their tool, not their call."""
    role = message["role"]
    text, images = _content(message, place)
    native: dict[str, Any] = {"role": _ROLES.get(role, role), "content": text}
    if images:
        native["images"] = images
    thinking = message.get("reasoning_content") or message.get("reasoning") or message.get("thinking")
    if role == "assistant" and isinstance(thinking, str):
        native["thinking"] = thinking
    if calls := _calls(message, place):
        native["tool_calls"] = calls
    if native["role"] == "tool":
        tool_name = message.get("name") or names.get(message.get("tool_call_id") or "")
        native |= {"tool_name": tool_name} if tool_name else {}
    return native


def _refuse_unknown(message: Mapping[str, Any], place: str) -> None:
    for name, value in message.items():
        if value is not None and name not in _READ and name not in _WITHOUT_MEANING:
            raise unsupported(f"{place}.{name}", "ollama cannot honour it: leave it out.")


def _content(message: Mapping[str, Any], place: str) -> tuple[str, list[str]]:
    content = message.get("content")
    if isinstance(content, str):
        return content, []
    if content is None:
        return message.get("refusal") or "", []
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        where = f"{place}.content[{index}]"
        kind = part["type"]
        if kind in ("text", "refusal"):
            texts.append(_text(part, kind, where))
        elif kind == "image_url":
            images.append(_image(part["image_url"]["url"], f"{where}.image_url.url"))
        else:
            raise unsupported(f"{where}.type", "ollama reads parts of type 'text' and 'image_url' only.")
    return "\n".join(texts), images


def _text(part: Mapping[str, Any], kind: str, where: str) -> str:
    text = part.get(kind)
    if not isinstance(text, str):
        raise invalid(f"{where}.{kind}", "it must be a string.")
    return text


def _image(url: str, param: str) -> str:
    """The base64 of a data: URL. Nothing is fetched: an address in a request must not make this gateway call it."""
    match = _IMAGE.match(url)
    if match is None:
        raise unsupported(param, "ollama takes images as data:image/png;base64,... only, and no addresses.")
    data = url[match.end() :]
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(param, "it is not valid base64.") from None
    return data


def _calls(message: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    called = [
        _call(call["function"], f"{place}.tool_calls[{index}].function")
        for index, call in enumerate(message.get("tool_calls") or ())
    ]
    if message.get("function_call"):
        called.append(_call(message["function_call"], f"{place}.function_call"))
    return called


def _call(function: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {"function": {"name": function["name"], "arguments": _arguments(function.get("arguments"), place)}}


def _arguments(value: Any, place: str) -> dict[str, Any]:
    """OpenAI sends them as a string of JSON, Ollama as the object itself; no string is as good as `{}`."""
    if isinstance(value, dict):
        return value
    if not value or not value.strip():
        return {}
    try:
        arguments = from_json(value, allow_inf_nan=False)
    except ValueError:
        raise _not_an_object(place) from None
    if not isinstance(arguments, dict):
        raise _not_an_object(place)
    return arguments


def _not_an_object(place: str) -> InvalidRequest:
    return invalid(f"{place}.arguments", "it must be a JSON object, as a string.")
