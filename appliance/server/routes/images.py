"""`POST /v1/images/generations`, and the pictures it hands out under `/ui/images/`."""

import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from quart import Response
from quart import request as quart_request
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.dispatch.images import Drawing, draw_images
from appliance.protocol.canonical import sha256_hex
from appliance.protocol.errors import InvalidRequest, NotFound, Unauthenticated
from appliance.protocol.images import Image, image_answer, image_item, parse_image_request
from appliance.protocol.magic import EXTENSION, MIME
from appliance.server.access import Head
from appliance.server.app import current_visit
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer
from appliance.server.routing_headers import routing_headers
from appliance.server.visit import Visit
from appliance.storage.images import ImageReader

IMAGES_PATH = "/ui/images/"
PIECE_BYTES = 262_144

_TYPE_BY_EXTENSION = {extension: kind for kind, extension in EXTENSION.items()}


def generation_routes(components: Components) -> DirectRoutes:
    """Contract 4: drawing."""

    async def generate(request: Request) -> Answer:
        visit = request.visit
        wanted = parse_image_request(request.json(), max_pixels=components.settings.images_max_pixels)
        if wanted.stream:
            raise InvalidRequest("Pictures are not streamed yet: leave stream out.", param="stream")
        x_backend = request.header(b"x-backend")
        drawing = await draw_images(components.dispatcher, visit.caller(), wanted, x_backend=x_backend)
        visit.model = _model(drawing)
        data = [await _item(components, visit, drawing, image) for image in drawing.result.images]
        answer = image_answer(int(time.time()), data, _gateway_fields(drawing))
        return json_answer(
            answer, headers=routing_headers(drawing.backend_class, _model(drawing), drawing.router_reason)
        )

    return {"/v1/images/generations": {"POST": generate}}


def add_picture_route(app: QuartTrio, components: Components) -> None:
    """Contract 4: handing out."""

    @app.get(f"{IMAGES_PATH}<name>")
    async def fetch(name: str) -> Response:
        stem, _, extension = name.partition(".")
        kind = _TYPE_BY_EXTENSION.get(extension)
        visit = current_visit()
        if visit.token is None:
            _check_signature(components, name)
        picture = await visit.stack.enter_async_context(components.images.open(stem, extension)) if kind else None
        if kind is None or picture is None:
            raise NotFound("This picture is not, or no longer, here: pictures are kept for UI_IMAGE_TTL_SEC.")
        headers = {**_picture_headers(components, extension), "Content-Length": str(picture.size)}
        return Response(_pieces(picture), content_type=MIME[kind], headers=headers)


async def _pieces(picture: ImageReader) -> AsyncIterator[bytes]:
    """A client that reads slowly costs one piece of memory, not a picture."""
    while piece := await picture.read(PIECE_BYTES):
        yield piece


def is_signed_picture(head: Head, query: bytes) -> bool:
    """A picture asked for by its signed URL alone needs no token; the route checks the signature."""
    return (
        head.method in {"GET", "HEAD"}
        and head.path.startswith(IMAGES_PATH)
        and b"sig=" in query
        and not head.all(b"authorization")
        and not head.all(b"x-api-key")
    )


async def _item(components: Components, visit: Visit, drawing: Drawing, image: Image) -> dict[str, str]:
    if drawing.response_format == "b64_json":
        return image_item(image, None)
    stored = await components.images.save(image)
    name = f"{stored.sha256}.{stored.extension}"
    query = components.signer.sign(name, time.time())
    return image_item(image, f"{visit.base_url}{IMAGES_PATH}{name}?{query}")


def _check_signature(components: Components, name: str) -> None:
    query = parse_qs(quart_request.query_string.decode("latin-1"))
    expires, signature = query.get("exp", [""]), query.get("sig", [""])
    verdict = "invalid"
    if len(expires) == len(signature) == 1:
        verdict = components.signer.check(name, expires[0], signature[0], time.time())
    if verdict != "ok":
        what = "has expired" if verdict == "expired" else "is not valid"
        raise Unauthenticated(f"The signature of this URL {what}: draw the picture again, or send a token.")


def _gateway_fields(drawing: Drawing) -> dict[str, object]:
    result = drawing.result
    return {
        "backend": drawing.backend,
        "backend_class": drawing.backend_class,
        "mime": MIME[result.images[0].type],
        "seed": result.seed,
        "model": _model(drawing),
        "model_reason": drawing.model.reason if drawing.model else None,
        "request": dict(result.request) if result.request is not None else None,
        "upstream": dict(result.upstream) if result.upstream is not None else None,
        "sha256": [sha256_hex(image.data) for image in result.images],
    }


def _model(drawing: Drawing) -> str | None:
    """What the backend says it drew with, else what it was asked to."""
    return drawing.result.model or (drawing.model.model if drawing.model else None)


def _picture_headers(components: Components, extension: str) -> dict[str, str]:
    """A picture is data, never a page: fixed type, no sniffing, nothing may run in it."""
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Cache-Control": f"private, max-age={int(components.settings.ui_image_ttl_sec)}, immutable",
    }
    if extension == "svg":
        headers["Content-Disposition"] = 'attachment; filename="picture.svg"'
    return headers
