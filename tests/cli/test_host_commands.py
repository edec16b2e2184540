"""The commands that change the machine, on one in a folder: what they say, and the codes they end with."""

import json
from pathlib import Path

import pytest

from appliance.__main__ import main
from appliance.cli.install import Bind
from appliance.host.installing import InstallOptions, install
from tests.host.fake_machine import FakeSystem


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    fake = FakeSystem(tmp_path / "root")
    for command in ("upgrade", "status", "uninstall", "backup"):
        monkeypatch.setattr(f"appliance.cli.{command}.installed_machine", lambda: fake.machine)
    return fake


def put(system: FakeSystem) -> None:
    install(system.machine, system.candidate(), InstallOptions(), lambda _line: None, lambda *_: None)


@pytest.mark.parametrize("argv", [["status"], ["uninstall"], ["rollback"], ["upgrade", "x"], ["backup", "create", "x"]])
def test_where_nothing_is_installed_is_69(
    system: FakeSystem, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert main(argv) == 69
    assert "not installed here" in capsys.readouterr().err


def test_the_source_does_not_install_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install"]) == 69
    assert "tools/dev.py binary" in capsys.readouterr().err


@pytest.mark.parametrize("bind", ["", ":8800", "host:", "host:0", "host:99999", "host:http", "[::1]:x"])
def test_an_address_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str], bind: str) -> None:
    assert main(["install", "--bind", bind]) == 2
    assert "0.0.0.0:8800" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0", None)),
        ("box.local:8900", ("box.local", 8900)),
        ("::", ("::", None)),
        ("fd00::1", ("fd00::1", None)),
        ("[::]:8800", ("::", 8800)),
        ("[::1]", ("::1", None)),
    ],
)
def test_an_address_is_read_with_and_without_a_port(written: str, expected: tuple[str, int | None]) -> None:
    assert Bind()(written) == expected


@pytest.mark.parametrize("prefix", ["/usr/local", "/opt/gateway"])
def test_the_unit_is_shown_for_a_prefix(capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    assert main(["install", "--show-unit", "--prefix", prefix]) == 0
    assert f"\nExecStart={prefix}/lib/appliance/current/appliance serve\n" in capsys.readouterr().out


def test_status_is_0_while_it_runs_and_3_when_not(system: FakeSystem, capsys: pytest.CaptureFixture[str]) -> None:
    put(system)
    assert main(["status"]) == 0
    assert "service: active" in capsys.readouterr().out
    system.active = False
    assert main(["status", "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)
    assert (facts["running"], facts["current"]["version"], facts["unit_edited"]) == (False, "1.0.0", False)


def test_uninstall_says_what_is_left_and_a_purge_leaves_nothing(
    system: FakeSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    put(system)
    assert main(["uninstall"]) == 0
    assert f"left: {system.machine.etc} (directory)" in capsys.readouterr().out
    assert main(["uninstall", "--purge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"uninstalled": True, "left": []}


def test_a_backup_is_private_and_is_not_written_over_another_file(
    system: FakeSystem, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    put(system)
    file = tmp_path / "saved.tar.gz"
    assert main(["backup", "create", str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["backup", "create", str(file)]) == 73
    assert "name another" in capsys.readouterr().err
    assert main(["backup", "restore", str(tmp_path / "nothing")]) == 74
    (tmp_path / "no.tar.gz").write_text("no archive")
    assert main(["backup", "restore", str(tmp_path / "no.tar.gz")]) == 65
