"""Cancellations: a client may leave at any await of its request; each has a test that it leaves nothing behind."""

import json
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from appliance.backends.registry import IMAGE_BACKENDS
from tests.asgi import Exchange, open_call
from tests.gated_backend import GatedBackend
from tests.house import AUTH, GENERATIONS, House, open_house

JSON_AUTH = {**AUTH, "content-type": "application/json"}
CAT = json.dumps({"prompt": "a cat", "size": "64x48"}).encode()
CAT_IN_BASE64 = json.dumps({"prompt": "a cat", "size": "64x48", "response_format": "b64_json"}).encode()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> GatedBackend:
    fake = GatedBackend()
    monkeypatch.setitem(cast("dict[str, object]", IMAGE_BACKENDS), "http_a1111", fake)
    return fake


async def leave(house: House, exchange: Exchange) -> None:
    """Hang up; whatever was held is given back."""
    exchange.disconnect()
    await exchange.finished()
    assert house.inflight() == 0
    assert house.components.images.statistics().items == 0


@pytest.mark.parametrize("sent", [b"", CAT[:10]])
async def test_while_the_body_is_read(
    tmp_path: Path, backend: GatedBackend, nursery: trio.Nursery, sent: bytes
) -> None:
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=None) as exchange:
            if sent:
                exchange.send_body(sent)
            await trio.testing.wait_all_tasks_blocked()
            await leave(house, exchange)
    assert backend.calls == []


async def test_while_the_picture_is_drawn(tmp_path: Path, backend: GatedBackend, nursery: trio.Nursery) -> None:
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1
            await leave(house, exchange)
    assert (backend.finished, backend.settled) == (0, 1)


async def test_while_the_picture_is_stored(tmp_path: Path, backend: GatedBackend, nursery: trio.Nursery) -> None:
    backend.gate.set()
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house:
        store_is_busy = house.components.images._writing  # holds up the save where it waits for its turn
        async with (
            store_is_busy,
            open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange,
        ):
            while not store_is_busy.statistics().tasks_waiting:  # noqa: ASYNC110 -- a thread's progress has no event
                await trio.sleep(0.001)  # the hash is made in a thread
            assert house.inflight() == 1
            await leave(house, exchange)
    assert (backend.finished, backend.settled) == (1, 0)


async def test_while_the_answer_is_sent(tmp_path: Path, backend: GatedBackend, nursery: trio.Nursery) -> None:
    backend.gate.set()
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house:
        async with open_call(
            nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT_IN_BASE64, window=0
        ) as exchange:
            await exchange.started()
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1, "the slot is held until the last byte is sent"
            await leave(house, exchange)
    assert (backend.finished, backend.settled) == (1, 0)


async def test_while_what_was_held_is_given_back(tmp_path: Path, backend: GatedBackend) -> None:
    backend.settle_s = 0.01
    async with open_house(tmp_path, IMAGES_BACKEND="http_a1111") as house, trio.open_nursery() as connections:
        async with open_call(connections, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            exchange.disconnect()
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1
            connections.cancel_scope.cancel()
            await exchange.app_done.wait()
        assert (house.inflight(), backend.settled) == (0, 1)
