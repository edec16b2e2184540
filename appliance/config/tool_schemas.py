"""Tool schemas: whether a declared tool's `parameters` are JSON Schema (2020-12) that needs nothing but itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DATA = frozenset({"const", "enum", "default", "examples"})  # what is in them is no schema
_NAMED = ("/properties", "/patternProperties", "/$defs", "/dependentSchemas")  # names of the operator's, not keywords
_REFERENCES = ("$ref", "$dynamicRef")


class SchemaMistake(ValueError):
    """`pointer`: where in the schema (RFC 6901). The message says what to write."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises SchemaMistake with what is most wrong. Nothing is fetched, now or when arguments are checked."""
    if str(schema.get("$schema", _DIALECT)).rstrip("#") != _DIALECT:
        raise SchemaMistake("/$schema", f'names another dialect: write "{_DIALECT}", or leave it out')
    validator = Draft202012Validator(
        Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    error = best_match(validator.iter_errors(schema))
    if error is not None:
        raise SchemaMistake(_pointer(error), f"is no JSON Schema: {_reason(error)}: correct it")
    if schema.get("type", "object") != "object":
        raise SchemaMistake("/type", 'must be "object": arguments are one')
    for pointer, key, reference in _references(schema, ""):
        if key == "$id":
            raise SchemaMistake(pointer, "gives a part a name of its own: leave it out, and refer by #/$defs/...")
        if not reference.startswith("#"):
            raise SchemaMistake(pointer, "leads outside this schema, and nothing is fetched: write #/$defs/...")
    _try_out(schema)


def validator_of(schema: Mapping[str, Any]) -> Draft202012Validator:
    """A validator that knows the schema and nothing else: the library's own would fetch what a `$ref` names."""
    return Draft202012Validator(schema, registry=Registry())


def _references(value: Any, pointer: str) -> Iterator[tuple[str, str, str]]:
    """Every reference with its place and keyword; and every `$id` below the top, which would change their meaning."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            if isinstance(child, str) and (key in _REFERENCES or (key == "$id" and pointer)):
                yield place, key, child
            if key not in _DATA or pointer.endswith(_NAMED):
                yield from _references(child, place)
    if isinstance(value, list):
        for index, child in enumerate(value):
            yield from _references(child, f"{pointer}/{index}")


def _try_out(schema: Mapping[str, Any]) -> None:
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    for pointer, _, reference in _references(schema, ""):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise SchemaMistake(pointer, f"{reference[:60]!r} is not in this schema: write one of its $defs") from None
    try:
        validator_of(schema).is_valid({})
    except RecursionError:
        raise SchemaMistake("", "refers to itself without end: let each $ref lead on") from None


def _pointer(error: ValidationError) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)


def _reason(error: ValidationError) -> str:
    return " ".join(str(error.message).split())[:200]
