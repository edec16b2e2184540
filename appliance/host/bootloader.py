"""The executable's bootloader: a process of its own that unpacks, starts ours, forwards signals and waits."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def is_frozen() -> bool:
    """Whether this process was started by the executable's bootloader."""
    return bool(getattr(sys, "frozen", False))


def end_with_bootloader() -> None:
    """If the bootloader is killed, so are we: nobody would forward signals to what it left, which still holds its
    ports. Does nothing where the source runs. SIGKILL, because that is what the bootloader got."""
    if is_frozen():
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def child_environment() -> dict[str, str]:
    """The environment for other programs: the bootloader points LD_LIBRARY_PATH at our libraries, which are not theirs."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("_PYI_")}
    if is_frozen():
        original = environ.pop("LD_LIBRARY_PATH_ORIG", None)
        environ.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            environ["LD_LIBRARY_PATH"] = original
    return environ
