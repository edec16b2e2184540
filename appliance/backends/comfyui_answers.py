"""ComfyUI's answers: refusals, failures and outputs, in words for a client; no traceback, no path leaves here."""

from collections.abc import Mapping
from typing import Any

from appliance.backends.base import ImageCall
from appliance.backends.comfyui_values import OPTION_OF
from appliance.backends.decoding import unusable
from appliance.config.comfyui_workflow import InputName, Workflow
from appliance.protocol.errors import GatewayError, InvalidRequest, UpstreamFailed
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer, parse_json_object, redact

_MAX_DETAIL_CHARS = 200
# What may be wrong with a value that the client chose; anything else is the workflow's own trouble.
_ABOUT_VALUES = frozenset(
    {"value_not_in_list", "value_smaller_than_min", "value_bigger_than_max", "invalid_input_type"}
)
_FILE = ("filename", "subfolder", "type")
_KINDS = frozenset({"output", "temp", "input"})


def refusal(answer: UpstreamAnswer, call: ImageCall, workflow: Workflow, asked: frozenset[InputName]) -> GatewayError:
    """What an answer other than 200 to a job becomes. A value that the client chose is its own mistake (400)."""
    name = call.backend_class.name
    if answer.status != 400:
        return failure_from_answer(answer, upstream=name)
    try:
        said = parse_json_object(answer.body, upstream=name)
    except UpstreamFailed:
        return failure_from_answer(answer, upstream=name)
    found = node_trouble(said.get("node_errors"), call, workflow, asked)
    if found is not None:
        return found
    error = said.get("error")
    if not isinstance(error, dict) or "type" not in error:
        return failure_from_answer(answer, upstream=name)
    words = ": ".join(_plain(error.get(field)) for field in ("message", "details") if error.get(field))
    return _workflow_trouble(call, words)


def node_trouble(
    errors: object, call: ImageCall, workflow: Workflow, asked: frozenset[InputName]
) -> GatewayError | None:
    """The first entry of `node_errors` as an error; None where there is none."""
    if not isinstance(errors, dict) or not errors:
        return None
    node, told = next(iter(errors.items()))
    kind = told.get("class_type") if isinstance(told, dict) else None
    listed = told.get("errors") if isinstance(told, dict) else None
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    extra = first.get("extra_info")
    name = _input_at(workflow, node, extra.get("input_name") if isinstance(extra, dict) else None)
    words = f"{_plain(first.get('message')) or 'refused'}: {_plain(first.get('details'))}".rstrip(": ")
    if name in asked and name in OPTION_OF and first.get("type") in _ABOUT_VALUES:
        option = OPTION_OF[name]
        return InvalidRequest(f"{option}: {words}.", param=option, code="invalid_value")
    return _workflow_trouble(call, f"node {_plain(node)} ({_plain(kind)}): {words}")


def pictures_of(ended: Mapping[str, Any], call: ImageCall, workflow: Workflow) -> list[dict[str, str]]:
    """The files of a job that ended well, at most `call.n`. Raises UpstreamFailed for one that failed or made none.

    Those of the workflow's output node, else those that were saved, else those that were only shown.
    """
    status = ended.get("status")
    if isinstance(status, dict) and status.get("status_str") != "success":
        raise _failure(status.get("messages"), call)
    outputs = ended.get("outputs")
    by_node = outputs if isinstance(outputs, dict) else {}
    nodes = [workflow.output] if workflow.output is not None else [node for node in workflow.graph if node in by_node]
    files = [file for node in nodes for file in _files(by_node.get(node))]
    saved = [file for file in files if file["type"] == "output"]
    if not files:
        raise unusable(call, "that it drew, and gave no picture")
    return (saved or files)[: call.n]


def _files(output: object) -> list[dict[str, str]]:
    images = output.get("images") if isinstance(output, dict) else None
    found = []
    for one in images if isinstance(images, list) else ():
        given = [one.get(key) for key in _FILE] if isinstance(one, dict) else []
        file = {key: value for key, value in zip(_FILE, given, strict=False) if isinstance(value, str)}
        if file.keys() == set(_FILE) and file["type"] in _KINDS:
            found.append(file)
    return found


def _failure(messages: object, call: ImageCall) -> UpstreamFailed:
    """The last message of a job that failed says how: `[kind, {node_id, node_type, exception_message, ...}]`."""
    name = call.backend_class.name
    last = messages[-1] if isinstance(messages, list) and messages else None
    kind, told = last if isinstance(last, list) and len(last) == 2 else (None, None)
    if kind == "execution_interrupted":
        return UpstreamFailed(f"{name} stopped drawing: somebody interrupted it there.", upstream=name)
    if not isinstance(told, dict):
        return UpstreamFailed(f"{name} failed to draw.", upstream=name)
    where = f"node {_plain(told.get('node_id'))} ({_plain(told.get('node_type'))})"
    why = _plain(told.get("exception_message")) or _plain(told.get("exception_type"))
    return UpstreamFailed(f"{name} failed to draw, in {where}: {why}.", upstream=name)


def _workflow_trouble(call: ImageCall, words: str) -> UpstreamFailed:
    name = call.backend_class.name
    return UpstreamFailed(f"{name} does not take this workflow: {words}.", upstream=name, upstream_status=400)


def _input_at(workflow: Workflow, node: object, name: object) -> InputName | None:
    for key, targets in workflow.inputs.items():
        if any(target.node == node and target.input == name for target in targets):
            return key
    return None


def _plain(value: object) -> str:
    """A bounded line without secrets and paths."""
    text = " ".join(redact(value if isinstance(value, str) else "").split())
    return (text if len(text) <= _MAX_DETAIL_CHARS else text[: _MAX_DETAIL_CHARS - 1] + "…").rstrip(".")
