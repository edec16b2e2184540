"""The unit: every promise of its sandbox is there, and systemd's own judges have nothing to say."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.config.settings import Settings
from appliance.host.unit import first_settings, unit_for
from appliance.server.doors import CLEANUP_S

MAX_EXPOSURE = 1.5

SERVICE = {
    "Type": "notify",
    "NotifyAccess": "all",  # the bootloader is the main process
    "ExecReload": '/bin/sh -c "kill -HUP $MAINPID"',
    "KillMode": "mixed",
    "Restart": "always",
    "RestartPreventExitStatus": "78",
    "WatchdogSec": "30",
    "WatchdogSignal": "SIGKILL",
    "OOMPolicy": "continue",
    "User": "appliance",
    "LoadCredential": "tokens:/etc/appliance/tokens",
    "StateDirectory": "appliance",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
    "TemporaryFileSystem": "/run/appliance-exec:mode=1777,exec,nosuid,nodev,size=96M",
    "Environment": "TMPDIR=/run/appliance-exec",
    "LimitCORE": "0",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "PrivateDevices": "yes",
    "DevicePolicy": "closed",
    "PrivateTmp": "yes",
    "PrivateMounts": "yes",
    "PrivateUsers": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "RemoveIPC": "yes",
    "KeyringMode": "private",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
}


def directives() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_for(Path("/usr/local")))
    return parser["Service"]


@pytest.mark.parametrize(("name", "value"), SERVICE.items())
def test_the_service_has(name: str, value: str) -> None:
    assert directives()[name] == value


def test_both_lines_of_the_system_call_filter_are_there() -> None:
    assert re.findall(r"^SystemCallFilter=(.*)$", unit_for(Path("/usr/local")), re.MULTILINE) == [
        "@system-service",
        "~@privileged",
    ]


def test_a_stop_may_take_longer_than_a_drain() -> None:
    drain_s = Settings.model_fields["drain_timeout_sec"].default
    assert int(directives()["TimeoutStopSec"]) > drain_s + 2 * CLEANUP_S


def test_another_prefix_is_where_it_starts_from() -> None:
    assert "\nExecStart=/opt/x/lib/appliance/current/appliance serve\n" in unit_for(Path("/opt/x"))
    assert "/usr/local" not in unit_for(Path("/opt/x"))


def test_the_first_settings_are_the_address_and_names_that_exist() -> None:
    lines = first_settings("fd00::1", 9000).splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "GATEWAY_HOST=fd00::1",
        "GATEWAY_PORT=9000",
    ]
    offered = {match[1].lower() for line in lines if (match := re.match(r"#?([A-Z][A-Z0-9_]+)=", line))}
    assert len(offered) > 4
    assert offered <= set(Settings.model_fields)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With a program that exists, which `verify` asks for."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    file = tmp_path / "appliance.service"
    file.write_text(unit_for(Path("/usr/local")).replace("/usr/local/lib/appliance/current/appliance", "/bin/true"))
    return file


def test_systemd_analyze_sees_little_exposure(unit: Path) -> None:
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= MAX_EXPOSURE


def test_systemd_analyze_verify_is_content(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
