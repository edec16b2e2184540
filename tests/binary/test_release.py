"""The executable's own release: frozen by itself, checked with plain tools and Debian's minisign, completed by bash."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.process import TOKEN, start_gateway
from tests.real.debian import NotAvailable, find_program

pytestmark = pytest.mark.real

END_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frozen(executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the executable and what it froze of itself."""
    out = tmp_path_factory.mktemp("frozen")
    shutil.copy(executable, out / "appliance")
    done = run([out / "appliance", "release", "freeze", "--out", out], out)
    assert done.returncode == 0, done.stderr
    return out


def run(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "STATE_DIRECTORY": str(folder / "state")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**variables, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )


def manifest_in(folder: Path) -> Path:
    return next(folder.glob("release-*.sha256")).with_suffix(".json")


def test_it_freezes_itself_and_finds_itself_whole(frozen: Path) -> None:
    manifest = json.loads(manifest_in(frozen).read_bytes())
    names = {entry["name"] for entry in manifest["entries"]}
    assert {"PYZ.pyz/appliance.serve", "appliance/buildinfo.json", "appliance/systemd/appliance.service"} <= names
    assert manifest["definitions"].keys() >= {"tools", "aliases", "agents", "settings_schema", "openapi"}
    assert {row["name"] for row in manifest["distributions"]} >= {"trio", "hypercorn", "pyinstaller"}
    done = run([frozen / "appliance", "release", "verify", manifest_in(frozen)], frozen)
    assert done.returncode == 0, done.stderr


def test_the_definitions_are_the_sources_own(frozen: Path) -> None:
    manifest = json.loads(manifest_in(frozen).read_bytes())
    done = run([sys.executable, "-m", "appliance", "release", "definitions"], ROOT)
    assert json.loads(done.stdout) == manifest["definitions"]


def test_an_executable_with_one_byte_changed_is_found(frozen: Path, tmp_path: Path) -> None:
    data = bytearray((frozen / "appliance").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "appliance").write_bytes(data)
    verify = [frozen / "appliance", "release", "verify", manifest_in(frozen), "--app-dir", tmp_path]
    done = run(verify, frozen)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr


def test_a_record_says_how_a_running_gateway_stands(
    frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_TEST_PROGRAM", str(frozen / "appliance"))
    shutil.copy(frozen / "appliance", tmp_path / "appliance")
    with start_gateway(tmp_path, {"MOCK_CHAT_SCRIPT": "builtin"}) as gateway:
        freeze = [frozen / "appliance", "release", "freeze", "--out", tmp_path, "--base-url", gateway.url]
        done = run([*freeze, "--obs-url", gateway.observability_url, "--token", TOKEN], tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "deployment-000001.json").read_text()
    record = json.loads(text)
    manifest = json.loads(manifest_in(tmp_path).read_bytes())
    assert record["gateway"]["openapi"] == manifest["definitions"]["openapi"]
    assert record["gateway"]["readyz"]["ok"] is True
    assert all("ready" in one or "unknown" in one for one in record["backends"].values())
    assert TOKEN not in text


def test_sha256sum_and_minisign_of_debian_check_what_was_frozen(frozen: Path, tmp_path: Path) -> None:
    try:
        minisign = find_program("minisign", package="minisign")
    except NotAvailable as reason:
        pytest.skip(str(reason))
    sums = manifest_in(frozen).with_suffix(".sha256")
    assert run(["sha256sum", "--ignore-missing", "-c", sums.name], frozen).returncode == 0
    public, secret = tmp_path / "appliance.pub", tmp_path / "appliance.key"
    assert run([minisign, "-G", "-W", "-p", public, "-s", secret], tmp_path).returncode == 0
    assert run([minisign, "-S", "-s", secret, "-m", sums], tmp_path).returncode == 0
    assert run([minisign, "-V", "-p", public, "-m", sums], tmp_path).returncode == 0
    evil = tmp_path / sums.name
    evil.write_bytes(sums.read_bytes().replace(b"0", b"1", 1))
    shutil.copy(sums.with_name(sums.name + ".minisig"), tmp_path)
    assert run([minisign, "-V", "-p", public, "-m", evil], tmp_path).returncode != 0


def test_bash_completes_the_executable(frozen: Path, tmp_path: Path) -> None:
    script = run([frozen / "appliance", "completion", "bash"], tmp_path)
    assert script.returncode == 0, script.stderr
    (tmp_path / "completion").write_text(script.stdout)
    ask = 'source ./completion; COMP_WORDS=(appliance release fr); COMP_CWORD=2; _appliance_completion appliance; echo "${COMPREPLY[@]}"'
    done = run(["bash", "-c", ask], tmp_path, {"PATH": f"{frozen}:/usr/bin:/bin"})
    assert done.stdout.strip() == "freeze", done.stderr
