"""A model server that costs next to nothing: one epoll, bytes made beforehand, chunks that carry when they were sent.

A process of its own (`python -m tools.bench.fast_upstream`), so that its clock is not held up by whoever measures. It
prints its port and ends when its stdin does. A message `chunks=N interval_us=M` says how a stream is to be paced.
"""

import heapq
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field

CHUNK_PATTERN = re.compile(rb"t(\d{10}\.\d{6})")  # what a client finds the time of sending by

_PACE = re.compile(rb"chunks=(\d+) interval_us=(\d+)")
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: bytes, finish: bytes = b"null") -> bytes:
    head = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    return head + b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n' % (delta, finish)


_WHOLE = _response(
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"A lighthouse stands on the long coast and counts the ships."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":12,"total_tokens":24}}'
)
_MODELS = _response(b'{"object":"list","data":[{"id":"m","object":"model","created":1700000000,"owned_by":"bench"}]}')
_NOT_FOUND = _response(b'{"error":{"message":"Not Found"}}', b"404 Not Found")
_EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_OPENING = _EVENTS_HEAD + _chunked(_event(b'{"role":"assistant","content":""}'))
_WORD = _chunked(_event(b'{"content":"tTTTTTTTTTT.TTTTTT"}')).split(b"tTTTTTTTTTT.TTTTTT")
_CLOSING = _chunked(_event(b"{}", b'"stop"')) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    received: bytes = b""
    unsent: bytearray = field(default_factory=bytearray)


@dataclass(order=True, slots=True)
class _Stream:
    """A stream in the schedule, ordered by when its next chunk is due."""

    due_s: float
    number: int
    connection: _Connection = field(compare=False)
    left: int = field(compare=False)
    interval_s: float = field(compare=False)


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._schedule: list[_Stream] = []
        self._streams = 0

    def run(self) -> None:
        """Serve until stdin ends."""
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        while True:
            wait_s = self._schedule[0].due_s - time.monotonic() if self._schedule else 1.0
            for fd, events in self._poll.poll(max(0.0, wait_s)):
                if fd == sys.stdin.fileno():
                    return
                if fd == self._listener.fileno():
                    self._accept()
                elif connection := self._connections.get(fd):
                    self._serve(connection, events)
            self._send_due()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = _Connection(accepted)
        self._poll.register(accepted, select.EPOLLIN)

    def _serve(self, connection: _Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            self._send(connection, b"")
        if not events & ~select.EPOLLOUT:
            return
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.received += data
        while request := _take_request(connection):
            self._answer(connection, *request)

    def _answer(self, connection: _Connection, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST "):
            self._send(connection, _MODELS if b"/models " in head else _NOT_FOUND)
            return
        pace = _PACE.search(body) if _STREAM.search(body) else None
        if pace is None:
            self._send(connection, _WHOLE)
            return
        self._send(connection, _OPENING)
        self._streams += 1
        interval_s = int(pace[2]) / 1e6
        first_s = time.monotonic() + interval_s
        heapq.heappush(self._schedule, _Stream(first_s, self._streams, connection, int(pace[1]), interval_s))

    def _send_due(self) -> None:
        now_s = time.monotonic()
        while self._schedule and self._schedule[0].due_s <= now_s:
            stream = self._schedule[0]
            if stream.connection.socket.fileno() < 0:  # its client has left
                heapq.heappop(self._schedule)
                continue
            self._send(stream.connection, b"t%017.6f".join(_WORD) % time.monotonic())
            stream.left -= 1
            stream.due_s += stream.interval_s
            if stream.left:
                heapq.heapreplace(self._schedule, stream)
                continue
            heapq.heappop(self._schedule)
            self._send(stream.connection, _CLOSING)

    def _send(self, connection: _Connection, data: bytes) -> None:
        """As much as goes; the rest when there is room."""
        connection.unsent += data
        try:
            sent = connection.socket.send(connection.unsent) if connection.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        was_full = sent < len(connection.unsent)
        del connection.unsent[:sent]
        self._poll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if was_full else 0))

    def _drop(self, connection: _Connection) -> None:
        if connection.socket.fileno() >= 0:
            del self._connections[connection.socket.fileno()]
            connection.socket.close()


def _take_request(connection: _Connection) -> tuple[bytes, bytes] | None:
    """Head and body of the next whole request. Trusts the framing: Content-Length only."""
    head, found, rest = connection.received.partition(_HEAD_END)
    length = _LENGTH.search(head)
    size = int(length[1]) if length else 0
    if not found or len(rest) < size:
        return None
    connection.received = rest[size:]
    return head, rest[:size]


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server_socket:
        print(server_socket.getsockname()[1], flush=True)
        _Server(server_socket).run()
