"""The executable's bootloader: a process of its own that unpacks, starts ours, forwards signals and waits."""

import os
import sys
from collections.abc import Mapping

import trio


def is_frozen() -> bool:
    """Whether this process was started by the executable's bootloader."""
    return bool(getattr(sys, "frozen", False))


async def wait_bootloader_gone() -> None:
    """Return when our bootloader has died, which nobody but the kernel tells us; never, where the source runs.

    Nobody would forward signals then to a process that still holds the ports.
    """
    if not is_frozen():
        await trio.sleep_forever()
    descriptor = os.pidfd_open(os.getppid())
    try:
        await trio.lowlevel.wait_readable(descriptor)  # pidfd_open(2): readable once the process has ended
    finally:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for other programs: the bootloader points LD_LIBRARY_PATH at our libraries, which are not theirs."""
    kept = {name: value for name, value in environ.items() if not name.startswith("_PYI_")}
    if is_frozen():
        original = kept.pop("LD_LIBRARY_PATH_ORIG", None)
        kept.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            kept["LD_LIBRARY_PATH"] = original
    return kept
