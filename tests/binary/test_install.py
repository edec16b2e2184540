"""`appliance install` on a clean Debian without Python, with real systemd: what it makes, and what it takes away again."""

import json

import pytest

from tests.binary.container import Container, read_until

pytestmark = pytest.mark.real

WAITING = """
import socket, sys, time
listening = socket.create_server(("127.0.0.1", 8800))
print("taken", flush=True)
time.sleep(120)
"""


def untouched(box: Container) -> bool:
    return box.changed() == {}


def test_one_command_makes_a_fresh_root_draw_and_uninstall_leaves_nothing(box: Container) -> None:
    assert untouched(box)
    ended = box.run("/root/appliance", "install")
    assert ended.code == 0, ended
    token = box.token()
    assert ended.out.count(token) == 1
    for told in ("http://127.0.0.1:8800", "/etc/appliance/tokens", "/etc/appliance/appliance.env", "journalctl"):
        assert told in ended.out
    status, made = box.ask("POST", "/v1/images/generations", body={"prompt": "a cat", "size": "64x48"})
    assert (status, made["_gateway"]["backend"]) == (200, "mock")
    assert box.show("User") == "appliance"
    assert box.ok("stat", "-c", "%a %U", "/etc/appliance/tokens", "/var/lib/appliance").split() == [
        "600",
        "root",
        "700",
        "appliance",
    ]
    again = box.run("/root/appliance", "install")
    assert (again.code, token in again.out) == (0, False)
    standing = json.loads(box.ok("appliance", "status", "--json"))
    assert (standing["running"], standing["running_is_installed"], standing["unit_edited"]) == (True, True, False)

    receipt = json.loads(box.read("/etc/appliance/receipt.json"))
    listed = {row["path"].lstrip("/") for row in receipt["made"] if row["kind"] != "user"}
    below_state = {name for name in box.changed() if name.startswith("var/lib/appliance/")}
    by_tools = {
        "etc/passwd",
        "etc/group",
        "etc/shadow",
        "etc/gshadow",
        "etc/systemd/system/multi-user.target.wants/appliance.service",
    }
    assert set(box.changed()) - below_state - by_tools == listed

    kept = box.ok("appliance", "uninstall")
    assert "/etc/appliance" in kept
    assert {name.split("/")[0] for name in box.changed()} <= {"etc", "var"}
    assert box.ask("GET", "/health") == (0, "")
    back = box.run("/root/appliance", "install")
    assert (back.code, token in back.out, box.token()) == (0, False, token)
    box.ok("/root/appliance", "uninstall", "--purge")
    assert untouched(box)


def test_a_dry_run_changes_nothing(box: Container) -> None:
    said = box.ok("/root/appliance", "install", "--dry-run")
    assert "/usr/local/lib/appliance/releases/" in said
    assert untouched(box)


def test_no_start_lays_everything_out(box: Container) -> None:
    box.ok("/root/appliance", "install", "--no-start", "--bind", "127.0.0.1:8899")
    assert (box.show("ActiveState"), box.show("UnitFileState")) == ("inactive", "enabled")
    box.ok("systemctl", "start", "appliance")
    assert box.ask("GET", "/health", port=8899) == (200, {"ok": True})


def test_another_prefix_is_kept_in_mind(box: Container) -> None:
    box.ok("/root/appliance", "install", "--prefix", "/opt/gateway")
    assert "/opt/gateway/lib/appliance/current/appliance" in box.show("ExecStart")
    assert json.loads(box.ok("/opt/gateway/bin/appliance", "status", "--json"))["running"] is True
    refused = box.run("/root/appliance", "install")
    assert (refused.code, "--prefix /opt/gateway" in refused.err) == (65, True)
    box.ok("/opt/gateway/bin/appliance", "uninstall", "--purge")
    assert untouched(box)


