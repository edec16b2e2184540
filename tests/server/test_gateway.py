"""Gateway: one id, one stack, one answer and one journal line for every request, however it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.errors import InvalidRequest
from appliance.server.direct import RouteTable
from appliance.server.exchange import Answer, Handler, Request, SendPiece
from appliance.telemetry.exposition import write_page
from tests.asgi import call, open_call
from tests.gated_backend import GatedBackend
from tests.house import AUTH, GENERATIONS, House, open_house

JSON_AUTH = {**AUTH, "content-type": "application/json"}
CAT = json.dumps({"prompt": "a cat", "size": "64x48", "response_format": "b64_json"}).encode()


def serve(house: House, handler: Handler) -> None:
    """Serve this at /stand-in, too."""
    house.site.api._routes = RouteTable({**house.site.api.routes, "/stand-in": {"GET": handler}})


def journal_lines(house: House) -> list[dict[str, Any]]:
    """What waits to be written."""
    assert house.components.journal is not None
    receive = house.components.journal._receive
    lines = []
    while True:
        try:
            lines.append(json.loads(receive.receive_nowait()))
        except trio.WouldBlock:
            return lines


async def test_a_drawn_picture_leaves_one_line_with_what_happened(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    async with open_house(tmp_path, **drawing) as house:
        answer = await house.draw(response_format="b64_json")
        [line] = journal_lines(house)
    assert line["request_id"] == answer.header("x-request-id")
    expected = {
        "method": "POST",
        "route": GENERATIONS,
        "status": 200,
        "outcome": "completed",
        "backend_class": "gpu_heavy",
    }
    assert expected.items() <= line.items()
    assert line["bytes_out"] == len(answer.body)
    assert "prompt" not in json.dumps(line)


async def test_a_client_that_leaves_gives_the_slot_back_after_the_backend_settled(
    tmp_path: Path,
    backend: GatedBackend,
    drawing: dict[str, str],
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    backend.settle_s = 3
    async with open_house(tmp_path, **drawing) as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1
            left_at = trio.current_time()
            exchange.disconnect()
            await trio.sleep(2.9)
            assert house.inflight() == 1, "the backend is still busy"
            await exchange.finished()
            assert trio.current_time() - left_at == pytest.approx(3)
        assert (house.inflight(), backend.settled, backend.finished) == (0, 1, 0)
        [line] = journal_lines(house)
        assert (line["outcome"], line["status"], line["release_ms"]) == (
            "disconnected",
            499,
            pytest.approx(3000, abs=1),
        )
        assert "gateway_disconnect_release_seconds_count 1.0" in write_page(house.components.metrics.read())[0].decode()


async def test_a_backend_that_never_settles_gives_the_slot_back_at_the_bound(
    tmp_path: Path,
    backend: GatedBackend,
    drawing: dict[str, str],
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
) -> None:
    backend.settle_s = 1e6
    async with open_house(tmp_path, BACKEND_CANCEL_TIMEOUT_SEC="10", **drawing) as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            left_at = trio.current_time()
            exchange.disconnect()
            with trio.CancelScope() as waiting:
                waiting.deadline = left_at + 100
                await exchange.app_done.wait()
            assert trio.current_time() - left_at == pytest.approx(15)
        assert house.inflight() == 0


async def test_on_disconnect_finish_lets_the_picture_end(
    tmp_path: Path, backend: GatedBackend, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    (tmp_path / "backends.yaml").write_text(
        "backends:\n  gpu_heavy:\n    base_url: http://127.0.0.1:9\n    provider: a1111\n"
        "    supported_capabilities: [images]\n    on_disconnect: finish\n"
    )
    settings = {"IMAGES_BACKEND": "http_a1111", "BACKENDS_CONFIG_PATH": str(tmp_path / "backends.yaml")}
    async with open_house(tmp_path, **settings) as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            exchange.disconnect()
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1
            backend.gate.set()
            await exchange.finished()
        assert (house.inflight(), backend.finished, backend.settled) == (0, 1, 0)


async def test_a_stopping_gateway_tells_running_requests_and_gives_their_slots_back(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str], nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path, **drawing) as house:
        async with open_call(nursery, house.site.api, "POST", GENERATIONS, headers=JSON_AUTH, body=CAT) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            house.site.stop_visits()
            await exchange.started()
            assert exchange.status == 503
            assert exchange.header("retry-after") == "5"
            assert json.loads(await exchange.body())["error"]["code"] == "shutting_down"
        assert (house.inflight(), backend.settled) == (0, 1)


async def test_a_fault_of_ours_is_a_500_that_says_nothing_and_a_log_line_that_says_where(
    tmp_path: Path, backend: GatedBackend, drawing: dict[str, str]
) -> None:
    backend.gate.set()
    backend.fail = ZeroDivisionError("secret /etc/path")
    async with open_house(tmp_path, **drawing) as house:
        answer = await house.draw()
        assert answer.status == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "secret" not in answer.body.decode() + json.dumps(house.logged)
        [event] = [line for line in house.logged if line["event"] == "request_failed"]
        assert event["kinds"] == ["ZeroDivisionError"]
        assert event["request_id"] == answer.header("x-request-id")
        assert house.inflight() == 0


async def test_a_group_with_one_error_of_ours_answers_with_it(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:

        async def handle(_request: Request) -> Answer:
            async with trio.open_nursery():
                raise InvalidRequest("inner")

        serve(house, handle)
        answer = await house.ask("GET", "/stand-in")
    assert (answer.status, answer.json()["error"]["message"]) == (400, "inner")


async def test_what_a_request_holds_is_given_back_in_reverse_and_even_when_one_thing_fails(tmp_path: Path) -> None:
    given_back: list[str] = []

    async with open_house(tmp_path) as house:

        async def handle(request: Request) -> Answer:
            visit = request.visit
            visit.stack.callback(given_back.append, "first")

            async def fail() -> None:
                given_back.append("second")
                raise OSError("x")

            visit.stack.push_async_callback(fail)
            raise RuntimeError

        serve(house, handle)
        answer = await house.ask("GET", "/stand-in")
    assert answer.status == 500
    assert given_back == ["second", "first"]
    assert [line["event"] for line in house.logged] == ["request_failed", "request_failed"]


async def test_an_answer_that_has_begun_is_cut_and_not_mended(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_house(tmp_path) as house:

        async def write(send: SendPiece) -> None:
            await send(b"half")
            raise RuntimeError

        async def handle(_request: Request) -> Answer:
            return Answer(write)

        serve(house, handle)
        async with open_call(nursery, house.site.api, "GET", "/stand-in", headers=AUTH) as exchange:
            await exchange.app_done.wait()
            assert (exchange.status, await exchange.body(), exchange.complete) == (200, b"half", False)
        [line] = journal_lines(house)
    assert (line["outcome"], line["status"], line["code"]) == ("failed", 200, "internal_error")


async def test_a_full_journal_never_holds_up_a_request(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        for _ in range(4200):
            house.components.journal.record_nowait({"x": 1})  # type: ignore[union-attr]
        assert (await house.ask("GET", "/health", headers={})).status == 200
        assert house.components.journal.statistics().dropped > 0  # type: ignore[union-attr]


async def test_the_route_label_is_a_template_and_never_a_path(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.ask("GET", "/ui/images/" + "a" * 64 + ".png")
        await house.ask("GET", "/some/invented/path")
        page = write_page(house.components.metrics.read())[0].decode()
    assert 'path="/ui/images/<name>"' in page
    assert "invented" not in page


async def test_two_answers_are_never_sent(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer = await call(house.site.api, "HEAD", "/nothing", headers=AUTH)
    assert (answer.status, answer.body) == (404, b"")
