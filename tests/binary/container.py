"""A clean Debian without Python, booted with systemd as PID 1, over an overlay that is thrown away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.binary.cleanroot import ensure_clean_root
from tests.real.debian import NotAvailable, find_program

BOOT_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
# What changes in a running Debian by itself, or is nobody's: logs, stamps, ids, the locks of the password file.
NOISE = (
    "var/log",
    "var/tmp",
    "var/lib/systemd",
    "var/lib/dbus",
    "etc/machine-id",
    "etc/.pwd.lock",
    "etc/.updated",
    "root",
    "srv",
    "tmp",
    "run",
)
BACKUPS = ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program in the container ended. `out` and `err` apart."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Container:
    """A running one. Its network is its own loopback."""

    init: int
    clean: Path
    upper: Path
    merged: Path

    def run(self, *command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Ended:
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, timeout=timeout_s, check=False, env=_ENVIRONMENT
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str) -> Ended:
        return self.run("sh", "-c", script)

    def ok(self, *command: str) -> str:
        """Run what must succeed; what it says."""
        ended = self.run(*command)
        assert ended.code == 0, (command, ended)
        return ended.out

    def command(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.init), "-a", "--", *command]

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Start one and go on; on leaving, it is killed if it still runs."""
        with _started(self.command(*command)) as process:
            yield process

    @contextmanager
    def start_python(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start one of ours in its network."""
        with _started(self.python(program, *arguments)) as process:
            yield process

    def put(self, source: Path, target: str, mode: int = 0o755) -> None:
        path = self.merged / target.lstrip("/")
        shutil.copyfile(source, path)
        path.chmod(mode)

    def write(self, target: str, text: str) -> None:
        path = self.merged / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, target: str) -> str:
        return (self.merged / target.lstrip("/")).read_text()

    def ask(self, method: str, path: str, *, port: int = 8800, body: Any = None) -> tuple[int, Any]:
        """One request from within its network, with its own token. Status 0: nobody listens."""
        done = subprocess.run(
            self.python(_ASK, method, f"http://127.0.0.1:{port}{path}", self.token(), json.dumps(body)),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
        status, text = json.loads(done.stdout)
        return status, json.loads(text) if text[:1] == "{" else text

    def python(self, program: str, *arguments: str) -> list[str]:
        """The command that runs our Python in its network: it has none."""
        return ["nsenter", "-t", str(self.init), "-n", "--", sys.executable, "-c", program, *arguments]

    def token(self) -> str:
        try:
            return self.read("/etc/appliance/tokens").split()[-1]
        except FileNotFoundError:
            return ""

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.ok("systemctl", "show", "appliance", "-P", name).strip()

    def wait_for(self, name: str, value: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while (found := self.show(name)) != value:
            assert time.monotonic() < end, (name, found, self.journal())
            time.sleep(0.1)

    def journal(self) -> str:
        return self.ok("journalctl", "-u", "appliance", "--no-pager", "-o", "cat")

    def pids(self) -> list[int]:
        """The unit's processes as the container counts them, the bootloader first."""
        group = self.show("ControlGroup")
        listed = self.shell(
            f"cat /sys/fs/cgroup/systemd{group}/cgroup.procs /sys/fs/cgroup{group}/cgroup.procs 2>/dev/null"
        )
        return sorted({int(line) for line in listed.out.split()})

    def read_proc(self, pid: int, name: str) -> str:
        return self.ok("cat", f"/proc/{pid}/{name}")

    def kill(self, pid: int, name: str) -> None:
        self.ok("sh", "-c", f"kill -{name} {pid}")

    def changed(self) -> dict[str, str]:
        """What differs from the clean root, noise left out: path -> how."""
        found = {}
        for path in sorted(self.upper.rglob("*")):
            name = str(path.relative_to(self.upper))
            if not name.startswith((*NOISE, *BACKUPS)) and (how := _difference(path, self.clean / name)):
                found[name] = how
        return found


_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_ASK = """
import json, sys, urllib.error, urllib.request
method, url, token, body = sys.argv[1:]
data = None if body == "null" else body.encode()
request = urllib.request.Request(url, data, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}, method=method)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(request, timeout=60) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as refused:
    print(json.dumps([refused.code, refused.read().decode()]))
except OSError:
    print(json.dumps([0, ""]))
"""


@contextmanager
def _started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_ENVIRONMENT
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """Read lines until one begins so; that line. Raises AssertionError if none does."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(beginning):
            return line
    raise AssertionError((beginning, said))


def _difference(path: Path, clean: Path) -> str:
    if path.is_symlink():
        return "" if clean.is_symlink() and os.readlink(clean) == os.readlink(path) else "link"
    if path.is_char_device() and path.stat().st_rdev == 0:
        return "removed"  # an overlay's whiteout
    if path.is_dir():
        return "" if clean.is_dir() else "directory"
    if not clean.is_file():
        return "file"
    return "" if clean.read_bytes() == path.read_bytes() else "content"


@contextmanager
def open_container(folder: Path) -> Iterator[Container]:
    """Boot one; on leaving it is killed and unmounted. Raises NotAvailable."""
    clean = ensure_clean_root()
    nspawn = find_program("systemd-nspawn", package="systemd-container")
    upper, merged = folder / "upper", folder / "merged"
    for one in (upper, merged, folder / "work"):
        one.mkdir()
    options = f"lowerdir={clean},upperdir={upper},workdir={folder / 'work'}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise NotAvailable("no overlay file system here")
    try:
        with (folder / "console.log").open("wb") as console:
            arguments = [
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--boot",
                f"--directory={merged}",
                "--private-network",
            ]
            process = subprocess.Popen(
                [nspawn, *arguments, "--console=pipe", f"--machine=t{os.getpid()}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        init = 0
        try:
            init = _wait_booted(process, folder / "console.log")
            yield Container(init, clean, upper, merged)
        finally:
            if init:
                os.kill(init, signal.SIGKILL)
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    finally:
        _unmount(merged)


def _wait_booted(process: subprocess.Popen[bytes], console: Path) -> int:
    """The PID of its init, as we count, once every unit was started."""
    end = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            init = int(children[0])
            asked = subprocess.run(
                ["nsenter", "-t", str(init), "-a", "--", "systemctl", "is-system-running", "--wait"],
                capture_output=True,
                text=True,
                timeout=BOOT_TIMEOUT_S,
                check=False,
                env=_ENVIRONMENT,
            )
            if asked.stdout.strip() in {"running", "degraded"}:
                return init
        time.sleep(0.1)
    raise NotAvailable(f"systemd did not boot in a container: {console.read_text(errors='replace')[-300:]}")


def _unmount(merged: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", merged], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", merged], capture_output=True, check=False)
