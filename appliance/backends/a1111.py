"""A1111 and Forge: `POST /sdapi/v1/txt2img`, and `img2img` for edits, also spoken by stable-diffusion.cpp's server.

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
| an edit | `init_images`, `denoising_strength`; `mask`, white where OpenAI's is transparent |
| `style`, `quality`, `user` | nothing: OpenAI's clients send them, this API has no word for them |
| anything else | refused by name: `override_settings`, `script_*` and `alwayson_scripts` would run what they like |
"""

import base64
import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import trio

from appliance.backends.a1111_jobs import JSON_HEADERS, Job, task_id
from appliance.backends.a1111_previews import steps_between, watch_previews
from appliance.backends.base import ImageCall, ImageEdit, ImageResult
from appliance.backends.decoding import answer_cap_bytes, decode_images, unusable
from appliance.backends.holding import accompany, see_through
from appliance.backends.masks import white_where_transparent
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen, refuse_unknown
from appliance.backends.prompts import strip_extra_args
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall, login_headers
from appliance.upstream.failures import failure_from_answer, parse_json_object

_CROP_AND_RESIZE = 1  # keeps the proportions of a picture that becomes another size
_FILL_ORIGINAL = 1  # A1111 starts a masked part from what was there, as its page does
_OURS = frozenset({"prompt", "force_task_id", "send_images", "save_images"})  # not worth telling the client


class A1111Backend:
    """Draws on A1111, Forge, or a server that speaks their API without a way to look at jobs."""

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        payload = translate(call)
        job = Job(call, upstream)
        tracked = await job.is_trackable()
        cleanup.push_async_callback(job.end)
        post = await _post(call, payload, job)
        exchange = partial(_exchange, upstream, job, post)
        if tracked and call.on_preview is not None:
            answer = await accompany(exchange, partial(watch_previews, job, call, call.on_preview))
        elif tracked:
            answer = await exchange()
        else:
            answer = await see_through(partial(_exchange, upstream, job), post, call, on_expired=job.mark_over)
        return await _result(call, payload, answer)


async def _exchange(upstream: UpstreamClient, job: Job, post: UpstreamCall) -> UpstreamAnswer:
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
    steps = chosen(call.options, STEPS) or call.default_steps
    return {
        "prompt": strip_extra_args(call.prompt),
        "width": call.width,
        "height": call.height,
        "batch_size": call.n,
        "n_iter": 1,
        "steps": steps,
        **{name: value for name, value in optional.items() if value is not None},
        **_override(call, steps),
        "force_task_id": task_id(call),
        "send_images": True,
        "save_images": False,  # also keeps the grid out of the answer
    }


def _override(call: ImageCall, steps: int) -> dict[str, Any]:
    """The only settings that are ever overridden: the model, and how often there is a preview for who looks."""
    settings: dict[str, Any] = {}
    if call.model is not None:
        settings["sd_model_checkpoint"] = call.model
    if call.on_preview is not None:
        settings["show_progress_every_n_steps"] = steps_between(steps)
    return {"override_settings": settings, "override_settings_restore_afterwards": True} if settings else {}


async def _post(call: ImageCall, payload: dict[str, Any], job: Job) -> UpstreamCall:
    path, body = "/sdapi/v1/txt2img", b""
    if call.edit is None:
        body = json.dumps(payload).encode()
    else:
        path, body = "/sdapi/v1/img2img", await trio.to_thread.run_sync(_edit_body, payload, call.edit)
    return UpstreamCall(
        backend_class=call.backend_class.name,
        method="POST",
        url=job.url(path),
        headers={**JSON_HEADERS, **login_headers(call.backend_class)},
        body=body,
        first_byte_s=call.timeout_s,
        idle_s=call.idle_timeout_s,
        total_s=call.timeout_s + call.idle_timeout_s,
        max_body_bytes=answer_cap_bytes(call),
        on_connected=job.mark_sent,
    )


def _edit_body(payload: dict[str, Any], edit: ImageEdit) -> bytes:
    """The body of img2img, made in a thread: megabytes of base64, and pixels of the mask.

    A mask is white on black for all servers of this API. Raises InvalidRequest for one that cannot be made so.
    """
    changes: dict[str, Any] = {
        "init_images": [base64.b64encode(edit.image.data).decode("ascii")],
        "resize_mode": _CROP_AND_RESIZE,
    }
    if edit.strength is not None:
        changes["denoising_strength"] = edit.strength
    if edit.mask is not None:
        changes["mask"] = base64.b64encode(white_where_transparent(edit.mask.data)).decode("ascii")
        changes["inpainting_fill"] = _FILL_ORIGINAL
    return json.dumps({**payload, **changes}).encode()


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
