"""The gateway's programs from outside: whoever asked goes, or the gateway goes, and no process is left."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.process import AUTH, GatewayProcess, start_gateway

pytestmark = pytest.mark.real
GONE_S = 10.0
SCRIPT = """#!/bin/sh
trap '' TERM HUP INT
setsid sleep 100 &
sleep 100 &
echo $$ $! > {told}.new
mv {told}.new {told}
while :; do sleep 100; done
"""


@contextmanager
def slow_tool(tmp_path: Path, **settings: str) -> Iterator[tuple[GatewayProcess, Path]]:
    """A gateway with the tool `slow`, which does not end by itself, and where that tells its numbers."""
    told = tmp_path / "told"
    program = tmp_path / "slow.sh"
    program.write_text(SCRIPT.format(told=told))
    program.chmod(0o755)
    tool = {
        "name": "slow", "version": "1", "parameters": {"type": "object"},
        "exec": {"type": "subprocess", "argv": ["./slow.sh"], "timeout_sec": 1000},
    }  # fmt: skip
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({"tools": [tool]}))
    with start_gateway(tmp_path, {"TOOLS_REGISTRY_PATH": str(registry), **settings}) as gateway:
        yield gateway, told


def ask(gateway: GatewayProcess) -> socket.socket:
    parts = urlsplit(gateway.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = "".join(f"{name}: {value}\r\n" for name, value in AUTH.items())
    request = f"POST /v1/tools/slow HTTP/1.1\r\nhost: {parts.netloc}\r\n{head}content-type: application/json\r\n"
    connection.sendall(f"{request}content-length: 2\r\n\r\n{{}}".encode())
    return connection


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + GONE_S
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def started(told: Path) -> set[int]:
    """All the processes of the run: the program, two sleeps of its own and one that left its session."""
    wait_until(told.exists)
    home = environment(int(told.read_text().split()[0]))["HOME"]
    wait_until(lambda: len(of_home(home)) >= 4)
    return of_home(home)


def of_home(home: str) -> set[int]:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {pid for pid in pids if environment(pid).get("HOME") == home}


def environment(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.rstrip("\0").split("\0") if "=" in pair)


def are_gone(pids: set[int]) -> bool:
    return not any(environment(pid) for pid in pids)  # a zombie of process 1 has none


def test_a_client_that_leaves_takes_its_program_with_it(tmp_path: Path) -> None:
    with slow_tool(tmp_path) as (gateway, told):
        with ask(gateway):
            pids = started(told)
        wait_until(lambda: are_gone(pids))
        with gateway.client() as client:
            assert client.get("/health").status_code == 200


def test_a_gateway_that_stops_takes_its_programs_with_it(tmp_path: Path) -> None:
    with slow_tool(tmp_path, DRAIN_TIMEOUT_SEC="0.5") as (gateway, told):
        with ask(gateway):
            pids = started(told)
            gateway.signal(signal.SIGTERM)
            assert gateway.wait_exit() == 0
        assert are_gone(pids)
