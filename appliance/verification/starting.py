"""Starting: a gateway of our own, on free loopback ports, with mock backends and a state that is gone afterwards."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 30.0
STOP_S = 30.0
TOKEN = "verification-token-0123456789"  # noqa: S105 -- of a gateway that lives for seconds, on loopback

# Only what starts a program at all is handed on: a gateway that proves the file must not read the box's own settings.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
_SETTINGS: Mapping[str, str] = {
    "APPLIANCE_ENV_FILE": "/dev/null",
    "GATEWAY_HOST": "127.0.0.1",
    "GATEWAY_PORT": "0",
    "OBSERVABILITY_HOST": "127.0.0.1",
    "OBSERVABILITY_PORT": "0",
    "GATEWAY_BEARER_TOKEN": TOKEN,
    "MOCK_CHAT_SCRIPT": "builtin",
    "MODEL_ALIASES_JSON": '{"aliases":{"default":"mock:mock","fast":"mock:mock"}}',
    "DEFAULT_BACKEND": "mock",
    "IMAGES_BACKEND": "mock",
    "OLLAMA_BASE_URL": "",
    "TOOLS_ALLOW_SYSTEM_INFO": "true",
    "TOOLS_ALLOW_MODELS_REFRESH": "true",
}


class DidNotStartError(Exception):
    """The gateway ended, or did not listen in time; the message holds what it said last."""


@dataclass(frozen=True, slots=True)
class Started:
    """A gateway of ours and where it listens."""

    base_url: str
    obs_url: str
    token: str
    version: str
    process: subprocess.Popen[bytes]


def own_command() -> list[str]:
    """What starts this very program: the executable, or this Python with the package beside this file."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    return [_python(), "-m", "appliance"]


@contextmanager
def started_gateway(command: list[str]) -> Iterator[Started]:
    """Start a gateway and stop it again, as systemd would. Raises DidNotStartError."""
    state = Path(tempfile.mkdtemp(prefix="appliance-verify-"))
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {**_SETTINGS, "STATE_DIRECTORY": str(state / "state")}
    environment.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    said = state / "said"
    try:
        with said.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 -- our own program
                [*command, "serve"], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield _wait(process, said)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], said: Path) -> Started:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
        served = next((line.split() for line in lines if " serves http" in line), None)
        observed = next((line.split() for line in lines if "health and metrics: http" in line), None)
        if served and observed and any("curl" in line for line in lines):
            return Started(served[-1], observed[-1], TOKEN, served[1], process)
        time.sleep(0.02)
    last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    why = "it ended" if process.poll() is not None else f"it did not listen within {START_S:g} s"
    raise DidNotStartError(f"{why}: {' / '.join(last) or 'it said nothing'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _python() -> str:
    """The project's own environment where this is a tree that has one: the programs themselves need nothing."""
    own = Path(__file__).resolve().parents[2] / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable
