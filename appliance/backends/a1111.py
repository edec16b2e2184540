"""A1111 and Forge: `POST /sdapi/v1/txt2img`, also spoken by stable-diffusion.cpp's server.

| asked | sent |
|---|---|
| `prompt`, `size` | `prompt`, `width`, `height` |
| `n` | `batch_size`: the one spelling that every server of this API honours (stable-diffusion.cpp ignores `n_iter`) |
| `steps`, `num_inference_steps` | `steps` (else IMAGES_A1111_STEPS) |
| `guidance`, `guidance_scale`, `cfg_scale` | `cfg_scale` |
| `negative_prompt`, `negative` | `negative_prompt` |
| `sampler` | `sampler_name` |
| `scheduler`, `seed` | the same |
| `model` | `override_settings.sd_model_checkpoint`, restored afterwards |
| `style`, `quality`, `user` | nothing: OpenAI's clients send them, this API has no word for them |
| anything else | refused by name: `override_settings`, `script_*` and `alwayson_scripts` would run what they like |
"""

import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from appliance.backends.a1111_jobs import Job, task_id
from appliance.backends.base import ImageCall, ImageResult
from appliance.backends.decoding import answer_cap_bytes, decode_images, unusable
from appliance.backends.holding import hold_to_the_end
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen, refuse_unknown
from appliance.backends.prompts import strip_extra_args
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object

_OURS = frozenset({"prompt", "force_task_id", "send_images", "save_images"})  # not worth telling the client


class A1111Backend:
    """Draws on A1111, Forge, or a server that speaks their API without a way to look at jobs."""

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        payload = translate(call)
        job = Job(call, upstream)
        tracked = await job.is_trackable()
        cleanup.push_async_callback(job.end)
        exchange = partial(_exchange, _post(call, payload, job), upstream, job)
        held = partial(hold_to_the_end, exchange, call.cancel_timeout_s, on_expired=job.mark_over)
        answer = await (exchange() if tracked else held())
        return await _result(call, payload, answer)


async def _exchange(post: UpstreamCall, upstream: UpstreamClient, job: Job) -> UpstreamAnswer:
    """An answer of any kind ends the job, whether or not its caller is still there to hear it."""
    answer = await upstream.exchange(post)
    job.mark_over()
    return answer


def translate(call: ImageCall) -> dict[str, Any]:
    """The body of txt2img. Raises InvalidRequest for a field that this API cannot honour, or two that contradict."""
    refuse_unknown(call.extra)
    optional = {
        "seed": call.options.seed,
        "cfg_scale": chosen(call.options, GUIDANCE),
        "negative_prompt": strip_extra_args(chosen(call.options, NEGATIVE) or "") or None,
        "sampler_name": call.options.sampler,
        "scheduler": call.options.scheduler,
    }
    model: dict[str, Any] = {}
    if call.model is not None:
        model = {
            "override_settings": {"sd_model_checkpoint": call.model},
            "override_settings_restore_afterwards": True,
        }
    return {
        "prompt": strip_extra_args(call.prompt),
        "width": call.width,
        "height": call.height,
        "batch_size": call.n,
        "n_iter": 1,
        "steps": chosen(call.options, STEPS) or call.default_steps,
        **{name: value for name, value in optional.items() if value is not None},
        **model,
        "force_task_id": task_id(call),
        "send_images": True,
        "save_images": False,  # also keeps the grid out of the answer
    }


def _post(call: ImageCall, payload: dict[str, Any], job: Job) -> UpstreamCall:
    return UpstreamCall(
        backend_class=call.backend_class.name,
        method="POST",
        url=job.url("/sdapi/v1/txt2img"),
        headers={"Content-Type": "application/json"},
        body=json.dumps(payload).encode(),
        first_byte_s=call.timeout_s,
        idle_s=call.idle_timeout_s,
        total_s=call.timeout_s + call.idle_timeout_s,
        max_body_bytes=answer_cap_bytes(call),
        on_connected=job.mark_sent,
    )


async def _result(call: ImageCall, payload: dict[str, Any], answer: UpstreamAnswer) -> ImageResult:
    name = call.backend_class.name
    if answer.status != 200:
        raise failure_from_answer(answer, upstream=name)
    said = parse_json_object(answer.body, upstream=name)
    encoded = said.get("images")
    if not isinstance(encoded, list):
        raise unusable(call, "without a list of images")
    info = _info(said.get("info"))
    seed = info.get("seed")
    return ImageResult(
        images=await decode_images(_without_grid(encoded, info), call),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else call.options.seed,
        model=call.model,
        request={key: value for key, value in payload.items() if key not in _OURS},
    )


def _info(text: object) -> dict[str, Any]:
    """`info` is JSON as a string; stable-diffusion.cpp's server sends an empty one. It is never worth failing for."""
    if not isinstance(text, str):
        return {}
    try:
        return parse_json_object(text.encode("utf-8", "replace"), upstream="")
    except UpstreamFailed:
        return {}


def _without_grid(encoded: list[object], info: dict[str, Any]) -> list[object]:
    """With `return_grid` a server puts an overview before the pictures and says so in its info."""
    first = info.get("index_of_first_image")
    return encoded[first:] if isinstance(first, int) and 0 < first < len(encoded) else encoded
