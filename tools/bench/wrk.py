"""wrk, told what to send and read for what it found: the load that costs less than what it measures."""

import math
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.real.debian import find_wrk
from tools.bench.contenders import load_cores

_COUNT = re.compile(r"(\d+) requests in ")
_LATENCY = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)\s*$", re.MULTILINE)
_WRONG = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Blast:
    """What one run saw. Latencies are in milliseconds."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    wrong: str


def blast(
    port: int,
    path: str,
    headers: Mapping[str, str],
    body: str | None,
    *,
    connections: int,
    seconds: float,
    folder: Path,
) -> Blast:
    """Send one request over and over on so many connections. Blocks. Raises NotAvailable, RuntimeError."""
    program, environment = find_wrk()
    script = folder / "request.lua"
    lines = [f'wrk.method = "{"GET" if body is None else "POST"}"']
    lines += [f"wrk.headers[ {_lua(name)} ] = {_lua(value)}" for name, value in headers.items()]
    lines += [] if body is None else [f"wrk.body = {_lua(body)}"]
    script.write_text("\n".join(lines))
    command = [str(program), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-s", str(script), f"http://127.0.0.1:{port}{path}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, load_cores()),
    )
    found = _COUNT.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"wrk: {done.stdout[-500:]}{done.stderr[-500:]}")
    latency = {match[1]: float(match[2]) * _MS[match[3]] for match in _LATENCY.finditer(done.stdout)}
    wrong = _WRONG.search(done.stdout)
    count = int(found[1])
    return Blast(
        count, count / seconds, latency.get("50", math.nan), latency.get("99", math.nan), wrong[0] if wrong else ""
    )


def _lua(text: str) -> str:
    """A text as Lua writes it, whatever is in it but this very end."""
    return f"[==[{text}]==]"
