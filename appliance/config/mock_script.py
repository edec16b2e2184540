"""Mock script: what the scripted model answers to what; a JSON file, read strictly. Format: docs/mock_chat.md."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import parse_object

MAX_SCRIPT_BYTES = 4 << 20
ANY_MODEL = "*"
DEFAULT_MODEL = "mock"
PLACEHOLDER = re.compile(r"\{\{\s*([a-z_]+)\s*(\|\s*json\s*)?\}\}")

_NAMES = frozenset({"input", "system", "tool_result", "tool", "tools", "model", "turn"})


class ScriptError(ValueError):
    """A script that cannot be used: the place in it, and what to change."""


def _check_template(text: str) -> str:
    for match in PLACEHOLDER.finditer(text):
        if match[1] not in _NAMES:
            raise ValueError(f"{{{{{match[1]}}}}} is no placeholder: use one of {', '.join(sorted(_NAMES))}")
    return text


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from None
    return text


def _check_templates(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        _check_template(value)
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_templates(child)
    return value


Text = Annotated[str, Field(min_length=1)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Template = Annotated[str, AfterValidator(_check_template)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class When(_Part):
    """What a rule waits for; all that is given must hold. Texts are compared without regard to case.

    `turn`: how many user messages there are. `tool_results`: how many stand at the end; `after_tool`: whose the last
    is, `*` for anybody's. `must_call`: tool_choice demands a call. `offers`: the name of an offered tool.
    """

    kind: Literal["chat", "completions"] | None = None
    model: ModelName | None = None
    equals: str | None = None
    contains: Text | None = None
    regex: Pattern | None = None
    system_contains: Text | None = None
    turn: Annotated[int, Field(ge=0)] | None = None
    tools: bool | None = None
    offers: Text | None = None
    must_call: bool | None = None
    tool_results: Annotated[int, Field(ge=0)] | None = None
    after_tool: Text | None = None
    tool_result_contains: Text | None = None
    response_format: Literal["text", "json_object", "json_schema"] | None = None
    stream: bool | None = None


class ScriptedCall(_Part):
    """`arguments`: an object whose strings may hold placeholders; a string, sent as it is; `"auto"`: made to fit."""

    name: Annotated[Template, Field(min_length=1)]
    arguments: Annotated[dict[str, Any] | Template, AfterValidator(_check_templates)] = Field(default_factory=dict)


class Failure(_Part):
    """An HTTP error instead of an answer, as a backend would send it."""

    status: Annotated[int, Field(ge=400, le=599)]
    message: Template = "scripted failure"
    retry_after_s: Annotated[int, Field(ge=0)] | None = None


class Answer(_Part):
    """What is said. `repeat`: the text so many times. `chunk_chars`: how long a piece is, else a word.

    `break_after_chunks`, `stall_after_chunks`: breaks off, or falls silent, after so many pieces of the stream, the
    first of which carries the role alone; a whole answer breaks off or never comes.
    """

    text: Template = ""
    reasoning: Template = ""
    tool_calls: tuple[ScriptedCall, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    repeat: Annotated[int, Field(ge=1, le=100_000)] = 1
    chunk_chars: Annotated[int, Field(ge=1)] | None = None
    first_byte_delay_s: Seconds = 0.0
    chunk_delay_s: Seconds = 0.0
    fail: Failure | None = None
    break_after_chunks: Count | None = None
    stall_after_chunks: Count | None = None


class Rule(_Part):
    when: When = When()
    answer: Answer


class MockScript(_Part):
    """Rules in the order in which they are tried; one without conditions takes all, and so ends the list.

    `models`: the names offered besides those that rules are for; with `*` among them, any name is served.
    """

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = (DEFAULT_MODEL,)
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_rule_is_reached(self) -> Self:
        for index, rule in enumerate(self.rules[:-1]):
            if rule.when == When():
                raise ValueError(f"rules[{index}] takes every request, so the rules after it are never tried")
        if self.rules[-1].when != When():
            raise ValueError("the last rule has conditions: end with one without `when`, for all other requests")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are listed, each once."""
        named = (rule.when.model for rule in self.rules if rule.when.model)
        return tuple(dict.fromkeys(name for name in (*self.models, *named) if name != ANY_MODEL)) or (DEFAULT_MODEL,)

    def serves(self, model: str) -> bool:
        return ANY_MODEL in self.models or model in self.names


def parse_mock_script(data: bytes) -> MockScript:
    """Raises ScriptError with the first mistake's place, such as `rules[2].answer.tool_calls[0].name`."""
    try:
        parse_object(data)  # what pydantic's reader lets through: doubled keys, numbers that are none
        return MockScript.model_validate_json(data)
    except InvalidRequest as error:
        raise ScriptError(error.message.replace("The request body", "the script", 1)) from None
    except ValidationError as error:
        raise ScriptError(_explain(error.errors(include_url=False))) from None


def load_mock_script(path: Path) -> MockScript:
    """Raises ScriptError, in words that can follow the setting's name."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise ScriptError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > MAX_SCRIPT_BYTES:
        raise ScriptError(f"{path} is larger than {MAX_SCRIPT_BYTES} bytes")
    try:
        return parse_mock_script(data)
    except ScriptError as error:
        raise ScriptError(f"{path}: {error}") from None


def _explain(problems: list[ErrorDetails]) -> str:
    problem = problems[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    words = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        words = "is no field of a script here"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {words}{more}" if place else f"{words}{more}"
