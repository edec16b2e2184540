"""WebSockets in memory and over TLS: messages however they are cut, caps, pings, ends, and what leaving does."""

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from wsproto.events import BytesMessage, CloseConnection, Pong, TextMessage

from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import open_upstream
from appliance.upstream.websocket import open_websocket
from appliance.upstream.websocket_call import WebSocketCall
from tests.fakes.http import open_server
from tests.fakes.websocket import Peer


def call(**changes):
    return WebSocketCall(
        **{"backend_class": "gpu", "url": "http://h:1/ws?a=b", "handshake_s": 5, "max_message_bytes": 100, **changes}
    )


class Backend:
    """The other end, in memory."""

    def __init__(self, *, connects_s=0.0):
        self.near, far = memory_stream_pair()
        self.peer = Peer(far)
        self.connects_s = connects_s

    async def connect(self, address):
        await trio.sleep(self.connects_s)
        return self.near

    def open(self, **changes):
        return open_websocket(call(**changes), self.connect, connect_s=2)


@asynccontextmanager
async def opened(**changes):
    backend = Backend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.peer.accept)
        async with backend.open(**changes) as websocket:
            yield websocket, backend.peer


async def test_text_and_bytes_come_and_go_as_they_are(autojump_clock):
    async with opened() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.listen)
        await peer.send("größer")
        await peer.send(b"\x00\xff")
        assert await websocket.receive() == "größer"
        assert await websocket.receive() == b"\x00\xff"
        await websocket.send("ä")
        await websocket.send(b"\x01")
        await wait_all_tasks_blocked()
        assert [event.data for event in peer.heard if isinstance(event, TextMessage | BytesMessage)] == ["ä", b"\x01"]
        nursery.cancel_scope.cancel()


async def test_the_request_says_who_asks_and_never_where_from(autojump_clock):
    async with opened(url="http://me:pa%20ss@h:1/ws?clientId=x", headers={"X-A": "b"}) as (_, peer):
        names = dict(peer.upgrade.extra_headers)
    assert peer.upgrade.target == "/ws?clientId=x"
    assert peer.upgrade.host == "h:1"
    assert names[b"authorization"] == b"Basic bWU6cGEgc3M="
    assert names[b"user-agent"] == b"appliance"
    assert names[b"x-a"] == b"b"
    assert b"origin" not in names
    assert not peer.upgrade.extensions


async def test_a_message_in_the_same_packet_as_the_consent_is_not_lost(autojump_clock):
    backend = Backend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: backend.peer.accept(with_it=b"\x81\x02hi"))
        async with backend.open() as websocket:
            assert await websocket.receive() == "hi"


@given(messages=st.lists(st.one_of(st.text(max_size=30), st.binary(max_size=40)), max_size=5), step=st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(messages, step):
    async def main():
        async with opened(max_message_bytes=200) as (websocket, peer):
            for message in messages:
                await peer.send(message, cut=lambda data: [data[at : at + step] for at in range(0, len(data), step)])
                assert await websocket.receive() == message

    trio.run(main)


async def test_a_message_of_several_frames_is_one_and_pings_may_come_between(autojump_clock):
    async with opened() as (websocket, peer):
        await peer.send_event(TextMessage(data="a", message_finished=False))
        await peer.ping()
        await peer.send_event(TextMessage(data="b", message_finished=True))
        assert await websocket.receive() == "ab"


async def test_a_ping_is_answered_with_its_own_payload(autojump_clock):
    async with opened() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.listen)
        await peer.ping()
        await peer.send("x")
        await websocket.receive()
        await wait_all_tasks_blocked()
        assert [event.payload for event in peer.heard if isinstance(event, Pong)] == [b"there?"]
        nursery.cancel_scope.cancel()


async def test_a_message_above_the_cap_ends_it_before_it_is_whole(autojump_clock):
    async with opened(max_message_bytes=100) as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.listen)
        await peer.send("fits")
        await peer.send_event(BytesMessage(data=b"x" * 101, message_finished=False))
        assert await websocket.receive() == "fits"
        for _ in range(2):
            with pytest.raises(UpstreamFailed, match="sent a message of more than 100 bytes"):
                await websocket.receive()
        await wait_all_tasks_blocked()
        assert [event.code for event in peer.heard if isinstance(event, CloseConnection)] == [1009]
        nursery.cancel_scope.cancel()


async def test_many_small_frames_cannot_go_around_the_cap(autojump_clock):
    async with opened(max_message_bytes=10) as (websocket, peer):
        for _ in range(11):
            await peer.send_event(BytesMessage(data=b"x", message_finished=False))
        with pytest.raises(UpstreamFailed, match="more than 10 bytes"):
            await websocket.receive()


async def test_a_close_is_answered_and_told(autojump_clock):
    async with opened() as (websocket, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.listen)
        await peer.send("last")
        await peer.close()
        assert await websocket.receive() == "last"
        with pytest.raises(UpstreamFailed, match="gpu closed its WebSocket"):
            await websocket.receive()
        with pytest.raises(UpstreamFailed, match="gpu closed its WebSocket"):
            await websocket.send("too late")
        await wait_all_tasks_blocked()
        assert any(isinstance(event, CloseConnection) for event in peer.heard)
        nursery.cancel_scope.cancel()


