"""The program as a process: its two names, its exit codes, closed pipes, and what it does not import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import appliance_command

ENVIRONMENT = {"PATH": os.environ["PATH"], "APPLIANCE_ENV_FILE": "/dev/null", "HOME": "/nonexistent"}


def _run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.usefixtures("program")
def test_bad_configuration_is_one_line_and_exit_78() -> None:
    ended = _run(*appliance_command(), "serve", GATEWAY_PORT="x")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr == "appliance: GATEWAY_PORT: 'x' cannot be used: write a whole number from 0 to 65535\n"


def test_the_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("appliance")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    assert _run(str(script), "version").stdout == _run(*appliance_command(), "version").stdout


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("arguments", [("config", "show"), ("--help",), ("verify-images", "--help")])
def test_a_closed_pipe_is_quiet(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [*appliance_command(), *arguments],
        env=ENVIRONMENT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("arguments", "module"), [(["version"], "version"), (["journal", "verify", "/dev/null"], "journal")]
)
def test_light_commands_import_nothing_heavy(arguments: list[str], module: str) -> None:
    program = f"import sys; from appliance.__main__ import main; main({arguments}); print(*sys.modules)"
    loaded = set(_run(sys.executable, "-c", program).stdout.split())
    heavy = {"trio", "hypercorn", "httpx", "pydantic", "yaml", "dotenv", "ssl", "asyncio", "prometheus_client"}
    assert f"appliance.cli.{module}" in loaded
    assert not loaded & heavy


def test_a_serving_process_imports_nothing_that_it_does_not_use() -> None:
    """An import is memory for as long as the box is on: quart cost 7 MB, prometheus_client 4, hypercorn 3."""
    program = "import sys, appliance.__main__, appliance.serve, appliance.server.site; print(*sys.modules)"
    loaded = set(_run(sys.executable, "-c", program).stdout.split())
    never = {"quart", "asyncio", "hypercorn.asyncio", "jinja2", "httpx", "unittest", "rich", "PIL", "tkinter", "pydoc"}
    late = {"hypercorn", "h11", "h2", "wsproto", "multiprocessing", "werkzeug", "jsonschema", "click", "appliance.cli"}
    late |= {"prometheus_client", "http.client", "http.server", "urllib.request"}
    assert "appliance.server.gateway" in loaded
    assert not loaded & (never | late)


OPENED = """
import os, sys, trio
from appliance.components import open_components
from appliance.config.loading import load_configuration
async def main():
    configuration = load_configuration(os.environ)
    async with open_components(configuration, routes=(), log=lambda *_, **__: None, own_ports=frozenset()):
        print(*sys.modules)
trio.run(main)
"""


@pytest.mark.parametrize(
    ("backend", "listens"), [("http_comfyui", True), ("http_invokeai", True), ("http_a1111", False), ("mock", False)]
)
def test_what_the_first_picture_needs_is_imported_at_the_start(backend: str, listens: bool, tmp_path: Path) -> None:
    ended = _run(sys.executable, "-c", OPENED, IMAGES_BACKEND=backend, STATE_DIRECTORY=str(tmp_path))
    assert "appliance.components" in ended.stdout.split(), ended.stderr
    assert ("wsproto" in ended.stdout.split()) is listens
