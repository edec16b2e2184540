"""A million requests: with the collector tuned to let cycles live longer, memory stays where it was after the first part."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from tools.bench.chat import send_chats
from tools.bench.common import Figure, at_most, exactly, open_fds, report, told
from tools.bench.contenders import open_fast_upstream, open_our_gateway, pin_server

REQUESTS = 1_000_000
PART_S = 10.0
WARM_UP_SHARE = 0.1
CONNECTIONS = 64
GOAL_GROWTH_PERCENT = 5.0
TITLE = "million: chat requests on end"


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if descriptors leaked or an answer was not 200."""
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also add the figures to this file")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    arguments = parser.parse_args(argv)
    return report(TITLE, trio.run(measure, arguments.requests), arguments.json)


async def measure(wanted: int) -> list[Figure]:
    """Ask until there were so many answers; memory is read between the parts."""
    async with open_fast_upstream() as upstream_port, open_our_gateway(upstream_port) as gateway:
        pin_server(gateway.pid)
        done, wrong, readings = 0, 0, list[tuple[int, float]]()
        fds = len(open_fds(gateway.pid))
        while done < wanted:
            run = await send_chats(gateway, connections=CONNECTIONS, seconds=PART_S)
            done += run.requests
            wrong += bool(run.wrong)
            readings.append((done, gateway.rss_mb()))
            print(f"{done} requests, {readings[-1][1]:.1f} MB", file=sys.stderr, flush=True)
        await trio.sleep(2)  # what is kept for a second has gone
        left = len(open_fds(gateway.pid)) - fds
    warm = next(mb for count, mb in readings if count >= wanted * WARM_UP_SHARE)
    return [
        told("requests", done, ""),
        exactly("parts with an answer other than 200", wrong, "", 0),
        told("resident memory after a tenth", warm, "MB"),
        told("resident memory at the end", readings[-1][1], "MB"),
        at_most("growth", (readings[-1][1] / warm - 1) * 100, "%", GOAL_GROWTH_PERCENT),
        exactly("descriptors more than before", max(0, left), "", 0),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
