"""Releases: what is frozen says all that it should, twice the same, and one flipped byte anywhere is found."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.verification import deployment
from appliance.verification.http import Answer, Call, Unreachable
from appliance.verification.manifest_forms import forms
from appliance.verification.release import diff, freeze, main, verify
from appliance.verification.sealed_json import Damaged, parse_sealed, seal
from tests.verification.releases import executable, tree

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an executable, its manifest and two deployment records."""
    out = tmp_path_factory.mktemp("frozen")
    executable(out)
    for _ in range(2):
        assert freeze(["--out", str(out), "--app-dir", str(out)], {}) == 0
    return out


@pytest.fixture(autouse=True)
def _no_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(deployment, "UNIT", tmp_path / "no.service")


def manifest_in(folder: Path) -> Path:
    return next(file for file in folder.glob("release-*.json") if file.name.count(".") == 3)


def load(file: Path) -> Any:
    return json.loads(file.read_bytes())


def last_record(folder: Path) -> Any:
    return load(sorted(folder.glob("deployment-*.json"))[-1])


def test_the_manifest_holds_every_entry_distribution_and_library(frozen: Path) -> None:
    manifest = load(manifest_in(frozen))
    assert manifest["schema"] == "gateway_appliance_release_manifest.v1"
    assert [entry["name"] for entry in manifest["entries"]] == [
        "PYZ.pyz",
        "PYZ.pyz/a_namespace",
        "PYZ.pyz/appliance",
        "PYZ.pyz/appliance.cli",
        "appliance/buildinfo.json",
        "extra",
    ]
    assert manifest["source"] == {"commit": "c" * 40, "tree": "d" * 40, "changed": False}
    assert next((row["name"], row["licence"]) for row in manifest["distributions"]) == ("trio", "MIT OR Apache-2.0")
    assert (manifest["glibc_floor"], manifest["libraries"][0]["package"]) == ("2.35", "libssl3 3.0.15")


def test_the_same_release_gives_the_same_bytes_wherever_it_lies(frozen: Path, tmp_path: Path) -> None:
    app, out = tmp_path / "elsewhere", tmp_path / "out"
    app.mkdir()
    shutil.copy(frozen / "appliance", app)
    assert freeze(["--out", str(out), "--app-dir", str(app)], {}) == 0
    for file in (file for file in out.iterdir() if file.name.startswith("release-")):
        assert file.read_bytes() == (frozen / file.name).read_bytes(), file.name


