"""OpenAPI: the document of `/openapi.json`, every route with what it takes and answers. A pure function of the version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.protocol.agents import RUNS_LISTED, RUNS_LISTED_MAX
from appliance.protocol.openapi_answers import ANSWER_SCHEMAS, error_responses
from appliance.protocol.openapi_chat import CHAT_SCHEMAS
from appliance.protocol.openapi_images import IMAGE_SCHEMAS
from appliance.protocol.openapi_parts import Schema, one_of, ref
from appliance.protocol.openapi_responses import RESPONSES_SCHEMAS
from appliance.protocol.openapi_tools import TOOL_SCHEMAS

JSON = "application/json"
FORM = "multipart/form-data"
EVENTS = "text/event-stream"

# What any request may meet before its route is asked: the listener, the door, the body's limits, our own faults.
_ALWAYS = (400, 403, 408, 417, 421, 429, 431, 500, 503, 505)
_UNAUTHENTICATED = (401,)
_BODY = (413, 415)
_UPSTREAM = (404, 502, 504)  # a model or class that nobody knows is 404
_STORED = (507,)

_STRING: Schema = {"type": "string"}
SCHEMAS: Mapping[str, Schema] = {
    **ANSWER_SCHEMAS,
    **CHAT_SCHEMAS,
    **RESPONSES_SCHEMAS,
    **IMAGE_SCHEMAS,
    **TOOL_SCHEMAS,
}

Access = Literal["open", "token", "token or signature"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answer`: the schema of its JSON; `kinds`: of what else it may answer with 200.

    `upstream_says`: a backend's own refusal of what was asked is passed on with its status, whichever of 4xx it is.
    """

    summary: str
    answer: str | Schema = ""
    body: str = ""
    form: bool = False
    kinds: Sequence[str] = ()
    parameters: Sequence[Mapping[str, Any]] = ()
    errors: Sequence[int] = ()
    access: Access = "token"
    upstream_says: bool = False
    also: Mapping[int, str] | None = None


def _header(name: str, what: str, schema: Schema = _STRING) -> Mapping[str, Any]:
    return {"name": name, "in": "header", "description": what, "schema": schema}


def _in_query(name: str, schema: Schema) -> Mapping[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


_X_BACKEND = _header("X-Backend", "A backend class or provider, whatever the model says.")
_X_REQUEST_TYPE = _header("X-Request-Type", "With ROUTER_ENABLE_REQUEST_TYPE: what kind of request this is.")
_X_TOOLS = _header("X-Gateway-Tools", "`run`: the gateway runs its tools itself.", one_of("run"))
_IDEMPOTENCY = _header("Idempotency-Key", "Where jobs are finished for clients that left: the same key, the same job.")


def _language(summary: str, body: str, answer: str, *, streams: bool = False, tools: bool = False) -> Operation:
    return Operation(
        summary,
        answer,
        body,
        kinds=(EVENTS,) if streams else (),
        parameters=(_X_BACKEND, _X_REQUEST_TYPE, *((_X_TOOLS,) if tools else ())),
        errors=(*_BODY, *_UPSTREAM, *_STORED),
        upstream_says=True,
    )


def _drawing(summary: str, body: str, *, form: bool = False) -> Operation:
    return Operation(
        summary,
        "Images",
        body,
        form=form,
        kinds=(EVENTS,),
        parameters=(_X_BACKEND, _IDEMPOTENCY),
        errors=(*_BODY, *_UPSTREAM, *_STORED),
        upstream_says=True,
    )


_TOOL_ERRORS = (*_BODY, 404, 507)
_RUN_ERRORS = (*_BODY, *_UPSTREAM, *_STORED)

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/health": {"GET": Operation("Is it alive?", "Health", access="open", also={503: "Health"})},
    "/readyz": {
        "GET": Operation("Is every required class ready?", "Readiness", access="open", also={503: "Readiness"})
    },
    "/health/upstreams": {"GET": Operation("Each class's last health check.", "Upstreams")},
    "/metrics": {"GET": Operation("Prometheus text.", kinds=("text/plain",), errors=(404,))},
    "/openapi.json": {"GET": Operation("This document.", "OpenAPI")},
    "/v1/gateway/status": {"GET": Operation("Every slot with its holders.", "Status")},
    "/v1/models": {"GET": Operation("What a request may name as its model.", "Models")},
    "/v1/models/<path:model_id>": {"GET": Operation("One of them.", "Model", errors=(404,))},
    "/v1/chat/completions": {
        "POST": _language("OpenAI's chat.", "ChatRequest", "ChatCompletion", streams=True, tools=True)
    },
    "/v1/completions": {"POST": _language("OpenAI's completions.", "CompletionsRequest", "Completion", streams=True)},
    "/v1/responses": {
        "POST": _language("OpenAI's responses.", "ResponsesRequest", "Response", streams=True, tools=True)
    },
    "/v1/embeddings": {"POST": _language("OpenAI's embeddings.", "EmbeddingsRequest", "Embeddings")},
    "/v1/rerank": {"POST": _language("Cohere's and Jina's rerank.", "RerankRequest", "Reranked")},
    "/v1/images/generations": {"POST": _drawing("OpenAI's image generation.", "ImageRequest")},
    "/v1/images/edits": {"POST": _drawing("OpenAI's image edits.", "ImageEditRequest", form=True)},
    "/v1/tools": {
        "GET": Operation("The tools that this token may run.", "Tools"),
        "POST": Operation("Run one.", "ToolRun", "ToolCallRequest", errors=_TOOL_ERRORS),
    },
    "/v1/tools/<name>": {"POST": Operation("Run this one.", "ToolRun", "ToolArguments", errors=_TOOL_ERRORS)},
    "/v1/tools/replay/<replay_id>": {"GET": Operation("A run again, byte for byte.", "ToolRecord", errors=(404,))},
    "/v1/agent/run": {
        "POST": Operation("Run an agent.", "Transcript", "RunRequest", kinds=(EVENTS,), errors=_RUN_ERRORS)
    },
    "/v1/agent/runs": {
        "GET": Operation(
            "This token's runs, newest first.",
            "Runs",
            parameters=(
                _in_query(
                    "limit", {"type": "integer", "minimum": 1, "maximum": RUNS_LISTED_MAX, "default": RUNS_LISTED}
                ),
                _in_query("cursor", {"type": "string", "description": "The next_cursor of the page before."}),
                _in_query("agent", _STRING),
                _in_query("ok", {"type": "boolean"}),
            ),
        )
    },
    "/v1/agent/replay/<run_id>": {
        "GET": Operation(
            "The transcript of a run, byte for byte.",
            "Transcript",
            parameters=(
                _in_query(
                    "payloads",
                    {"type": "boolean", "description": "What was too long for its event, in its place."},
                ),
            ),
            errors=(404,),
        ),
        "POST": Operation(
            "Verify it, or fork it.",
            {"anyOf": [ref("Verdict"), ref("Transcript")]},
            "ReplayRequest",
            kinds=(EVENTS,),
            errors=_RUN_ERRORS,
        ),
    },
    "/ui/images/<name>": {
        "GET": Operation(
            "A picture by its SHA-256.",
            kinds=("image/png", "image/jpeg", "image/webp", "image/gif", "image/svg+xml"),
            parameters=(_in_query("exp", _STRING), _in_query("sig", _STRING)),
            errors=(404,),
            access="token or signature",
        )
    },
}


