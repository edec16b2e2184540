"""The real InvokeAI as a process of some tests: started, awaited, given its models, stopped by its pid.

Synchronous, so that the tests of a module share one: it takes a quarter of a minute to start.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """A server that answers. `process` is there to be watched and killed; `models`: what `install` gives it."""

    base_url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    models: Path

    def ask_now(self, method: str, path: str, body: object = None, *, token: str = "") -> Any:
        """Ask its API, below /api, as its own pages do; the answer's JSON. Raises httpx.HTTPStatusError."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = httpx.request(method, f"{self.base_url}/api{path}", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """`ask_now`, beside the other tasks of a test."""
        return await trio.to_thread.run_sync(self.ask_now, method, path, body)

    def install(self, *, token: str = "") -> None:
        """Give it both models. Raises InvokeAINeverAnswered."""
        folders = sorted(self.models.iterdir())
        for model in folders:
            self.ask_now("POST", f"/v2/models/install?source={quote(str(model))}&inplace=true", {}, token=token)
        deadline = time.monotonic() + INSTALL_TIMEOUT_S
        while len(self.ask_now("GET", "/v2/models/?model_type=main", token=token)["models"]) < len(folders):
            if time.monotonic() > deadline:
                raise self.never("did not take its models")
            time.sleep(POLL_INTERVAL_S)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile what is enqueued stays pending."""
        self.ask_now("PUT", "/v1/queue/default/processor/pause")
        yield
        self.ask_now("PUT", "/v1/queue/default/processor/resume")

    def never(self, words: str) -> InvokeAINeverAnswered:
        """The error that says so, with the end of the log."""
        last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        return InvokeAINeverAnswered(f"InvokeAI {words}: {' | '.join(last)}")


@contextmanager
def open_invokeai(server: InvokeAI, folder: Path, **configuration: object) -> Iterator[RunningInvokeAI]:
    """Start the server in `folder`, with its log there, and yield once it answers; it is dead when this returns.

    `configuration` goes into its invokeai.yaml. *Raises* InvokeAINeverAnswered.
    """
    port = free_port()
    root = folder / f"invokeai-{port}"
    root.mkdir()
    (root / "invokeai.yaml").write_text(_configuration(port, configuration), encoding="utf-8")
    log = folder / f"invokeai-{port}.log"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), "HF_HUB_OFFLINE": "1", "INVOKEAI_ROOT": str(root)}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            server.arguments(root),
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    running = RunningInvokeAI(f"http://127.0.0.1:{port}", process, log, server.models)
    try:
        _wait_until_it_answers(running)
        yield running
    finally:
        process.kill()
        process.wait(STOP_TIMEOUT_S)


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


def _wait_until_it_answers(running: RunningInvokeAI) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise running.never("ended")
        try:
            running.ask_now("GET", "/v1/app/version")
        except httpx.HTTPError:
            time.sleep(POLL_INTERVAL_S)
        else:
            return
    raise running.never("is silent")
