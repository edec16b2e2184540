"""The executable as a file: small, made of what the locks say, and the same bytes wherever it is built."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.host.seal import BrokenSeal, check_seal
from tools.devtools.locks import PIN
from tools.devtools.paths import ROOT, RUNTIME_LOCK

pytestmark = pytest.mark.real

MAX_BYTES = 20_000_000
BUILD_TIMEOUT_S = 900


def facts_of(executable: Path) -> dict[str, object]:
    said = subprocess.run([executable, "version", "--json"], capture_output=True, timeout=60, check=True).stdout
    facts: dict[str, object] = json.loads(said)
    return facts


def test_it_is_at_most_20_mb(executable: Path) -> None:
    assert executable.stat().st_size <= MAX_BYTES


def test_it_says_what_it_is_made_of(executable: Path) -> None:
    build = facts_of(executable)["build"]
    assert isinstance(build, dict)
    pins, lock = dict(PIN.findall(RUNTIME_LOCK.read_text())), RUNTIME_LOCK.read_text()
    shipped = {row["name"]: row for row in build["distributions"] if row["use"] == "runtime"}
    assert {name: row["version"] for name, row in shipped.items()}.items() <= pins.items()
    assert {"trio", "hypercorn", "jsonschema", "pydantic"} <= set(shipped)
    for row in build["distributions"]:
        assert row["licence"], row["name"]
        assert row["use"] == "build" or f"--hash=sha256:{row['sha256']}" in lock
    assert any(row["name"].startswith("libpython3") for row in build["libraries"])
    assert [int(part) for part in build["glibc_floor"].split(".")] <= [2, 36], "Debian 12 is to run it"


def test_two_builds_in_two_folders_are_the_same_bytes(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], stdout=-1, check=True
    ).stdout
    digests = set()
    for folder, cache in ((tmp_path / "one", None), (tmp_path / "another, with spaces" / "tree", tmp_path / "cache")):
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        environ = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
        command = [sys.executable, str(folder / "tools" / "dev.py"), "binary"]
        subprocess.run(command, env=environ, cwd=folder, timeout=BUILD_TIMEOUT_S, check=True)
        digests.add(hashlib.sha256((folder / "dist" / "appliance").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_copy_that_was_cut_or_changed_does_not_pass_its_own_check(executable: Path, tmp_path: Path) -> None:
    check_seal(executable)
    whole = executable.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 2):
        broken = bytearray(whole)
        broken[at] ^= 1
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(BrokenSeal):
            check_seal(tmp_path / "broken")
    (tmp_path / "cut").write_bytes(whole[:-1000])
    with pytest.raises(BrokenSeal):
        check_seal(tmp_path / "cut")
