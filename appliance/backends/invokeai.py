"""InvokeAI: a graph made from a template, enqueued as a batch, its items polled and, where nobody waits, cancelled by id.

| asked | sent |
|---|---|
| `prompt`, `negative_prompt`, `negative` | a prompt node each: `compel`, for SDXL `sdxl_compel_prompt` |
| `size` | `noise.width`, `noise.height`: multiples of 8 pixels, any other size is refused by name |
| `n`, `seed` | a queue item each; its seed, and those that follow, modulo 2^32; none or -1: a random one |
| `steps`, `num_inference_steps` | `denoise_latents.steps`, else what the model is set to, else IMAGES_A1111_STEPS |
| `guidance`, `guidance_scale`, `cfg_scale` | `denoise_latents.cfg_scale`, 1 at least; else what the model is set to, else 7.5 |
| `sampler`, `scheduler` | `denoise_latents.scheduler`, which is both in one, under InvokeAI's names or A1111's |
| `model` | the main model of this name or key; none: the first that a template fits |
| a picture to edit, a mask | uploads, then `i2l` and `create_denoise_mask`; `strength` is 1 - `denoising_start`, else 0.75 |
| `style`, `quality`, `user` | nothing: OpenAI's clients send them, this API has no word for them |
| anything else | refused by name |

Everything drawn and uploaded is intermediate, so that no gallery shows it, and is deleted once it has been fetched.
"""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from weakref import WeakKeyDictionary

import trio

from appliance.backends.base import ImageCall, ImageResult
from appliance.backends.invokeai_api import Api
from appliance.backends.invokeai_graph import make_batch
from appliance.backends.invokeai_jobs import Job
from appliance.backends.invokeai_memory import Memory
from appliance.backends.invokeai_models import choose_model
from appliance.backends.invokeai_pictures import Pictures
from appliance.backends.invokeai_plan import SEEDS, Plan, make_plan
from appliance.backends.invokeai_previews import with_previews
from appliance.upstream.client import UpstreamClient
from appliance.upstream.deadlines import timeout_error


def _random_seed() -> int:
    return random.SystemRandom().randrange(SEEDS)


class InvokeAIBackend:
    """Draws on InvokeAI. Remembers a server's login and models, for as long as the client lives that learnt them."""

    def __init__(self, new_seed: Callable[[], int] = _random_seed) -> None:
        self._new_seed = new_seed
        self._memories: WeakKeyDictionary[UpstreamClient, dict[str, Memory]] = WeakKeyDictionary()

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        plan = make_plan(call, self._new_seed)
        memory = self._memories.setdefault(upstream, {}).setdefault(call.backend_class.base_url, Memory())
        with trio.move_on_after(call.timeout_s):
            return await _draw(call, plan, Api(call, upstream, memory), cleanup)
        raise timeout_error(call.backend_class.name, "total", call.timeout_s)


async def _draw(call: ImageCall, asked: Plan, api: Api, cleanup: AsyncExitStack) -> ImageResult:
    model = await choose_model(call, api)
    plan = asked.on(model)
    pictures = Pictures(call, api)
    job = Job(call, api, pictures)
    cleanup.push_async_callback(job.end)
    start = await pictures.upload(call.edit)
    work = partial(job.run, make_batch(plan, model, start, job.destination))
    names = await (work() if call.on_preview is None else with_previews(call, api, job.destination, work))
    images = await pictures.fetch(names)
    await pictures.remove()
    return ImageResult(images=images, seed=plan.seeds[0], model=model.name, request=plan.told(model))
