"""OpenAI-style image servers: `POST /v1/images/generations` and `/v1/images/edits`. Closing the connection is their cancel.

But for stable-diffusion.cpp's server, which draws to the end whoever has left: the health check recognises it. It is
asked by its own API (`sd_cpp`); an older one, which has none, as here, and the slot is held until it answers.

| asked | sent |
|---|---|
| `prompt`, `n`, `size` | the same |
| `model` | the same; none where none was chosen, `auto` never |
| `steps`, `num_inference_steps` | both, whichever was given |
| `guidance`, `guidance_scale`, `cfg_scale` | all three; 0 where none was given and the model's name contains `turbo` |
| `negative_prompt`, `negative` | both |
| `seed`, `sampler`, `scheduler`, `style`, `quality` | the same |
| any other field | the same, but for null, blank and what would change the shape of the answer |

Previews are asked for where the client wants some (`stream`, `partial_images`); a server that does not stream answers as
ever, one that refuses these fields is asked without them.

Pictures are asked for as base64. OpenAI's gpt-image models always answer so and refuse `response_format`: for a model
whose name says that it is one, the field is left out.
"""

import json
import math
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin, urlsplit
from weakref import WeakKeyDictionary

import trio

from appliance.backends.base import ImageCall, ImageEdit, ImageResult
from appliance.backends.decoding import answer_cap_bytes, decode_images, image_from_bytes, unusable
from appliance.backends.forms import encode_form
from appliance.backends.holding import see_through
from appliance.backends.masks import white_where_transparent
from appliance.backends.openai_image_streams import watch
from appliance.backends.options import GUIDANCE, NEGATIVE, STEPS, chosen, present
from appliance.backends.prompts import strip_extra_args
from appliance.backends.sd_cpp import draw_as_job
from appliance.protocol.images import Image
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object

REFUSED_S = 30.0  # a server that was replaced is asked anew, as often as its health is

_SAME_NAME = ("seed", "sampler", "scheduler", "style", "quality")
# Decided here, not by extra fields of a request.
_RESERVED = frozenset({"prompt", "n", "size", "model", "response_format", "stream", "partial_images"})
_TOLD = frozenset({"prompt", "response_format"})  # sent, and not worth telling the client
_REFUSE_RESPONSE_FORMAT = ("gpt-image", "chatgpt-image")


class OpenAIImagesBackend:
    """Draws on any server with OpenAI's images API. Remembers for a while which servers refuse to stream."""

    def __init__(self) -> None:
        self._refused: WeakKeyDictionary[UpstreamClient, dict[str, float]] = WeakKeyDictionary()

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        if call.unstoppable and (drawn := await draw_as_job(call, upstream, cleanup)) is not None:
            return drawn
        payload = translate(call)
        said = await self._ask(call, payload, upstream)
        items = said.get("data")
        if not isinstance(items, list):
            raise unusable(call, "without a list of data")
        return ImageResult(
            images=await _pictures(items[: call.n], call, upstream),
            seed=_seed(said, items, call),
            model=call.model,
            request={key: value for key, value in payload.items() if key not in _TOLD},
            upstream=_worth_telling(said) or None,
        )

    async def _ask(self, call: ImageCall, payload: dict[str, Any], upstream: UpstreamClient) -> dict[str, Any]:
        """What the server says, its previews shown on the way where it has some and somebody looks.

        The bytes of its answer are gone by then: the pictures in it are copied often enough.
        """
        name, base_url = call.backend_class.name, call.backend_class.base_url
        refused = self._refused.setdefault(upstream, {})
        may_stream = not call.unstoppable and trio.current_time() >= refused.get(base_url, -math.inf)
        if call.on_preview is not None and may_stream:
            streamed = {**payload, "stream": True, "partial_images": call.previews}
            said = await watch(await _make_post(call, streamed), call, upstream)
            if said is not None:
                return said
            refused[base_url] = trio.current_time() + REFUSED_S
        post = await _make_post(call, payload)
        answer = await (see_through(upstream.exchange, post, call) if call.unstoppable else upstream.exchange(post))
        if answer.status != 200:
            raise failure_from_answer(answer, upstream=name)
        return parse_json_object(answer.body, upstream=name)


async def _make_post(call: ImageCall, payload: dict[str, Any]) -> UpstreamCall:
    return _post(call, payload) if call.edit is None else await _post_edit(call, payload, call.edit)


