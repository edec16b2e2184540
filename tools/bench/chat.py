"""Chat: what a relayed request and a relayed chunk cost, beside litellm's proxy and nginx, and whether streams keep up."""

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import trio

from tools.bench.common import (
    Figure,
    at_least,
    at_most,
    exactly,
    make_request,
    parse_arguments,
    percentile,
    report,
    told,
)
from tools.bench.contenders import (
    CannotInstall,
    Contender,
    NotAvailable,
    open_fast_upstream,
    open_litellm,
    open_nginx,
    open_our_gateway,
)
from tools.bench.crowd import Listened, listen
from tools.bench.hammer import hammer

CHAT = "/v1/chat/completions"
ROUNDS = 3
CLIENTS = 32
REQUESTS: Mapping[str, int] = {"gateway": 2000, "litellm": 300, "nginx": 10_000}  # about two seconds each
CHUNK_STREAMS, CHUNKS, CHUNK_INTERVAL_S = 50, 80, 0.05  # 1,000 chunks a second for four seconds
MANY_STREAMS, MANY_CHUNKS, MANY_INTERVAL_S = 300, 100, 0.1  # 3,000 chunks a second for ten
TIMEOUT_S = 120.0
WARM_UP_REQUESTS = 100
GOAL_RATIO = 10.0
GOAL_LAG_MS = MANY_INTERVAL_S * 1000  # who lags more has fallen behind: the next chunk has been sent
TITLE = f"chat: {CLIENTS} clients, medians of {ROUNDS} interleaved rounds"


@dataclass(frozen=True, slots=True)
class Cost:
    """One contender in one round."""

    request_us: float
    chunk_us: float


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    """Rounds of all contenders in turn, then the crowd of streams. Who is not to be had is left out, and said so."""
    figures: list[Figure] = []
    async with open_fast_upstream() as upstream_port, AsyncExitStack() as stack:
        contenders = [await stack.enter_async_context(open_our_gateway(upstream_port))]
        for opener in (open_litellm, open_nginx):
            try:
                contenders.append(await stack.enter_async_context(opener(upstream_port)))
            except (CannotInstall, NotAvailable) as reason:
                print(f"left out: {reason}", file=sys.stderr)
        costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
        for contender in contenders:
            await _ask_often(contender, WARM_UP_REQUESTS)
        for _ in range(ROUNDS):
            for contender in contenders:
                costs[contender.name].append(await _measure_round(contender))
        figures += _cost_figures(costs)
        for contender in contenders:
            if contender.name != "litellm":  # it saturates far below
                figures += await _measure_crowd(contender)
    return figures


def _cost_figures(costs: Mapping[str, Sequence[Cost]]) -> list[Figure]:
    figures = []
    for name, rounds in costs.items():
        figures += [
            told(f"{name}: CPU a request", statistics.median(one.request_us for one in rounds), "us"),
            told(f"{name}: CPU a chunk", statistics.median(one.chunk_us for one in rounds), "us"),
        ]
    ours = costs["gateway"]
    for name, rounds in costs.items():
        if name == "gateway":
            continue
        request = statistics.median(other.request_us / one.request_us for one, other in zip(ours, rounds, strict=True))
        chunk = statistics.median(other.chunk_us / one.chunk_us for one, other in zip(ours, rounds, strict=True))
        if name == "litellm":
            figures.append(at_least("litellm / gateway: a request", request, "times", GOAL_RATIO))
            figures.append(told("litellm / gateway: a chunk", chunk, "times"))
        else:
            figures.append(told(f"gateway / {name}: a request", 1 / request, "times"))
            figures.append(told(f"gateway / {name}: a chunk", 1 / chunk, "times"))
    return figures


async def _measure_round(contender: Contender) -> Cost:
    before_s = contender.cpu_s()
    total = REQUESTS[contender.name]
    await _ask_often(contender, total)
    between_s = contender.cpu_s()
    heard = await _listen(contender, CHUNK_STREAMS, CHUNKS, CHUNK_INTERVAL_S)
    after_s = contender.cpu_s()
    if heard.complete(CHUNKS) != CHUNK_STREAMS:
        raise RuntimeError(f"{contender.name}: {heard.complete(CHUNKS)} of {CHUNK_STREAMS} streams were whole")
    return Cost((between_s - before_s) / total * 1e6, (after_s - between_s) / heard.chunks * 1e6)


async def _measure_crowd(contender: Contender) -> list[Figure]:
    before_s = contender.cpu_s()
    heard = await _listen(contender, MANY_STREAMS, MANY_CHUNKS, MANY_INTERVAL_S)
    used_s = contender.cpu_s() - before_s
    who = f"{contender.name}, {MANY_STREAMS} streams"
    ours = contender.name == "gateway"
    whole = heard.complete(MANY_CHUNKS)
    lag_ms, last_ms = percentile(heard.lags_ms, 99), max(heard.last_lags_ms, default=math.nan)
    rate = heard.chunks / (MANY_CHUNKS * MANY_INTERVAL_S)
    return [
        exactly(f"{who}: whole", whole, "", MANY_STREAMS) if ours else told(f"{who}: whole", whole, ""),
        told(f"{who}: chunks", rate, "1/s"),
        told(f"{who}: lag p50", percentile(heard.lags_ms, 50), "ms"),
        at_most(f"{who}: lag p99", lag_ms, "ms", GOAL_LAG_MS) if ours else told(f"{who}: lag p99", lag_ms, "ms"),
        told(f"{who}: lag max", max(heard.lags_ms, default=math.nan), "ms"),
        at_most(f"{who}: worst lag of a last chunk", last_ms, "ms", GOAL_LAG_MS)
        if ours
        else told(f"{who}: worst lag of a last chunk", last_ms, "ms"),
        told(f"{who}: CPU of one core", used_s / heard.elapsed_s * 100, "%"),
        told(f"{who}: CPU a chunk", used_s / max(1, heard.chunks) * 1e6, "us"),
    ]


async def _ask_often(contender: Contender, total: int) -> None:
    request = _request(contender, "a lighthouse at dusk", stream=False)
    volley = await trio.to_thread.run_sync(
        partial(hammer, contender.port, [request], clients=CLIENTS, total=total, timeout_s=TIMEOUT_S)
    )
    if volley.count(200) != total:
        raise RuntimeError(f"{contender.name}: {volley.count(200)} of {total} requests were answered")


async def _listen(contender: Contender, streams: int, chunks: int, interval_s: float) -> Listened:
    request = _request(contender, f"chunks={chunks} interval_us={interval_s * 1e6:.0f}", stream=True)
    return await trio.to_thread.run_sync(
        partial(listen, contender.port, request, streams=streams, ramp_s=interval_s * 10, timeout_s=TIMEOUT_S)
    )


def _request(contender: Contender, words: str, *, stream: bool) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": words}], "stream": stream}
    return make_request("POST", CHAT, contender.token, body, port=contender.port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
