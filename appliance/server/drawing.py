"""Drawing over HTTP: what generations and edits have in common, whole answers and streams alike."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from appliance.backends.base import ImageEdit, OnPreview
from appliance.components import Components
from appliance.dispatch.images import Drawing, ImageJob, admit_images, draw
from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.protocol.errors import GatewayError
from appliance.protocol.image_events import ImageAction, ImageEvents
from appliance.protocol.images import Image, ImageRequest, image_answer, image_item
from appliance.protocol.magic import MIME
from appliance.protocol.sse import PING
from appliance.protocol.streams import error_event
from appliance.server.exchange import Answer, Request, SendPiece
from appliance.server.previews import Previews
from appliance.server.relay import PING_INTERVAL_S, SSE_HEADERS, SSE_TYPE
from appliance.server.routing_headers import routing_headers
from appliance.server.visit import Visit

IMAGES_PATH = "/ui/images/"

Draw = Callable[[OnPreview | None], Awaitable[Drawing]]


@dataclass(frozen=True, slots=True)
class Order:
    """What a route has read: the request, and for an edit how many pictures there are and the way to them.

    `digest`: of the whole body; the same body has the same.
    """

    request: ImageRequest
    action: ImageAction
    digest: Callable[[], str]
    pictures: int = 0
    load_edit: Callable[[], Awaitable[ImageEdit]] | None = None


async def serve_drawing(components: Components, request: Request, order: Order) -> Answer:
    """Admit, then draw or stream. Raises GatewayError until the first byte; after it, errors are events."""
    request.visit.stack.enter_context(components.heap.in_use())
    job, draw_it = await _attach(components, request, order) or _start(components, request, order)
    if order.request.stream:
        return _stream(request.visit, ImageEvents(order.action, order.request), job, draw_it)
    return await _answer(components, request.visit, await draw_it(None))


def _start(components: Components, request: Request, order: Order) -> tuple[ImageJob, Draw]:
    """Admit the request; drawing then is its own job."""
    dispatcher, caller = components.dispatcher, request.visit.caller()
    x_backend = request.header(b"x-backend")
    job = admit_images(dispatcher, caller, order.request, x_backend=x_backend, pictures=order.pictures)

    async def draw_it(on_preview: OnPreview | None) -> Drawing:
        async def draw_now() -> Drawing:
            edit = await order.load_edit() if order.load_edit is not None else None
            return await draw(dispatcher, caller, job, edit=edit, on_preview=on_preview)

        if not job.outlives_its_client:
            return await draw_now()
        shield = components.grace.shield(job.longest_s)
        return await components.repeats.carry_out(_repeat_key(request, order), job, draw_now, shield)

    return job, draw_it


async def _attach(components: Components, request: Request, order: Order) -> tuple[ImageJob, Draw] | None:
    """A request that says it is sent again waits for the job of the first time, or gets its pictures; without a slot."""
    if not _is_repeat(request):
        return None
    running = components.repeats.find(_repeat_key(request, order))
    if running is None:
        return None
    drawing = await components.repeats.load(running) if running.ended.is_set() else None
    if running.ended.is_set() and drawing is None:
        return None

    async def draw_it(_on_preview: OnPreview | None) -> Drawing:
        return drawing or await components.repeats.wait(running)

    return running.job, draw_it


def _is_repeat(request: Request) -> bool:
    """OpenAI's SDKs count their retries; others name what must not happen twice."""
    retries = request.header(b"x-stainless-retry-count") or "0"
    return request.header(b"idempotency-key") is not None or (retries.isdecimal() and retries.strip("0") != "")


def _repeat_key(request: Request, order: Order) -> str:
    """The same token, path, class and body; with an Idempotency-Key, the same of that."""
    token = request.visit.token
    parts = [
        token.fingerprint if token is not None else "",
        request.visit.path,
        request.header(b"x-backend"),
        request.header(b"idempotency-key"),
        order.digest(),
    ]
    return sha256_hex(canonical_json(parts).encode())


async def _answer(components: Components, visit: Visit, drawing: Drawing) -> Answer:
    visit.model = drawing.model
    items = [await _item(components, visit, drawing, image) for image in drawing.result.images]
    gateway = gateway_fields(drawing, [sha256 for _, sha256 in items])
    answer = image_answer(int(time.time()), [item for item, _ in items], gateway)
    return Answer(answer, headers=_headers(drawing.job, drawing.model))


def _stream(visit: Visit, events: ImageEvents, job: ImageJob, draw_it: Draw) -> Answer:
    visit.events = True

    async def write(send: SendPiece) -> None:
        outcome = await _relay_previews(events, draw_it, send)
        if isinstance(outcome, GatewayError):
            visit.error_code = outcome.code
            await send(error_event(outcome))
            return
        visit.model = outcome.model
        usage = (outcome.result.upstream or {}).get("usage")
        picture = outcome.result.images[0]
        gateway = gateway_fields(outcome, [sha256_hex(picture.data)])
        await send(events.completed(picture, int(time.time()), usage=usage, gateway=gateway))

    return Answer(write, content_type=SSE_TYPE, headers={**SSE_HEADERS, **_headers(job, job.call.model)})


async def _relay_previews(events: ImageEvents, draw_it: Draw, send: SendPiece) -> Drawing | GatewayError:
    """Draw in one task, and send previews, or pings in silence, in this one until the drawing has ended."""
    previews = Previews(events.request.partial_images)
    outcome: list[Drawing | GatewayError] = []

    async def draw_to_the_end() -> None:
        try:
            outcome.append(await draw_it(previews.offer if events.request.partial_images else None))
        except GatewayError as error:  # carried past the nursery, which would wrap it in a group
            outcome.append(error)
        previews.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(draw_to_the_end)
        while not outcome:
            await _relay_one(events, previews, send)
    return outcome[0]


async def _relay_one(events: ImageEvents, previews: Previews, send: SendPiece) -> None:
    piece: bytes | None = PING
    with trio.move_on_after(PING_INTERVAL_S):
        taken = await previews.take()
        piece = None if taken is None else events.partial(taken[1], taken[0], int(time.time()))
    if piece is not None:
        await send(piece)


def _headers(job: ImageJob, model: str | None) -> Mapping[str, str]:
    return routing_headers(job.backend_class, model, job.router_reason)


async def _item(components: Components, visit: Visit, drawing: Drawing, image: Image) -> tuple[dict[str, str], str]:
    """An entry of the answer, and the hash of its picture, which the store has made if it was asked."""
    if drawing.job.response_format == "b64_json":
        return image_item(image, None), sha256_hex(image.data)
    stored = await components.images.save(image)
    query = components.signer.sign(stored.name, time.time())
    return image_item(image, f"{visit.base_url}{IMAGES_PATH}{stored.name}?{query}"), stored.sha256


def gateway_fields(drawing: Drawing, hashes: Sequence[str]) -> Mapping[str, object]:
    """Contract 4, `_gateway`: how a picture came about, without what is unknown. `hashes`: of its pictures."""
    result, job = drawing.result, drawing.job
    fields = {
        "backend": job.backend_name,
        "backend_class": job.backend_class,
        "mime": MIME[result.images[0].type],
        "seed": result.seed,
        "model": drawing.model,
        "model_reason": job.model.reason if job.model else None,
        "request": dict(result.request) if result.request is not None else None,
        "upstream": dict(result.upstream) if result.upstream is not None else None,
        "sha256": list(hashes),
    }
    return {name: value for name, value in fields.items() if value is not None}
