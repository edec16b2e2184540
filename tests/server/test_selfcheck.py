"""The self-check: each part moves for real, and one that does not is seen."""

import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from socket import create_server, socket

import pytest
import trio
import trustme

from appliance.host.watchdog import find_stalled
from appliance.server.selfcheck import answers, gateway_checks
from tests.house import open_house

PATIENCE_S = 5.0


@pytest.fixture
def silent() -> Iterator[socket]:
    """It listens, the kernel takes connections, and nobody accepts."""
    with create_server(("127.0.0.1", 0)) as listening:
        yield listening


async def greet(stream: trio.abc.Stream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")


async def test_any_answer_is_an_answer(nursery: trio.Nursery) -> None:
    [listener] = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
    host, port = listener.socket.getsockname()[:2]
    assert await answers(host, port, tls=False)
    nursery.cancel_scope.cancel()


async def test_a_listener_that_is_bound_to_all_is_reached_and_tls_is_spoken(nursery: trio.Nursery) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("gateway.example").configure_cert(context)
    [listener] = await nursery.start(partial(trio.serve_ssl_over_tcp, greet, 0, context, host="127.0.0.1"))
    port = listener.transport_listener.socket.getsockname()[1]
    assert await answers("0.0.0.0", port, tls=True)
    nursery.cancel_scope.cancel()


async def test_a_port_that_nobody_listens_on_does_not_answer(silent: socket) -> None:
    host, port = silent.getsockname()
    silent.close()
    assert not await answers(host, port, tls=False)


async def test_a_listener_that_does_not_accept_is_named(tmp_path: Path, silent: socket) -> None:
    async with open_house(tmp_path) as house:
        checks = gateway_checks(house.components, silent, False, None)
        assert await find_stalled(checks, 0.05) == "api listener"
        house.components.lifecycle.begin_draining()
        assert await find_stalled(checks, PATIENCE_S) is None, "draining, it is meant not to accept"


async def test_a_journal_that_does_not_write_is_named_until_it_does(tmp_path: Path, silent: socket) -> None:
    async with open_house(tmp_path) as house, trio.open_nursery() as nursery:
        house.components.lifecycle.begin_draining()
        checks = gateway_checks(house.components, silent, False, None)
        assert await find_stalled(checks, PATIENCE_S) is None, "nothing is to be written"
        journal = house.components.journal
        assert journal is not None
        journal.record_nowait({"route": "/health"})
        assert await find_stalled(checks, 0.05) == "request journal"
        nursery.start_soon(journal.run)
        assert await find_stalled(checks, PATIENCE_S) is None
        journal.close_nowait()
