"""Backups: what goes in comes back as it was, and an archive that is not ours changes nothing."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.host.backup import create_backup, restore_backup
from appliance.host.failures import Exit, HostFailure
from appliance.host.installing import InstallOptions, install
from tests.host.fake_machine import FakeSystem


def hush(_line: str) -> None:
    return


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    fake = FakeSystem(tmp_path / "root")
    install(fake.machine, fake.candidate(), InstallOptions(), hush, lambda *_: None)
    (fake.machine.state / "images").mkdir(parents=True)
    (fake.machine.state / "images" / "a.svg").write_text("<svg/>")
    (fake.machine.state / "link").symlink_to("/etc/passwd")
    return fake


def test_settings_tokens_and_state_come_back_and_what_came_after_is_gone(system: FakeSystem, tmp_path: Path) -> None:
    file = tmp_path / "saved.tar.gz"
    (system.machine.state / "link").unlink()
    before = system.tree()
    create_backup(system.machine, file)
    (system.machine.etc / "appliance.env").write_text("GATEWAY_PORT=1\n")
    (system.machine.etc / "tokens").unlink()
    (system.machine.state / "later").write_text("x")
    assert restore_backup(system.machine, file, hush) == 3
    assert system.tree() == before
    assert (system.machine.etc / "tokens").stat().st_mode & 0o777 == 0o600
    assert system.active


def test_links_and_the_receipt_are_left_out(system: FakeSystem, tmp_path: Path) -> None:
    create_backup(system.machine, tmp_path / "saved.tar.gz")
    with tarfile.open(tmp_path / "saved.tar.gz") as tar:
        assert set(tar.getnames()) == {"etc/appliance.env", "etc/tokens", "state/images", "state/images/a.svg"}


def add(name: str, **fields: object) -> Callable[[tarfile.TarFile], None]:
    def into(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(entry, field, value)
        tar.addfile(entry, io.BytesIO(b""))

    return into


@pytest.mark.parametrize(
    "member",
    [
        add("etc/../../../evil"),
        add("/etc/evil"),
        add("other/evil"),
        add("etc/evil", type=tarfile.SYMTYPE, linkname="/etc/shadow"),
        add("etc/evil", type=tarfile.LNKTYPE, linkname="/etc/shadow"),
        add("etc/evil", type=tarfile.CHRTYPE),
        add("state/only"),
    ],
)
def test_an_archive_that_is_not_ours_is_refused_before_anything_moves(
    system: FakeSystem, tmp_path: Path, member: Callable[[tarfile.TarFile], None]
) -> None:
    before = system.tree()
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        member(tar)
    with pytest.raises(HostFailure) as refused:
        restore_backup(system.machine, tmp_path / "evil.tar.gz", hush)
    assert refused.value.code == Exit.DATA
    assert (system.tree(), system.active) == (before, True)


def test_a_backup_that_was_cut_is_refused(system: FakeSystem, tmp_path: Path) -> None:
    create_backup(system.machine, tmp_path / "saved.tar.gz")
    before, data = system.tree(), (tmp_path / "saved.tar.gz").read_bytes()
    for kept in (10, len(data) // 2, len(data) - 4):
        (tmp_path / "cut.tar.gz").write_bytes(data[:kept])
        with pytest.raises(HostFailure) as refused:
            restore_backup(system.machine, tmp_path / "cut.tar.gz", hush)
        assert refused.value.code == Exit.DATA
    assert system.tree() == before


def test_a_backup_that_the_service_does_not_start_with_is_taken_back(system: FakeSystem, tmp_path: Path) -> None:
    create_backup(system.machine, tmp_path / "saved.tar.gz")
    (system.machine.etc / "appliance.env").write_text("GATEWAY_PORT=2\n")
    before = system.tree()
    system.serves = False
    with pytest.raises(HostFailure, match="does not start"):
        restore_backup(system.machine, tmp_path / "saved.tar.gz", hush)
    assert system.tree() == before
