"""systemd's notify protocol: what is said, over which socket, and when nothing is said."""

import os
import socket
import time
from pathlib import Path

import pytest

from appliance.host.systemd import Manager, find_manager


@pytest.fixture
def listening(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.setblocking(False)
        yield one


def test_each_word_is_one_datagram(tmp_path: Path, listening: socket.socket) -> None:
    manager = find_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.ready("Serving http://127.0.0.1:8800")
    assert listening.recv(4096) == b"READY=1\nSTATUS=Serving http://127.0.0.1:8800"
    assert manager.stopping("Draining", 45)
    assert listening.recv(4096) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\nSTATUS=Draining"
    assert manager.alive()
    assert listening.recv(4096) == b"WATCHDOG=1"


def test_a_reload_tells_the_monotonic_time_in_microseconds(tmp_path: Path, listening: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    find_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).reloading()
    first, second = listening.recv(4096).decode().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_socket_is_reached() -> None:
    name = f"appliance-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(f"\0{name}")
        assert find_manager({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert one.recv(4096) == b"WATCHDOG=1"


def test_a_status_cannot_smuggle_in_another_assignment(tmp_path: Path, listening: socket.socket) -> None:
    find_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready("bad\nMAINPID=1")
    assert listening.recv(4096) == b"READY=1\nSTATUS=bad MAINPID=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1", "/nonexistent/notify"])
def test_without_a_manager_that_listens_nothing_happens(address: str) -> None:
    assert find_manager({"NOTIFY_SOCKET": address}).ready("x") is False


def test_a_manager_that_does_not_read_never_holds_us_up(tmp_path: Path, listening: socket.socket) -> None:
    manager = find_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert [manager.alive() for _ in range(10_000)].count(False) > 0


@pytest.mark.parametrize(
    ("meant", "usec", "expected"),
    [
        (str(os.getpid()), "30000000", 30.0),
        (str(os.getppid()), "30000000", 30.0),  # the bootloader's
        ("", "1500000", 1.5),
        ("1", "30000000", 30.0 if os.getppid() == 1 else None),
        ("", "0", None),
        ("", "soon", None),
        ("", "", None),
    ],
)
def test_the_watchdog_interval_is_taken_where_it_is_meant_for_us(meant: str, usec: str, expected: float | None) -> None:
    assert find_manager({"WATCHDOG_PID": meant, "WATCHDOG_USEC": usec}).watchdog_s == expected


def test_what_the_manager_said_is_not_handed_on_to_children() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    assert find_manager(environ).address == "/x"
    assert environ == {"PATH": "/bin"}
    assert find_manager(environ) == Manager()
