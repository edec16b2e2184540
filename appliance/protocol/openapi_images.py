"""OpenAPI of image requests, made of the models that check them, and of their answers."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.edits import MAX_PICTURES
from appliance.protocol.images import IMAGE_SIZE, ImageFields, ImageOptions
from appliance.protocol.openapi_parts import (
    INTEGER,
    NON_EMPTY,
    OBJECT,
    STRING,
    Schema,
    answer_object,
    any_of,
    array_of,
    needs,
    nullable,
    when,
)

_BLANK: Schema = {"type": "string", "pattern": r"^\s*$"}
_FILE: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
_TEXT: Schema = {"type": "string"}


def _plain(schema: Mapping[str, Any]) -> Schema:
    """Without the titles that pydantic gives."""
    return {name: value for name, value in schema.items() if name != "title"}


def _generation() -> Schema:
    fields = {name: _plain(one) for name, one in ImageFields.model_json_schema()["properties"].items()}
    fields["prompt"] = {"type": "string", "pattern": r"\S"}
    fields["size"] = {**nullable({"type": "string", "pattern": f"^{IMAGE_SIZE.pattern}$"}), "default": "1024x1024"}
    options = {
        name: any_of(*one["anyOf"], _BLANK) for name, one in ImageOptions.model_json_schema()["properties"].items()
    }
    return {
        "type": "object",
        "required": ["prompt"],
        "properties": {**fields, **options},
        "allOf": [
            when(
                "stream",
                {"const": True},
                {"properties": {"n": {"const": 1}, "response_format": {"enum": [None, "b64_json"]}}},
            )
        ],
    }


def _edit() -> Schema:
    """A form: every field but the pictures is a text, which is then read as the field of a generation is."""
    names = [*ImageFields.model_fields, *ImageOptions.model_fields, "strength", "denoising_strength"]
    return {
        "type": "object",
        "required": ["image", "prompt"],
        "properties": {
            "image": any_of(_FILE, array_of(_FILE, lowest=1, highest=MAX_PICTURES)),
            "mask": _FILE,
            **dict.fromkeys(names, _TEXT),
            "prompt": NON_EMPTY,
        },
    }


_PICTURE = any_of(needs(url=STRING), needs(b64_json=STRING))

IMAGE_SCHEMAS: Mapping[str, Schema] = {
    "ImageRequest": _generation(),
    "ImageEditRequest": _edit(),
    "Images": answer_object(
        {"created": INTEGER, "data": array_of({"type": "object", **_PICTURE}, lowest=1), "_gateway": OBJECT}
    ),
}
