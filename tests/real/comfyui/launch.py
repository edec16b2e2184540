"""The real ComfyUI as a process of a test: started, awaited, stopped by its pid."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.real.comfyui.build import ComfyUI
from tests.real.sdserver.launch import ServerNeverAnswered, free_port
from tools.bench.common import fetch

START_TIMEOUT_S = 180.0  # 7 s on two quiet cores
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 10.0
_QUIET = ("--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes")


@dataclass(frozen=True, slots=True)
class RunningComfyUI:
    """A server that answers. `process` is there to be watched and killed."""

    port: int
    process: trio.Process
    log: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def open_comfyui(
    server: ComfyUI, folder: Path, *, port: int = 0, previews: bool = True, sdxl: bool = False
) -> AsyncIterator[RunningComfyUI]:
    """Start the server with a base of its own in `folder`, and yield once it answers; it is dead when this returns.

    Port 0 takes a free one. `sdxl`: it has a second checkpoint, of that family. *Raises* ServerNeverAnswered.
    """
    port = port or free_port()
    base = folder / f"comfyui-{port}"
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for file in (server.checkpoint, *([server.sdxl_checkpoint] if sdxl else [])):
        (checkpoints / file.name).symlink_to(file)
    log = folder / f"comfyui-{port}.log"
    with log.open("wb") as sink:
        process = await trio.lowlevel.open_process(
            _command(server, base, port, previews=previews),
            cwd=server.program,
            env=server.environ,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        await _answers(port, process, log)
        yield RunningComfyUI(port, process, log)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await process.wait()


def _command(server: ComfyUI, base: Path, port: int, *, previews: bool) -> list[str]:
    listen = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), *_QUIET]
    own = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    page = ["--front-end-root", str(server.program / "front_end")]
    shown = ["--preview-method", "auto" if previews else "none"]
    return [str(server.python), "main.py", *listen, *own, *page, *shown]


async def _answers(port: int, process: trio.Process, log: Path) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while process.poll() is None:
            if await _probe(port):
                return
            await trio.sleep(POLL_INTERVAL_S)
    ended = f"ended with {process.returncode}" if process.returncode is not None else "is silent"
    raise ServerNeverAnswered(f"ComfyUI {ended}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


async def _probe(port: int) -> bool:
    try:
        status, _ = await fetch(port, "GET", "/system_stats")
    except (OSError, trio.TooSlowError):
        return False
    return status == 200
