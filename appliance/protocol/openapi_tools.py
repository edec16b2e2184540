"""OpenAPI of tools and agents: their requests, what a run answers, and the records."""

from collections.abc import Mapping

from appliance.protocol.openapi_parts import (
    BOOLEAN,
    INTEGER,
    NON_EMPTY,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    Schema,
    answer_object,
    array_of,
    closed_object,
    needs,
    nullable,
    ref,
)

_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_REPLAY_ID: Schema = {"type": "string", "pattern": "^tool-[0-9a-f]{24}$"}
_RUN_ID: Schema = {"type": "string", "pattern": "^run-[0-9a-f]{24}$"}
_MEASURED: Mapping[str, Schema] = {
    "replay_id": _REPLAY_ID,
    "request_hash": _SHA256,
    "tool_runtime_ms": NUMBER,
    "tool_cpu_ms": NUMBER,
    "tool_io_bytes": INTEGER,
    "ok": BOOLEAN,
}
_GIVEN: Schema = {"not": NULL}
_INPUT = {**needs(input=_GIVEN), "not": needs(messages=_GIVEN)}
_MESSAGES = {**needs(messages=_GIVEN), "not": needs(input=_GIVEN)}
_STREAM = nullable(BOOLEAN)

_RUN = closed_object(
    {},
    {
        "agent": {**NON_EMPTY, "default": "default"},
        "input": nullable({"type": "string", "pattern": r"\S"}),
        "messages": nullable(array_of(ref("Message"), lowest=1)),
        "stream": _STREAM,
    },
    anyOf=[_INPUT, _MESSAGES],
)
_VERIFY = closed_object({"mode": {"const": "verify"}}, {})
_FORK = closed_object(
    {"mode": {"const": "fork"}, "from_step": {"type": "integer", "minimum": 0}},
    {"model": nullable({"type": "string", "pattern": r"\S", "maxLength": 256}), "stream": _STREAM},
)
_TRANSCRIPT = answer_object(
    {
        "run_id": _RUN_ID,
        "request_hash": _SHA256,
        "agent": STRING,
        "tier": INTEGER,
        "backend": STRING,
        "upstream_model": STRING,
        "ok": BOOLEAN,
        "output_text": STRING,
        "error": nullable(STRING),
        "events": array_of(answer_object({"type": STRING})),
    },
    {"forked_from": OBJECT},
)
_ROW = answer_object(
    {
        "run_id": _RUN_ID,
        "object": {"const": "agent.run"},
        "created": INTEGER,
        "agent": STRING,
        "ok": nullable(BOOLEAN),
        "error": nullable(STRING),
        "steps": INTEGER,
        "duration_s": nullable(NUMBER),
    }
)

TOOL_SCHEMAS: Mapping[str, Schema] = {
    "ToolCallRequest": closed_object({"name": NON_EMPTY}, {"arguments": OBJECT}),
    "ToolArguments": {
        "type": "object",
        "description": '`{"arguments": {...}}`, or the arguments themselves.',
        "if": {"required": ["arguments"], "maxProperties": 1},
        "then": needs(arguments=OBJECT),
    },
    "Tools": answer_object(
        {
            "object": {"const": "list"},
            "data": array_of(
                answer_object({"name": STRING, "version": STRING, "description": STRING, "parameters": OBJECT})
            ),
        }
    ),
    "ToolRun": {**answer_object(_MEASURED), "description": "Beside these, what the tool itself gives."},
    "ToolRecord": answer_object({**_MEASURED, "ts": NUMBER, "tool": STRING, "args": OBJECT, "result": OBJECT}),
    "RunRequest": _RUN,
    "ReplayRequest": {"anyOf": [_VERIFY, _FORK]},
    "Transcript": _TRANSCRIPT,
    "Verdict": answer_object({"identical": BOOLEAN, "steps": INTEGER}, {"first_divergence": OBJECT}),
    "Runs": answer_object({"object": {"const": "list"}, "data": array_of(_ROW), "next_cursor": nullable(STRING)}),
}
