"""Pictures as a stream of events: previews, the whole, errors, silence, and clients that are slow or gone."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.sse import PING, SseReader, data_of
from tests.asgi import Exchange, open_call
from tests.gated_backend import PNG, GatedBackend
from tests.house import AUTH, GENERATIONS, House, open_house

JSON_AUTH = {**AUTH, "content-type": "application/json"}
JPEG = b"\xff\xd8\xff\xe0 a preview"


def streamed(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a cat", "size": "64x48", "stream": True, **fields}).encode()


def stream(nursery: trio.Nursery, house: House, *, window: float = 1000, **fields: Any) -> Any:
    return open_call(
        nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=streamed(**fields), window=window
    )


def read(events: bytes) -> list[dict[str, Any]]:
    """The data of each event, checked to be named as its type says."""
    found = []
    for event in SseReader(max_event_bytes=1 << 24).feed(events):
        data = data_of(event)
        if data is not None:
            found.append(json.loads(data))
            name = event.partition(b"\n")[0]
            assert "error" in found[-1] or name == b"event: " + found[-1]["type"].encode()
    return found


async def next_event(exchange: Exchange) -> dict[str, Any]:
    chunk = await exchange.chunk()
    assert chunk is not None
    (event,) = read(chunk)
    return event


async def test_previews_come_as_they_are_shown_and_the_picture_ends_the_stream(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, partial_images=2) as exchange:
        await exchange.started()
        assert exchange.header("content-type") == "text/event-stream"
        assert (exchange.header("cache-control"), exchange.header("x-accel-buffering")) == ("no-cache", "no")
        assert exchange.header("x-backend-used") == "gpu_heavy"
        await trio.testing.wait_all_tasks_blocked()
        for index, progress in enumerate([0.4, 0.7]):
            backend.show(JPEG, progress)
            event = await next_event(exchange)
            assert event.pop("created_at") > 0
            assert base64.b64decode(event.pop("b64_json")) == JPEG
            assert event == {
                "type": "image_generation.partial_image",
                "size": "64x48",
                "quality": "auto",
                "background": "auto",
                "output_format": "jpeg",
                "partial_image_index": index,
            }
        assert [call.previews for call in backend.calls] == [2]
        backend.gate.set()
        last = await next_event(exchange)
        assert await exchange.chunk() is None, "no [DONE]: OpenAI's image streams have none"
    assert last["type"] == "image_generation.completed"
    assert base64.b64decode(last["b64_json"]) == PNG
    assert (last["output_format"], last["usage"]["total_tokens"], last["_gateway"]["seed"]) == ("png", 0, 7)
    assert house.inflight() == 0


async def test_a_stream_without_previews_asks_the_backend_for_none(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, quality="high") as exchange:
        (event,) = read(await exchange.body())
    assert (event["type"], event["quality"]) == ("image_generation.completed", "high")
    assert [call.on_preview for call in backend.calls] == [None]
    assert house.components.images.statistics().items == 0, "base64: nothing is stored"


async def test_a_slow_client_gets_the_latest_preview_and_slows_nobody(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, window=0, partial_images=3) as exchange:
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            backend.show(JPEG + b"%d" % number, 0.5)
            await trio.testing.wait_all_tasks_blocked()
        shown = [base64.b64decode((await next_event(exchange))["b64_json"]) for _ in range(2)]
        backend.gate.set()
        events = read(await exchange.body())
    assert shown == [JPEG + b"0", JPEG + b"9"]
    assert [event["type"] for event in events] == ["image_generation.completed"]


async def test_an_error_after_the_first_byte_is_one_event_and_the_end(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.fail = UpstreamFailed("gpu_heavy broke off the connection.", upstream="gpu_heavy")
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, partial_images=1) as exchange:
        await exchange.started()
        assert exchange.status == 200
        backend.gate.set()
        (event,) = read(await exchange.body())
        assert exchange.complete
        await exchange.finished()
        assert house.inflight() == 0
    assert event["error"]["code"] == "upstream_error"
    assert event["error"]["upstream"] == "gpu_heavy"


async def test_a_fault_of_ours_is_one_event_too_and_the_log_has_it(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.fail = ZeroDivisionError()
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house) as exchange:
        (event,) = read(await exchange.body())
    assert event["error"]["code"] == "internal_error"
    assert [line["kinds"] for line in house.logged] == [["ZeroDivisionError"]]


async def test_refusals_before_the_first_byte_are_plain_answers(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house:
        async with stream(nursery, house), stream(nursery, house):
            await trio.testing.wait_all_tasks_blocked()
            refused = await house.draw(stream=True, partial_images=1)
    assert (refused.status, refused.header("content-type")) == (429, "application/json")


async def test_silence_is_filled_with_pings(
    tmp_path: Path,
    backend: GatedBackend,
    drawing: dict[str, str],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, partial_images=1) as exchange:
        started = trio.current_time()
        assert [await exchange.chunk(), await exchange.chunk()] == [PING, PING]
        assert trio.current_time() - started == pytest.approx(30)
        backend.show(JPEG, 0.5)
        assert (await next_event(exchange))["type"] == "image_generation.partial_image"
        backend.gate.set()
        assert (await next_event(exchange))["type"] == "image_generation.completed"


@pytest.mark.parametrize("shown", [0, 1])
@pytest.mark.parametrize("window", [0, 1000])
async def test_a_client_that_leaves_has_its_drawing_cancelled(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery, shown: int, window: float
) -> None:
    """Waiting for a preview, or while one is being sent."""
    async with open_house(tmp_path, **drawing) as house:
        async with stream(nursery, house, window=window, partial_images=3) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(shown):
                backend.show(JPEG, 0.5)
            await trio.testing.wait_all_tasks_blocked()
            exchange.disconnect()
            await exchange.finished()
            assert (house.inflight(), backend.finished, backend.settled) == (0, 0, 1)


async def test_a_client_that_leaves_while_the_picture_is_sent_gives_the_slot_back(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, window=0) as exchange:
        await exchange.started()
        await trio.testing.wait_all_tasks_blocked()
        assert house.inflight() == 1
        exchange.disconnect()
        await exchange.finished()
        assert (house.inflight(), backend.finished) == (0, 1)


async def test_the_mock_streams_its_picture_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house, partial_images=3) as exchange:
        (event,) = read(await exchange.body())
    assert (event["type"], event["output_format"]) == ("image_generation.completed", "svg")


async def test_a_class_that_forbids_base64_streams_nothing(tmp_path: Path) -> None:
    (tmp_path / "backends.yaml").write_text(
        "backends:\n  gpu_heavy:\n    base_url: http://127.0.0.1:9\n    provider: a1111\n"
        "    supported_capabilities: [images]\n    payload_policy: {images_allow_base64: false}\n"
    )
    async with open_house(tmp_path, BACKENDS_CONFIG_PATH=str(tmp_path / "backends.yaml")) as house:
        refused = await house.draw(stream=True)
    assert (refused.status, refused.json()["error"]["code"]) == (400, "payload_policy_violation")


async def test_a_stopping_gateway_tells_a_stream_as_its_last_event(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house, stream(nursery, house, partial_images=1) as exchange:
        await exchange.started()
        await trio.testing.wait_all_tasks_blocked()
        house.site.stop_visits()
        (event,) = read(await exchange.body())
        await exchange.finished()
        assert (house.inflight(), backend.settled) == (0, 1)
    assert event["error"]["code"] == "shutting_down"
