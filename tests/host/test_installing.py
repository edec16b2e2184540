"""Installing, upgrading and removing on a machine in a folder: what is made, and that every failure is taken back."""

import errno
import json
import os
from pathlib import Path

import pytest

from appliance.host.changes import Changes, take_back_interrupted
from appliance.host.failures import Exit, HostFailure
from appliance.host.installing import Installed, InstallOptions, install, plan
from appliance.host.locking import only_one
from appliance.host.receipt import load_receipt
from appliance.host.smoke import Door
from appliance.host.uninstalling import uninstall
from appliance.host.upgrading import rollback, upgrade
from tests.host.fake_machine import FakeSystem


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path / "root")


def hush(_line: str) -> None:
    return


def fine(_door: Door, token: str, _draw: bool) -> None:
    assert len(token) >= 43


def broken(_door: Door, _token: str, _draw: bool) -> None:
    raise HostFailure("smoke test: no picture", Exit.SOFTWARE)


def put(system: FakeSystem, version: str = "1.0.0", **options: object) -> Installed:
    return install(system.machine, system.candidate(version), InstallOptions(**options), hush, fine)  # type: ignore[arg-type]


def test_it_serves_from_a_release_of_its_own_and_says_the_token_once(system: FakeSystem) -> None:
    installed = put(system)
    machine = system.machine
    assert (system.active, system.enabled, system.user is not None) == (True, True, True)
    assert installed.token is not None
    assert installed.token in (machine.etc / "tokens").read_text()
    assert (machine.etc / "tokens").stat().st_mode & 0o777 == 0o600
    assert machine.current.resolve().name == installed.released.receipt.current.name  # type: ignore[union-attr]
    assert put(system).token is None


def test_what_an_operator_wrote_is_never_overwritten(system: FakeSystem) -> None:
    system.machine.etc.mkdir()
    (system.machine.etc / "appliance.env").write_text("GATEWAY_PORT=1\n")
    (system.machine.etc / "tokens").write_text("a-token-of-the-operator-0123456789-0123456789\n")
    assert put(system).token is None
    assert (system.machine.etc / "appliance.env").read_text() == "GATEWAY_PORT=1\n"
    with pytest.raises(HostFailure, match="without --bind"):
        put(system, host="0.0.0.0")


def test_the_plan_changes_nothing(system: FakeSystem) -> None:
    before = system.tree()
    lines = plan(system.machine, system.candidate(), InstallOptions())
    assert any("first token" in line for line in lines)
    assert system.tree() == before


def count_programs(tmp_path: Path, *, upgraded: bool) -> int:
    system = FakeSystem(tmp_path / "counted")
    first = system.candidate()
    begun = len(system.calls)
    install(system.machine, first, InstallOptions(), hush, fine)
    if not upgraded:
        return len(system.calls) - begun
    begun = len(system.calls)
    upgrade(system.machine, system.executable("2.0.0"), sha256="", allow_older=False, say=hush, try_out=fine)
    return len(system.calls) - begun


def test_whichever_program_fails_an_install_leaves_nothing(tmp_path: Path) -> None:
    failures = 0
    for number in range(1, count_programs(tmp_path, upgraded=False) + 1):
        system = FakeSystem(tmp_path / f"root{number}")
        before, candidate = system.tree(), system.candidate()
        system.fails_at = len(system.calls) + number
        try:
            install(system.machine, candidate, InstallOptions(), hush, fine)
        except HostFailure:
            failures += 1
            assert system.tree() == before, system.calls[-1]
            assert (system.active, system.enabled, system.user) == (False, False, None)
    assert failures >= 4


def test_whichever_program_fails_an_upgrade_leaves_the_old_release_serving(tmp_path: Path) -> None:
    failures = 0
    for number in range(1, count_programs(tmp_path, upgraded=True) + 1):
        system = FakeSystem(tmp_path / f"root{number}")
        put(system)
        before, file = system.tree(), system.executable("2.0.0")
        system.fails_at = len(system.calls) + number
        try:
            upgrade(system.machine, file, sha256="", allow_older=False, say=hush, try_out=fine)
        except HostFailure:
            failures += 1
            assert system.tree() == before, system.calls[-1]
            assert (system.active, system.enabled) == (True, True)
    assert failures >= 4


