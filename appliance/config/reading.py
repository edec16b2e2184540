"""Reading: the text of the variables to typed settings, each with its origin; every bad one is named at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from appliance.config.environment import ENVIRONMENT, Text
from appliance.config.errors import Findings
from appliance.config.settings import Settings

DEFAULT = "default"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Given:
    """Settings, and for each field where its value came from."""

    settings: Settings
    origins: Mapping[str, str]

    def is_set(self, field: str) -> bool:
        return self.origins[field] != DEFAULT

    def where(self, field: str) -> str:
        """The place to change: the variable, with file and line if it came from one."""
        return _where(field, self.origins[field])


def read_settings(variables: Mapping[str, Text], findings: Findings) -> Given:
    """A bad value is refused and its default stands in, so that the checks that follow find further mistakes."""
    texts = {field: variables[field.upper()] for field in Settings.model_fields if field.upper() in variables}
    values = {field: text.text for field, text in texts.items() if _is_text(field, text, findings)}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            field = str(problem["loc"][0])
            if values.pop(field, None) is not None:
                findings.refuse(_where(field, texts[field].origin), _explain(field, texts[field].text, problem))
        settings = Settings.model_validate(values)
    origins = {field: texts[field].origin if field in texts else DEFAULT for field in Settings.model_fields}
    return Given(settings, origins)


def _is_text(field: str, text: Text, findings: Findings) -> bool:
    """Bytes that are not UTF-8 come in as lone surrogates, which no file, header or JSON takes back."""
    if not _SURROGATE.search(text.text):
        return True
    findings.refuse(_where(field, text.origin), "is not UTF-8: write plain text")
    return False


def _where(field: str, origin: str) -> str:
    return field.upper() if origin in {DEFAULT, ENVIRONMENT} else f"{origin}: {field.upper()}"


def _explain(field: str, text: str, problem: ErrorDetails) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])  # ours: it says what to write, and repeats no URL
    shown = repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")
    return f"{shown} cannot be used: write {_wanted(Settings.model_fields[field])}"


def _wanted(info: FieldInfo) -> str:
    choices = [str(choice) for choice in get_args(info.annotation) if isinstance(choice, str)]
    if choices:
        return " or ".join(choices)
    kind = {int: "a whole number", float: "a number"}.get(_plain(info.annotation), "text")
    return kind + "".join(_bounds(info.metadata))


def _plain(annotation: Any) -> Any:
    return annotation if isinstance(annotation, type) else None


def _bounds(metadata: list[Any]) -> list[str]:
    words = {"ge": " from {}", "gt": " above {}", "le": " to {}", "lt": " below {}"}
    return [
        text.format(value)
        for name, text in words.items()
        for bound in metadata
        if (value := getattr(bound, name, None)) is not None
    ]
