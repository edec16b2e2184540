"""The bootloader's traces: what other programs see of them, and what we do when it is gone."""

import os

import pytest
import trio
import trio.testing

from appliance.host import bootloader
from appliance.host.bootloader import child_environment, wait_bootloader_gone


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootloader.sys, "frozen", True, raising=False)


@pytest.mark.usefixtures("frozen")
def test_other_programs_get_their_own_libraries_back() -> None:
    ours = {"LD_LIBRARY_PATH": "/tmp/_MEIx", "_PYI_ARCHIVE_FILE": "/x", "PATH": "/bin"}
    assert child_environment(ours) == {"PATH": "/bin"}
    assert child_environment({**ours, "LD_LIBRARY_PATH_ORIG": "/opt"}) == {"PATH": "/bin", "LD_LIBRARY_PATH": "/opt"}


def test_the_source_hands_on_what_it_got() -> None:
    assert child_environment({"LD_LIBRARY_PATH": "/opt"}) == {"LD_LIBRARY_PATH": "/opt"}


@pytest.mark.usefixtures("frozen")
async def test_the_end_of_the_parent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = await trio.lowlevel.open_process(["sleep", "60"])
    monkeypatch.setattr(bootloader.os, "getppid", lambda: parent.pid)
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_bootloader_gone)
        await trio.testing.wait_all_tasks_blocked()
        parent.kill()
        await parent.wait()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_the_source_has_no_bootloader_to_lose(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(3600) as waited:
        await wait_bootloader_gone()
    assert waited.cancelled_caught
