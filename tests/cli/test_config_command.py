"""`appliance config`: everything is shown with its origin, nothing secret is, and check says every mistake."""

import hashlib
import json
from pathlib import Path

import pytest

from appliance.__main__ import main
from appliance.config.settings import Settings
from appliance.config.tokens import make_token

ONE, TWO = "one-hush-0123456789abcdef", "two-hush-0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPLIANCE_ENV_FILE", str(tmp_path / "box.env"))
    (tmp_path / "box.env").touch(mode=0o600)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two tokens with policies; the strings that nobody may see."""
    monkeypatch.setenv("GATEWAY_BEARER_TOKEN", "old-hush-0123456789abcdef")
    monkeypatch.setenv("GATEWAY_BEARER_TOKENS", f"{ONE},{TWO}")
    monkeypatch.setenv("IMAGES_A1111_USER", "me")
    monkeypatch.setenv("IMAGES_A1111_PASSWORD", "hush")
    monkeypatch.setenv("GATEWAY_TOKEN_POLICIES_JSON", json.dumps({TWO: {"ip_allowlist": "10.0.0.0/8"}}))
    return ["hush", make_token(ONE).digest.hex()]


def test_show_lists_every_setting_with_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "box.env").write_text("\nOBSERVABILITY_PORT=2222\n")
    monkeypatch.setenv("IP_ALLOWLIST", "10.0.0.0/8,fd00::/8")
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" = ")[0] for line in lines[: len(Settings.model_fields)]] == [
        name.upper() for name in Settings.model_fields
    ]
    assert "GATEWAY_PORT = 8800   (default)" in lines
    assert f"OBSERVABILITY_PORT = 2222   ({tmp_path}/box.env:2)" in lines
    assert "IP_ALLOWLIST = 10.0.0.0/8,fd00::/8   (environment)" in lines
    assert "METRICS_ENABLED = true   (default)" in lines
    assert "GATEWAY_BEARER_TOKEN =    (default)" in lines
    assert f"UI_IMAGE_DIR = {tmp_path}/.local/state/appliance/images   (default)" in lines
    assert "  ollama: ollama at http://127.0.0.1:11434 (chat 4, embeddings 4; not required)" in lines
    assert "  gpu_heavy: a1111, not configured (images 2; not required)" in lines
    assert "  mlx means local_mlx" in lines


def test_show_as_json_says_the_same(capsys: pytest.CaptureFixture[str], secrets: list[str]) -> None:
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["settings"]) == {name.upper() for name in Settings.model_fields}
    assert shown["settings"]["GATEWAY_PORT"] == {"value": 8800, "origin": "default"}
    assert shown["settings"]["GATEWAY_BEARER_TOKENS"] == {"value": "***", "origin": "environment"}
    assert shown["tokens"] == {
        "count": 2,
        "source": "GATEWAY_BEARER_TOKENS",
        "tokens": [
            {"fingerprint": make_token(ONE).fingerprint, "policy": {}},
            {"fingerprint": make_token(TWO).fingerprint, "policy": {"ip_allowlist": ["10.0.0.0/8"]}},
        ],
    }
    assert shown["backends"]["gpu_heavy"]["limits"] == {"images": 2}
    assert shown["legacy_mapping"] == {"mlx": "local_mlx"}
    assert shown["warnings"] == []


@pytest.mark.parametrize("argv", [["show"], ["show", "--json"], ["check"], ["check", "--json"]])
@pytest.mark.parametrize("broken", ["", "GATEWAY_PORT", "GATEWAY_TOKEN_POLICIES_JSON", "GATEWAY_BEARER_TOKENS"])
def test_no_secret_is_shown(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    secrets: list[str],
    argv: list[str],
    broken: str,
) -> None:
    if broken:
        monkeypatch.setenv(broken, '{"hush-hush": {"hush": 1' if "TOKEN" in broken else "many")
    assert main(["config", *argv]) == (78 if broken else 0)
    said = "".join(capsys.readouterr())
    assert said
    assert not [secret for secret in secrets if secret in said]


def test_show_names_tokens_by_fingerprint(capsys: pytest.CaptureFixture[str], secrets: list[str]) -> None:
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GATEWAY_BEARER_TOKENS = ***   (environment)" in lines
    assert "tokens: 2, from GATEWAY_BEARER_TOKENS" in lines
    assert f"  {make_token(TWO).fingerprint}  ip_allowlist=10.0.0.0/8" in lines


def test_check_of_a_good_configuration_says_ok_and_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GATEWAY_PROT", "1")
    monkeypatch.setenv("GATEWAY_PORT", "0")
    assert main(["config", "check"]) == 0
    warning, ok = capsys.readouterr().out.splitlines()
    assert warning == "warning: GATEWAY_PROT: is not a setting: did you mean GATEWAY_PORT?"
    token = tmp_path / ".local/state/appliance/token"
    assert (
        ok
        == f"ok: 1 of {len(Settings.model_fields)} settings set, 3 classes, tokens: none set: `appliance serve` makes one in {token}"
    )
    assert not token.exists()
    assert main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "errors": [], "warnings": [warning[9:]]}


def test_check_of_a_bad_configuration_says_every_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "x")
    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    assert main(["config", "check"]) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(":")[:2] for line in captured.err.splitlines()] == [
        ["appliance", " GATEWAY_PORT"],
        ["appliance", " GATEWAY_HOST"],
    ]
    assert main(["config", "check", "--json"]) == 78
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["ok"], [error["where"] for error in answer["errors"]]) == (False, ["GATEWAY_PORT", "GATEWAY_HOST"])
    assert captured.err == ""


def test_show_of_a_bad_configuration_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "x")
    assert main(["config", "show"]) == 78
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_show_writes_values_as_an_env_file_has_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "b.yaml").write_text(
        "backends:\n  gpu_heavy: {provider: a1111, supported_capabilities: [images]}\n"
        "  a: {provider: a1111, supported_capabilities: [images], required: false}\n"
    )
    monkeypatch.setenv("BACKENDS_CONFIG_PATH", str(tmp_path / "b.yaml"))
    monkeypatch.setenv("HEAD_TIMEOUT_SEC", "7.0")
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "HEAD_TIMEOUT_SEC = 7   (environment)" in lines
    assert "GATEWAY_TLS_CERT_PATH =    (default)" in lines
    assert "  gpu_heavy: a1111, not configured (images 1; required)" in lines
    assert "  a: a1111, not configured (images 1; not required)" in lines


def test_show_names_the_declared_tools_and_the_hash_of_their_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tool_registry"] is None
    registry = tmp_path / "tools.json"
    program = {"type": "subprocess", "argv": ["date", "+%A %d"]}
    tool = {"name": "today", "version": "2", "parameters": {"type": "object"}, "exec": program}
    registry.write_text(json.dumps({"tools": [tool]}))
    monkeypatch.setenv("TOOLS_REGISTRY_PATH", str(registry))
    sha256 = hashlib.sha256(registry.read_bytes()).hexdigest()
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"tools of {registry} (SHA-256 {sha256}):")
    assert lines[at + 1] == "  today 2: date '+%A %d'"
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tool_registry"] == {
        "path": str(registry),
        "sha256": sha256,
        "tools": [{"name": "today", "version": "2", "argv": ["date", "+%A %d"]}],
    }
