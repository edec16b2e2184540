"""The input of a responses request as the messages of a chat, item by item; what chat has no word for is refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.fields import quoted, required

_Message = dict[str, Any]


def messages_of(body: Mapping[str, Any]) -> list[_Message]:
    """The messages of a checked body. Raises InvalidRequest for items and parts that chat does not have."""
    chat = _Chat()
    if body.get("instructions"):
        chat.messages.append({"role": "system", "content": body["instructions"]})
    given = body["input"]
    if isinstance(given, str):
        chat.messages.append({"role": "user", "content": given})
        return chat.messages
    for index, item in enumerate(given):
        chat.add(item, f"input[{index}]")
    return chat.messages


class _Chat:
    """Messages so far. What one turn of the model said in several items is one assistant message again."""

    def __init__(self) -> None:
        self.messages: list[_Message] = []
        self._reasoning = ""

    def add(self, item: Mapping[str, Any], place: str) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            self._add_message(item, place)
        elif kind == "function_call":
            self._add_call(item)
        elif kind == "function_call_output":
            content = _content(item["output"], f"{place}.output")
            self._add_other({"role": "tool", "tool_call_id": item["call_id"], "content": content})
        elif kind == "reasoning":
            self._reasoning += _text_of(item.get("content") or ())
        else:
            raise _no_counterpart(f"{place}.type", kind, "message, function_call, function_call_output or reasoning")

    def _add_other(self, message: _Message) -> None:
        """What the model did not say. Thoughts before it that led to nothing are dropped."""
        self._reasoning = ""
        self.messages.append(message)

    def _add_message(self, item: Mapping[str, Any], place: str) -> None:
        content = _content(item["content"], f"{place}.content")
        if item["role"] != "assistant":
            # Templates of local models know the role system; few know developer.
            role = "system" if item["role"] == "developer" else item["role"]
            self._add_other({"role": role, "content": content})
            return
        turn = self._turn(says_more=True)
        turn["content"] = content if isinstance(content, str) else _text_of(content)

    def _add_call(self, item: Mapping[str, Any]) -> None:
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self._turn().setdefault("tool_calls", []).append(call)

    def _turn(self, *, says_more: bool = False) -> _Message:
        """The assistant message that is being said, or a new one; reasoning since goes into it."""
        turn = self.messages[-1] if self.messages else None
        if turn is None or turn["role"] != "assistant" or (says_more and turn["content"] is not None):
            turn = {"role": "assistant", "content": None}
            self.messages.append(turn)
        if self._reasoning:
            turn["reasoning_content"] = turn.get("reasoning_content", "") + self._reasoning
            self._reasoning = ""
        return turn


def _text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part.get("text") or "" for part in parts)


def _content(content: str | Sequence[Mapping[str, Any]], place: str) -> str | list[_Message]:
    """Chat's content: a lone text as a string, which every template can read."""
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{place}[{index}]") for index, part in enumerate(content)]
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _part(part: Mapping[str, Any], place: str) -> _Message:
    kind = part["type"]
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": required(part, "text", place)}
    if kind == "refusal":
        return {"type": "text", "text": required(part, "refusal", place)}
    if kind == "input_image":
        image = {"url": _only(part, "image_url", place)}
        if part.get("detail"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        file = {"file_data": _only(part, "file_data", place)}
        if part.get("filename"):
            file["filename"] = part["filename"]
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": required(part, "input_audio", place)}
    raise _no_counterpart(f"{place}.type", kind, "input_text, output_text, input_image, input_file or input_audio")


def _only(part: Mapping[str, Any], name: str, place: str) -> str:
    """The one way in which a picture or a file may come: inside the request, or at an address the backend fetches."""
    for other in ("file_id", "file_url"):
        if part.get(other):
            raise InvalidRequest(
                f"Unsupported parameter: '{place}.{other}': this gateway stores and fetches no files. Send '{name}'.",
                param=f"{place}.{other}",
                code="unsupported_parameter",
            )
    return str(required(part, name, place))


def _no_counterpart(param: str, kind: str, known: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported value for '{param}': '{quoted(kind)}' cannot be said to this backend. Use {known}.",
        param=param,
        code="unsupported_value",
    )
