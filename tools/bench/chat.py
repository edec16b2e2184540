"""Side by side: what a relayed request and a relayed chunk cost here, in the Rust routers, nginx, litellm, portkey and the
plain stack.

The server has the first core, load and upstream the others. The cells of a round are taken from all servers in turn; a
ratio is of two figures of the same round, and what is told is the median over the rounds.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from tests.real.debian import NotAvailable
from tests.real.venvs import CannotInstall
from tools.bench.common import Figure, at_least, at_most, exactly, make_request, percentile, report, told
from tools.bench.contenders import (
    Contender,
    open_fast_upstream,
    open_litellm,
    open_nginx,
    open_our_gateway,
    pin_server,
)
from tools.bench.crowd import Listened, listen
from tools.bench.rivals import PLAIN, open_plain_stack, open_portkey, open_sglang_router, open_vllm_router
from tools.bench.wrk import Blast, blast

CHAT = "/v1/chat/completions"
PICTURES = "/v1/images/generations"
US = "gateway"
MARK = "vllm-router"
ROUNDS = 5
SECONDS = 2.0
CHUNK_STREAMS, CHUNKS, CHUNK_INTERVAL_S = 50, 80, 0.05  # 1,000 chunks a second for four seconds
MANY_STREAMS, MANY_CHUNKS, MANY_INTERVAL_S = 300, 200, 0.05  # 6,000 chunks a second for ten
TIMEOUT_S = 120.0
TITLE = "chat: side by side"

Opener = Callable[[int], AbstractAsyncContextManager[Contender]]
OPENERS: Mapping[str, Opener] = {
    US: open_our_gateway,
    "nginx": open_nginx,
    MARK: open_vllm_router,
    "sglang-router": open_sglang_router,
    "portkey": open_portkey,
    "litellm": open_litellm,
    PLAIN: open_plain_stack,
}
# Goals: at most so many times the other's figure of the same round.
RATIO_GOALS = {("request, 32", MARK): 1.5, ("chunk", MARK): 1.3, ("picture of 2 MB", "nginx"): 1.3}
LEAD_GOALS = {("request, 32", "litellm"): 100.0, ("request, 32", "portkey"): 15.0, ("request, 32", PLAIN): 15.0}
FAR_SLOWER = frozenset({"litellm", PLAIN})  # they would fall behind by minutes


@dataclass(slots=True)
class Seen:
    """One server's cells, a figure for each round. CPU in microseconds, times in milliseconds."""

    cells: dict[str, list[float]] = field(default_factory=dict)
    idle_mb: float = math.nan
    after_mb: float = math.nan

    def add(self, cell: str, value: float) -> None:
        self.cells.setdefault(cell, []).append(value)

    def median(self, cell: str) -> float:
        return statistics.median(self.cells[cell]) if self.cells.get(cell) else math.nan


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also add the figures to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default=",".join(OPENERS), help="which servers, by name (csv)")
    arguments = parser.parse_args(argv)
    chosen = {name: opener for name, opener in OPENERS.items() if name in arguments.only.split(",")}
    title = f"{TITLE}; {_machine()}"
    figures = trio.run(measure, chosen, arguments.rounds)
    return report(title, figures, arguments.json)


async def measure(openers: Mapping[str, Opener], rounds: int) -> list[Figure]:
    """Rounds of all servers in turn, then the crowd of streams. Who is not to be had is left out, and said so."""
    async with open_fast_upstream() as upstream_port, AsyncExitStack() as stack:
        servers = []
        for name, opener in openers.items():
            try:
                server = await stack.enter_async_context(opener(upstream_port))
            except (CannotInstall, NotAvailable) as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
                continue
            pin_server(server.pid)
            servers.append(server)
        seen = {server.name: Seen(idle_mb=server.rss_mb()) for server in servers}
        for server in servers:
            await send_chats(server, connections=32, seconds=1)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for server in servers:
                await _take_round(server, seen[server.name])
            await _first_byte(upstream_port, servers, seen)
        for server in servers:
            seen[server.name].after_mb = server.rss_mb()
        crowds = {server.name: await _crowd(server) for server in servers if _streams(server, seen)}
    return [*_costs(seen), *_ratios(seen), *_memory(seen), *(figure for crowd in crowds.values() for figure in crowd)]


def _streams(server: Contender, seen: Mapping[str, Seen]) -> bool:
    return server.name not in FAR_SLOWER and "chunk" in seen[server.name].cells


async def _take_round(server: Contender, seen: Seen) -> None:
    for connections in (32, 256):
        cost_us, run = await _cost(server, partial(send_chats, server, connections=connections, seconds=SECONDS))
        seen.add(f"request, {connections}", cost_us)
        seen.add(f"rps, {connections}", run.per_second)
        seen.add(f"p50, {connections}", run.p50_ms)
        seen.add(f"p99, {connections}", run.p99_ms)
    before_s = server.cpu_s()
    heard = await _listen(server, CHUNK_STREAMS, CHUNKS, CHUNK_INTERVAL_S)
    if heard.complete(CHUNKS) != CHUNK_STREAMS:
        print(f"{server.name}: {heard.complete(CHUNKS)} of {CHUNK_STREAMS} streams were whole", file=sys.stderr)
    if heard.chunks:
        seen.add("chunk", (server.cpu_s() - before_s) / heard.chunks * 1e6)
    if server.name in (US, "nginx"):
        cost_us, _ = await _cost(server, partial(send_chats, server, connections=4, seconds=1, what="picture"))
        seen.add("picture of 2 MB", cost_us)
    if server.name == US:
        cost_us, _ = await _cost(server, partial(send_chats, server, connections=32, seconds=1, what="health"))
        seen.add("/health", cost_us)