class DiskFull:
    """Every write beyond the first so many fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        self.real = os.fsync
        monkeypatch.setattr("appliance.host.changes.os.fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.real(descriptor)


@pytest.mark.parametrize("allowed", range(20))
def test_a_disk_that_fills_up_anywhere_leaves_nothing(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    before, candidate = system.tree(), system.candidate()
    with monkeypatch.context() as patched:
        DiskFull(patched, allowed)
        with pytest.raises(HostFailure, match="disk is full") as failed:
            install(system.machine, candidate, InstallOptions(), hush, fine)
    assert failed.value.code == Exit.IO
    assert system.tree() == before
    assert system.user is None


def test_a_smoke_test_that_fails_takes_the_upgrade_back(system: FakeSystem) -> None:
    put(system)
    before = system.tree()
    with pytest.raises(HostFailure, match=r"no picture(.|\n)*1\.0\.0-\w+ serves as before"):
        upgrade(system.machine, system.executable("2.0.0"), sha256="", allow_older=False, say=hush, try_out=broken)
    assert system.tree() == before


def test_a_release_that_does_not_start_is_told_with_its_last_words(system: FakeSystem) -> None:
    before = system.tree()
    system.serves = False
    with pytest.raises(HostFailure, match="does not start"):
        put(system)
    assert system.tree() == before


def test_rolling_back_twice_is_where_one_was(system: FakeSystem) -> None:
    put(system)
    with pytest.raises(HostFailure, match="no release before"):
        rollback(system.machine, hush, fine)
    upgrade(system.machine, system.executable("2.0.0"), sha256="", allow_older=False, say=hush, try_out=fine)
    for expected in ("1.0.0", "2.0.0"):
        receipt = rollback(system.machine, hush, fine).receipt
        assert receipt.current is not None
        assert receipt.current.version == expected


def test_only_the_current_release_and_the_one_before_are_kept(system: FakeSystem) -> None:
    put(system)
    for version in ("2.0.0", "3.0.0"):
        upgrade(system.machine, system.executable(version), sha256="", allow_older=False, say=hush, try_out=fine)
    kept = sorted(path.name[:5] for path in system.machine.releases.iterdir())
    assert kept == ["2.0.0", "3.0.0"]
    receipt = load_receipt(system.machine)
    assert receipt is not None
    assert not any("1.0.0" in row.path for row in receipt.made)


def test_an_older_file_is_refused_unless_it_is_meant(system: FakeSystem) -> None:
    put(system, "10.0.0")
    with pytest.raises(HostFailure, match="--allow-older"):
        upgrade(system.machine, system.executable("9.9.0"), sha256="", allow_older=False, say=hush, try_out=fine)
    with pytest.raises(HostFailure, match="the older 9"):
        put(system, "9.9.0")
    assert upgrade(system.machine, system.executable("9.9.0"), sha256="", allow_older=True, say=hush, try_out=fine)


def test_an_edited_unit_is_kept_and_told_of(system: FakeSystem) -> None:
    put(system)
    system.machine.unit.write_text("[Service]\nNice=5\n")
    released = upgrade(system.machine, system.executable("2.0.0"), sha256="", allow_older=False, say=hush, try_out=fine)
    assert released is not None
    assert "edited by hand" in released.notes[0]
    assert system.machine.unit.read_text() == "[Service]\nNice=5\n"


def test_an_uninstall_keeps_what_is_the_operators_and_a_purge_leaves_nothing(system: FakeSystem) -> None:
    before = system.tree()
    put(system)
    (system.machine.etc / "backends.yaml").write_text("backends: {}\n")
    left = uninstall(system.machine, purge=False, say=hush)
    assert any("/etc/appliance" in line for line in left)
    assert not system.machine.lib.exists()
    assert not system.enabled
    assert (system.machine.etc / "backends.yaml").exists()
    uninstall(system.machine, purge=True, say=hush)
    assert system.tree() == before
    assert system.user is None
    with pytest.raises(HostFailure, match="not installed"):
        uninstall(system.machine, purge=True, say=hush)


def test_what_lies_among_the_releases_and_is_not_ours_stays_and_is_told_of(system: FakeSystem) -> None:
    put(system)
    (system.machine.lib / "notes.txt").write_text("theirs")
    left = uninstall(system.machine, purge=True, say=hush)
    assert f"{system.machine.lib} (holds what is not ours)" in left
    assert (system.machine.lib / "notes.txt").exists()


def test_a_command_that_was_cut_off_is_taken_back_by_the_next(system: FakeSystem) -> None:
    before = system.tree()
    changes = Changes(system.machine)  # and then the power goes
    changes.make_directory(system.machine.lib, 0o755)
    changes.write_file(system.machine.unit, b"x", 0o644)
    changes.make_link(system.machine.current, "releases/x")
    with system.machine.undo.open("a") as file:
        file.write('{"kind": "fi')  # torn: its step was not begun
    assert take_back_interrupted(system.machine)
    assert system.tree() == before
    assert not take_back_interrupted(system.machine)


def test_only_one_command_is_at_work(system: FakeSystem) -> None:
    with only_one(system.machine), pytest.raises(HostFailure, match=f"process {os.getpid()}") as refused:
        with only_one(system.machine):
            pass
    assert refused.value.code == Exit.TRY_LATER


def test_a_receipt_that_cannot_be_read_says_what_to_do(system: FakeSystem) -> None:
    put(system)
    system.machine.receipt.write_text(json.dumps({"schema": "another"}))
    with pytest.raises(HostFailure, match="restore it"):
        load_receipt(system.machine)
