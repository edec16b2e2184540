"""The in-memory ASGI client: what it promises to the tests that lean on it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from tests.asgi import call, open_call


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-method", scope["method"].encode())]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def make_quart_app(seen: list[str]) -> QuartTrio:
    app = QuartTrio("tests.small")

    @app.post("/echo")
    async def echo() -> tuple[Any, int, dict[str, str]]:
        return await request.get_data(), 201, {"X-Query": request.query_string.decode()}

    @app.get("/slow")
    async def slow() -> str:
        try:
            await trio.sleep(3600)
        finally:
            seen.append("cancelled")
        return "late"

    @app.get("/stream")
    async def stream() -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                for number in range(3600):
                    yield b"%d\n" % number
                    seen.append(f"sent {number}")
                    await trio.sleep(1)
            finally:
                seen.append("ended")

        return pieces()

    return app


async def test_call_returns_status_headers_and_body() -> None:
    response = await call(echo_app, "POST", "/x?a=1", body=b"hello")
    assert (response.status, response.header("X-Method"), response.body) == (200, "POST", b"hello")
    assert response.header("x-absent") is None


async def test_head_and_204_answers_carry_no_body() -> None:
    assert (await call(echo_app, "HEAD", "/", body=b"hello")).body == b""


async def test_call_raises_what_the_app_raised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await call(app, "GET", "/")


async def test_call_refuses_an_answer_cut_short() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    with pytest.raises(AssertionError, match="middle"):
        await call(app, "GET", "/")


async def test_call_refuses_an_app_that_never_answers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    with pytest.raises(AssertionError, match="without an answer"):
        await call(app, "GET", "/")


async def test_call_refuses_a_body_that_is_not_as_long_as_promised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"four"})

    with pytest.raises(AssertionError, match="content-length 3, body 4"):
        await call(app, "GET", "/")


async def test_an_app_that_waits_after_its_answer_hears_the_disconnect() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo_app(scope, receive, send)
        heard.append((await receive())["type"])

    await call(app, "GET", "/")
    assert heard == ["http.disconnect"]


async def test_held_request_is_fed_and_read_piece_by_piece(nursery: trio.Nursery) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["more_body"]:
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with open_call(nursery, app, "POST", "/", body=None) as exchange:
        await exchange.started()
        exchange.send_body(b"one")
        assert await exchange.chunk() == b"ONE"
        exchange.send_body(b"two")
        assert await exchange.chunk() == b"TWO"
        exchange.end_body()
        assert await exchange.chunk() is None
        assert exchange.complete


async def test_a_reader_that_stopped_holds_the_app_until_it_reads_or_leaves(nursery: trio.Nursery) -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(10):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent.append(number)

    async with open_call(nursery, app, "GET", "/", window=0) as exchange:
        await trio.testing.wait_all_tasks_blocked()
        assert sent == []
        assert await exchange.chunk() == b"x"
        await trio.testing.wait_all_tasks_blocked()
        assert sent == [0]
        exchange.disconnect()
        await exchange.finished()
        assert await exchange.body() == b"x"  # what was under way when it left
    assert len(sent) == 10  # what is sent to a client that is gone is dropped


async def test_an_answer_that_begins_after_the_client_left_is_dropped(nursery: trio.Nursery) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async with open_call(nursery, app, "GET", "/") as exchange:
        exchange.disconnect()
        await exchange.finished()
        assert await exchange.body() == b""
    assert not exchange.complete


async def test_an_app_that_ignores_the_hang_up_is_named(nursery: trio.Nursery, autojump_clock: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    with pytest.raises(AssertionError, match="still running"):
        async with open_call(nursery, app, "GET", "/"):
            pass
    nursery.cancel_scope.cancel()


async def test_the_tests_own_error_is_not_hidden_by_the_apps(nursery: trio.Nursery) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    with pytest.raises(ZeroDivisionError):
        async with open_call(nursery, app, "GET", "/"):
            raise ZeroDivisionError


async def test_quart_app_answers() -> None:
    response = await call(make_quart_app([]), "POST", "/echo?q=1", body=b"hello")
    assert (response.status, response.body, response.header("x-query")) == (201, b"hello", "q=1")


async def test_quart_handler_is_cancelled_when_the_client_leaves(nursery: trio.Nursery, autojump_clock: Any) -> None:
    seen: list[str] = []
    async with open_call(nursery, make_quart_app(seen), "GET", "/slow") as exchange:
        await trio.testing.wait_all_tasks_blocked()
        started_s = trio.current_time()
        exchange.disconnect()
        await exchange.finished()
    assert seen == ["cancelled"]
    assert trio.current_time() == started_s


async def test_quart_stream_ends_when_the_client_leaves_in_the_middle(
    nursery: trio.Nursery, autojump_clock: Any
) -> None:
    seen: list[str] = []
    async with open_call(nursery, make_quart_app(seen), "GET", "/stream") as exchange:
        assert await exchange.chunk() == b"0\n"
        assert await exchange.chunk() == b"1\n"
        exchange.disconnect()
        await exchange.finished()
    assert seen[:1] == ["sent 0"]
    assert "ended" in seen
