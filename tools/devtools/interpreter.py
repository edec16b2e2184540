"""Which Python an environment is made from: the one that runs this, or a much quicker one of the same version.

A Python built without profile-guided optimisation, as version managers build theirs unless told otherwise, takes a third
more CPU for the same work than a distribution's, and so would the gateway and the executable made from it.
"""

import os
import subprocess
import sys
from collections.abc import Iterable

QUICKER = 0.9  # of our own time: less of a difference is noise, and no reason to leave the Python that was chosen
PROBE_TIMEOUT_S = 20.0

# What an interpreter must be able to do here: make environments, and, as a library, be frozen into the executable. Then
# how long it takes: calls, attributes, dictionaries and coroutines, as a request does.
PROBE = """
import ctypes, ensurepip, os, sysconfig, time, venv
from sys import version_info
library = sysconfig.get_config_var("INSTSONAME")
beside = os.path.join(sysconfig.get_config_var("LIBDIR"), library)
ctypes.CDLL(beside if os.path.exists(beside) else library)
class Point:
    __slots__ = ("x",)
    def __init__(self, x): self.x = x
    def next(self): return self.x + 1
async def step(x): return Point(x).next()
def work():
    seen = {}
    for x in range(40_000):
        seen[x & 255] = seen.get(x & 255, 0) + x
        pair = (x, "a%d" % x)
    for x in range(20_000):
        try: step(x).send(None)
        except StopIteration: pass
def timed():
    began = time.process_time()
    work()
    return time.process_time() - began
print(f"{version_info[0]}.{version_info[1]}", min(timed() for _ in range(7)))
"""


def base_python() -> str:
    """The Python to make environments from."""
    # Not this one's own environment, which may be about to be cleared.
    return quickest(str(getattr(sys, "_base_executable", sys.executable)), same_version_on_path())


def quickest(own: str, others: Iterable[str]) -> str:
    """`own`, unless one of the others is far quicker and can make environments."""
    ours = seconds(own)
    found = {other: seconds(other) for other in others if not _same_file(own, other)}
    able = {other: taken for other, taken in found.items() if taken is not None}
    best = min(able, key=lambda other: able[other], default=own)
    return best if ours is not None and able.get(best, ours) < QUICKER * ours else own


def same_version_on_path() -> list[str]:
    """The Pythons of this very minor version, by their usual name; links and stand-ins among them."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = [*os.get_exec_path(), "/usr/bin", "/usr/local/bin"]
    files = dict.fromkeys(os.path.join(folder, name) for folder in folders)
    return [file for file in files if os.access(file, os.X_OK)]


def seconds(python: str) -> float | None:
    """CPU that some work takes in it; None for one that lacks what we need, or does not run, or is of another version."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        version, taken = done.stdout.split()
        return float(taken) if version == f"{sys.version_info[0]}.{sys.version_info[1]}" else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
