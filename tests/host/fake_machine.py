"""A machine in a folder: systemd, the users and the executable play along, and fail where a test says."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from appliance.host.candidate import Candidate, inspect
from appliance.host.machine import Machine, Ran
from tools.devtools.binary import seal

UNIT_TEXT = "[Service]\nExecStart=/usr/local/lib/appliance/current/appliance serve\n"


class FakeSystem:
    """What stands behind a Machine. `fails_at`: the number of the program, counted from 1, that ends with 1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user: tuple[int, int] | None = None
        self.active = False
        self.enabled = False
        self.serves = True
        self.calls: list[str] = []
        self.fails_at = 0
        for name in ("etc/systemd/system", "usr/local", "var/lib", "run/systemd/system"):
            (root / name).mkdir(parents=True)
        self.machine = Machine(root=root, run=self.run, find_user=lambda: self.user, is_root=True)

    def run(self, command: Sequence[str]) -> Ran:
        self.calls.append(" ".join(command))
        if len(self.calls) == self.fails_at:
            return Ran(1, "it was told to fail")
        if command[0] == "systemctl":
            return self._systemctl(command[2:])
        if command[0] == "useradd":
            self.user = (os.getuid(), os.getgid())
        if command[0] == "userdel":
            self.user = None
        return Ran(0, self._executable(command))

    def _systemctl(self, words: Sequence[str]) -> Ran:
        if words[0] == "show":
            state = "active" if self.active else "failed" if "restart" in " ".join(self.calls) else "inactive"
            enabled = "enabled" if self.enabled else "disabled"
            return Ran(
                0, f"ActiveState={state}\nNRestarts=0\nResult=x\nMainPID=0\nUnitFileState={enabled}\nStatusText=a=b"
            )
        if words[0] == "restart":
            self.active = self.serves
        if words[0] == "stop" or "--now" in words:
            self.active = False
        if words[0] in {"enable", "disable"}:
            self.enabled = words[0] == "enable"
        return Ran(0, "")

    def _executable(self, command: Sequence[str]) -> str:
        text = " ".join(command)
        if "version --json" in text:
            return json.dumps({"version": Path(command[0]).read_bytes().split(b"\n")[0].decode()})
        if "--show-unit" in text:
            return UNIT_TEXT.strip()
        if "config show" in text:
            names = {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": 0, "GATEWAY_TLS_CERT_PATH": None}
            names |= {"OBSERVABILITY_ENABLED": False, "IMAGES_BACKEND": "mock"}
            settings = {name: {"value": value} for name, value in names.items()}
            return json.dumps({"settings": settings, "tokens": {"source": "$CREDENTIALS_DIRECTORY/tokens"}})
        return ""

    def executable(self, version: str) -> Path:
        """A sealed file whose first line is its version."""
        folder = self.root.parent / "downloads"
        folder.mkdir(exist_ok=True)
        file = folder / f"appliance-{version}"
        file.write_bytes(version.encode() + b"\n" + b"x" * 5000)
        seal(file)
        file.chmod(0o755)
        return file

    def candidate(self, version: str = "1.0.0") -> Candidate:
        return inspect(self.machine, self.executable(version))

    def tree(self) -> dict[str, str]:
        """Every path with its content; what the tests compare."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                found[name] = f"-> {os.readlink(path)}"
            elif path.is_file() and not name.startswith("run/"):
                found[name] = path.read_bytes().hex()
            elif path.is_dir():
                found[name] = "directory"
        return found
