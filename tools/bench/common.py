"""What every bench needs: figures and their table, a process seen through /proc, requests over a bare socket."""

import argparse
import json
import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import trio

Verdict = Literal["met", "missed", "WRONG", ""]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `goal` is empty for what is only told; WRONG is a broken promise, not a slow one."""

    name: str
    value: float
    unit: str
    goal: str = ""
    verdict: Verdict = ""


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that should stay below a limit; above it is slow, not wrong."""
    return Figure(name, value, unit, f"<= {limit:g}", "met" if value <= limit else "missed")


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that should reach a limit; below it is slow, not wrong."""
    return Figure(name, value, unit, f">= {limit:g}", "met" if value >= limit else "missed")


def exactly(name: str, value: float, unit: str, wanted: float) -> Figure:
    """A figure that a promise fixes; any other is wrong."""
    return Figure(name, value, unit, f"{wanted:g}", "met" if value == wanted else "WRONG")


def told(name: str, value: float, unit: str) -> Figure:
    """A figure without a goal."""
    return Figure(name, value, unit)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed (nearest rank). NaN for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def parse_arguments(argv: Sequence[str], description: str) -> argparse.Namespace:
    """The flags of every bench."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also add the figures to this file")
    return parser.parse_args(argv)


def report(title: str, figures: Sequence[Figure], json_file: Path | None) -> int:
    """Print the table, write the file, and return the exit code: 1 if anything is WRONG."""
    print(f"\n{title} (load average now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    for figure in figures:
        value = f"{figure.value:.0f}" if float(figure.value).is_integer() else f"{figure.value:.2f}"
        print(f"  {figure.name:<52} {value:>9} {figure.unit:<6} {figure.goal:<9} {figure.verdict}".rstrip())
    if json_file is not None:
        _add_to_file(json_file, title, figures)
    return 1 if any(figure.verdict == "WRONG" for figure in figures) else 0


def _add_to_file(json_file: Path, title: str, figures: Sequence[Figure]) -> None:
    """One file takes the tables of several benches, by title; a figure that could not be taken is null."""
    tables = json.loads(json_file.read_text()) if json_file.exists() else {}
    tables[title] = [{**asdict(f), "value": None if math.isnan(f.value) else f.value} for f in figures]
    json_file.write_text(json.dumps(tables, indent=2) + "\n")


def cpu_s(pid: int) -> float:
    """User and system time that this process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # proc(5): utime and stime, 14 and 15 from one


def rss_mb(pid: int) -> float:
    """Resident memory, in MB of 1e6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_fds(pid: int) -> dict[str, str]:
    """What each open file descriptor points to."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except FileNotFoundError:  # closed since it was listed
            continue
    return found


async def settled_fds(pid: int, wanted: int | None = None, timeout_s: float = 30) -> dict[str, str]:
    """The open descriptors of a process at rest: a moment later, and then until they are as many as wanted."""
    await trio.sleep(1)
    with trio.move_on_after(timeout_s):
        while wanted is not None and len(open_fds(pid)) != wanted:  # noqa: ASYNC110 - another process: nothing tells us
            await trio.sleep(0.1)
    return open_fds(pid)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def make_request(
    method: str,
    path: str,
    token: str | None,
    body: object = None,
    *,
    port: int,
    close: bool = False,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of one HTTP/1.1 request."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + data


async def fetch(
    port: int, method: str, path: str, token: str | None = None, body: object = None, *, timeout_s: float = 10
) -> tuple[int, bytes]:
    """Make one request on a connection of its own; status and body. Raises OSError, trio.TooSlowError."""
    with trio.fail_after(timeout_s):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            try:
                await stream.send_all(make_request(method, path, token, body, port=port, close=True))
                received = b""
                while not _is_whole(received) and (piece := await stream.receive_some()):
                    received += piece
            except trio.BrokenResourceError as error:
                raise ConnectionError(f"{method} {path}: the connection broke") from error
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head:
        raise ConnectionError(f"{method} {path}: no answer")
    return int(head.split(b" ", 2)[1]), rest


def _is_whole(received: bytes) -> bool:
    """Whether all of an answer that says its length is there: not every server closes when it was asked to."""
    head, _, rest = received.partition(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head)
    return length is not None and len(rest) >= int(length[1])


async def fetch_json(port: int, path: str, token: str | None = None) -> Any:
    """GET a JSON document. Raises ConnectionError unless it is a 200."""
    status, body = await fetch(port, "GET", path, token)
    if status != 200:
        raise ConnectionError(f"GET {path}: {status}")
    return json.loads(body)
