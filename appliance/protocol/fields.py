"""Checks of single fields of a JSON request, which say what is wrong in the words and codes of OpenAI's API."""

from collections.abc import Callable, Mapping
from typing import Any

from appliance.protocol.errors import InvalidRequest

Check = Callable[[Any, str], None]
"""Takes a value that is not null and its place in the body, such as `messages[0].role`. Raises InvalidRequest."""

_QUOTED_CHARS = 64

_NAMES: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def wrong_type(param: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {_NAMES[type(value)]} instead.",
        param=param,
        code="invalid_type",
    )


def missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def invalid(param: str, what: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {what}", param=param, code=code)


def unsupported(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported parameter: '{param}': {why}", param=param, code="unsupported_parameter")


def check_fields(body: Mapping[str, Any], table: Mapping[str, Check], place: str = "") -> None:
    """Check every field that the table knows. Null is as good as absent; unknown fields are left alone."""
    for name, value in body.items():
        check = table.get(name)
        if check is not None and value is not None:
            check(value, f"{place}.{name}" if place else name)


def required(body: Mapping[str, Any], name: str, place: str = "") -> Any:
    value = body.get(name)
    if value is None:
        raise missing(f"{place}.{name}" if place else name)
    return value


def string(value: Any, param: str) -> None:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)


def non_empty_string(value: Any, param: str) -> None:
    string(value, param)
    if not value:
        raise invalid(param, "empty string. Expected a string of at least one character.", "empty_string")


def boolean(value: Any, param: str) -> None:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)


def json_object(value: Any, param: str) -> None:
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)


def number(lowest: float, highest: float) -> Check:
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(param, "a decimal", value)
        _check_range(value, param, lowest, highest, "decimal")

    return check


def integer(lowest: int, highest: int) -> Check:
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(param, "an integer", value)
        _check_range(value, param, lowest, highest, "integer")

    return check


def _check_range(value: float, param: str, lowest: float, highest: float, kind: str) -> None:
    if value < lowest:
        what = f"{kind} below minimum value. Expected a value >= {lowest}, but got {quoted(value)} instead."
        raise invalid(param, what, f"{kind}_below_min_value")
    if value > highest:
        what = f"{kind} above maximum value. Expected a value <= {highest}, but got {quoted(value)} instead."
        raise invalid(param, what, f"{kind}_above_max_value")


def one_of(*names: str) -> Check:
    def check(value: Any, param: str) -> None:
        string(value, param)
        if value not in names:
            raise wrong_name(value, param, names)

    return check


def wrong_name(value: str, param: str, names: tuple[str, ...]) -> InvalidRequest:
    supported = ", ".join(f"'{name}'" for name in names)
    return InvalidRequest(
        f"Invalid value for '{param}': '{quoted(value)}'. Supported values are: {supported}.",
        param=param,
        code="invalid_value",
    )


def list_of(check_item: Check, *, lowest: int = 0, highest: int | None = None) -> Check:
    """A list of so many entries, each of which the check takes."""

    def check(value: Any, param: str) -> None:
        check_length(value, param, lowest=lowest, highest=highest)
        for index, item in enumerate(value):
            check_item(item, f"{param}[{index}]")

    return check


def check_length(value: Any, param: str, *, lowest: int = 0, highest: int | None = None) -> None:
    if not isinstance(value, list):
        raise wrong_type(param, "an array", value)
    if len(value) < lowest:
        what = f"empty array. Expected an array with minimum length {lowest}."
        raise invalid(param, what, "empty_array")
    if highest is not None and len(value) > highest:
        what = f"array too long. Expected an array with maximum length {highest}, but got one with length {len(value)}."
        raise invalid(param, what, "array_above_max_length")


def quoted(value: object) -> str:
    """A client's value as it may stand in a message: cut, and on one line."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(char if char.isprintable() else "?" for char in text[:_QUOTED_CHARS])
    return shown if len(text) <= _QUOTED_CHARS else shown + "..."