def translate(call: ImageCall) -> dict[str, Any]:
    """The body of the request. Raises InvalidRequest for two spellings that contradict."""
    model = call.model if call.model and call.model.lower() != "auto" else None
    options = {name: getattr(call.options, name) for name in _SAME_NAME}
    options |= dict.fromkeys(STEPS, chosen(call.options, STEPS))
    negative = chosen(call.options, NEGATIVE)
    options |= dict.fromkeys(NEGATIVE, strip_extra_args(negative) if negative else None)
    options |= dict.fromkeys(GUIDANCE, _guidance(call, model))
    payload = {key: value for key, value in present(call.extra).items() if key not in _RESERVED}
    payload |= {key: value for key, value in options.items() if value is not None}
    payload |= {"prompt": strip_extra_args(call.prompt), "n": call.n, "size": f"{call.width}x{call.height}"}
    if model is not None:
        payload["model"] = model
    if model is None or not model.lower().startswith(_REFUSE_RESPONSE_FORMAT):
        payload["response_format"] = "b64_json"
    return payload


def _guidance(call: ImageCall, model: str | None) -> float | None:
    """Turbo models are distilled to draw without guidance: any would spoil the picture and double the time."""
    given: float | None = chosen(call.options, GUIDANCE)
    if given is None and model is not None and "turbo" in model.lower():
        return 0
    return given


def endpoint(base_url: str, path: str = "/v1/images/generations") -> str:
    """One `/v1`, whether base_url ends in it or not."""
    return base_url.rstrip("/").removesuffix("/v1") + path


async def _post_edit(call: ImageCall, payload: dict[str, Any], edit: ImageEdit) -> UpstreamCall:
    """The same fields as a form, with the pictures; stable-diffusion.cpp's server wants its mask white on black."""
    mask = edit.mask
    if mask is not None and call.unstoppable:
        mask = Image(await trio.to_thread.run_sync(white_where_transparent, mask.data), "png")
    pictures = [("image[]" if edit.others else "image", picture) for picture in (edit.image, *edit.others)]
    pictures += [("mask", mask)] if mask is not None else []
    given = payload if edit.strength is None else {**payload, "strength": edit.strength}
    fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    content_type, body = encode_form(fields, pictures)
    return replace(
        _post(call, payload),
        url=endpoint(call.backend_class.base_url, "/v1/images/edits"),
        headers={"Content-Type": content_type},
        body=body,
    )


def _post(call: ImageCall, payload: dict[str, Any]) -> UpstreamCall:
    return UpstreamCall(
        backend_class=call.backend_class.name,
        method="POST",
        url=endpoint(call.backend_class.base_url),
        headers={"Content-Type": "application/json"},
        body=json.dumps(payload).encode(),
        first_byte_s=call.timeout_s,
        idle_s=call.idle_timeout_s,
        total_s=call.timeout_s + call.idle_timeout_s,
        max_body_bytes=answer_cap_bytes(call),
    )


async def _pictures(items: list[object], call: ImageCall, upstream: UpstreamClient) -> tuple[Image, ...]:
    """Base64 items as they are; items that are URLs are fetched from the image server itself and from nowhere else."""
    if not all(isinstance(item, dict) for item in items):
        raise unusable(call, "data whose items are no objects")
    pictures: list[dict[str, object]] = [item for item in items if isinstance(item, dict)]
    if any(not item.get("b64_json") and item.get("url") for item in pictures):
        return tuple([await _fetch(item.get("url"), call, upstream) for item in pictures])
    return await decode_images([item.get("b64_json") for item in pictures], call)


async def _fetch(url: object, call: ImageCall, upstream: UpstreamClient) -> Image:
    base = endpoint(call.backend_class.base_url)
    name = call.backend_class.name
    target = urljoin(base, url) if isinstance(url, str) else ""
    if _origin(target) != _origin(base):
        raise unusable(call, "a picture's URL on another host than its own, which is not fetched")
    answer = await upstream.exchange(
        UpstreamCall(
            backend_class=name,
            method="GET",
            url=target,
            headers={"Accept": "image/*"},
            first_byte_s=call.idle_timeout_s,
            idle_s=call.idle_timeout_s,
            total_s=call.timeout_s,
            max_body_bytes=call.backend_class.payload_policy.images_max_bytes,
        )
    )
    if answer.status != 200:
        raise unusable(call, f"a picture's URL that answers {answer.status}")
    return image_from_bytes(answer.body, call)


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _seed(said: dict[str, Any], items: list[Any], call: ImageCall) -> int | None:
    """The seed if the server says it, at the top or beside the first picture; else the one that was asked for."""
    first = items[0] if items and isinstance(items[0], dict) else {}
    for found in (said.get("seed"), first.get("seed")):
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return call.options.seed


def _worth_telling(said: dict[str, Any]) -> dict[str, Any]:
    usage = said.get("usage")
    told = {"created": int, "output_format": str, "quality": str, "size": str, "background": str}
    kept = {key: said[key] for key, kind in told.items() if type(said.get(key)) is kind and len(str(said[key])) <= 100}
    return {**kept, "usage": usage} if isinstance(usage, dict) and len(str(usage)) <= 1000 else kept
