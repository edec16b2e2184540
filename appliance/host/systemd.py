"""systemd: what the service tells its manager over the notify socket (sd_notify(3)), and how often it must."""

import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

NOTIFY_SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"
_MAX_STATUS = 400  # a status is one line in `systemctl status`


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager that started us. `address` None: there is none, and nothing is said.

    `watchdog_s`: it must hear from us within this, else it kills and restarts us; None: it does not wait for that.
    """

    address: str | None = None
    watchdog_s: float | None = None

    def ready(self, status: str) -> bool:
        """The start, or a reload, is over."""
        return self.notify("READY=1", _status(status))

    def reloading(self) -> bool:
        """A reload begins; `ready` must follow."""
        return self.notify("RELOADING=1", f"MONOTONIC_USEC={_monotonic_us()}")

    def stopping(self, status: str, within_s: float) -> bool:
        """The stop has begun and takes `within_s` at most, whatever the unit's TimeoutStopSec says."""
        return self.notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}", _status(status))

    def alive(self) -> bool:
        """Feed the watchdog."""
        return self.notify("WATCHDOG=1")

    def notify(self, *lines: str) -> bool:
        """Send one datagram, without waiting. False: there is no manager, or it does not listen."""
        if self.address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.connect(_socket_address(self.address))
                sending.send("\n".join(lines).encode())
        except OSError:
            return False
        return True


def find_manager(environ: MutableMapping[str, str]) -> Manager:
    """Read what the manager left in the environment, and take it out: the programs that we start are not the service.

    WATCHDOG_PID may be our parent's: the manager started the executable's bootloader.
    """
    address = environ.pop(NOTIFY_SOCKET, "")
    interval, meant = environ.pop(WATCHDOG_USEC, ""), environ.pop(WATCHDOG_PID, "")
    ours = meant in {"", str(os.getpid()), str(os.getppid())}
    watchdog_s = int(interval) / 1e6 if ours and interval.isdecimal() and int(interval) else None
    return Manager(address if address[:1] in {"/", "@"} else None, watchdog_s)


def _socket_address(name: str) -> str:
    """`@name` is an abstract socket: its address begins with a NUL (unix(7))."""
    return "\0" + name[1:] if name.startswith("@") else name


def _status(text: str) -> str:
    """One line: a line break would begin another assignment."""
    return "STATUS=" + "".join(c if c.isprintable() else " " for c in text)[:_MAX_STATUS]


def _monotonic_us() -> int:
    """CLOCK_MONOTONIC, which the manager compares with its own."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
