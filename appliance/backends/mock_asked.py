"""What the scripted model reads in a request: the last words, the tools, the results; and which rule they meet."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.config.mock_script import PLACEHOLDER, Answer, MockScript, When

_INSTRUCTIONS = ("system", "developer")
_RESULTS = ("tool", "function")
ANY_TOOL = "*"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as rules see it. `tools`: name -> parameters of what may be called. `text`: all that was sent."""

    kind: Literal["chat", "completions"]
    model: str
    input: str
    system: str
    text: str
    turn: int
    messages: int
    tools: Mapping[str, Mapping[str, Any]]
    must_call: bool
    named_tool: str
    results: tuple[str, ...]
    last_result_of: str
    response_format: str
    stream: bool

    @property
    def tool(self) -> str:
        """The tool that a rule means by `{{tool}}`: the one that tool_choice names, else the first."""
        return self.named_tool or next(iter(self.tools), "")


def read_completion(body: Mapping[str, Any], prompt: str, model: str) -> Asked:
    return Asked(
        kind="completions",
        model=model,
        input=prompt,
        system="",
        text=prompt,
        turn=1,
        messages=1,
        tools={},
        must_call=False,
        named_tool="",
        results=(),
        last_result_of="",
        response_format="text",
        stream=bool(body.get("stream")),
    )


def read_chat(body: Mapping[str, Any], model: str) -> Asked:
    messages = body["messages"]
    of_users = [message for message in messages if message["role"] == "user"]
    results = _trailing_results(messages)
    choice = body.get("tool_choice")
    tools = {} if choice == "none" else _tools(body)
    named = choice.get("function", {}).get("name", "") if isinstance(choice, dict) else ""
    return Asked(
        kind="chat",
        model=model,
        input=text_of(of_users[-1]) if of_users else "",
        system="\n".join(text_of(message) for message in messages if message["role"] in _INSTRUCTIONS),
        text="\n".join(map(text_of, messages)),
        turn=len(of_users),
        messages=len(messages),
        tools=tools,
        must_call=choice == "required" or isinstance(choice, dict),
        named_tool=named if named in tools else "",
        results=tuple(text_of(message) for message in results),
        last_result_of=_tool_of(results[-1], messages) if results else "",
        response_format=(body.get("response_format") or {}).get("type", "text"),
        stream=bool(body.get("stream")),
    )


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def find_answer(script: MockScript, asked: Asked) -> Answer:
    """The first rule that takes it; the last takes everything."""
    return next(rule.answer for rule in script.rules if _meets(rule.when, asked))


def fill(template: str, asked: Asked) -> str:
    """Put values in place of `{{name}}`, as JSON of them in place of `{{name|json}}`; what they say is not read again."""
    return PLACEHOLDER.sub(lambda match: _value(match[1], as_json=bool(match[2]), asked=asked), template)


def fill_all(value: Any, asked: Asked) -> Any:
    """Every string inside."""
    if isinstance(value, str):
        return fill(value, asked)
    if isinstance(value, dict):
        return {key: fill_all(child, asked) for key, child in value.items()}
    return [fill_all(child, asked) for child in value] if isinstance(value, list) else value


def _value(name: str, *, as_json: bool, asked: Asked) -> str:
    values: Mapping[str, str | int] = {
        "input": asked.input,
        "system": asked.system,
        "tool_result": asked.results[-1] if asked.results else "",
        "tool": asked.tool,
        "tools": ", ".join(asked.tools),
        "model": asked.model,
        "turn": asked.turn,
    }
    value = values[name]
    return json.dumps(value, ensure_ascii=False) if as_json else str(value)


def _meets(when: When, asked: Asked) -> bool:
    return _meets_facts(when, asked) and _meets_texts(when, asked) and _meets_tools(when, asked)


def _meets_facts(when: When, asked: Asked) -> bool:
    wanted = (
        (when.kind, asked.kind),
        (when.model, asked.model),
        (when.turn, asked.turn),
        (when.tools, bool(asked.tools)),
        (when.must_call, asked.must_call),
        (when.tool_results, len(asked.results)),
        (when.response_format, asked.response_format),
        (when.stream, asked.stream),
    )
    return all(wish is None or wish == fact for wish, fact in wanted)


def _meets_texts(when: When, asked: Asked) -> bool:
    if when.equals is not None and when.equals.strip().lower() != asked.input.strip().lower():
        return False
    if when.regex is not None and not re.search(when.regex, asked.input, re.IGNORECASE):
        return False
    wanted = (
        (when.contains, asked.input),
        (when.system_contains, asked.system),
        (when.tool_result_contains, asked.results[-1] if asked.results else ""),
    )
    return all(wish is None or wish.lower() in text.lower() for wish, text in wanted)


def _meets_tools(when: When, asked: Asked) -> bool:
    if when.offers is not None and when.offers not in asked.tools:
        return False
    if when.after_tool is None:
        return True
    return bool(asked.results) and when.after_tool in (ANY_TOOL, asked.last_result_of)


def _tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name -> parameters, of `tools` and of the older `functions`."""
    functions = [tool["function"] for tool in body.get("tools") or ()] + list(body.get("functions") or ())
    return {function["name"]: function.get("parameters") or {} for function in functions}


def _trailing_results(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results after the last message of another kind."""
    start = len(messages)
    while start and messages[start - 1]["role"] in _RESULTS:
        start -= 1
    return list(messages[start:])


def _tool_of(result: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    if isinstance(result.get("name"), str):
        return str(result["name"])
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return next((str(call["function"]["name"]) for call in calls if call["id"] == result.get("tool_call_id")), "")