async def test_a_broken_connection_and_broken_frames_are_told(autojump_clock):
    async with opened() as (websocket, peer):
        await peer.stream.aclose()
        with pytest.raises(UpstreamFailed, match="broke off its WebSocket"):
            await websocket.receive()
        with pytest.raises(UpstreamFailed, match="broke off its WebSocket"):
            await websocket.send("x")
    async with opened() as (websocket, peer):
        await peer.stream.send_all(b"\xff\xff\xff\xff\xff\xff")
        with pytest.raises(UpstreamFailed, match="closed its WebSocket"):
            await websocket.receive()


async def test_text_that_is_not_utf8_ends_it(autojump_clock):
    async with opened() as (websocket, peer):
        await peer.stream.send_all(b"\x81\x02\xff\xfe")
        with pytest.raises(UpstreamFailed):
            await websocket.receive()


async def test_a_cancelled_receive_loses_nothing(autojump_clock):
    async with opened() as (websocket, peer):
        packets = []
        await peer.send("whole", cut=lambda data: packets.append(data) or [])
        await peer.stream.send_all(packets[0][:3])
        with trio.move_on_after(1) as gave_up:
            await websocket.receive()
        assert gave_up.cancelled_caught
        await peer.stream.send_all(packets[0][3:])
        assert await websocket.receive() == "whole"


async def test_leaving_says_goodbye_and_closes_even_when_cancelled(autojump_clock):
    backend = Backend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.peer.accept)
        with trio.move_on_after(1):
            async with backend.open() as websocket:
                await websocket.receive()
    await backend.peer.listen()  # ends only with the connection
    assert [event.code for event in backend.peer.heard if isinstance(event, CloseConnection)] == [1000]


async def test_refusal_names_its_status(autojump_clock):
    backend = Backend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.peer.reject, 403)
        with pytest.raises(UpstreamFailed, match="gpu answered 403 to a WebSocket") as failed:
            async with backend.open():
                pytest.fail("it was refused")
    assert failed.value.extra["status"] == 403


@pytest.mark.parametrize("said", [b"garbage\r\n\r\n", b"HTTP/1.1 101 Fine\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n", b""])
async def test_what_is_no_consent_is_a_failure(autojump_clock, said):
    backend = Backend()

    async def answers():
        await backend.peer.stream.receive_some()
        await backend.peer.stream.send_all(said)
        await backend.peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answers)
        with pytest.raises(UpstreamFailed):
            async with backend.open():
                pytest.fail("it was refused")
    with pytest.raises(trio.ClosedResourceError):
        await backend.near.send_all(b"x")


async def test_deadlines_of_connecting_and_of_the_handshake_are_named(autojump_clock):
    with pytest.raises(UpstreamTimeout, match=r"gpu took no connection within 2 s \(connect deadline\)"):
        async with Backend(connects_s=3).open():
            pytest.fail("it never connects")
    silent = Backend()
    with pytest.raises(UpstreamTimeout, match=r"gpu did not answer within 5 s \(first byte deadline\)"):
        async with silent.open():
            pytest.fail("it never consents")
    with pytest.raises(trio.ClosedResourceError):
        await silent.near.send_all(b"x")


async def test_nothing_is_written_before_it_is_said_to_be_connected(autojump_clock):
    said = []
    backend = Backend(connects_s=3)
    with pytest.raises(UpstreamTimeout):
        async with backend.open(on_connected=lambda: said.append("connected")):
            pytest.fail("it never connects")
    assert said == []
    async with opened(on_connected=lambda: said.append("connected")):
        assert said == ["connected"]


@pytest.mark.parametrize(
    ("url", "words"),
    [("ftp://h", "neither http"), ("http://", "without a host"), ("http://h:1/", "a header holds")],
)
async def test_what_cannot_be_asked_is_told(autojump_clock, url, words):
    with pytest.raises(UpstreamFailed, match=words):
        async with Backend().open(url=url, headers={"X-A": "b\r\nc"}):
            pytest.fail("it cannot be asked")


async def test_it_speaks_tls_as_every_other_call(loopback_clock, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    async def serve(request):
        peer = await Peer.over(request)
        await peer.send("secret")
        await peer.listen()

    async with open_server(serve, ssl_context=context) as server:
        async with open_upstream(Settings(backend_ca_bundle=bundle)) as upstream:
            async with upstream.open_websocket(call(url=server.base_url + "/ws")) as websocket:
                assert await websocket.receive() == "secret"
        async with open_upstream(Settings()) as upstream:
            with pytest.raises(UpstreamFailed, match="failed the TLS handshake"):
                async with upstream.open_websocket(call(url=server.base_url + "/ws")):
                    pytest.fail("nobody vouches for it")
