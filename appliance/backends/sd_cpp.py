"""stable-diffusion.cpp's own API: what its OpenAI-style routes drop, it honours, and a job that waits can be cancelled.

| asked | sent to `/sdcpp/v1/img_gen` |
|---|---|
| `prompt`, `negative_prompt`, `negative` | the same, without in-prompt arguments |
| `n`, `size` | `batch_count`, `width`, `height` |
| `seed` | the same; one is chosen where none was asked for: the server's own is 42, always |
| `steps`, `num_inference_steps` | `sample_params.sample_steps`; the server's own default where none was asked for |
| `guidance`, `guidance_scale`, `cfg_scale` | `sample_params.guidance.txt_cfg`, 1 at least: that is no guidance |
| `sampler`, `scheduler` | `sample_params`, in the server's names or A1111's; one that it does not have is refused |
| a picture to edit, its mask, `strength` | `init_image` and `ref_images`, as its OpenAI-style route takes them, `mask_image`, `strength` |
| `output_format`, `output_compression` | the same |
| any other field | nothing: this server has no word for it |
"""

import base64
import json
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import trio
from pydantic_core import from_json

from appliance.backends.base import ImageCall, ImageEdit, ImageResult
from appliance.backends.decoding import decode_images, unusable
from appliance.backends.masks import white_where_transparent
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen
from appliance.backends.prompts import strip_extra_args
from appliance.backends.sd_cpp_jobs import ACCEPTED, API, LOOK_TIMEOUT_S, Job
from appliance.protocol.errors import InvalidRequest
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.failures import failure_from_answer

_ABSENT = (404, 405)
_NO_GUIDANCE = 1.0
_SEED_BITS = 31
_AS_THEY_ARE: Mapping[str, type] = {"output_format": str, "output_compression": int}
_SCHEDULERS: Mapping[str, str] = {"automatic": "discrete", "normal": "discrete"}


async def draw_as_job(call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult | None:
    """Draw by a job; None for an older server, which knows no jobs. As `ImageBackend.draw` otherwise."""
    asked = asked_options(call)
    await _check_names(call, upstream, asked)
    job = Job(call, upstream)
    cleanup.push_async_callback(job.end)
    answer = await job.submit(await trio.to_thread.run_sync(_body, call, asked))
    if answer.status in _ABSENT:
        return None
    if answer.status != ACCEPTED:
        raise failure_from_answer(answer, upstream=call.backend_class.name)
    result = await job.finish()
    items = result.get("images")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise unusable(call, "without a list of images")
    return ImageResult(
        images=await decode_images([item.get("b64_json") for item in items], call),
        seed=asked["seed"],
        model=call.model,
        request=asked,
    )


def asked_options(call: ImageCall) -> dict[str, Any]:
    """What is sent, under the names that clients use. Raises InvalidRequest for two spellings that contradict."""
    options = call.options
    guidance = chosen(options, GUIDANCE)
    negative = chosen(options, NEGATIVE)
    scheduler = _plain(options.scheduler)
    given = {
        "steps": chosen(options, STEPS),
        "cfg_scale": None if guidance is None else max(guidance, _NO_GUIDANCE),
        "negative_prompt": strip_extra_args(negative) if negative else None,
        "seed": options.seed if options.seed is not None and options.seed >= 0 else secrets.randbits(_SEED_BITS),
        "sampler": _plain(options.sampler),
        "scheduler": _SCHEDULERS.get(scheduler, scheduler) if scheduler else None,
        "strength": call.edit.strength if call.edit is not None else None,
        **{name: call.extra[name] for name, kind in _AS_THEY_ARE.items() if type(call.extra.get(name)) is kind},
    }
    told = {name: value for name, value in given.items() if value is not None}
    return {"n": call.n, "size": f"{call.width}x{call.height}", **told}


def _plain(name: str | None) -> str | None:
    """`Euler a` is `euler_a` here, `DPM++ 2M` is `dpm++2m`."""
    return name.strip().lower().replace("++ ", "++").replace(" ", "_") if name else None


async def _check_names(call: ImageCall, upstream: UpstreamClient, asked: Mapping[str, Any]) -> None:
    """The server passes over a name that it does not know. Raises InvalidRequest for one."""
    wanted = {kind: asked[kind] for kind in ("sampler", "scheduler") if kind in asked}
    if not wanted:
        return
    known = await _capabilities(call, upstream)
    for kind, name in wanted.items():
        names = known.get(f"{kind}s")
        if isinstance(names, list) and name not in names:
            words = ", ".join(str(one) for one in names)[:500]
            raise InvalidRequest(f"{kind}: this image server has {words}.", param=kind, code="invalid_value")


async def _capabilities(call: ImageCall, upstream: UpstreamClient) -> dict[str, Any]:
    """Empty where there are none."""
    base = call.backend_class.base_url.rstrip("/").removesuffix("/v1")
    answer = await upstream.exchange(
        UpstreamCall(
            backend_class=call.backend_class.name,
            method="GET",
            url=f"{base}{API}/capabilities",
            first_byte_s=LOOK_TIMEOUT_S,
            idle_s=LOOK_TIMEOUT_S,
        )
    )
    try:
        said = from_json(answer.body) if answer.status == 200 else {}
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}


def _body(call: ImageCall, asked: Mapping[str, Any]) -> bytes:
    """Made in a thread: megabytes of base64, and pixels of a mask. Raises InvalidRequest for a mask that is none."""
    sampling = {"sample_steps": "steps", "sample_method": "sampler", "scheduler": "scheduler"}
    sample: dict[str, Any] = {name: asked[given] for name, given in sampling.items() if given in asked}
    if "cfg_scale" in asked:
        sample["guidance"] = {"txt_cfg": asked["cfg_scale"]}
    same = ("negative_prompt", "seed", "strength", *_AS_THEY_ARE)
    fields = {
        "prompt": strip_extra_args(call.prompt),
        "width": call.width,
        "height": call.height,
        "batch_count": call.n,
        "embed_image_metadata": False,
        **{name: asked[name] for name in same if name in asked},
        **({"sample_params": sample} if sample else {}),
        **(_pictures(call.edit) if call.edit is not None else {}),
    }
    return json.dumps(fields).encode()


def _pictures(edit: ImageEdit) -> dict[str, Any]:
    encoded = [base64.b64encode(one.data).decode("ascii") for one in (edit.image, *edit.others)]
    mask = (
        {} if edit.mask is None else {"mask_image": base64.b64encode(white_where_transparent(edit.mask.data)).decode()}
    )
    return {"init_image": encoded[0], "ref_images": encoded, **mask}
