"""Repeats: who asks again gets the job of the first time, running or ended, and nobody else does."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.errors import UpstreamFailed
from tests.asgi import Exchange, open_call
from tests.gated_backend import PNG, GatedBackend
from tests.house import AUTH, GENERATIONS, TOKEN, House, open_house
from tests.server.test_image_edits import form, picture
from tests.server.test_image_streams import read

JSON_AUTH = {**AUTH, "content-type": "application/json"}
RETRY = {"x-stainless-retry-count": "1"}
OTHER_TOKEN = "another-token-for-tests-0123"


@pytest.fixture
def finishing(tmp_path: Path) -> dict[str, str]:
    """Settings of a house whose class finishes what it has begun."""
    (tmp_path / "backends.yaml").write_text(
        "backends:\n  gpu_heavy:\n    base_url: http://127.0.0.1:9\n    provider: a1111\n"
        "    supported_capabilities: [images]\n    concurrency_limits: {images: 2}\n    on_disconnect: finish\n"
    )
    return {"IMAGES_BACKEND": "http_a1111", "BACKENDS_CONFIG_PATH": str(tmp_path / "backends.yaml")}


def ask(nursery: trio.Nursery, house: House, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = json.dumps({"prompt": "a cat", "size": "64x48", "response_format": "b64_json", **fields}).encode()
    return open_call(nursery, house.site.api, "POST", GENERATIONS, headers={**JSON_AUTH, **(headers or {})}, body=body)


async def until_stored(house: House) -> None:
    while "running=0" not in repr(house.components.repeats) or house.inflight():  # noqa: ASYNC110 -- pictures go through threads
        await trio.sleep(0.001)


async def leave_it_to_finish(nursery: trio.Nursery, house: House, backend: GatedBackend, **how: Any) -> None:
    """A client asks and leaves; the picture is drawn all the same."""
    async with ask(nursery, house, **how) as exchange:
        await trio.testing.wait_all_tasks_blocked()
        exchange.disconnect()
        backend.gate.set()
        await until_stored(house)


async def shown(exchange: Exchange) -> bytes:
    await exchange.started()
    answer = json.loads(await exchange.body())
    return base64.b64decode(answer["data"][0]["b64_json"])


async def test_a_picture_that_was_finished_for_nobody_is_there_for_the_retry(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **finishing) as house:
        await leave_it_to_finish(nursery, house, backend)
        assert house.components.images.statistics().items == 1
        async with ask(nursery, house, RETRY) as again:
            assert await shown(again) == PNG
            assert (again.header("x-backend-used"), house.inflight()) == ("gpu_heavy", 0)
        assert (len(backend.calls), backend.settled) == (1, 0)


async def test_a_retry_while_it_is_drawn_waits_for_it_and_takes_no_slot(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **finishing) as house:
        async with ask(nursery, house) as first:
            await trio.testing.wait_all_tasks_blocked()
            first.disconnect()
            async with ask(nursery, house, RETRY) as second, ask(nursery, house, RETRY) as third:
                await trio.testing.wait_all_tasks_blocked()
                assert (house.inflight(), len(backend.calls)) == (1, 1)
                assert repr(house.components.repeats) == "<Repeats running=1 kept=0>"
                second.disconnect()
                await second.finished()
                backend.gate.set()
                assert await shown(third) == PNG
            await first.finished()
        assert (house.inflight(), backend.finished, backend.settled) == (0, 1, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"headers": {"x-stainless-retry-count": "0"}}),
        ({}, {"headers": {"x-stainless-retry-count": "many"}}),
        ({}, {"headers": RETRY, "prompt": "a dog"}),
        ({}, {"headers": {**RETRY, "x-backend": "gpu_heavy"}}),
        ({}, {"headers": {**RETRY, "authorization": f"Bearer {OTHER_TOKEN}"}}),
        ({}, {"headers": {"idempotency-key": "one"}}),
        ({"headers": {"idempotency-key": "one"}}, {"headers": RETRY}),
        ({"headers": {"idempotency-key": "one"}}, {"headers": {"idempotency-key": "two"}}),
    ],
)
async def test_another_request_starts_a_job_of_its_own(
    tmp_path: Path,
    backend: GatedBackend,
    finishing: dict[str, str],
    nursery: trio.Nursery,
    first: dict[str, Any],
    second: dict[str, Any],
) -> None:
    async with open_house(tmp_path, GATEWAY_BEARER_TOKENS=f"{TOKEN},{OTHER_TOKEN}", **finishing) as house:
        await leave_it_to_finish(nursery, house, backend, **first)
        async with ask(nursery, house, **second) as again:
            assert await shown(again) == PNG
        assert len(backend.calls) == 2


async def test_an_idempotency_key_alone_marks_a_repeat(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    headers = {"idempotency-key": "one"}
    async with open_house(tmp_path, **finishing) as house:
        await leave_it_to_finish(nursery, house, backend, headers=headers)
        async with ask(nursery, house, headers) as again:
            assert await shown(again) == PNG
        assert len(backend.calls) == 1


async def test_who_waits_for_a_job_that_fails_gets_its_error_and_the_next_starts_anew(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.fail = UpstreamFailed("gpu_heavy broke off the connection.", upstream="gpu_heavy")
    async with open_house(tmp_path, **finishing) as house:
        async with ask(nursery, house) as first:
            await trio.testing.wait_all_tasks_blocked()
            async with ask(nursery, house, RETRY) as second:
                await trio.testing.wait_all_tasks_blocked()
                backend.gate.set()
                for exchange in (first, second):
                    await exchange.started()
                    assert exchange.status == 502
                    await exchange.body()
        backend.fail = None
        async with ask(nursery, house, RETRY) as again:
            assert await shown(again) == PNG
        assert len(backend.calls) == 2


async def test_a_fault_of_ours_is_the_same_for_both(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.fail = ZeroDivisionError()
    async with open_house(tmp_path, **finishing) as house:
        async with ask(nursery, house) as first:
            await trio.testing.wait_all_tasks_blocked()
            async with ask(nursery, house, RETRY) as second:
                await trio.testing.wait_all_tasks_blocked()
                assert house.inflight() == 1
                backend.gate.set()
                for exchange in (first, second):
                    await exchange.started()
                    assert exchange.status == 500
                    await exchange.body()


async def test_after_its_time_a_picture_is_drawn_again(
    tmp_path: Path,
    backend: GatedBackend,
    finishing: dict[str, str],
    nursery: trio.Nursery,
    mock_clock: trio.testing.MockClock,
) -> None:
    mock_clock.rate = 1
    async with open_house(tmp_path, UI_IMAGE_TTL_SEC="60", **finishing) as house:
        await leave_it_to_finish(nursery, house, backend)
        mock_clock.jump(61)
        async with ask(nursery, house, RETRY) as again:
            assert await shown(again) == PNG
        assert len(backend.calls) == 2


async def test_a_picture_that_is_gone_from_the_store_is_drawn_again(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **finishing) as house:
        await leave_it_to_finish(nursery, house, backend)
        for file in (tmp_path / "state" / "images").iterdir():
            file.unlink()
        async with ask(nursery, house, RETRY) as again:
            assert await shown(again) == PNG
        assert len(backend.calls) == 2


async def test_a_picture_that_cannot_be_stored_is_its_own_clients_all_the_same(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, UI_IMAGE_MAX_BYTES="5", **finishing) as house:
        async with ask(nursery, house) as first:
            await trio.testing.wait_all_tasks_blocked()
            async with ask(nursery, house, RETRY) as second:
                await trio.testing.wait_all_tasks_blocked()
                backend.gate.set()
                assert await shown(first) == PNG
                await second.started()
                assert second.status == 507
        assert repr(house.components.repeats) == "<Repeats running=0 kept=0>"


async def test_a_class_that_cancels_has_nothing_to_attach_to(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house:
        async with ask(nursery, house), ask(nursery, house, RETRY):
            await trio.testing.wait_all_tasks_blocked()
            assert (house.inflight(), len(backend.calls)) == (2, 2)
        assert repr(house.components.repeats) == "<Repeats running=0 kept=0>"


async def test_the_end_of_the_process_is_told_to_who_waits(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **finishing) as house:
        async with ask(nursery, house) as first:
            await trio.testing.wait_all_tasks_blocked()
            first.disconnect()
            async with ask(nursery, house, RETRY) as second:
                await trio.testing.wait_all_tasks_blocked()
                house.components.grace.cut(0)
                await second.started()
                assert second.status == 503
            await first.finished()
        assert (house.inflight(), repr(house.components.repeats)) == (0, "<Repeats running=0 kept=0>")


async def test_the_end_of_the_process_is_told_to_the_client_that_began(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **finishing) as house, ask(nursery, house) as exchange:
        await trio.testing.wait_all_tasks_blocked()
        house.components.grace.cut(0)
        await exchange.started()
        assert exchange.status == 503
        assert json.loads(await exchange.body())["error"]["code"] == "shutting_down"


async def test_a_retried_stream_is_the_picture_alone(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    fields: dict[str, Any] = {"stream": True, "partial_images": 2, "response_format": None}
    async with open_house(tmp_path, **finishing) as house:
        async with ask(nursery, house, **fields) as first:
            await trio.testing.wait_all_tasks_blocked()
            first.disconnect()
            async with ask(nursery, house, RETRY, **fields) as second:
                await second.started()
                await trio.testing.wait_all_tasks_blocked()
                backend.show(b"\xff\xd8\xff", 0.5)
                backend.gate.set()
                (event,) = read(await second.body())
            await first.finished()
        assert (event["type"], base64.b64decode(event["b64_json"])) == ("image_generation.completed", PNG)
        assert (len(backend.calls), house.inflight()) == (1, 0)


async def test_a_retried_edit_is_known_by_its_parts_whatever_its_boundary(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.gate.set()
    body = form(("image", picture()), ("prompt", "a cat"), ("response_format", "b64_json"))
    async with open_house(tmp_path, **finishing) as house:
        for number, changed in enumerate([body, body.replace(b"a-boundary", b"b"), body.replace(b"a cat", b"a dog")]):
            headers = {**AUTH, "content-type": f"multipart/form-data; boundary={['a-boundary', 'b'][number % 2]}"}
            answer = await house.ask("POST", "/v1/images/edits", headers={**headers, **RETRY}, body=changed)
            assert answer.status == 200
    assert len(backend.calls) == 2


async def test_no_more_than_so_many_are_remembered(
    tmp_path: Path, backend: GatedBackend, finishing: dict[str, str]
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **finishing) as house:
        house.components.repeats._max_kept = 2
        for number in range(5):
            assert (await house.draw(prompt=f"cat {number}")).status == 200
        assert house.components.repeats.find("") is None
        assert repr(house.components.repeats) == "<Repeats running=0 kept=2>"
