"""Which Python the environments are made from."""

import sys
from pathlib import Path

import pytest

from tools.devtools.interpreter import quickest, same_version_on_path, seconds

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def stand_in(folder: Path, says: str) -> str:
    """A program in the place of an interpreter, that answers the probe with this."""
    folder.mkdir(exist_ok=True)
    file = folder / f"python{VERSION}"
    file.write_text(f"#!/bin/sh\n{says}\n")
    file.chmod(0o755)
    return str(file)


def test_a_much_quicker_one_of_this_version_is_taken(tmp_path: Path) -> None:
    own, other = stand_in(tmp_path / "a", f"echo {VERSION} 0.013"), stand_in(tmp_path / "b", f"echo {VERSION} 0.009")
    assert quickest(own, [own, other]) == other


@pytest.mark.parametrize(
    "says",
    [f"echo {VERSION} 0.0125", "echo 3.10 0.001", f"echo {VERSION}", "exit 1", f"echo {VERSION} quick", "kill -9 $$"],
)
def test_one_that_is_hardly_quicker_or_not_what_we_need_is_not(tmp_path: Path, says: str) -> None:
    own = stand_in(tmp_path / "a", f"echo {VERSION} 0.013")
    assert quickest(own, [stand_in(tmp_path / "b", says), str(tmp_path / "missing")]) == own


def test_one_that_cannot_be_measured_is_kept(tmp_path: Path) -> None:
    own = stand_in(tmp_path / "a", "exit 1")
    assert quickest(own, [stand_in(tmp_path / "b", f"echo {VERSION} 0.001")]) == own


def test_those_of_this_version_are_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stand_in(tmp_path / "bin", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert same_version_on_path()[0] == there


def test_the_one_that_runs_this_can_be_measured() -> None:
    taken = seconds(sys.executable)
    assert taken is not None
    assert taken > 0
