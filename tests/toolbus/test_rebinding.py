"""DNS rebinding, with a real name server: its second answer leads inside, and nobody asks for it."""

import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from appliance.toolbus.builtin import http_fetch
from tests.fakes.http import Request, open_server
from tests.toolbus.environments import make_environment, refused

HEADER = struct.Struct("!6H")
A, IN = 1, 1


@dataclass
class NameServer:
    """Answers every A question over UDP with the next of its addresses, the last one from then on; TTL 0."""

    answers: list[str]
    sock: trio.socket.SocketType
    questions: list[str] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            packet, peer = await self.sock.recvfrom(512)
            await self.sock.sendto(self.answer(packet), peer)

    def answer(self, packet: bytes) -> bytes:
        identifier = HEADER.unpack_from(packet)[0]
        question = packet[HEADER.size : packet.index(b"\0", HEADER.size) + 5]
        self.questions.append(read_name(question))
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        record = b"\xc0\x0c" + struct.pack("!HHIH", A, IN, 0, 4) + socket.inet_aton(address)
        return HEADER.pack(identifier, 0x8180, 1, 1, 0, 0) + question + record


@dataclass(frozen=True)
class Resolver:
    """Asks that server anew each time, as a resolver that obeys a TTL of 0 does."""

    port: int

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
        query = HEADER.pack(7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", A, IN)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.connect(("127.0.0.1", self.port))
            await sock.send(query)
            reply = await sock.recv(512)
        return [socket.inet_ntoa(reply[-4:])]


def read_name(question: bytes) -> str:
    labels, at = [], 0
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels)


@asynccontextmanager
async def open_names(*answers: str) -> AsyncIterator[tuple[NameServer, Resolver]]:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        server = NameServer(list(answers), sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield server, Resolver(sock.getsockname()[1])
            nursery.cancel_scope.cancel()


async def answer(request: Request) -> None:
    await request.respond(200, b"the inside")


async def test_answer_that_changes_between_two_look_ups_leads_nowhere_inside() -> None:
    """A guard that looked the name up to check it, and again to connect, would reach the server here."""
    async with open_server(answer) as inside, open_names("198.51.100.1", "127.0.0.1") as (names, resolve):
        tool = http_fetch.make(make_environment(resolve=resolve, tools_http_allowed_hosts=("rebind.example",)))
        url = f"http://rebind.example:{inside.port}/"
        first = await refused(tool, {"url": url})
        second = await refused(tool, {"url": url})
        assert (first.kind, second.kind) == ("address_not_allowed", "address_not_allowed")
        assert names.questions == ["rebind.example"] * 2, "one look-up for each fetch"
        assert inside.statistics.connections_ever == 0


async def test_the_address_that_was_checked_is_the_one_that_is_dialled() -> None:
    """The first answer is the server, and may be asked; the second would be somebody else's."""
    async with open_server(answer) as inside, open_names("127.0.0.1", "127.0.0.2") as (names, resolve):
        tool = http_fetch.make(make_environment(resolve=resolve, tools_http_allowed_hosts=("app.localhost",)))
        url = f"http://app.localhost:{inside.port}/"
        assert (await tool.run({"url": url})).fields["body_text"] == "the inside"
        assert names.questions == ["app.localhost"]
        assert (await refused(tool, {"url": url})).kind == "unreachable"
