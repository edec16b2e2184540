"""A gateway of a bench's own: started on free ports with a state of its own, watched, and ended by its pid."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from tools.bench.common import fetch, fetch_json, free_port

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
SLOTS = "gpu_heavy.images"


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one class and capability, as the gateway tells them."""

    limit: int
    available: int
    inflight: int


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway that answers."""

    pid: int
    port: int
    observability_port: int
    token: str

    async def slots(self, which: str = SLOTS) -> Slots:
        """Ask for the slots. Raises ConnectionError."""
        status = await fetch_json(self.port, "/v1/gateway/status", self.token)
        found = status["admission_control"][which]
        return Slots(found["limit"], found["available"], found["inflight"])

    async def wait_for_inflight(self, wanted: int, timeout_s: float, which: str = SLOTS) -> bool:
        """Ask until so many slots are taken; False if that does not happen in time."""
        with trio.move_on_after(timeout_s):
            while (await self.slots(which)).inflight != wanted:  # noqa: ASYNC110 - another process: nothing tells us
                await trio.sleep(0.002)
            return True
        return False


def gateway_environment(state: str, ports: tuple[int, int], token: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a gateway that shares nothing with the one the machine may run."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": state,
        "XDG_STATE_HOME": state,
        "GATEWAY_PORT": str(ports[0]),
        "OBSERVABILITY_PORT": str(ports[1]),
        "GATEWAY_BEARER_TOKEN": token,
        **extra,
    }


def appliance_command() -> str:
    """The console script beside this interpreter."""
    return str(Path(sys.executable).with_name("appliance"))


@asynccontextmanager
async def open_gateway(extra: Mapping[str, str], command: str | None = None) -> AsyncIterator[GatewayProcess]:
    """Start `appliance serve`, wait until it answers; on leaving, stop it as an operator would. Raises RuntimeError.

    `command`: another appliance than the one beside this interpreter.
    """
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as state:
        token = "bench-" + os.urandom(16).hex()
        ports = (free_port(), free_port())
        environment = gateway_environment(state, ports, token, extra)
        with (Path(state) / "gateway.log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                [command or appliance_command(), "serve"],
                env=environment,
                cwd=state,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                await _wait_until_it_answers(process, ports[0], partial(_tail, log.name))
                yield GatewayProcess(process.pid, *ports, token)
            finally:
                with trio.CancelScope(shield=True):  # bounded by the two deadlines within
                    await stop_process(process)


async def _wait_until_it_answers(process: trio.Process, port: int, log: Callable[[], str]) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while process.poll() is None:
            try:
                status, _ = await fetch(port, "GET", "/health")
            except OSError:
                status = 0
            if status == 200:
                return
            await trio.sleep(0.02)
    raise RuntimeError(f"the gateway did not start (exit {process.poll()}):\n{log()}")


def _tail(name: str) -> str:
    return Path(name).read_text(errors="replace")[-2000:]


async def stop_process(process: trio.Process) -> None:
    """SIGTERM, and SIGKILL if that is not enough."""
    process.terminate()
    with trio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
        return
    process.kill()
    with trio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
