"""The executable as two processes: neither outlives the other."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from appliance.cli import COMMANDS
from tests.process import PROGRAM, TOKEN, start_gateway

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def program(executable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRAM, str(executable))


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def wait_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "it still runs"
        time.sleep(0.02)


def test_a_gateway_whose_bootloader_is_killed_ends_too(tmp_path: Path) -> None:
    with start_gateway(tmp_path) as gateway:
        child = child_of(gateway.process.pid)
        gateway.signal(signal.SIGKILL)
        gateway.wait_exit()
        wait_gone(child)
        assert '"event": "bootloader_died"' in gateway.text()


def test_a_bootloader_whose_gateway_is_killed_says_so_and_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    with start_gateway(tmp_path, {"TMPDIR": str(unpacked)}) as gateway:
        assert len(list(unpacked.iterdir())) == 1
        os.kill(child_of(gateway.process.pid), signal.SIGKILL)
        assert gateway.wait_exit() != 0
        assert list(unpacked.iterdir()) == []


def test_it_sees_its_own_libraries_and_its_children_do_not(tmp_path: Path) -> None:
    with start_gateway(tmp_path, {"LD_LIBRARY_PATH": "/opt/theirs"}) as gateway:
        environ = Path(f"/proc/{child_of(gateway.process.pid)}/environ").read_bytes().split(b"\0")
    assert b"LD_LIBRARY_PATH_ORIG=/opt/theirs" in environ


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(executable: Path, name: str) -> None:
    done = subprocess.run([executable, name, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sage" in done.stdout


def test_its_own_checks_pass_on_itself(executable: Path, tmp_path: Path) -> None:
    with start_gateway(tmp_path) as gateway:
        command = [executable, "verify-images", "--gateway-base-url", gateway.url, "--token", TOKEN]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