def test_a_second_install_at_the_same_time_is_refused(box: Container) -> None:
    with box.start("/root/appliance", "install") as first:
        read_until(first, "installing")
        second = box.run("/root/appliance", "install")
        assert (second.code, "try again when it is done" in second.err) == (75, True)
        read_until(first, "appliance serves")
        assert first.wait(60) == 0
    assert box.ask("GET", "/health")[0] == 200


def test_an_install_that_was_killed_is_taken_back_by_the_next_command(box: Container) -> None:
    with box.start("/root/appliance", "install") as first:
        read_until(first, "starting")
        box.shell(
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in '/root/appliance install'*) kill -9 ${p#/proc/};; esac; done"
        )
        first.wait(60)
    assert not untouched(box)
    failed = box.run("/root/appliance", "uninstall")
    assert (failed.code, "is not installed" in failed.err) == (69, True)
    assert untouched(box)
    box.ok("/root/appliance", "install")
    assert box.ask("GET", "/health")[0] == 200


def test_a_port_that_is_taken_leaves_nothing_behind(box: Container) -> None:
    with box.start_python(WAITING) as holder:
        read_until(holder, "taken")
        ended = box.run("/root/appliance", "install")
        assert (ended.code, "port 8800" in ended.err, "--bind" in ended.err) == (69, True, True)
        assert untouched(box)
        box.ok("/root/appliance", "install", "--bind", "127.0.0.1:8900")
        assert box.ask("GET", "/health", port=8900)[0] == 200


def test_a_full_disk_in_the_middle_leaves_nothing_behind(box: Container) -> None:
    box.ok("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", "/usr/local/lib")
    ended = box.run("/root/appliance", "install")
    assert (ended.code, "disk is full" in ended.err) == (74, True)
    assert box.ok("ls", "-A", "/usr/local/lib") == ""
    box.ok("umount", "/usr/local/lib")
    assert untouched(box)
    box.ok("/root/appliance", "install")


def test_a_noexec_prefix_is_refused_and_a_noexec_tmp_does_not_matter_to_the_service(box: Container) -> None:
    box.ok("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", "/usr/local/lib")
    ended = box.run("/root/appliance", "install")
    assert (ended.code, "--prefix" in ended.err) == (73, True)
    box.ok("umount", "/usr/local/lib")
    assert untouched(box)
    box.ok("mount", "-o", "remount,noexec", "/tmp")
    assert box.run("/root/appliance", "version").code != 0, "the bootloader itself cannot unpack there"
    box.ok("env", "TMPDIR=/root", "/root/appliance", "install")
    assert box.ask("GET", "/health")[0] == 200


def test_without_root_or_systemd_it_says_what_to_do(box: Container) -> None:
    box.ok("cp", "/root/appliance", "/usr/local/bin/copy")
    ended = box.run("setpriv", "--reuid=65534", "--clear-groups", "/usr/local/bin/copy", "install")
    assert (ended.code, "sudo" in ended.err) == (77, True)
    box.ok("rm", "/usr/local/bin/copy")
    ended = box.run("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /run/systemd && exec /root/appliance install")
    assert (ended.code, "--no-start" in ended.err) == (69, True)
    assert untouched(box)


@pytest.mark.parametrize("path", ["/etc/systemd/system/appliance.service", "/usr/local/bin/appliance"])
def test_what_is_there_and_not_ours_is_not_replaced(box: Container, path: str) -> None:
    box.write(path, "theirs\n")
    before = box.changed()
    ended = box.run("/root/appliance", "install")
    assert (ended.code, "not ours" in ended.err) == (73, True)
    assert (box.read(path), box.changed()) == ("theirs\n", before)


def test_a_bad_configuration_that_is_there_is_told_and_left_alone(box: Container) -> None:
    box.write("/etc/appliance/appliance.env", "GATEWAY_PORT=many\n")
    before = box.changed()
    ended = box.run("/root/appliance", "install")
    assert (ended.code, "GATEWAY_PORT" in ended.err) == (78, True)
    assert box.changed() == before
