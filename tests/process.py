"""The appliance as a process of its own, from the source or as the executable, on free loopback ports, ended by its pid."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

TOKEN = "a-token-for-tests-0123456789"
AUTH = {"authorization": f"Bearer {TOKEN}"}
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
PROGRAM = "APPLIANCE_TEST_PROGRAM"  # a path: the executable; not set: the source


def appliance_command() -> list[str]:
    """What starts the appliance in this test; the fixture `program` chooses."""
    program = os.environ.get(PROGRAM)
    return [program] if program else [sys.executable, "-m", "appliance"]


@dataclass
class GatewayProcess:
    """A running gateway. `output` grows in a file: stdout and stderr together."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""
    observability_url: str = ""

    def wait_ready(self) -> None:
        """Read both URLs from what it says when it listens. Raises AssertionError with its output if it does not."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            lines = self.text().splitlines()
            served = [line.split()[-1] for line in lines if " serves http" in line]
            observed = [line.split()[-1] for line in lines if "health and metrics: http" in line]
            if served and any("curl" in line for line in lines):
                self.url, self.observability_url = served[0], observed[0] if observed else ""
                return
            time.sleep(0.02)
        raise AssertionError(f"the gateway did not start (exit {self.process.poll()}): {self.text()}")

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=AUTH, trust_env=False, timeout=10)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def start_gateway(tmp_path: Path, settings: Mapping[str, str] | None = None) -> Iterator[GatewayProcess]:
    """Start `appliance serve`; on leaving, it is killed if it still runs."""
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    environ |= {
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "GATEWAY_BEARER_TOKEN": TOKEN,
        "GATEWAY_PORT": "0",
        "OBSERVABILITY_PORT": "0",
        "OLLAMA_BASE_URL": "http://127.0.0.1:9",
        **(settings or {}),
    }
    output = tmp_path / "gateway.log"
    with output.open("wb") as sink:
        process = subprocess.Popen([*appliance_command(), "serve"], env=environ, stdout=sink, stderr=subprocess.STDOUT)
    gateway = GatewayProcess(process, output)
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_TIMEOUT_S)