def openapi_document(version: str) -> dict[str, Any]:
    """The document. HEAD is answered wherever GET is, without a body, and is not listed."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "appliance",
            "version": version,
            "description": "A local AI gateway. Fields that it does not know go on to the backend as they came.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": {openapi_path(path): _path(path, methods) for path, methods in OPERATIONS.items()},
        "components": {
            "schemas": dict(SCHEMAS),
            "responses": error_responses(),
            "headers": {"RequestId": {"required": True, "schema": {"type": "string", "pattern": "^req-[0-9a-f]{24}$"}}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def openapi_path(template: str) -> str:
    """`/v1/models/<path:model_id>` as OpenAPI writes it: `/v1/models/{model_id}`."""
    head, _, variable = template.partition("<")
    return f"{head}{{{variable.rpartition(':')[2].rstrip('>')}}}" if variable else template


def _path(template: str, methods: Mapping[str, Operation]) -> dict[str, Any]:
    item: dict[str, Any] = {method.lower(): _operation(template, method, one) for method, one in methods.items()}
    _, _, variable = openapi_path(template).partition("{")
    if variable:
        schema = {"type": "string", "minLength": 1}
        item["parameters"] = [{"name": variable.rstrip("}"), "in": "path", "required": True, "schema": schema}]
    return item


def _operation(template: str, method: str, one: Operation) -> dict[str, Any]:
    name = "_".join(part.strip("<>").replace("path:", "") for part in template.strip("/").split("/"))
    shown: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name.replace('.', '_')}",
        "summary": one.summary,
        "responses": _responses(one),
    }
    if one.parameters:
        shown["parameters"] = list(one.parameters)
    if one.body:
        shown["requestBody"] = {
            "required": True,
            "content": {FORM if one.form else JSON: {"schema": ref(one.body)}},
        }
    if one.access != "token":
        shown["security"] = [] if one.access == "open" else [{"bearer": []}, {"key": []}, {}]
    return shown


def _responses(one: Operation) -> dict[str, Any]:
    # Of events OpenAPI 3.1 has no schema; what each kind of stream holds is OpenAI's, or a transcript's events.
    content: dict[str, Any] = {kind: {} if kind == EVENTS else {"schema": _STRING} for kind in one.kinds}
    if one.answer:
        content = {JSON: {"schema": ref(one.answer) if isinstance(one.answer, str) else one.answer}, **content}
    responses: dict[str, Any] = {"200": _answer("What was asked for.", content)}
    statuses = {*_ALWAYS, *one.errors, *(() if one.access == "open" else _UNAUTHENTICATED)}
    for status in sorted(statuses):
        responses[str(status)] = {"$ref": f"#/components/responses/Error{status}"}
    for status, schema in (one.also or {}).items():
        either = {"anyOf": [ref(schema), ref("Error")]}
        responses[str(status)] = _answer("It is not.", {JSON: {"schema": either}})
    if one.upstream_says:
        responses["4XX"] = _answer("The backend's own refusal.", {JSON: {"schema": ref("Error")}})
    return responses


def _answer(description: str, content: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
    return {"description": description, "headers": headers, "content": dict(content)}
