"""The real image server as a process of a test: started, awaited, stopped by its pid."""

import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.real.sdserver.build import SdServer

START_TIMEOUT_S = 60.0  # 0.8 s on two quiet cores
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 10.0
BEGUN = re.compile(r"- generate_image \d+x\d+")
PROBE = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


class ServerNeverAnswered(Exception):
    """The server died while starting, or was silent too long; the message ends with its log's last lines."""


@dataclass(frozen=True, slots=True)
class RunningSdServer:
    """A server that answers. `process` is there to be watched and killed; `log` grows while it draws."""

    base_url: str
    process: trio.Process
    log: Path

    def drawings(self) -> tuple[int, int]:
        """How many drawings have begun, and how many have ended: what no route of this server tells."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return len(BEGUN.findall(text)), text.count("- generate_image completed")


@asynccontextmanager
async def open_sd_server(
    server: SdServer, folder: Path, *, text_encoder: bool = True, port: int = 0
) -> AsyncIterator[RunningSdServer]:
    """Start the server in `folder`, with its log there, and yield once it answers; it is dead when this returns.

    Port 0 takes a free one. *Raises* ServerNeverAnswered.
    """
    port = port or free_port()
    home = folder / f"sd-server-{port}"  # it lists every model file below its working directory
    home.mkdir()
    log = folder / f"sd-server-{port}.log"
    with log.open("wb") as sink:
        command = server.arguments(port=port, text_encoder=text_encoder)
        process = await trio.lowlevel.open_process(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        await _answers(process, port, log)
        yield RunningSdServer(base_url=f"http://127.0.0.1:{port}", process=process, log=log)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await process.wait()


async def _answers(process: trio.Process, port: int, log: Path) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while process.poll() is None:
            if await _probe(port):
                return
            await trio.sleep(POLL_INTERVAL_S)
    ended = f"ended with {process.returncode}" if process.returncode is not None else "is silent"
    raise ServerNeverAnswered(f"sd-server {ended}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


async def _probe(port: int) -> bool:
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(PROBE)
            return (await stream.receive_some()).startswith(b"HTTP/1.1 200")
    except (OSError, trio.BrokenResourceError):
        return False


def free_port() -> int:
    """A loopback port nobody has just now; the server binds it a moment later."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
