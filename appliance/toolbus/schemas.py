"""Schemas: do arguments fit a tool's parameters? JSON Schema 2020-12 in full, by the `jsonschema` library."""

# ruff: noqa: PLC0415 -- 60 ms and 5 MB that a box which runs no tools does not pay

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from appliance.protocol.errors import InvalidArguments
from appliance.toolbus.base import Schema, Tool

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

MAX_ISSUES = 16
MAX_REASON_CHARS = 200  # the library's words quote the value, which may be megabytes


class Schemas:
    """A validator for each tool, made when it is first called."""

    def __init__(self) -> None:
        self._validators: dict[str, Validator] = {}

    def check(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Raises InvalidArguments with every issue (MAX_ISSUES at most), sorted by its JSON pointer."""
        validator = self._validators.get(tool.name)
        if validator is None:
            validator = self._validators[tool.name] = make_validator(tool.parameters)
        found = list(islice(validator.iter_errors(arguments), MAX_ISSUES))
        if found:
            raise InvalidArguments(tool.name, sorted(map(_issue, found), key=lambda issue: issue["pointer"]))


def make_validator(schema: Schema) -> "Validator":
    """Nothing is ever fetched: a `$ref` out of the schema raises when it is met; the registry refuses such schemas."""
    from appliance.config.tool_schemas import validator_of

    return validator_of(schema)


def _issue(error: "ValidationError") -> dict[str, str]:
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.absolute_path)
    reason = error.message
    return {"pointer": pointer, "reason": reason if len(reason) <= MAX_REASON_CHARS else _shortened(reason)}


def _shortened(reason: str) -> str:
    half = MAX_REASON_CHARS // 2
    return f"{reason[:half]} ... {reason[-half:]}"
