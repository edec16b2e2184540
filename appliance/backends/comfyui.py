"""ComfyUI: a graph is submitted under an id of ours, watched over its WebSocket, and fetched from its history.

What a request's fields become: `comfyui_values`. The graphs: `comfyui_graphs`, or the operator's (docs/comfyui.md).
"""

import secrets
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.backends.base import ImageCall, ImageResult
from appliance.backends.comfyui_answers import node_trouble, pictures_of, refusal
from appliance.backends.comfyui_events import HELLO
from appliance.backends.comfyui_graphs import Start, Value, family_of, fill, is_distilled, shipped
from appliance.backends.comfyui_jobs import Job
from appliance.backends.comfyui_server import Server
from appliance.backends.comfyui_values import asked_values, check_places
from appliance.backends.decoding import MAX_DECODED_BYTES, image_from_bytes, unusable
from appliance.backends.options import refuse_unknown
from appliance.config.comfyui_workflow import InputName, Workflow
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import UpstreamClient
from appliance.upstream.failures import parse_json_object

if TYPE_CHECKING:
    from appliance.upstream.websocket import WebSocket

_DEFAULT_STRENGTH = 0.75  # A1111's, for a picture without a mask
_DISTILLED_GUIDANCE = 1.0  # ComfyUI's word for none
_SEED_BITS = 53  # what JSON carries everywhere
_TOLD_AS = {"batch": "n", "negative": "negative_prompt", "cfg": "cfg_scale"}
_TOLD: tuple[InputName, ...] = (
    "width", "height", "batch", "steps", "cfg", "negative", "sampler", "scheduler", "seed", "strength",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Plan:
    """A graph to submit, where its values came from, and which of them the client chose."""

    workflow: Workflow
    graph: dict[str, Any]
    asked: frozenset[InputName]
    model: str | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class ComfyUIBackend:
    """Draws on ComfyUI."""

    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    new_seed: Callable[[], int] = lambda: secrets.randbits(_SEED_BITS)

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        refuse_unknown(call.extra)
        asked = asked_values(call)
        server = Server(call, upstream)
        plan = await self._plan(server, asked)
        client_id = self.new_id()
        listening = await cleanup.enter_async_context(AsyncExitStack())  # to the job's end, whoever has left
        job = Job(server, self.new_id(), await _open_socket(server, client_id, listening))
        cleanup.push_async_callback(job.end)
        await _submit(job, plan, call, client_id)
        ended = await job.finish()
        await listening.aclose()
        images = await _fetch(server, pictures_of(ended, call, plan.workflow))
        return ImageResult(images=images, seed=plan.seed, model=plan.model, request=_told(plan))

    async def _plan(self, server: Server, asked: dict[InputName, Value]) -> _Plan:
        call = server.call
        workflows = call.backend_class.workflows
        own = workflows.generate if call.edit is None else workflows.edit
        values = dict(asked)
        values.setdefault("seed", self.new_seed())
        if own is None:
            workflow, values = _shipped(call, values, await server.checkpoints())
        else:
            workflow = own
            check_places(workflow, call, asked)
            await _check_nodes(server, workflow)
        values |= await _upload(server, self.new_id)
        model = values.get("model")
        return _Plan(
            workflow=workflow,
            graph=fill(workflow, values),
            asked=frozenset(asked),
            model=str(model) if model is not None else None,
            seed=int(values["seed"]) if "seed" in workflow.inputs else None,
        )


def _shipped(
    call: ImageCall, values: Mapping[InputName, Value], checkpoints: list[str]
) -> tuple[Workflow, dict[InputName, Value]]:
    """The shipped graph for this call, and its values with those that the request left open."""
    checkpoint = _choose_checkpoint(call, checkpoints)
    start: Start = "generate"
    left_open: dict[InputName, Value] = {"steps": call.default_steps}
    if is_distilled(checkpoint):
        left_open["cfg"] = _DISTILLED_GUIDANCE
    if call.edit is not None and call.edit.mask is None:
        start = "img2img"
        left_open["strength"] = _DEFAULT_STRENGTH
    elif call.edit is not None:
        start = "inpaint" if values.get("strength", 1.0) == 1.0 else "repaint"
    return shipped(family_of(checkpoint), start), {**left_open, **values, "model": checkpoint}


def _choose_checkpoint(call: ImageCall, checkpoints: list[str]) -> str:
    """The model that was asked for, with or without its file's ending, else the server's first."""
    if not checkpoints:
        name = call.backend_class.name
        message = f"{name} has no checkpoints: put one into its models/checkpoints, or set IMAGES_COMFYUI_WORKFLOW."
        raise UpstreamFailed(message, upstream=name)
    if call.model is None:
        return checkpoints[0]
    wanted = call.model.lower()
    for checkpoint in checkpoints:
        if wanted in (checkpoint.lower(), checkpoint.lower().rpartition(".")[0]):
            return checkpoint
    raise InvalidRequest(
        f"model: this image server has no checkpoint {call.model[:100]!r}: leave it out, or name one of its files.",
        param="model",
        code="model_not_found",
        status=404,
    )


async def _check_nodes(server: Server, workflow: Workflow) -> None:
    """The server ignores inputs that a node does not have, and would draw without the prompt. Raises UpstreamFailed."""
    wanted = {target for targets in workflow.inputs.values() for target in targets}
    kinds = {workflow.graph[target.node]["class_type"] for target in wanted}
    known = {kind: await server.inputs_of(kind) for kind in sorted(kinds)}
    for target in sorted(wanted, key=lambda one: (one.node, one.input)):
        kind = workflow.graph[target.node]["class_type"]
        inputs = known[kind]
        if inputs is None or target.input not in inputs:
            lacks = f"does not know the class {kind}" if inputs is None else f"knows no input {target.input} of {kind}"
            message = f"{server.name} {lacks}, node {target.node} of IMAGES_COMFYUI_WORKFLOW: install it there, or change the file."
            raise UpstreamFailed(message, upstream=server.name)


async def _upload(server: Server, new_id: Callable[[], str]) -> dict[InputName, Value]:
    edit = server.call.edit
    if edit is None:
        return {}
    files: dict[InputName, Value] = {"image": await server.upload(edit.image, new_id())}
    if edit.mask is not None:
        files["mask"] = await server.upload(edit.mask, new_id())
    return files


async def _open_socket(server: Server, client_id: str, stack: AsyncExitStack) -> "WebSocket | None":
    """The socket of this job, open before it is submitted; None where there is none to be had: the history tells too."""
    try:
        websocket = await stack.enter_async_context(server.upstream.open_websocket(server.socket_call(client_id)))
        await websocket.send(HELLO)
    except (UpstreamFailed, UpstreamTimeout):
        return None
    return websocket


async def _submit(job: Job, plan: _Plan, call: ImageCall, client_id: str) -> None:
    body = {
        "prompt": plan.graph,
        "prompt_id": job.prompt_id,
        "client_id": client_id,  # without one a cached graph ends well and gives nothing
        "extra_data": {"preview_method": "auto" if call.on_preview is not None else "none"},
    }
    answer = await job.submit(body)
    if answer.status != 200:
        raise refusal(answer, call, plan.workflow, plan.asked)
    said = parse_json_object(answer.body, upstream=call.backend_class.name)
    trouble = node_trouble(said.get("node_errors"), call, plan.workflow, plan.asked)
    if trouble is not None:
        raise trouble
    job.check_id(said.get("prompt_id"))


async def _fetch(server: Server, files: list[dict[str, str]]) -> tuple[Image, ...]:
    images: list[Image] = []
    for file in files:
        images.append(image_from_bytes(await server.view(file), server.call))
        if sum(len(image.data) for image in images) > MAX_DECODED_BYTES:
            raise unusable(server.call, f"more than {MAX_DECODED_BYTES} bytes of pictures")
    return tuple(images)


def _told(plan: _Plan) -> dict[str, Any]:
    """The values as they were sent, under the names that clients use; a link between nodes is no value."""
    told = {}
    for name in _TOLD if "image" in plan.workflow.inputs else _TOLD[:-1]:
        targets = plan.workflow.inputs.get(name, ())
        value = plan.graph[targets[0].node]["inputs"][targets[0].input] if targets else None
        if isinstance(value, int | float | str):
            told[_TOLD_AS.get(name, name)] = value
    return told
