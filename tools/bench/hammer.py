"""A lean load generator: many keep-alive clients on one epoll, in a thread, at a few tens of microseconds a request."""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Shot:
    """One answered request. latency_s: from when it was due, so that a late start counts."""

    latency_s: float
    status: int
    has_retry_after: bool


@dataclass(frozen=True, slots=True)
class Volley:
    """All of a run. `lost`: requests whose connection ended without an answer."""

    shots: tuple[Shot, ...]
    lost: int
    reconnects: int
    elapsed_s: float

    @property
    def latencies_ms(self) -> list[float]:
        return [shot.latency_s * 1000 for shot in self.shots]

    def count(self, status: int) -> int:
        return sum(shot.status == status for shot in self.shots)


class _Client:
    """One connection. `due_s`: when its next request should leave."""

    def __init__(self, port: int, due_s: float) -> None:
        self.port = port
        self.due_s = due_s
        self.waiting = False
        self.buffer = b""
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def reconnect(self) -> None:
        self.socket.close()
        self.socket = self._connect()
        self.waiting = False
        self.buffer = b""


def hammer(
    port: int, requests: Sequence[bytes], *, clients: int, total: int, pace_s: float = 0.0, timeout_s: float = 120.0
) -> Volley:
    """Send `total` requests, taken in turn from `requests`. Blocks: run it in a thread.

    pace_s: each client sends one request per so many seconds, whatever the answers do; 0: the next one at once after
    each answer. Raises TimeoutError if it takes longer than `timeout_s`.
    """
    started_s = time.perf_counter()
    run = _Run(requests, total, pace_s)
    crowd = [_Client(port, started_s + pace_s * number / clients) for number in range(clients)]
    poll = select.epoll()
    by_fd: dict[int, _Client] = {}
    try:
        for client in crowd:
            _register(poll, by_fd, client)
        while run.done < total:
            if time.perf_counter() - started_s > timeout_s:
                raise TimeoutError(f"{run.done} of {total} requests after {timeout_s:g} s")
            run.send_due(crowd)
            for fd, _ in poll.poll(run.patience_s(crowd)):
                client = by_fd[fd]
                if run.receive(client):
                    continue
                del by_fd[fd]  # the kernel forgets a closed descriptor by itself
                client.reconnect()
                _register(poll, by_fd, client)
    finally:
        poll.close()
        for client in crowd:
            client.socket.close()
    return Volley(tuple(run.shots), run.lost, run.reconnects, time.perf_counter() - started_s)


def _register(poll: select.epoll, by_fd: dict[int, _Client], client: _Client) -> None:
    by_fd[client.socket.fileno()] = client
    poll.register(client.socket, select.EPOLLIN)


class _Run:
    """The bookkeeping of one volley."""

    def __init__(self, requests: Sequence[bytes], total: int, pace_s: float) -> None:
        self._requests = requests
        self._total = total
        self._pace_s = pace_s
        self._sent = 0
        self.shots: list[Shot] = []
        self.lost = 0
        self.reconnects = 0

    @property
    def done(self) -> int:
        return len(self.shots) + self.lost

    def send_due(self, crowd: Sequence[_Client]) -> None:
        now_s = time.perf_counter()
        for client in crowd:
            if client.waiting or client.due_s > now_s or self._sent >= self._total:
                continue
            if not self._pace_s:
                client.due_s = now_s
            client.waiting = True
            client.socket.sendall(self._requests[self._sent % len(self._requests)])
            self._sent += 1

    def patience_s(self, crowd: Sequence[_Client]) -> float:
        """How long nothing is due."""
        if not self._pace_s or self._sent >= self._total:
            return 0.1
        idle = [client.due_s for client in crowd if not client.waiting]
        return min(0.1, max(0.0, min(idle, default=time.perf_counter() + 0.1) - time.perf_counter()))

    def receive(self, client: _Client) -> bool:
        """Take what came; False if the connection is over."""
        try:
            data = client.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.lost += client.waiting
            self.reconnects += 1
            return False
        client.buffer += data
        head, found, rest = client.buffer.partition(_HEAD_END)
        if found and len(rest) >= _content_length(head):
            self._finish(client, head)
        return True

    def _finish(self, client: _Client, head: bytes) -> None:
        latency_s = time.perf_counter() - client.due_s
        self.shots.append(Shot(latency_s, int(head[9:12]), b"\r\nretry-after:" in head.lower()))
        client.buffer = b""
        client.waiting = False
        client.due_s += self._pace_s


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
