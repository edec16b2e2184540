"""Edits over HTTP: the form as OpenAI's clients send it, what the backend is given of it, and every refusal."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from PIL import Image

from tests.asgi import Response, call, open_call
from tests.gated_backend import GatedBackend
from tests.house import AUTH, House, open_house
from tests.server.test_image_streams import JPEG, read

EDITS = "/v1/images/edits"
BOUNDARY = "a-boundary"
FORM = {**AUTH, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}

Part = tuple[str, str | bytes]


def picture(size: tuple[int, int] = (64, 48), kind: str = "png", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind)
    return out.getvalue()


def form(*parts: Part) -> bytes:
    body = b""
    for name, value in parts:
        more = '; filename="x.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


async def edit(house: House, *parts: Part, headers: dict[str, str] = FORM) -> Response:
    return await house.ask("POST", EDITS, headers=headers, body=form(*parts))


CAT: Part = ("prompt", "a cat")
B64: Part = ("response_format", "b64_json")


def opened_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_the_backend_is_given_the_picture_its_mask_and_the_typed_fields(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    image, mask = picture(), picture(mode="RGBA")
    more: list[Part] = [("n", "2"), ("steps", "7"), ("guidance", "2.5"), ("strength", "0.4"), ("user", ""), B64]
    async with open_house(tmp_path, **drawing) as house:
        before = opened_fds()
        answer = await edit(house, ("image", image), ("mask", mask), CAT, *more)
        assert (opened_fds(), house.components.spool.total_bytes, house.inflight()) == (before, 0, 0)
    assert answer.status == 200
    assert len(answer.json()["data"]) == 2
    (call,) = backend.calls
    assert call.edit is not None
    assert (call.edit.image.data, call.edit.image.type, call.edit.strength) == (image, "png", 0.4)
    assert call.edit.mask is not None
    assert call.edit.mask.data == mask
    assert (call.prompt, call.n, call.options.given()) == ("a cat", 2, {"steps": 7, "guidance": 2.5})
    assert (call.width, call.height) == (64, 48), "the picture's own size where none is asked for"
    assert call.extra == {}


@pytest.mark.parametrize(("size", "expected"), [("auto", (64, 48)), ("32x32", (32, 32))])
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
async def test_size_and_type_are_the_pictures_or_as_asked_for(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], size: str, expected: tuple[int, int], kind: str
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house:
        answer = await edit(house, ("image[]", picture(kind=kind)), CAT, B64, ("size", size))
    assert answer.status == 200
    call = backend.calls[0]
    assert (call.width, call.height) == expected
    assert call.edit is not None
    assert call.edit.image.type == kind


HALF = picture((32, 24))
REFUSALS: dict[str, tuple[list[Part], str]] = {
    "no picture": ([CAT], "image"),
    "an empty picture": ([CAT, ("image", b"")], "image"),
    "two pictures for a server that takes one": ([CAT, ("image[]", HALF), ("image[]", HALF)], "image"),
    "no prompt": ([("image", HALF)], "prompt"),
    "a blank prompt": ([("image", HALF), ("prompt", " ")], "prompt"),
    "no picture at all": ([CAT, ("image", b"GIF89a" + b"x" * 50)], "image"),
    "a picture without a size": ([CAT, ("image", b"\x89PNG\r\n\x1a\n")], "image"),
    "a picture of no size": ([CAT, ("image", HALF[:16] + bytes(8) + HALF[24:])], "image"),
    "a picture that is too large": ([CAT, ("image", picture((2000, 1001), "webp"))], "image"),
    "a mask of another size": ([CAT, ("image", HALF), ("mask", picture())], "mask"),
    "a mask that is no PNG": ([CAT, ("image", HALF), ("mask", picture((32, 24), "jpeg"))], "mask"),
    "two masks": ([CAT, ("image", HALF), ("mask", HALF), ("mask", HALF)], "mask"),
    "another file": ([CAT, ("image", HALF), ("script", b"x")], "script"),
    "a field twice": ([CAT, CAT, ("image", HALF)], "prompt"),
    "n out of range": ([CAT, ("image", HALF), ("n", "5")], "n"),
    "n that is no number": ([CAT, ("image", HALF), ("n", "two")], "n"),
    "steps with a fraction": ([CAT, ("image", HALF), ("steps", "2.5")], "steps"),
    "guidance that is not finite": ([CAT, ("image", HALF), ("guidance", "nan")], "guidance"),
    "a stream that is neither": ([CAT, ("image", HALF), ("stream", "perhaps")], "stream"),
    "strength over one": ([CAT, ("image", HALF), ("strength", "1.1")], "strength"),
    "two strengths": ([CAT, ("image", HALF), ("strength", "1"), ("denoising_strength", "0")], "strength"),
    "a size that is none": ([CAT, ("image", HALF), ("size", "big")], "size"),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_bad_form_takes_no_slot_reaches_no_backend_and_leaves_no_file(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], case: str
) -> None:
    parts, param = REFUSALS[case]
    async with open_house(tmp_path, **drawing) as house:
        answer = await edit(house, *parts)
        assert (answer.status, answer.json()["error"]["param"]) == (400, param), answer.body
        assert (house.inflight(), backend.calls, house.components.spool.total_bytes) == (0, [], 0)


async def test_a_file_that_was_not_chosen_is_none(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    """Browsers send it all the same, empty."""
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house:
        assert (await edit(house, ("image", HALF), ("mask", b""), CAT, B64)).status == 200
    assert backend.calls[0].edit is not None
    assert backend.calls[0].edit.mask is None


async def test_only_a_form_is_read(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        json = await edit(house, headers={**AUTH, "content-type": "application/json"})
        broken = await house.ask("POST", EDITS, headers=FORM, body=form(CAT)[:-10])
        get = await house.ask("GET", EDITS)
    assert (json.status, broken.status, get.status) == (415, 400, 405)
    assert broken.json()["error"]["code"] == "invalid_form"


async def test_a_provider_that_only_draws_from_nothing_says_so(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer = await edit(house, ("image", HALF), CAT)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "capability_not_supported")
    assert error["available_backends"] == []


async def test_uploads_have_a_limit_of_their_own_and_tokens_may_have_a_smaller_one(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    large = picture() + bytes(1_500_000)
    async with open_house(tmp_path, **drawing) as house:
        assert (await edit(house, ("image", large), CAT, B64)).status == 200, "more than MAX_REQUEST_BYTES"
    async with open_house(tmp_path, IMAGES_MAX_UPLOAD_BYTES="1000000", **drawing) as house:
        refused = await edit(house, ("image", large), CAT)
        assert (refused.status, refused.json()["error"]["code"]) == (413, "payload_too_large")
        assert "IMAGES_MAX_UPLOAD_BYTES" in refused.json()["error"]["message"]
        late = await call(
            house.site.api, "POST", EDITS, headers={**FORM, "transfer-encoding": "chunked"}, body=form(("image", large))
        )
        assert (late.status, house.components.spool.total_bytes) == (413, 0)
    policies = '{"a-token-for-tests-0123456789": {"max_request_bytes": 500000}}'
    async with open_house(tmp_path, GATEWAY_TOKEN_POLICIES_JSON=policies, **drawing) as house:
        assert (await edit(house, ("image", large), CAT)).status == 413


async def test_a_full_class_is_429_before_the_picture_is_in_memory(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    body = form(("image", HALF), CAT, B64)
    async with open_house(tmp_path, **drawing) as house:
        one = open_call(nursery, house.site.api, "POST", EDITS, headers=FORM, body=body)
        two = open_call(nursery, house.site.api, "POST", EDITS, headers=FORM, body=body)
        async with one, two:
            while house.inflight() < 2:  # noqa: ASYNC110 -- uploads go through threads, which have no event
                await trio.sleep(0.001)
            assert (await edit(house, ("image", HALF), CAT)).status == 429
            backend.gate.set()


async def test_an_edit_is_streamed_under_its_own_name(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    body = form(("image", HALF), CAT, ("stream", "true"), ("partial_images", "1"))
    async with open_house(tmp_path, **drawing) as house:
        async with open_call(nursery, house.site.api, "POST", EDITS, headers=FORM, body=body) as exchange:
            await exchange.started()
            while not backend.calls:  # noqa: ASYNC110 -- as above
                await trio.sleep(0.001)
            backend.show(JPEG, 0.5)
            await trio.testing.wait_all_tasks_blocked()
            backend.gate.set()
            events = read(await exchange.body())
    assert [event["type"] for event in events] == ["image_edit.partial_image", "image_edit.completed"]


async def test_a_client_that_leaves_in_the_middle_of_its_upload_leaves_nothing(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    body = form(("image", picture() + bytes(600_000)), CAT)
    async with open_house(tmp_path, **drawing) as house:
        before = opened_fds()
        for sent in (0, 10, 150, 300_000, len(body) - 5):
            exchange: Any
            async with open_call(nursery, house.site.api, "POST", EDITS, headers=FORM, body=None) as exchange:
                for start in range(0, sent, 65_536):
                    exchange.send_body(body[start : min(start + 65_536, sent)])
                await trio.testing.wait_all_tasks_blocked()
                exchange.disconnect()
                await exchange.finished()
            assert (house.components.spool.total_bytes, opened_fds(), house.inflight()) == (0, before, 0)
    assert backend.calls == []


async def test_a_client_that_leaves_while_its_edit_is_drawn_has_it_cancelled(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house:
        body = form(("image", HALF), CAT)
        async with open_call(nursery, house.site.api, "POST", EDITS, headers=FORM, body=body) as exchange:
            while not backend.calls:  # noqa: ASYNC110 -- as above
                await trio.sleep(0.001)
            exchange.disconnect()
            await exchange.finished()
        assert (house.inflight(), house.components.spool.total_bytes, backend.settled) == (0, 0, 1)