async def _first_byte(upstream_port: int, servers: Sequence[Contender], seen: Mapping[str, Seen]) -> None:
    """What a server adds to an answer on one connection: its p50 without the upstream's own, asked in the same round."""
    upstream = Contender("upstream", os.getpid(), upstream_port, "")
    alone = await send_chats(upstream, connections=1, seconds=1)
    for server in servers:
        run = await send_chats(server, connections=1, seconds=1)
        seen[server.name].add("added at 1", run.p50_ms - alone.p50_ms)


async def _cost(server: Contender, load: Callable[[], object]) -> tuple[float, Blast]:
    before_s = server.cpu_s()
    run: Blast = await load()  # type: ignore[misc] # a partial of send_chats
    if run.wrong:
        print(f"{server.name}: {run.wrong}", file=sys.stderr)
    return (server.cpu_s() - before_s) / max(1, run.requests) * 1e6, run


async def send_chats(server: Contender, *, connections: int, seconds: float, what: str = "chat") -> Blast:
    """wrk with one request: a chat, a `picture`, or a look at `health`."""
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", **server.headers}
    path, body = CHAT, json.dumps(_chat("a lighthouse at dusk", stream=False))
    if what == "picture":
        path, body = PICTURES, json.dumps({"prompt": "a lighthouse", "response_format": "b64_json"})
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        send = partial(blast, server.port, path, headers, body, connections=connections, seconds=seconds)
        if what == "health":
            send = partial(blast, server.port, "/health", {}, None, connections=connections, seconds=seconds)
        return await trio.to_thread.run_sync(partial(send, folder=Path(folder)))


async def _listen(server: Contender, streams: int, chunks: int, interval_s: float) -> Listened:
    words = f"chunks={chunks} interval_us={interval_s * 1e6:.0f}"
    request = make_request(
        "POST", CHAT, server.token, _chat(words, stream=True), port=server.port, headers=server.headers
    )
    return await trio.to_thread.run_sync(
        partial(listen, server.port, request, streams=streams, ramp_s=interval_s * 10, timeout_s=TIMEOUT_S)
    )


def _chat(words: str, *, stream: bool) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": words}], "stream": stream}


async def _crowd(server: Contender) -> list[Figure]:
    before_s = server.cpu_s()
    heard = await _listen(server, MANY_STREAMS, MANY_CHUNKS, MANY_INTERVAL_S)
    used_s = server.cpu_s() - before_s
    who, ours = f"{server.name}, {MANY_STREAMS} streams", server.name == US
    p50_ms, whole = percentile(heard.lags_ms, 50), heard.complete(MANY_CHUNKS)
    return [
        exactly(f"{who}: whole", whole, "", MANY_STREAMS) if ours else told(f"{who}: whole", whole, ""),
        told(f"{who}: chunks", heard.chunks / heard.elapsed_s, "1/s"),
        at_most(f"{who}: lag p50", p50_ms, "ms", 5) if ours else told(f"{who}: lag p50", p50_ms, "ms"),
        told(f"{who}: lag p99", percentile(heard.lags_ms, 99), "ms"),
        told(f"{who}: worst lag of a last chunk", max(heard.last_lags_ms, default=math.nan), "ms"),
        told(f"{who}: CPU of one core", used_s / heard.elapsed_s * 100, "%"),
    ]


def _costs(seen: Mapping[str, Seen]) -> list[Figure]:
    units = {"rps": "1/s", "p50": "ms", "p99": "ms", "added at 1": "ms"}
    figures = []
    for name, one in seen.items():
        for cell in one.cells:
            unit = next((unit for start, unit in units.items() if cell.startswith(start)), "us")
            limit = {"/health": 40.0, "added at 1": 0.3}.get(cell) if name == US else None
            value = one.median(cell)
            label = f"{name}: {cell}"
            figures.append(told(label, value, unit) if limit is None else at_most(label, value, unit, limit))
    return figures


def _ratios(seen: Mapping[str, Seen]) -> list[Figure]:
    ours = seen.get(US)
    if ours is None:
        return []
    figures = [at_most(f"{US}: 256 / 32", _median_ratio(ours, "request, 256", ours, "request, 32"), "times", 1.3)]
    for name, other in seen.items():
        for cell in ("request, 32", "request, 256", "chunk", "picture of 2 MB"):
            if name == US or cell not in other.cells or cell not in ours.cells:
                continue
            ratio = _median_ratio(ours, cell, other, cell)
            goal, lead = RATIO_GOALS.get((cell, name)), LEAD_GOALS.get((cell, name))
            if lead is not None:
                figures.append(at_least(f"{name} / {US}: {cell}", 1 / ratio, "times", lead))
            elif goal is not None:
                figures.append(at_most(f"{US} / {name}: {cell}", ratio, "times", goal))
            else:
                figures.append(told(f"{US} / {name}: {cell}", ratio, "times"))
    return figures


def _median_ratio(one: Seen, cell: str, other: Seen, other_cell: str) -> float:
    pairs = zip(one.cells[cell], other.cells[other_cell], strict=True)
    return statistics.median(mine / max(theirs, 0.001) for mine, theirs in pairs)


def _memory(seen: Mapping[str, Seen]) -> list[Figure]:
    figures = []
    for name, one in seen.items():
        limits = (50.0, 70.0) if name == US else (math.inf, math.inf)
        for when, value, limit in (("idle", one.idle_mb, limits[0]), ("after load", one.after_mb, limits[1])):
            label = f"{name}: RSS {when}"
            figures.append(at_most(label, value, "MB", limit) if name == US else told(label, value, "MB"))
    return figures


def _machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, commit {commit.stdout.strip()}, {os.cpu_count()} cores of {model}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
