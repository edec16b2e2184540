"""The real InvokeAI as a process of a test: started, awaited, given its models, stopped by its pid."""

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import trio

from tests.real.invokeai.build import InvokeAI
from tests.real.sdserver.launch import free_port

START_TIMEOUT_S = 180.0  # 16 s on two quiet cores
INSTALL_TIMEOUT_S = 60.0  # 2 s
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 20.0


class InvokeAINeverAnswered(Exception):
    """The server died while starting, or was silent too long; the message ends with its log's last lines."""


@dataclass(frozen=True, slots=True)
class RunningInvokeAI:
    """A server that answers and has its models. `process` is there to be watched and killed."""

    base_url: str
    process: trio.Process
    log: Path

    async def ask(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Ask its API below /api as a test does beside the backend; the answer's JSON. Raises httpx.HTTPStatusError."""
        async with httpx.AsyncClient(base_url=self.base_url + "/api", timeout=START_TIMEOUT_S) as client:
            answer = await client.request(method, path, json=body, headers=headers)
            answer.raise_for_status()
            return answer.json()


@asynccontextmanager
async def open_invokeai(server: InvokeAI, folder: Path, **configuration: object) -> AsyncIterator[RunningInvokeAI]:
    """Start the server in `folder`, with its log there, and yield once its models are installed; it is dead after.

    `configuration` goes into its invokeai.yaml. *Raises* InvokeAINeverAnswered.
    """
    port = free_port()
    root = folder / f"invokeai-{port}"
    root.mkdir()
    (root / "invokeai.yaml").write_text(_configuration(port, configuration), encoding="utf-8")
    log = folder / f"invokeai-{port}.log"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), "HF_HUB_OFFLINE": "1", "INVOKEAI_ROOT": str(root)}
    with log.open("wb") as sink:
        process = await trio.lowlevel.open_process(
            server.arguments(root),
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    running = RunningInvokeAI(base_url=f"http://127.0.0.1:{port}", process=process, log=log)
    try:
        await _answers(running)
        if not configuration.get("multiuser"):  # there, only its administrator installs
            await _install(running, server)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await process.wait()


def _configuration(port: int, more: Mapping[str, object]) -> str:
    """JSON is YAML."""
    settings = {
        "schema_version": "4.0.3",
        "host": "127.0.0.1",
        "port": port,
        "patchmatch": False,
        "use_memory_db": True,
        "device": "cpu",
        "precision": "float32",
        **more,
    }
    return json.dumps(settings)


async def _answers(running: RunningInvokeAI) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while running.process.poll() is None:
            try:
                await running.ask("GET", "/v1/app/version")
            except httpx.HTTPError:
                await trio.sleep(POLL_INTERVAL_S)
            else:
                return
    raise _never(running, "is silent" if running.process.returncode is None else "ended")


async def _install(running: RunningInvokeAI, server: InvokeAI) -> None:
    folders = sorted(server.models.iterdir())
    for model in folders:
        await running.ask("POST", f"/v2/models/install?source={quote(str(model))}&inplace=true", {})
    with trio.move_on_after(INSTALL_TIMEOUT_S):
        while len((await running.ask("GET", "/v2/models/?model_type=main"))["models"]) < len(folders):  # noqa: ASYNC110 - the server has no event
            await trio.sleep(POLL_INTERVAL_S)
        return
    raise _never(running, "did not take its models")


def _never(running: RunningInvokeAI, words: str) -> InvokeAINeverAnswered:
    last = running.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return InvokeAINeverAnswered(f"InvokeAI {words}: {' | '.join(last)}")
