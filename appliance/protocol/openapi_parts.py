"""OpenAPI parts: the few shapes of JSON Schema 2020-12 that all request and answer schemas are made of."""

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
NON_EMPTY: Schema = {"type": "string", "minLength": 1}
BOOLEAN: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
SAYS_NOTHING: Schema = {"enum": [None, False, 0, "", [], {}]}


def ref(name: str) -> Schema:
    """A schema by its name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


def between(kind: str, lowest: float, highest: float) -> Schema:
    return {"type": kind, "minimum": lowest, "maximum": highest}


def array_of(item: Schema, *, lowest: int = 0, highest: int | None = None) -> Schema:
    limits: dict[str, Any] = {"minItems": lowest} if lowest else {}
    if highest is not None:
        limits["maxItems"] = highest
    return {"type": "array", "items": item, **limits}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    return any_of(schema, NULL)


def request_object(required: Mapping[str, Schema], optional: Mapping[str, Schema], **more: Any) -> Schema:
    """A body or a part of one: of what is not required, null is as good as absent; unknown fields are left alone."""
    properties = {**required, **{name: nullable(schema) for name, schema in optional.items()}}
    return {"type": "object", "required": list(required), "properties": properties, **more}


def answer_object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """What is answered: these fields, and whatever a backend or a later release adds."""
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def closed_object(required: Mapping[str, Schema], optional: Mapping[str, Schema], **more: Any) -> Schema:
    """A body that takes no other field."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
        **more,
    }


def when(field: str, value: Schema, then: Schema) -> Schema:
    """A rule for objects whose field is of this kind. For `allOf`."""
    return {"if": {"required": [field], "properties": {field: value}}, "then": then}


def needs(**schemas: Schema) -> Schema:
    """These fields are there, and are such."""
    return {"required": list(schemas), "properties": schemas}
