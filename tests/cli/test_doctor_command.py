"""`appliance doctor` and `appliance bug-report`: lines and JSON, exit codes, and an archive that is never overwritten."""

import json
import socket
from pathlib import Path

import pytest

from appliance.__main__ import main
from appliance.config.settings import Settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "backends.yaml").write_text(
        "backends: {one: {base_url: '', provider: ollama, supported_capabilities: [chat]}}"
    )
    for name, value in (
        ("STATE_DIRECTORY", str(tmp_path / "state")),
        ("APPLIANCE_ENV_FILE", "/dev/null"),
        ("GATEWAY_PORT", "0"),
        ("OBSERVABILITY_PORT", "0"),
        ("BACKENDS_CONFIG_PATH", str(tmp_path / "backends.yaml")),
    ):
        monkeypatch.setenv(name, value)


def test_a_healthy_box_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "state_directory               OK" in said
    assert said.splitlines()[-1].endswith("0 failure")


def test_a_failure_ends_with_1_and_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as another:
        another.settimeout(0)
        port = another.getsockname()[1]
        monkeypatch.setenv("GATEWAY_PORT", str(port))
        monkeypatch.setattr("appliance.cli.doctor.ASK_TIMEOUT_S", 0.05)
        assert main(["doctor"]) == 1
        assert f"-> find it with `ss -ltnp 'sport = :{port}'`" in capsys.readouterr().out
        assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [one["id"] for one in found["results"] if one["verdict"] == "failure"] == ["port.api"]


def test_a_bad_configuration_is_a_finding_and_no_crash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "many")
    assert main(["doctor"]) == 1
    assert "appliance config check" in capsys.readouterr().out


def test_a_bug_report_is_written_and_never_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.tar.gz"
    assert main(["bug-report", "--out", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)
    written = path.read_bytes()
    assert main(["bug-report", "--out", str(path)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert path.read_bytes() == written
