"""The real language server as a process of a test: started, awaited, stopped by its pid."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.real.sdserver.launch import ServerNeverAnswered, free_port
from tests.real.smollm.build import SmolLM
from tools.bench.common import cpu_s, fetch

START_TIMEOUT_S = 60.0  # 0.8 s on two quiet cores
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 10.0
CONTEXT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class RunningSmolLM:
    """A server that answers. `process` is there to be watched and killed."""

    port: int
    process: trio.Process
    log: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """CPU it has used: the only sign whether it is generating."""
        return cpu_s(self.process.pid)


@asynccontextmanager
async def open_smollm(
    server: SmolLM, folder: Path, *, port: int = 0, context_tokens: int = CONTEXT_TOKENS
) -> AsyncIterator[RunningSmolLM]:
    """Start the server in `folder`, with its log there, and yield once it answers; it is dead when this returns.

    Port 0 takes a free one. *Raises* ServerNeverAnswered.
    """
    port = port or free_port()
    log = folder / f"smollm-{port}.log"
    with log.open("wb") as sink:
        process = await trio.lowlevel.open_process(
            server.arguments(port=port, context_tokens=context_tokens),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    running = RunningSmolLM(port, process, log)
    try:
        await _answers(running)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await process.wait()


async def _answers(running: RunningSmolLM) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while running.process.poll() is None:
            if await _probe(running.port):
                return
            await trio.sleep(POLL_INTERVAL_S)
    code = running.process.returncode
    ended = f"ended with {code}" if code is not None else "is silent"
    words = " | ".join(running.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise ServerNeverAnswered(f"the language server {ended}: {words}")


async def _probe(port: int) -> bool:
    try:
        status, _ = await fetch(port, "GET", "/health")
    except (OSError, trio.TooSlowError):
        return False
    return status == 200
