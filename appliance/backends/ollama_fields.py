"""Which fields of a request Ollama can honour: mapped, without meaning there, or refused by name. Pure."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.fields import Check, integer, invalid, number, unsupported, wrong_type

_INT32 = 2**31 - 1
_float = number(-1e9, 1e9)

# Ollama's name of an option, and what it takes. Those that size the runner (num_gpu, num_thread, ...) are the
# operator's, but for the context, which every client has to choose.
_OPTIONS: Mapping[str, tuple[str, Check]] = {
    "max_tokens": ("num_predict", integer(1, _INT32)),
    "max_completion_tokens": ("num_predict", integer(1, _INT32)),
    "num_predict": ("num_predict", integer(-2, _INT32)),
    "temperature": ("temperature", _float),
    "top_p": ("top_p", _float),
    "top_k": ("top_k", integer(-1, _INT32)),
    "min_p": ("min_p", _float),
    "typical_p": ("typical_p", _float),
    "seed": ("seed", integer(-(2**63), 2**63 - 1)),
    "presence_penalty": ("presence_penalty", _float),
    "frequency_penalty": ("frequency_penalty", _float),
    "repeat_penalty": ("repeat_penalty", _float),
    "repetition_penalty": ("repeat_penalty", _float),  # vLLM's word for it
    "repeat_last_n": ("repeat_last_n", integer(-1, _INT32)),
    "num_ctx": ("num_ctx", integer(1, _INT32)),
    "num_keep": ("num_keep", integer(-1, _INT32)),
    "mirostat": ("mirostat", integer(0, 2)),
    "mirostat_tau": ("mirostat_tau", _float),
    "mirostat_eta": ("mirostat_eta", _float),
}

# They change nothing about the answer.
HARMLESS = frozenset(
    {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"}
    | {"prediction"}
)

# Fields whose one meaning here is the value that asks for nothing.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
}

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}


def present(body: Mapping[str, Any]) -> dict[str, Any]:
    """Null is as good as absent."""
    return {name: value for name, value in body.items() if value is not None}


def check_known(body: Mapping[str, Any], mapped: frozenset[str]) -> None:
    """Raises InvalidRequest for a field that would be lost: not `mapped`, no option, not without meaning here."""
    for name, value in body.items():
        if name in mapped or name in _OPTIONS or name in HARMLESS:
            continue
        if name not in _ONLY:
            raise unsupported(name, "ollama cannot honour it: leave it out.")
        if value not in _ONLY[name]:
            wanted = " or ".join(repr(only) for only in _ONLY[name])
            raise unsupported(name, f"ollama cannot honour it: leave it out or say {wanted}.")


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `options` of a request. Of two limits for one thing the lower counts: one may be a cap of this gateway."""
    options: dict[str, Any] = {}
    for field, (name, check) in _OPTIONS.items():
        if field not in body:
            continue
        check(body[field], field)
        value = body[field]
        options[name] = min(value, options[name]) if name == "num_predict" and name in options else value
    if "stop" in body:
        options["stop"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    return options


def format_of(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """`format`, if there is to be one: `json`, or a JSON Schema."""
    kind = response_format.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"format": "json"}
    if kind != "json_schema":
        raise invalid("response_format.type", "ollama knows 'text', 'json_object' and 'json_schema'.")
    schema = (response_format.get("json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise invalid("response_format.json_schema.schema", "it must be an object, the JSON Schema of the answer.")
    return {"format": schema}


def think_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """`think`, if there is to be one: its own name wins over OpenAI's."""
    if "think" in body:
        value = body["think"]
        if not isinstance(value, bool | str):
            raise wrong_type("think", "a boolean, or 'low', 'medium' or 'high'", value)
        return {"think": value}
    if "reasoning_effort" not in body:
        return {}
    effort = body["reasoning_effort"]
    if effort not in _EFFORTS:
        raise invalid("reasoning_effort", f"ollama knows {', '.join(_EFFORTS)}.")
    return {"think": _EFFORTS[effort]}


def keep_alive_of(body: Mapping[str, Any]) -> dict[str, Any]:
    if "keep_alive" not in body:
        return {}
    value = body["keep_alive"]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise wrong_type("keep_alive", "seconds, or a duration such as '5m'", value)
    return {"keep_alive": value}


def tools_of(body: Mapping[str, Any]) -> dict[str, Any]:
    choice = body.get("tool_choice", "auto")
    tools = body.get("tools")
    if choice == "none" or not tools:
        if choice not in ("none", "auto"):
            raise _no_choice()
        return {}
    if choice != "auto":
        raise _no_choice()
    return {"tools": tools}


def _no_choice() -> InvalidRequest:
    return unsupported("tool_choice", "ollama cannot be made to call a tool: say 'auto' or 'none'.")