def test_what_was_frozen_is_found_as_it_was(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (manifest_in(frozen), frozen / "deployment-000002.json"):
        assert verify([str(file)]) == 0
    assert f"{frozen}/appliance: " in capsys.readouterr().out


FILES = ("manifest", ".cdx.json", ".intoto.json", ".sha256", "deployment-000001", "deployment-000002", "appliance")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_found(frozen: Path, which: str, place: float, flip: int) -> None:
    found = [file for file in sorted(frozen.iterdir()) if which in file.name]
    file = manifest_in(frozen) if which == "manifest" else found[0]
    whole = file.read_bytes()
    at = int(place * len(whole))
    file.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    try:
        assert verify(["--quiet", str(manifest_in(frozen))]) == 1, (file.name, at)
        assert verify(["--quiet", str(frozen / "deployment-000002.json")]) == 1, (file.name, at)
    finally:
        file.write_bytes(whole)


@given(data=st.data())
def test_a_sealed_document_has_one_spelling(data: st.DataObject) -> None:
    value = {"a": data.draw(st.text()), "b": [1, None, {"c": True}]}
    whole = seal(value)
    assert {**value, "sha256": parse_sealed(whole, "x")["sha256"]} == parse_sealed(whole, "x")
    at = data.draw(st.integers(0, len(whole) - 1))
    for other in (whole[:at], whole + b" ", whole[:at] + b" " + whole[at:]):
        with pytest.raises(Damaged):
            parse_sealed(other, "x")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda out: executable(out, extra=b"evil"), "the first entry that differs: extra"),
        (lambda out: (out / "appliance").write_bytes(b"#!/bin/sh\n"), "bytes, not"),
        (lambda out: (out / "deployment-000001.json").unlink(), "a record is missing before it"),
        (lambda out: manifest_in(out).rename(out / "release-9-0.json"), "the manifest that the record names"),
        (lambda out: manifest_in(out).with_suffix(".sha256").unlink(), "it is missing beside"),
    ],
)
def test_the_first_difference_is_named(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(frozen, out)
    damage(out)
    assert verify([str(out / "deployment-000002.json")]) == 1
    assert said in capsys.readouterr().err


def test_a_record_written_over_with_a_new_seal_breaks_the_chain(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(frozen, out)
    first = out / "deployment-000001.json"
    first.write_bytes(seal({**{k: v for k, v in load(first).items() if k != "sha256"}, "created": "1999"}))
    assert verify([str(out / "deployment-000002.json")]) == 1
    assert "deployment-000002.json: it follows" in capsys.readouterr().err
    assert freeze(["--out", str(out), "--app-dir", str(out)], {}) == 1, "nothing is added to a broken chain"


def test_a_manifest_written_over_with_a_new_seal_is_not_the_one_the_record_names(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(frozen, out)
    file = manifest_in(out)
    manifest = {**{k: v for k, v in load(file).items() if k != "sha256"}, "glibc_floor": "2.17"}
    for name, data in {file.name: seal(manifest), **forms(manifest, file.stem, seal(manifest))}.items():
        (out / name).write_bytes(data)
    assert verify([str(out / "deployment-000002.json")]) == 1
    assert "it is not the manifest that the record names" in capsys.readouterr().err


def test_a_diff_says_what_changed_by_name(frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    executable(tmp_path, modules={"appliance": b"other code", "new": b"x"})
    assert freeze(["--out", str(tmp_path), "--app-dir", str(tmp_path)], {}) == 0
    capsys.readouterr()
    one, other = str(manifest_in(frozen)), str(manifest_in(tmp_path))
    assert diff([one, other]) == 1
    said = capsys.readouterr().out
    for line in ("entries[PYZ.pyz/new]: added", "entries[PYZ.pyz/appliance.cli]: removed", "executable.sha256: "):
        assert line in said
    assert diff([one, one]) == 0
    assert capsys.readouterr().out == ""


def test_a_tree_is_frozen_by_its_files_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tree(tmp_path / "tree"), tmp_path / "out"
    assert freeze(["--out", str(out), "--app-dir", str(source)], {}) == 0
    assert "no executable" in capsys.readouterr().out
    manifest = load(manifest_in(out))
    names = [row["name"] for row in manifest["files"]]
    assert names == ["appliance/__init__.py", "appliance/__main__.py", "packaging/requirements.lock"]
    assert manifest["distributions"][0]["sha256"] == ["a" * 64, "b" * 64]
    file = str(manifest_in(out))
    assert verify([file, "--app-dir", str(source)]) == 0
    (source / "appliance" / "__main__.py").write_text("print('evil')\n")
    assert verify([file, "--app-dir", str(source)]) == 1
    assert "__main__.py: SHA-256" in capsys.readouterr().err
    (source / "appliance" / "more.py").touch()
    assert verify([file, "--app-dir", str(source), "--manifest-only"]) == 0


def test_cyclonedx_has_what_the_standard_requires(frozen: Path) -> None:
    """CycloneDX 1.6: bomFormat and specVersion; of a component type and name; a serial number by RFC 4122."""
    bom = load(manifest_in(frozen).with_suffix(".cdx.json"))
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert bom["serialNumber"].startswith("urn:uuid:")
    assert bom["metadata"]["component"]["hashes"][0]["alg"] == "SHA-256"
    references = [one["bom-ref"] for one in bom["components"]]
    assert len(set(references)) == len(references) == 4
    assert {one["type"] for one in bom["components"]} == {"library"}
    assert bom["components"][0]["purl"] == "pkg:pypi/trio@0.30"
    assert bom["components"][1]["scope"] == "excluded"
    assert set(bom["dependencies"][0]["dependsOn"]) <= set(references)


def test_the_statement_has_what_in_toto_and_slsa_require(frozen: Path) -> None:
    """in-toto Statement v1: type, subject with digests, predicateType; SLSA v1: buildType, parameters, builder.id."""
    statement = load(manifest_in(frozen).with_suffix(".intoto.json"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    manifest = load(manifest_in(frozen))
    digest = {"sha256": manifest["executable"]["sha256"]}
    assert statement["subject"] == [{"name": "appliance", "digest": digest}]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    build = statement["predicate"]["buildDefinition"]
    assert ":" in build["buildType"]
    assert build["externalParameters"] == {"version": "1.2.3"}
    assert all("digest" in one for one in build["resolvedDependencies"])
    assert statement["predicate"]["runDetails"]["builder"]["id"]


def test_plain_sha256sum_finds_the_files_good(frozen: Path) -> None:
    sums = manifest_in(frozen).with_suffix(".sha256")
    done = subprocess.run(["sha256sum", "--strict", "-c", sums.name], cwd=frozen, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_unknown_has_its_reason(frozen: Path) -> None:
    record = last_record(frozen)
    for name in ("unit", "gateway", "smoke", "evals"):
        assert record[name]["unknown"], name


def test_a_record_holds_what_the_gateway_says_and_results_that_lie_beside_it(tmp_path: Path) -> None:
    executable(tmp_path)
    (tmp_path / "smoke.json").write_text('{"ok": true}')
    arguments = [
        "--out",
        str(tmp_path),
        "--app-dir",
        str(tmp_path),
        "--base-url",
        "http://gateway.test",
        "--token",
        "t",
    ]
    assert freeze(arguments, {}, answering) == 0
    record = last_record(tmp_path)
    assert record["smoke"]["result"] == {"ok": True}
    assert record["gateway"]["version"] == "1.2.3"
    assert record["backends"]["good"] == {"ready": True, "required": True}
    assert record["backends"]["bad"] == {"unknown": "not ready: connection refused", "required": False}
    assert freeze(arguments, {}, silent) == 0
    assert last_record(tmp_path)["gateway"] == {"unknown": "nobody there"}


def answering(call: Call) -> Answer:
    health = {
        "good": {"ready": True, "required": True, "error": None},
        "bad": {"ready": False, "required": False, "error": "connection refused"},
    }
    assert call.headers["Authorization"] == "Bearer t"
    return Answer(200, (), json.dumps({"version": "1.2.3", "backend_health": health}).encode())


def silent(_call: Call) -> Answer:
    raise Unreachable("nobody there")


def test_secrets_of_a_unit_do_not_go_into_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = tmp_path / "appliance.service"
    unit.write_text('[Service]\nEnvironment="GATEWAY_BEARER_TOKEN=secret"\n Environment = A=secret B=secret\nUser=x\n')
    monkeypatch.setattr(deployment, "UNIT", unit)
    executable(tmp_path)
    assert freeze(["--out", str(tmp_path), "--app-dir", str(tmp_path)], {}) == 0
    text = last_record(tmp_path)["unit"]["text"]
    assert "secret" not in text
    assert "GATEWAY_BEARER_TOKEN=***" in text
    assert "User=x" in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"sha256": 1}',
        b'{"sha256": "", "a": NaN}',
        b'{"sha256": "", "a": 1e999}',
        b"[" * 100_000,
        seal({}),
        seal({"schema": "other"}),
        seal({"schema": "gateway_appliance_release_manifest.v1"}),
        seal({"schema": "gateway_appliance_release_manifest.v1", "executable": {}, "version": []}),
        seal({"schema": "gateway_appliance_deployment_record.v1", "manifest": 3}),
    ],
    ids=lambda content: repr(content[:60]),
)
def test_what_is_no_manifest_is_a_difference_and_no_crash(
    empty: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (empty / "x.json").write_bytes(content)
    assert verify([str(empty / "x.json"), "--manifest-only"]) == 1
    assert "DIFFERENT  x.json: " in capsys.readouterr().err
    assert verify([str(empty / "x.json"), "--manifest-only", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("argv", [[], ["verify"], ["diff", "x"], ["freeze"], ["verify", "/nonexistent"]])
def test_wrong_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err


def test_a_folder_without_a_release_and_a_file_that_is_none_are_said(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze(["--out", str(empty), "--app-dir", str(empty)]) == 2
    assert "neither an executable" in capsys.readouterr().err
    (empty / "appliance").write_bytes(b"\x7fELF")
    assert freeze(["--out", str(empty), "--app-dir", str(empty)]) == 1
    assert "no executable that PyInstaller made" in capsys.readouterr().err
    (empty / "x.json").write_text("[]")
    assert verify([str(empty / "x.json")]) == 1
    assert verify(["--help"]) == 0


def test_it_needs_a_bare_python(tmp_path: Path) -> None:
    program = [sys.executable, "-I", "-S", str(ROOT / "tools" / "freeze_release.py")]
    executable(tmp_path)
    done = subprocess.run(
        [*program, "--out", str(tmp_path), "--app-dir", str(tmp_path)], env={}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*program, "verify", manifest_in(tmp_path)], env={}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
