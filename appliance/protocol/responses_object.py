"""The response object of `/v1/responses`, complete, as OpenAI's clients read it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Status = Literal["in_progress", "completed", "incomplete"]

# Why a chat ended, where that means that the answer is not whole.
_CUT: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def status_of(finish_reason: str | None) -> Status:
    """The status of an answer that ended for this reason; a reason that is unknown here is as good as `stop`."""
    return "incomplete" if finish_reason in _CUT else "completed"


def response_object(
    body: Mapping[str, Any],
    *,
    response_id: str,
    created: int,
    model: str,
    status: Status,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """The answer to `body`, or what is known of it so far. Fields: openai-python, `types.responses.Response`."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": _incomplete_details(finish_reason),
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata") or {},
        "model": model,
        "output": list(output),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": _reasoning(body.get("reasoning") or {}),
        "safety_identifier": body.get("safety_identifier"),
        "store": False,
        "temperature": body.get("temperature"),
        "text": _text(body.get("text") or {}),
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in body.get("tools") or ()],
        "top_logprobs": 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "usage": usage,
        "user": body.get("user"),
    }


def response_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Chat's usage in the words of responses; what the backend does not count is 0."""
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt_details = _mapping(usage.get("prompt_tokens_details"))
    completion_details = _mapping(usage.get("completion_tokens_details"))
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(prompt_details, "cached_tokens"),
            "cache_write_tokens": _count(prompt_details, "cache_write_tokens"),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": _count(completion_details, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or read + written,
    }


def _incomplete_details(finish_reason: str | None) -> dict[str, str] | None:
    cut = _CUT.get(finish_reason or "")
    return {"reason": cut} if cut else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _reasoning(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {"effort": asked.get("effort"), "summary": asked.get("summary")}


def _text(asked: Mapping[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = {"format": asked.get("format") or {"type": "text"}}
    if asked.get("verbosity") is not None:
        text["verbosity"] = asked["verbosity"]
    return text


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function as it was given; the fields that clients insist on are null where it was not."""
    return {"description": None, "parameters": None, "strict": None, **tool}
