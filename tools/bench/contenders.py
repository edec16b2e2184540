"""What a chat can be relayed by: this gateway, litellm's proxy, and nginx as the floor; each a tree of processes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.real.clients.environments import LITELLM_PINS
from tests.real.debian import NotAvailable, find_nginx
from tests.real.venvs import CannotInstall, ensure_pinned
from tools.bench.common import cpu_s, fetch, free_port, rss_mb
from tools.bench.gateway_process import open_gateway, stop_process
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

SLOTS = 1000
SERVER_CORE = min(os.sched_getaffinity(0))
UPSTREAM_SOURCE = Path(__file__).parent / "programs" / "upstream.c"
START_TIMEOUT_S = 90.0  # litellm takes ten of them
MODEL = "m"


@dataclass(frozen=True, slots=True)
class Contender:
    """One that answers."""

    name: str
    pid: int
    port: int
    token: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def rss_mb(self) -> float:
        """Resident memory of its whole tree."""
        return sum(rss_mb(pid) for pid in _tree(self.pid))

    def cpu_s(self) -> float:
        """What its whole tree of processes has used."""
        return sum(cpu_s(pid) for pid in _tree(self.pid))


@asynccontextmanager
async def open_fast_upstream() -> AsyncIterator[int]:
    """The model server, in a process of its own; its port. In C where there is a compiler, else in Python."""
    program = await trio.to_thread.run_sync(_build_upstream)
    command = [str(program)] if program else [sys.executable, "-m", "tools.bench.fast_upstream"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if process.stdout is None:
        raise AssertionError("unreachable: a pipe was asked for")
    try:
        os.sched_setaffinity(process.pid, load_cores())
        yield int(await process.stdout.receive_some())
    finally:
        with trio.CancelScope(shield=True):  # bounded by the two deadlines within
            await stop_process(process)


def load_cores() -> set[int]:
    """Where load and upstream run: every core but the first, which is the server's own."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[1:]) or set(cores)


def pin_server(pid: int) -> None:
    """Give a server's whole tree the first core."""
    for one in _tree(pid):
        for thread in Path(f"/proc/{one}/task").iterdir():  # an affinity is a thread's own
            os.sched_setaffinity(int(thread.name), {SERVER_CORE})


def _build_upstream() -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    key = hashlib.sha256(UPSTREAM_SOURCE.read_bytes()).hexdigest()[:12]

    def make(folder: Path) -> None:
        subprocess.run([compiler, "-O2", "-o", str(folder / "upstream"), str(UPSTREAM_SOURCE)], check=True)

    return make_once(cache_dir() / f"bench-upstream-{key}", make) / "upstream"


@asynccontextmanager
async def open_our_gateway(upstream_port: int, command: str | None = None) -> AsyncIterator[Contender]:
    """This gateway as it is shipped: journal, metrics and admission on. `command`: another build of it."""
    base_url = f"http://127.0.0.1:{upstream_port}"
    classes = {"bench": ("openai", "chat"), "pictures": ("openai_images", "images"), "a1111": ("a1111", "images")}
    backends = {
        name: {
            "provider": provider,
            "base_url": base_url if provider == "a1111" else f"{base_url}/v1",
            "supported_capabilities": [capability],
            "concurrency_limits": {capability: SLOTS},
        }
        for name, (provider, capability) in classes.items()
    }
    settings = {
        "DEFAULT_BACKEND": "bench",
        "IMAGES_BACKEND": "http_openai_images",
        "IMAGES_BACKEND_CLASS": "pictures",
    }
    with tempfile.TemporaryDirectory(prefix="bench-config-") as folder:
        config = Path(folder) / "backends.yaml"
        config.write_text(json.dumps({"backends": backends}))  # JSON is YAML
        async with open_gateway({"BACKENDS_CONFIG_PATH": str(config), **settings}, command) as gateway:
            yield Contender("gateway", gateway.pid, gateway.port, gateway.token)


@asynccontextmanager
async def open_litellm(upstream_port: int) -> AsyncIterator[Contender]:
    """litellm's proxy, one worker. Raises CannotInstall."""
    python = await trio.to_thread.run_sync(ensure_pinned, LITELLM_PINS)
    key = "sk-" + os.urandom(16).hex()
    params = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False},
    }

    def command(folder: Path, port: int) -> list[str]:
        path = folder / "litellm.yaml"
        path.write_text(json.dumps(config))
        start = "from litellm.proxy.proxy_cli import run_server; run_server()"
        listen = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        return [str(python), "-c", start, "--config", str(path), *listen, "--telemetry", "False"]

    async with open_contender("litellm", command, "/health/liveliness", key) as contender:
        yield contender


@asynccontextmanager
async def open_nginx(upstream_port: int) -> AsyncIterator[Contender]:
    """nginx with one worker: no check of anything, bytes only. Raises NotAvailable."""
    program = await trio.to_thread.run_sync(find_nginx)

    def command(folder: Path, port: int) -> list[str]:
        path = folder / "nginx.conf"
        path.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream_port, user=_user()))
        return [str(program), "-p", str(folder), "-c", str(path)]

    async with open_contender("nginx", command, "/v1/models", "") as contender:
        yield contender


_NGINX = """
daemon off; master_process off; {user} worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""


def _user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


@asynccontextmanager
async def open_contender(
    name: str,
    command: Callable[[Path, int], Sequence[str]],
    path: str,
    token: str,
    headers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Contender]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as made:
        folder, port = Path(made), free_port()
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": made,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches a list of prices at its start
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            **(environment or {}),
        }
        with (folder / "log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                command(folder, port), env=variables, cwd=folder, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            await _wait_until_it_answers(process, port, path, folder / "log")
            yield Contender(name, process.pid, port, token, headers or {})
        finally:
            with trio.CancelScope(shield=True):  # bounded by the two deadlines within
                await stop_process(process)


async def _wait_until_it_answers(process: trio.Process, port: int, path: str, log: Path) -> None:
    with trio.move_on_after(START_TIMEOUT_S):
        while process.poll() is None:
            try:
                status, _ = await fetch(port, "GET", path)
            except (OSError, trio.TooSlowError):
                status = 0
            if status == 200:
                return
            await trio.sleep(0.1)
    said = await trio.Path(log).read_text(errors="replace")
    raise CannotInstall(f"it did not start (exit {process.poll()}): {said[-1000:]}")


def _tree(pid: int) -> list[int]:
    """This process and all below it."""
    try:
        tasks = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except FileNotFoundError:
        return []
    return [pid, *(below for text in tasks for child in text.split() for below in _tree(int(child)))]


__all__ = [
    "CannotInstall",
    "Contender",
    "NotAvailable",
    "load_cores",
    "open_contender",
    "open_fast_upstream",
    "open_litellm",
    "open_nginx",
    "open_our_gateway",
    "pin_server",
]
