"""Streams of OpenAI-style image servers: previews as they come, and the picture; for servers that stream and that do not.

Events: openai-python, `types/image_gen_*_event.py` and `image_edit_*_event.py`. Who does not know `stream` answers as
ever, or refuses it by name and is asked without.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from appliance.backends.base import ImageCall
from appliance.backends.decoding import answer_cap_bytes, decode_images, unusable
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.sse import SseReader, SseTooLong, data_of
from appliance.upstream.client import UpstreamClient, UpstreamStream
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object, redact

_REFUSAL_BYTES = 64 * 1024
_REFUSALS = (400, 422)
_NAMES = (b"stream", b"partial_images")
_MAX_REASON_CHARS = 200


async def watch(post: UpstreamCall, call: ImageCall, upstream: UpstreamClient) -> dict[str, Any] | None:
    """Ask for a stream, show its previews, and give what a whole answer would say; None where streams are refused.

    Raises UpstreamFailed, UpstreamTimeout.
    """
    async with upstream.open_stream(replace(post, idle_s=call.timeout_s)) as stream:  # nothing comes between previews
        if stream.status != 200:
            refusal = await _refusal(stream)
            if refusal.status in _REFUSALS and any(name in refusal.body.lower() for name in _NAMES):
                return None
            raise failure_from_answer(refusal, upstream=call.backend_class.name)
        if not stream.content_type.lower().startswith("text/event-stream"):
            body = await stream.read_all(answer_cap_bytes(call))
            return parse_json_object(body, upstream=call.backend_class.name)
        return await _read(stream, call)


async def _refusal(stream: UpstreamStream) -> UpstreamAnswer:
    body = await stream.read_start(_REFUSAL_BYTES)
    return UpstreamAnswer(stream.status, stream.content_type, stream.retry_after, body, stream.latency_s)


async def _read(stream: UpstreamStream, call: ImageCall) -> dict[str, Any]:
    """What may come in all is bounded: a picture, and as much for each preview."""
    cap = answer_cap_bytes(call)
    reader = SseReader(cap)
    left = cap * (call.previews + 1)
    while piece := await stream.receive():
        left -= len(piece)
        if left < 0:
            raise unusable(call, "more than its previews and a picture can be")
        try:
            events = reader.feed(piece)
        except SseTooLong:
            raise unusable(call, f"an event of more than {cap} bytes") from None
        for event in events:
            picture = await _take(data_of(event), call)
            if picture is not None:
                return picture
    raise unusable(call, "a stream that ends without a picture")


async def _take(data: bytes | None, call: ImageCall) -> dict[str, Any] | None:
    """Show a preview; give the picture. Raises UpstreamFailed for an error, and for data that are no event."""
    if data is None or data == b"[DONE]":
        return None
    name = call.backend_class.name
    said = parse_json_object(data, upstream=name)
    kind = str(said.get("type"))
    if kind.endswith(".partial_image"):
        await _show(said, call)
    elif kind.endswith(".completed"):
        return {**said, "created": said.get("created_at"), "data": [{"b64_json": said.get("b64_json")}]}
    elif "error" in said or kind == "error":
        raise UpstreamFailed(f"{name} broke off its drawing: {_reason(said)}.", upstream=name)
    return None


async def _show(said: dict[str, Any], call: ImageCall) -> None:
    """Whoever was asked for k previews has chosen when: each is due when it comes."""
    if call.on_preview is None:
        return
    index = said.get("partial_image_index")
    share = (index + 1) / (call.previews + 1) if type(index) is int and 0 <= index < call.previews else None
    with suppress(UpstreamFailed):  # a preview that cannot be read is not worth a picture
        (image,) = await decode_images([said.get("b64_json")], replace(call, n=1))
        call.on_preview(image, share)


def _reason(said: dict[str, Any]) -> str:
    error = said.get("error")
    told = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else said.get("message")
    return redact(told)[:_MAX_REASON_CHARS].rstrip(".") if isinstance(told, str) and told else "it does not say why"
