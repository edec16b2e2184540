"""`POST /v1/images/generations` and `/v1/images/edits`, and the pictures it hands out under `/ui/images/`."""

import time
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import parse_qs

from appliance.components import Components
from appliance.protocol.canonical import sha256_hex
from appliance.protocol.edits import parse_edit_fields
from appliance.protocol.errors import NotFound, Unauthenticated
from appliance.protocol.images import parse_image_request
from appliance.protocol.magic import EXTENSION, MIME
from appliance.server.access import Head
from appliance.server.drawing import IMAGES_PATH, Order, serve_drawing
from appliance.server.exchange import Answer, DirectRoutes, Handler, ReceivePiece, Request, Upload
from appliance.server.uploads import look_at_pictures, read_form
from appliance.storage.images import ImageReader

EDITS_PATH = "/v1/images/edits"
PIECE_BYTES = 262_144

_TYPE_BY_EXTENSION = {extension: kind for kind, extension in EXTENSION.items()}


def image_routes(components: Components) -> DirectRoutes:
    """Contract 4: drawing."""
    max_pixels = components.settings.images_max_pixels

    async def generate(request: Request) -> Answer:
        wanted = parse_image_request(request.json(), max_pixels=max_pixels)
        digest = partial(sha256_hex, request.raw)
        return await serve_drawing(components, request, Order(wanted, "image_generation", digest))

    async def receive_edit(request: Request, receive_piece: ReceivePiece) -> Handler:
        form = await read_form(request, receive_piece, components.spool)
        uploaded = await look_at_pictures(form.files, max_pixels=max_pixels)
        wanted, strength = parse_edit_fields(form.fields, picture=uploaded.size, max_pixels=max_pixels)
        load_edit = partial(uploaded.load, strength)
        order = Order(wanted, "image_edit", form.digest, pictures=len(uploaded.pictures), load_edit=load_edit)

        async def edit(request: Request) -> Answer:
            return await serve_drawing(components, request, order)

        return edit

    return {"/v1/images/generations": {"POST": generate}, EDITS_PATH: {"POST": Upload(receive_edit)}}


def picture_routes(components: Components) -> DirectRoutes:
    """Contract 4: handing out."""

    async def fetch(request: Request) -> Answer:
        name = request.variable
        stem, _, extension = name.partition(".")
        kind = _TYPE_BY_EXTENSION.get(extension)
        visit = request.visit
        if visit.token is None:
            _check_signature(components, name, request.query)
        picture = await visit.stack.enter_async_context(components.images.open(stem, extension)) if kind else None
        if kind is None or picture is None:
            raise NotFound("This picture is not, or no longer, here: pictures are kept for UI_IMAGE_TTL_SEC.")
        headers = {**_picture_headers(components, extension), "Content-Length": str(picture.size)}
        wanted = picture if request.method != "HEAD" else None
        return Answer(_pieces(wanted), content_type=MIME[kind], headers=headers)

    return {f"{IMAGES_PATH}<name>": {"GET": fetch}}


async def _pieces(picture: ImageReader | None) -> AsyncGenerator[bytes, None]:
    """A client that reads slowly costs one piece of memory, not a picture."""
    while picture is not None and (piece := await picture.read(PIECE_BYTES)):
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


def _check_signature(components: Components, name: str, query: bytes) -> None:
    fields = parse_qs(query.decode("latin-1"))
    expires, signature = fields.get("exp", [""]), fields.get("sig", [""])
    verdict = "invalid"
    if len(expires) == len(signature) == 1:
        verdict = components.signer.check(name, expires[0], signature[0], time.time())
    if verdict != "ok":
        what = "has expired" if verdict == "expired" else "is not valid"
        raise Unauthenticated(f"The signature of this URL {what}: draw the picture again, or send a token.")


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
