"""Upgrades of the installed service: to a release that serves, and to ones that do not."""

import json
from pathlib import Path

import pytest

from tests.binary.conftest import Pose
from tests.binary.container import Container

pytestmark = pytest.mark.real


def current(box: Container) -> str:
    return str(json.loads(box.read("/etc/appliance/receipt.json"))["current"]["version"])


def version(box: Container) -> str:
    return box.ok("/usr/local/bin/appliance", "version").split()[0]


def test_an_upgrade_takes_over_and_a_rollback_goes_back(installed: Container, pose: Pose) -> None:
    first = current(installed)
    said = installed.ok("/root/appliance", "upgrade", pose("9.1.0"))
    assert "appliance rollback" in said
    assert (current(installed), version(installed)) == ("9.1.0", "9.1.0")
    installed.ok("/root/appliance", "upgrade", pose("9.2.0"))
    assert len(installed.ok("ls", "/usr/local/lib/appliance/releases").split()) == 2, "the oldest is gone"
    installed.ok("/root/appliance", "rollback")
    assert version(installed) == "9.1.0"
    older = installed.run("/root/appliance", "upgrade", "/root/appliance")
    assert (older.code, "--allow-older" in older.err) == (65, True)
    refused = installed.run("/root/appliance", "install")
    assert (refused.code, "the older" in refused.err) == (65, True)
    installed.ok("/root/appliance", "upgrade", "--allow-older", "/root/appliance")
    assert current(installed) == first
    assert installed.ask("GET", "/health")[0] == 200
    installed.ok("appliance", "uninstall", "--purge")
    assert installed.changed() == {}


@pytest.mark.parametrize(
    "serve",
    ["exit 1", "kill -SEGV $$", "systemd-notify --ready; sleep 600"],
    ids=["ends", "crashes", "answers nothing"],
)
def test_a_release_that_does_not_serve_is_taken_back_by_itself(installed: Container, pose: Pose, serve: str) -> None:
    bad = pose("9.9.9", serve)
    before = (current(installed), installed.changed().keys(), installed.read("/etc/appliance/receipt.json"))
    ended = installed.run("/root/appliance", "upgrade", bad)
    assert ended.code == 70, ended
    assert "serves as before" in ended.err
    assert (current(installed), installed.changed().keys(), installed.read("/etc/appliance/receipt.json")) == before
    installed.wait_for("ActiveState", "active")
    assert installed.ask("GET", "/v1/models")[0] == 200


def test_a_copy_that_was_damaged_is_refused_before_anything_changes(
    installed: Container, executable: Path, tmp_path: Path
) -> None:
    main = installed.show("MainPID")
    whole = executable.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:9000] + b"?" + whole[9001:], b"<html>not found</html>" * 99):
        (tmp_path / "damaged").write_bytes(damaged)
        installed.put(tmp_path / "damaged", "/root/damaged")
        ended = installed.run("appliance", "upgrade", "/root/damaged")
        assert (ended.code, "fetch it again" in ended.err) == (65, True)
    ended = installed.run("appliance", "upgrade", "--sha256", "0" * 64, "/root/appliance")
    assert (ended.code, "fetch it again" in ended.err) == (65, True)
    assert installed.show("MainPID") == main


def test_a_unit_that_was_edited_by_hand_is_kept_and_told_of(installed: Container, pose: Pose) -> None:
    unit = "/etc/systemd/system/appliance.service"
    edited = installed.read(unit).replace("[Service]", "[Service]\nNice=5")
    installed.write(unit, edited)
    installed.ok("systemctl", "daemon-reload")
    ended = installed.run("/root/appliance", "upgrade", pose("9.1.0"))
    assert (ended.code, "edited by hand" in ended.err) == (0, True)
    assert installed.read(unit) == edited
    assert installed.show("Nice") == "5"
    assert json.loads(installed.ok("appliance", "status", "--json"))["unit_edited"] is True


def test_a_backup_brings_configuration_and_state_back(installed: Container) -> None:
    token = installed.token()
    installed.ask("POST", "/v1/images/generations", body={"prompt": "a cat", "size": "64x48"})
    pictures = installed.ok("ls", "/var/lib/appliance/images")
    installed.ok("appliance", "backup", "create", "/root/saved.tar.gz")
    assert installed.ok("stat", "-c", "%a", "/root/saved.tar.gz") == "600\n"
    installed.ok("appliance", "uninstall", "--purge")
    installed.ok("/root/appliance", "install", "--bind", "127.0.0.1:8900")
    assert installed.token() != token
    installed.ok("appliance", "backup", "restore", "/root/saved.tar.gz")
    assert installed.token() == token
    assert installed.ok("ls", "/var/lib/appliance/images") == pictures
    assert installed.ask("GET", "/v1/models")[0] == 200
    installed.ok("appliance", "uninstall", "--purge")
    assert installed.changed() == {}


def test_a_backup_that_does_not_serve_changes_nothing(installed: Container) -> None:
    good = installed.read("/etc/appliance/appliance.env")
    installed.write("/etc/appliance/appliance.env", "GATEWAY_PORT=many\n")
    installed.ok("appliance", "backup", "create", "/root/bad.tar.gz")
    installed.write("/etc/appliance/appliance.env", good)
    ended = installed.run("appliance", "backup", "restore", "/root/bad.tar.gz")
    assert ended.code == 70, ended
    assert installed.read("/etc/appliance/appliance.env") == good
    installed.wait_for("ActiveState", "active")
    installed.ok("sh", "-c", "head -c 700 /root/bad.tar.gz > /root/cut.tar.gz")
    assert installed.run("appliance", "backup", "restore", "/root/cut.tar.gz").code == 65
    assert installed.ask("GET", "/health")[0] == 200
