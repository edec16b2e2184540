"""A crowd of stream readers on one epoll: how far each stream lags behind the clock of the server that sends it."""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.bench.fast_upstream import CHUNK_PATTERN

_TAIL_BYTES = 32  # more than a cut-off time of sending, or a cut-off [DONE]


@dataclass(slots=True)
class Listener:
    """One stream as its client saw it. `lags_s`: from the server's send of a chunk to its arrival here."""

    socket: socket.socket
    lags_s: list[float] = field(default_factory=list)
    arrived_s: float = 0.0
    ended: bool = False
    tail: bytes = b""

    def take(self, data: bytes) -> None:
        now_s = time.monotonic()
        text = self.tail + data
        after = 0
        for match in CHUNK_PATTERN.finditer(text):
            self.lags_s.append(now_s - float(match[1]))
            after = match.end()
        self.ended = self.ended or b"data: [DONE]" in text
        self.arrived_s = now_s
        self.tail = text[max(after, len(text) - _TAIL_BYTES) :]


@dataclass(frozen=True, slots=True)
class Listened:
    """All streams of a run."""

    listeners: Sequence[Listener]
    elapsed_s: float

    @property
    def lags_ms(self) -> list[float]:
        return [lag_s * 1000 for one in self.listeners for lag_s in one.lags_s]

    @property
    def last_lags_ms(self) -> list[float]:
        return [one.lags_s[-1] * 1000 for one in self.listeners if one.lags_s]

    @property
    def chunks(self) -> int:
        return sum(len(one.lags_s) for one in self.listeners)

    def complete(self, chunks: int) -> int:
        """Streams with all their chunks and their end."""
        return sum(one.ended and len(one.lags_s) == chunks for one in self.listeners)


def listen(port: int, request: bytes, *, streams: int, ramp_s: float, timeout_s: float) -> Listened:
    """Open so many streams, spread over `ramp_s`, and read them to their ends. Blocks: run it in a thread.

    Streams that have not ended within `timeout_s` are given up as they are.
    """
    started_s = time.monotonic()
    poll = select.epoll()
    listeners: list[Listener] = []
    reading: dict[int, Listener] = {}
    try:
        while len(listeners) < streams or reading:
            now_s = time.monotonic() - started_s
            if now_s > timeout_s:
                break
            while len(listeners) < streams and now_s >= ramp_s * len(listeners) / streams:
                listener = Listener(socket.create_connection(("127.0.0.1", port), timeout=10))
                listener.socket.sendall(request)
                listeners.append(listener)
                reading[listener.socket.fileno()] = listener
                poll.register(listener.socket, select.EPOLLIN)
            for fd, _ in poll.poll(ramp_s / streams if len(listeners) < streams else 0.1):
                if not _receive(reading[fd]):
                    reading.pop(fd).socket.close()
    finally:
        poll.close()
        for listener in listeners:
            listener.socket.close()
    return Listened(listeners, time.monotonic() - started_s)


def _receive(listener: Listener) -> bool:
    """Take what came; False if the stream is over."""
    try:
        data = listener.socket.recv(65536)
    except ConnectionError:
        return False
    listener.take(data)
    return bool(data) and not listener.ended
