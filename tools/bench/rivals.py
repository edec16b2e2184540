"""What else relays to models: two routers in Rust and one gateway in node, each installed into the cache, never here; and
the plain stack."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.real.venvs import CannotInstall, ensure_pinned, run_step
from tools.bench.common import free_port
from tools.bench.contenders import Contender, open_contender
from tools.devtools.files import make_once
from tools.devtools.paths import ROOT, cache_dir

PINS = Path(__file__).parent / "pins"
PORTKEY = "@portkey-ai/gateway@1.15.2"
PLAIN = "plain-stack"


@asynccontextmanager
async def open_vllm_router(upstream_port: int) -> AsyncIterator[Contender]:
    """vLLM's router, round robin, its retries and circuit breaker as they come. Raises CannotInstall."""
    async with _open_router("vllm-router", "vllm-router", [], upstream_port) as contender:
        yield contender


@asynccontextmanager
async def open_sglang_router(upstream_port: int) -> AsyncIterator[Contender]:
    """SGLang's router. Raises CannotInstall."""
    async with _open_router("sglang-router", "sglang-router", ["launch"], upstream_port) as contender:
        yield contender


@asynccontextmanager
async def open_portkey(upstream_port: int) -> AsyncIterator[Contender]:
    """Portkey's gateway under node; it is told with each request where to go. Raises CannotInstall."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise CannotInstall("no node and npm on PATH")
    folder = await trio.to_thread.run_sync(_install_portkey)
    start = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1"}
    environment = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}

    def command(_folder: Path, port: int) -> list[str]:
        return [str(node), str(start), f"--port={port}", "--headless"]

    async with open_contender("portkey", command, "/", "none", headers, environment) as one:
        yield one


@asynccontextmanager
async def open_plain_stack(upstream_port: int) -> AsyncIterator[Contender]:
    """quart-trio, hypercorn and httpx, as they come."""

    def command(_folder: Path, port: int) -> list[str]:
        return [sys.executable, "-m", "tools.bench.plain_stack", str(port), str(upstream_port)]

    async with open_contender(PLAIN, command, "/health", "", environment={"PYTHONPATH": str(ROOT)}) as contender:
        yield contender


@asynccontextmanager
async def _open_router(name: str, script: str, verb: list[str], upstream_port: int) -> AsyncIterator[Contender]:
    python = await trio.to_thread.run_sync(ensure_pinned, PINS / f"{name}.txt")

    def command(folder: Path, port: int) -> list[str]:
        listen = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
        worker = [
            "--worker-urls",
            f"http://127.0.0.1:{upstream_port}",
            "--policy",
            "round_robin",
            "--log-level",
            "error",
        ]
        return [str(python), str(python.with_name(script)), *verb, *listen, *worker]

    async with open_contender(name, command, "/health", "") as contender:
        yield contender


def _install_portkey() -> Path:
    def make(folder: Path) -> None:
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
        run_step(["nice", "npm", "install", *quiet, PORTKEY], "npm could not install it; is a registry reachable?")

    try:
        return make_once(cache_dir() / f"node-portkey-{PORTKEY.rpartition('@')[2]}", make)
    except (OSError, subprocess.SubprocessError) as problem:
        raise CannotInstall(f"portkey: {type(problem).__name__}") from problem


__all__ = ["PLAIN", "open_plain_stack", "open_portkey", "open_sglang_router", "open_vllm_router"]
