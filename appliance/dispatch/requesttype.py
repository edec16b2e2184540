"""Request type: is this about code? Said by the client's header, else guessed from its last words. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from appliance.protocol.language import LanguageRequest

_LOOKED_AT_CHARS = 8000  # the question stands in the first of them, or code does

# Every repetition is bounded, or ends with its line: the text is a stranger's.
_CODE = re.compile(
    r"```|\bTraceback \(most recent|\bstack ?trace\b|\bsegfault\b|\b(?:compile|compiler|linker|syntax|type) ?errors?\b"
    r"|^[ \t]{0,80}(?:(?:def|class) \w{1,80}\b.{0,200}:[ \t]{0,80}$|import [\w.]{1,80};?$|from [\w.]{1,80} import |#include\b)"
    r"|\b(?:function|fn|func) \w{1,80} ?\(|\b(?:const|let|var) \w{1,80} ?=|\bpublic (?:static|class)\b"
    r"|(?-i:\bSELECT\b.{1,200}\bFROM\b|\b[\w-]{1,40}\.(?:py|jsx?|tsx?|rs|go|java|kt|c|cc|cpp|hpp?|cs|rb|php|sh|sql|ya?ml|toml)\b)"
    r"|\b(?:refactor\w{0,10}|unit ?tests?|pytest|regex(?:p|es)?|debug(?:ging)?|code review|pull request|docstrings?)\b"
    r"|\b(?:write|fix|implement|review|explain|port|optimi[sz]e)(?: \w{1,20}){0,3} "
    r"(?:code|functions?|class|script|program|algorithm|query|bug|snippet)\b",
    re.IGNORECASE | re.MULTILINE,
)


def is_coding(request: LanguageRequest, request_type: str | None) -> bool:
    """`X-Request-Type: coding|chat` decides; another value, or none, leaves it to the text."""
    said = (request_type or "").strip().lower()
    if said in {"coding", "chat"}:
        return said == "coding"
    return _CODE.search(_last_words(request.body)) is not None


def _last_words(body: Mapping[str, Any]) -> str:
    """What the user said last; a system prompt that talks of code says nothing about the question."""
    for name in ("messages", "input", "prompt"):
        value = body.get(name)
        if isinstance(value, str):
            return value[:_LOOKED_AT_CHARS]
        if isinstance(value, list):
            return _text(_last_of_user(value))[:_LOOKED_AT_CHARS]
    return ""


def _last_of_user(items: list[Any]) -> Any:
    for item in reversed(items):
        if isinstance(item, str):
            return item
        if isinstance(item, dict) and item.get("role") == "user":
            return item.get("content")
    return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))
