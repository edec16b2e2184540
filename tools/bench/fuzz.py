"""Fuzz: 45 s of mutated bytes at the socket. The process lives, answers /health, and has its descriptors back."""

import argparse
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.config.settings import Http1
from tools.bench.common import Figure, exactly, fetch, free_port, open_fds, percentile, report, told
from tools.bench.fuzz_mutations import make_case
from tools.bench.gateway_process import open_gateway, stop_process

TITLE = "fuzz: mutated bytes at the socket"
SECONDS = 45.0
CLIENTS = 24  # enough to keep one core of the server busy; more would only queue
ANSWER_TIMEOUT_S = 0.3
HEALTH_TIMEOUT_S = 5.0
SETTLE_S = 20.0  # deadlines for heads (5 s) and bodies (10 s) of what was left behind half sent
_RESET = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


@dataclass(frozen=True, slots=True)
class Target:
    """A server under fire. `pid` 0: it is not ours, so its descriptors are not counted."""

    port: int
    pid: int


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    connections: int = 0
    unanswered: int = 0
    refused: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    health_ms: list[float] = field(default_factory=list)
    health_missed: int = 0


def main(argv: Sequence[str]) -> int:
    """Fuzz and print. Exit 1 if the server died, stopped answering or leaked."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's bytes (its timing differs)")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--port", type=int, help="a server on 127.0.0.1 that already runs")
    parser.add_argument("--bare", action="store_true", help="the listener with a small application, no gateway")
    parser.add_argument("--http1", choices=("lane", "stock"), default="lane", help="who speaks HTTP/1.1")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve_bare:
        trio.run(_serve_bare, arguments.serve_bare, arguments.http1)
        return 0
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    figures = trio.run(measure, seed, arguments.seconds, arguments.port, arguments.bare, arguments.http1)
    return report(TITLE, figures, arguments.json)


async def measure(seed: int, seconds: float, port: int | None, bare: bool, http1: Http1) -> list[Figure]:
    """Fire, and look at the server afterwards."""
    async with _open_target(port, bare, http1) as target:
        await _probe(target, Tally())  # what the first request opens for good is open before we count
        before = _sockets(target)
        tally = Tally()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_health, target, tally)
                for number in range(CLIENTS):
                    nursery.start_soon(_fire, target, tally, random.Random(seed * 1000 + number))  # noqa: S311 - fuzz
        left = await _settle(target, before)
        alive = _lives(target)
        answers = await _probe(target, Tally())
    statuses = [told(f"answers {status}", count, "") for status, count in sorted(tally.statuses.items())]
    return [
        told("connections", tally.connections, ""),
        told("connections that got no answer", tally.unanswered, ""),
        told("connections that were not accepted", tally.refused, ""),
        *statuses,
        told("/health meanwhile: p50", percentile(tally.health_ms, 50), "ms"),
        told("/health meanwhile: max", max(tally.health_ms, default=float("nan")), "ms"),
        exactly("/health meanwhile: missed", tally.health_missed, "", 0),
        exactly("/health afterwards is 200", int(answers), "", 1),
        exactly("the process lives", int(alive), "", 1),
        exactly("descriptors left open", left, "", 0),
    ]


@asynccontextmanager
async def _open_target(port: int | None, bare: bool, http1: Http1) -> AsyncIterator[Target]:
    if port is not None:
        yield Target(port, 0)
        return
    if not bare:
        async with open_gateway({"GATEWAY_HTTP1": http1}) as gateway:
            yield Target(gateway.port, gateway.pid)
        return
    port = free_port()
    command = [sys.executable, "-m", "tools.bench.fuzz", "--serve-bare", str(port), "--http1", http1]
    process = await trio.lowlevel.open_process(command)
    try:
        with trio.fail_after(HEALTH_TIMEOUT_S):
            while not await _probe(Target(port, process.pid), Tally()):  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        yield Target(port, process.pid)
    finally:
        with trio.CancelScope(shield=True):  # bounded by its own deadlines
            await stop_process(process)


async def _fire(target: Target, tally: Tally, dice: random.Random) -> None:
    while True:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", target.port)
        except OSError:
            tally.refused += 1
            await trio.sleep(0.05)
            continue
        tally.connections += 1
        try:
            await _exchange(stream, tally, dice)
        except trio.BrokenResourceError:
            tally.unanswered += 1
        finally:
            if dice.random() < 0.3:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            stream.socket.close()


async def _exchange(stream: trio.SocketStream, tally: Tally, dice: random.Random) -> None:
    for piece in make_case(dice):
        with trio.move_on_after(ANSWER_TIMEOUT_S):  # a server that stops reading must not stop us
            await stream.send_all(piece)
    manners = dice.random()
    if manners < 0.3:
        return
    if manners < 0.4:
        await stream.send_eof()
    received = b""
    with trio.move_on_after(dice.random() * ANSWER_TIMEOUT_S):
        while data := await stream.receive_some(65_536):
            received += data
            if dice.random() < 0.5:
                break
    statuses = [int(status) for status in _STATUS.findall(received)]
    tally.statuses.update(statuses)
    tally.unanswered += not statuses


async def _watch_health(target: Target, tally: Tally) -> None:
    while True:
        await _probe(target, tally)
        await trio.sleep(0.2)


async def _probe(target: Target, tally: Tally) -> bool:
    started = time.perf_counter()
    try:
        status, _ = await fetch(target.port, "GET", "/health", timeout_s=HEALTH_TIMEOUT_S)
    except (OSError, trio.TooSlowError):
        tally.health_missed += 1
        return False
    tally.health_ms.append((time.perf_counter() - started) * 1000)
    tally.health_missed += status != 200
    return status == 200


def _lives(target: Target) -> bool:
    if not target.pid:
        return True
    try:
        state = Path(f"/proc/{target.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}  # proc(5): a zombie still has its number


def _sockets(target: Target) -> int:
    try:
        return len(open_fds(target.pid)) if target.pid else 0
    except FileNotFoundError:
        return 0


async def _settle(target: Target, before: int) -> int:
    """Wait until the descriptors are back; how many more there are in the end."""
    with trio.move_on_after(SETTLE_S):
        while _sockets(target) > before:  # noqa: ASYNC110 - another process: nothing tells us
            await trio.sleep(0.1)
    return max(0, _sockets(target) - before)


async def _serve_bare(port: int, http1: Http1) -> None:
    """The listener alone. It stops as any process does that knows no signals."""
    from tools.bench.fuzz_bare import run_bare  # noqa: PLC0415 - only the child imports the server

    await run_bare(port, http1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
