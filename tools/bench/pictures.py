"""Pictures: the CPU of a 2 MB picture, by way in and way out, beside nginx relaying the same bytes in the same rounds."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from tools.bench.common import Figure, at_most, report, told
from tools.bench.contenders import Contender, open_fast_upstream, open_nginx, open_our_gateway, pin_server
from tools.bench.wrk import blast

ROUNDS = 7
SECONDS = 1.0
CONNECTIONS = 4
RATIO_GOAL = 1.3
TITLE = "pictures of 2 MB"
US, BESIDE, NGINX = "gateway", "beside", "nginx"


@dataclass(frozen=True, slots=True)
class Cell:
    """One request. `path`: where it goes; nginx relays `upstream_path` as it is."""

    name: str
    path: str
    upstream_path: str
    body: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)


GENERATIONS = "/v1/images/generations"
CELLS = (
    Cell("b64_json", GENERATIONS, GENERATIONS, {"response_format": "b64_json"}),
    Cell("url", GENERATIONS, GENERATIONS, {"response_format": "url"}),
    Cell("A1111", GENERATIONS, "/sdapi/v1/txt2img", {"response_format": "b64_json"}, {"X-Backend": "a1111"}),
)


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also add the figures to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--beside", metavar="FILE", help="another `appliance` to measure in the same rounds")
    arguments = parser.parse_args(argv)
    return report(TITLE, trio.run(measure, arguments.rounds, arguments.beside), arguments.json)


async def measure(rounds: int, beside: str | None) -> list[Figure]:
    """Rounds of all cells of all servers in turn; a ratio is of two figures of one round. Raises NotAvailable."""
    async with open_fast_upstream() as port, AsyncExitStack() as stack:
        servers = {US: await stack.enter_async_context(open_our_gateway(port))}
        if beside is not None:
            servers[BESIDE] = await stack.enter_async_context(open_our_gateway(port, beside))
        servers[NGINX] = await stack.enter_async_context(open_nginx(port))
        for server in servers.values():
            pin_server(server.pid)
        seen: dict[tuple[str, str], list[float]] = {(name, cell.name): [] for name in servers for cell in CELLS}
        for _ in range(rounds):
            for cell in CELLS:
                for name, server in servers.items():
                    seen[name, cell.name].append(await _cost_ms(server, cell))
        after_mb = {name: server.rss_mb() for name, server in servers.items()}
    return [*_figures(seen, [name for name in servers if name != NGINX]), *_memory(after_mb)]


async def _cost_ms(server: Contender, cell: Cell) -> float:
    path = cell.upstream_path if server.name == NGINX else cell.path
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", **cell.headers}
    body = json.dumps({"prompt": "a lighthouse", **cell.body})
    send = partial(blast, server.port, path, headers, body, connections=CONNECTIONS, seconds=SECONDS)
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        before_s = server.cpu_s()
        run = await trio.to_thread.run_sync(partial(send, folder=Path(folder)))
    if run.wrong:
        print(f"{server.name}: {run.wrong}", file=sys.stderr)
    return (server.cpu_s() - before_s) / max(1, run.requests) * 1e3


def _figures(seen: dict[tuple[str, str], list[float]], ours: Sequence[str]) -> list[Figure]:
    figures = [told(f"{name}: {cell}", statistics.median(costs), "ms") for (name, cell), costs in seen.items()]
    for name in ours:
        for cell in CELLS:
            pairs = zip(seen[name, cell.name], seen[NGINX, cell.name], strict=True)
            ratio = statistics.median(mine / max(theirs, 0.001) for mine, theirs in pairs)
            label = f"{name} / {NGINX}: {cell.name}"
            figures.append(
                at_most(label, ratio, "times", RATIO_GOAL) if cell == CELLS[0] else told(label, ratio, "times")
            )
    return figures


def _memory(after_mb: dict[str, float]) -> list[Figure]:
    return [told(f"{name}: RSS after load", value, "MB") for name, value in after_mb.items()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
