"""Box: what a person waits for on a machine with systemd, in a container: the first install, and coming back."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.binary.container import Container, open_container
from tests.real.debian import NotAvailable
from tools.bench.common import Figure, at_most, parse_arguments, report, told
from tools.devtools.binary import ensure_executable

RUNS = 3
KILLS = 5
PATIENCE_S = 60.0
GOAL_INSTALL_S = 30.0
GOAL_BACK_S = 3.0
TITLE = f"box: medians of {RUNS} installs, {KILLS} kills each"
# Ask until it answers: an interpreter for each try would cost more than what is measured.
SERVING = """
import sys, time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        opener.open("http://127.0.0.1:8800/health", timeout=5).read()
        sys.exit(0)
    except OSError:
        time.sleep(0.02)
sys.exit(1)
"""


def main(argv: Sequence[str]) -> int:
    """Measure and print; without root or containers, say so."""
    arguments = parse_arguments(argv, TITLE)
    executable = ensure_executable()
    installs, pictures, kills = [], [], []
    try:
        for _ in range(RUNS):
            with tempfile.TemporaryDirectory(prefix="bench-box-") as folder, open_container(Path(folder)) as box:
                box.put(executable, "/root/appliance")
                installs.append(_seconds(partial(box.ok, "/root/appliance", "install")))
                pictures.append(_seconds(partial(_draw, box)))
                kills += [_back(box) for _ in range(KILLS)]
    except NotAvailable as reason:
        print(f"not measured: {reason}")
        return 0
    return report(TITLE, _figures(installs, pictures, kills), arguments.json)


def _figures(installs: Sequence[float], pictures: Sequence[float], kills: Sequence[float]) -> list[Figure]:
    first = [install + picture for install, picture in zip(installs, pictures, strict=True)]
    return [
        at_most("fresh root to first image, through install", statistics.median(first), "s", GOAL_INSTALL_S),
        told("the slowest of them", max(first), "s"),
        at_most("kill -9 to serving again", statistics.median(kills), "s", GOAL_BACK_S),
        told("the slowest of them", max(kills), "s"),
    ]


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _draw(box: Container) -> None:
    status, answer = box.ask("POST", "/v1/images/generations", body={"prompt": "a lighthouse at dusk"})
    if status != 200:
        raise RuntimeError(f"no picture: {status} {json.dumps(answer)}")


def _back(box: Container) -> float:
    """Kill the gateway, not its bootloader, and ask from then on."""
    gateway = box.pids()[-1]
    with box.start_python(SERVING) as warm:
        warm.wait(PATIENCE_S)
    began_s = time.perf_counter()
    box.kill(gateway, "KILL")
    with box.start_python(SERVING) as asking:
        if asking.wait(PATIENCE_S) != 0:
            raise RuntimeError("it did not come back")
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
