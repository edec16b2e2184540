"""Bug reports: what helps is in them, and no secret of the environment or of a file is."""

import json
import tarfile
from pathlib import Path

import pytest

from appliance.doctor.examining import examine
from appliance.doctor.patient import Reply
from appliance.doctor.report import make_report, write_report
from appliance.doctor.secrets import find_secrets, without_secrets
from tests.doctor.box import Box

# Each is written where secrets are, and then somewhere where it does not belong.
SECRETS = {
    "environment": "environment-token-0123456789",
    "several": "second-token-of-a-list-0123",
    "policy": "second-token-of-a-list-0123",
    "password": "pass-word-of-a1111",
    "env_file": "env-file-token-of-others-01",
    "token_file": "token-file-secret-0123456789",
    "own_token": "own-token-of-the-gateway-012",
    "foreign": "hf_foreign-secret-0123456789",
    "short": "x7Q!",
    "login": "user:pass-in-url",
    "query": "key-in-a-query-string",
    "argument": "secret-argument-of-a-tool",
    "peer": "203.0.113.77",
    "prompt": "a prompt that is nobody's business",
}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box(tmp_path)
    (tmp_path / "tokens").write_text(f"# ours\n{SECRETS['token_file']}\n")
    (tmp_path / "tokens").chmod(0o600)
    (tmp_path / "box.env").write_text(f"OTHER_API_KEY={SECRETS['env_file']}\nSMALL_PASSWORD='{SECRETS['short']}'\n")
    (box.state / "token").write_text(SECRETS["own_token"])
    (box.state / "token").chmod(0o600)
    (tmp_path / "tools.json").write_text(
        json.dumps(
            {
                "tools": [
                    {
                        "name": "fetch",
                        "version": "1",
                        "parameters": {"type": "object"},
                        "exec": {"type": "subprocess", "argv": ["/bin/echo", SECRETS["argument"]]},
                    }
                ]
            }
        )
    )
    description = f"made with {SECRETS['env_file']}, {SECRETS['own_token']} and {SECRETS['foreign']} {SECRETS['short']}"
    (tmp_path / "backends.yaml").write_text(
        f"backends: {{one: {{base_url: 'http://x', provider: ollama, description: {json.dumps(description)},"
        " supported_capabilities: [chat]}}"
    )
    box.settings = {
        "GATEWAY_BEARER_TOKENS": f"{SECRETS['environment']},{SECRETS['several']}",
        "GATEWAY_TOKEN_POLICIES_JSON": json.dumps({SECRETS["policy"]: {"admin": True}}),
        "GATEWAY_TOKEN_FILE": str(tmp_path / "tokens"),
        "IMAGES_A1111_USER": "me",
        "IMAGES_A1111_PASSWORD": SECRETS["password"],
        "HF_TOKEN": SECRETS["foreign"],
        "TOOLS_REGISTRY_PATH": str(tmp_path / "tools.json"),
        "OBSERVABILITY_PORT": "8801",
    }
    line = {
        "ts": 1.0,
        "route": "/v1/chat/completions",
        "status": 200,
        "peer": SECRETS["peer"],
        "token": "0123456789abcdef",
        "prompt": SECRETS["prompt"],
        "outcome": f"completed {SECRETS['environment']}",
    }
    (box.state / "requests.jsonl").write_text(json.dumps(line) + "\nnonsense " + SECRETS["token_file"] + "\n")
    box.findings = {
        "one": f"http://{SECRETS['login']}@x/?api_key={SECRETS['query']} said Bearer {SECRETS['foreign']} is wrong"
    }
    box.replies = {"http://127.0.0.1:8801/metrics": Reply(200, None, f'x{{a="{SECRETS["several"]}"}} 1\n'.encode())}
    return box


def made(box: Box) -> dict[str, bytes]:
    patient = box.patient()
    return make_report(patient, examine(patient))


def test_no_secret_of_the_environment_or_of_a_file_is_in_a_report(box: Box) -> None:
    files = made(box)
    assert set(files) == {"doctor.json", "version.json", "config.json", "requests.jsonl", "metrics.txt"}
    found = {(kind, name) for kind, text in SECRETS.items() for name, data in files.items() if text.encode() in data}
    assert found == set()
    for data in files.values():
        assert b"0123456789abcdef" not in data


def test_what_helps_is_in_it(box: Box) -> None:
    files = made(box)
    assert {one["id"] for one in json.loads(files["doctor.json"])} >= {"tokens", "backend.one", "clock"}
    assert json.loads(files["config.json"])["backends"]["one"]["provider"] == "ollama"
    assert json.loads(files["config.json"])["settings"]["IMAGES_A1111_PASSWORD"]["value"] == "***"
    assert json.loads(files["version.json"])["version"]
    first, second = map(json.loads, files["requests.jsonl"].splitlines())
    assert first == {"ts": 1.0, "route": "/v1/chat/completions", "status": 200, "outcome": "completed ***"}
    assert second == {"unreadable_bytes": 38}
    assert files["metrics.txt"] == b'x{a="***"} 1\n'


def test_a_configuration_that_is_not_good_is_reported_without_its_secrets(box: Box) -> None:
    box.settings["GATEWAY_PORT"] = SECRETS["foreign"]
    files = made(box)
    assert json.loads(files["config.json"])["mistakes"]
    assert not any(text.encode() in data for text in SECRETS.values() for data in files.values())


def test_secrets_are_found_at_every_depth_and_the_longer_first(box: Box) -> None:
    secrets = frozenset({"secret", "secret-and-more"})
    value = {"secret": ["a secret-and-more", {"b": ("secret", 1, None, True)}]}
    assert without_secrets(value, secrets) == {"***": ["a ***", {"b": ["***", 1, None, True]}]}


def test_what_looks_like_a_secret_is_none_the_less_left_out() -> None:
    text = "Authorization: Bearer never-seen-before at https://me:pw@x/a?key=1&sig=2 with basic settings"
    expected = "Authorization: Bearer *** at https://***@x/a?key=***&sig=*** with basic settings"
    assert without_secrets(text, frozenset()) == expected


def test_a_path_in_a_variable_named_like_a_secret_is_none(box: Box) -> None:
    box.settings["MY_TOKEN_FILE"] = "/run/somewhere"
    assert "/run/somewhere" not in find_secrets(box.patient())


def test_the_archive_is_for_its_owner_alone_and_never_replaces_a_file(box: Box) -> None:
    path = box.tmp / "report.tar.gz"
    files = made(box)
    write_report(path, files, 1_800_000_000.0)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        read = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    assert read == {f"appliance-bug-report/{name}": data for name, data in files.items()}
    with pytest.raises(FileExistsError):
        write_report(path, files, 1_800_000_000.0)


def test_an_archive_that_cannot_be_finished_leaves_nothing(box: Box) -> None:
    path = box.tmp / "report.tar.gz"
    with pytest.raises(TypeError):
        write_report(path, {"a": 5}, 1_800_000_000.0)  # type: ignore[dict-item]
    assert not path.exists()
