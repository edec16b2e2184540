"""A small part of JSON Schema, for answers that are to be JSON: what is not known is refused when the cases are read."""

import json
from collections.abc import Callable, Mapping
from typing import Any

KEYWORDS = ("type", "enum", "required", "properties", "additionalProperties", "items", "minimum", "maximum")
MAX_DEPTH = 32

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value),  # noqa: PLW0108 -- it stands below
    "integer": lambda value: _is_number(value) and _is_whole(value),
}


class BadSchema(ValueError):
    """A schema that this part of JSON Schema does not know. `where`: a dotted place below the schema, or empty."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where = where


def check_schema(schema: object, where: str = "", depth: int = 0) -> None:
    """Raises BadSchema."""
    if depth > MAX_DEPTH:
        raise BadSchema(where, f"is nested more than {MAX_DEPTH} deep")
    if not isinstance(schema, dict):
        raise BadSchema(where, "is no object")
    for name, value in schema.items():
        if name not in KEYWORDS:
            raise BadSchema(_join(where, name), f"is not known here: write {', '.join(KEYWORDS)}")
        _check_keyword(name, value, _join(where, name), depth)


def find_mismatch(schema: Mapping[str, Any], value: object, where: str = "") -> str | None:
    """The first place at which `value` is not what a checked schema asks for, in a few words; None if it is."""
    shown = where or "the answer"
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    if names and not any(_TYPES[name](value) for name in names):
        return f"{shown} is {_brief(value)}, not {' or '.join(names)}"
    if "enum" in schema and not any(same_json(value, one) for one in schema["enum"]):
        return f"{shown} is {_brief(value)}, none of {_brief(schema['enum'])}"
    if isinstance(value, dict):
        return _find_in_object(schema, value, where)
    if isinstance(value, list):
        pairs = ((f"{where}[{index}]", item) for index, item in enumerate(value))
        return _first(find_mismatch(schema.get("items", {}), item, place) for place, item in pairs)
    if _is_number(value):
        return _find_out_of_range(schema, value, shown)
    return None


def same_json(left: object, right: object) -> bool:
    """Equal as JSON has it: `true` is not 1, at any depth; 1.0 is 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return left == right


def _check_keyword(name: str, value: object, where: str, depth: int) -> None:
    rule = _RULES.get(name)
    if rule is not None and not rule[0](value):
        raise BadSchema(where, rule[1])
    if name == "properties" and isinstance(value, dict):
        for key, below in value.items():
            check_schema(below, _join(where, key), depth + 1)
    if name == "items" or (name == "additionalProperties" and not isinstance(value, bool)):
        check_schema(value, where, depth + 1)


def _are_types(value: object) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and bool(names) and all(isinstance(one, str) and one in _TYPES for one in names)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "type": (_are_types, f"is one of {', '.join(_TYPES)}, or a list of them"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "is a list that is not empty"),
    "required": (_are_names, "is a list of names"),
    "properties": (lambda value: isinstance(value, dict), "is an object of schemas"),
    "minimum": (lambda value: _is_number(value), "is a number"),  # noqa: PLW0108 -- it stands below
    "maximum": (lambda value: _is_number(value), "is a number"),  # noqa: PLW0108 -- it stands below
}


def _find_in_object(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> str | None:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{where or 'the answer'} lacks {', '.join(missing)}"
    known, further = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        below = known.get(name, further)
        if below is False:
            return f"{where or 'the answer'} has {name!r}, which is not asked for"
        if isinstance(below, dict) and (found := find_mismatch(below, item, _join(where, name))):
            return found
    return None


def _find_out_of_range(schema: Mapping[str, Any], value: Any, shown: str) -> str | None:
    if "minimum" in schema and value < schema["minimum"]:
        return f"{shown} is {value}, less than {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{shown} is {value}, more than {schema['maximum']}"
    return None


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: int | float) -> bool:
    return isinstance(value, int) or value.is_integer()  # 1.0 is an integer (2020-12, 6.1.1); 1e999 is none


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
