"""OpenAPI of answers: errors by status, out of the table of errors; health, models, and what language models say."""

from collections.abc import Mapping
from typing import Any, get_args

from appliance.protocol.errors import ANSWERS, ErrorType
from appliance.protocol.openapi_parts import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    Schema,
    answer_object,
    any_of,
    array_of,
    needs,
    nullable,
    one_of,
    ref,
)

# What the listener turns away before a request has a route (server/strict.py and the deadlines of a connection).
REFUSED_BY_LISTENER: Mapping[int, str] = {
    400: "a head that is not beyond doubt",
    405: "CONNECT and TRACE",
    408: "a head or body that took too long",
    417: "an Expect other than 100-continue",
    431: "a head that is too large",
    500: "a fault of ours",
    503: "too many connections",
    505: "another HTTP version",
}
WITH_RETRY_AFTER = frozenset({429, 503})

_ERROR = answer_object(
    {
        "message": STRING,
        "type": one_of(*get_args(ErrorType)),
        "param": nullable(STRING),
        "code": nullable(STRING),
        "source": one_of("gateway", "upstream"),
    }
)
_CHOICES = array_of(answer_object({"index": INTEGER}))
_HEALTH_OF_CLASS = answer_object({"healthy": BOOLEAN, "ready": BOOLEAN, "required": BOOLEAN, "error": nullable(STRING)})
_MODEL = answer_object({"id": STRING, "object": {"const": "model"}, "created": INTEGER, "owned_by": STRING})

ANSWER_SCHEMAS: Mapping[str, Schema] = {
    "Error": answer_object({"error": _ERROR}),
    "Health": answer_object({"ok": BOOLEAN}, {"draining": BOOLEAN}),
    "Readiness": answer_object(
        {
            "ok": BOOLEAN,
            "ready": BOOLEAN,
            "backends": {"type": "object", "additionalProperties": _HEALTH_OF_CLASS},
        },
        {"draining": BOOLEAN, "warnings": array_of(STRING)},
    ),
    "Upstreams": answer_object(
        {"ok": BOOLEAN, "upstreams": {"type": "object", "additionalProperties": answer_object({"ok": BOOLEAN})}}
    ),
    "Status": answer_object(
        {"admission_control": OBJECT, "backend_health": OBJECT, "version": STRING, "uptime_s": NUMBER}
    ),
    "Model": _MODEL,
    "Models": answer_object(
        {"object": {"const": "list"}, "data": array_of(ref("Model"))}, {"warnings": array_of(STRING)}
    ),
    "ChatCompletion": answer_object({"choices": _CHOICES}),
    "Completion": answer_object({"choices": _CHOICES}),
    "Response": answer_object({"id": STRING, "object": {"const": "response"}, "output": array_of(OBJECT)}),
    "Embeddings": answer_object({"data": array_of(OBJECT)}),
    # Cohere's servers say results, others data, as for embeddings.
    "Reranked": {"type": "object", **any_of(needs(results=array_of(OBJECT)), needs(data=array_of(OBJECT)))},
    "OpenAPI": answer_object({"openapi": STRING, "info": OBJECT, "paths": OBJECT}),
}


def error_statuses() -> frozenset[int]:
    """Every status that an error of ours, or a refusal of the listener's, may have."""
    return frozenset(answer.status for answer in ANSWERS.values()) | REFUSED_BY_LISTENER.keys()


def error_responses() -> dict[str, Any]:
    """A response for each status of an error, with the codes that it may bring."""
    return {f"Error{status}": _error_response(status) for status in sorted(error_statuses())}


def _error_response(status: int) -> dict[str, Any]:
    codes = sorted({str(answer.code) for answer in ANSWERS.values() if answer.status == status and answer.code})
    words = [f"`{code}`" for code in codes]
    if status in REFUSED_BY_LISTENER:
        words.append(REFUSED_BY_LISTENER[status])
    return {
        "description": f"An error: {', '.join(words)}.",
        "headers": _headers(status),
        "content": {"application/json": {"schema": ref("Error")}},
    }


def _headers(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
    if status in WITH_RETRY_AFTER:
        headers["Retry-After"] = {"required": True, "schema": {"type": "integer", "minimum": 0}}
        headers["retry-after-ms"] = {"required": True, "schema": {"type": "integer", "minimum": 0}}
    if status == 401:
        headers["WWW-Authenticate"] = {"required": True, "schema": {"const": "Bearer"}}
    return headers
