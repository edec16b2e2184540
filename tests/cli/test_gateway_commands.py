"""`appliance tools` and `appliance agent`: what they say of a running gateway, and what each exit code means."""

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from appliance.__main__ import main
from tests.process import TOKEN, GatewayProcess, start_gateway

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCRIPT: Mapping[str, Any] = {
    "rules": [
        {"when": {"system_contains": "planning"}, "answer": {"text": "I plan.\u001b[31m"}},
        {"when": {"contains": "loop"}, "answer": {"tool_calls": [{"name": "noop", "arguments": {}}]}},
        {
            "when": {"contains": "count", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "count_words", "arguments": {"text": "a b a"}}]},
        },
        {"when": {"model": "second"}, "answer": {"text": "The second speaks."}},
        {"answer": {"text": "The answer\nin two lines: {{tool_result}}"}},
    ]
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with the agents and tools of the documentation's examples; its model is the scripted one."""
    directory = tmp_path_factory.mktemp("gateway")
    script = directory / "script.json"
    script.write_text(json.dumps(SCRIPT))
    settings = {
        "MOCK_CHAT_SCRIPT": str(script),
        "MODEL_ALIASES_JSON": '{"aliases": {"fast": "mock:mock"}}',
        "AGENT_SPECS_PATH": str(EXAMPLES / "agents.json"),
        "TOOLS_REGISTRY_PATH": str(EXAMPLES / "tools_registry.json"),
    }
    with start_gateway(directory, settings) as process:
        yield process


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GATEWAY_BEARER_TOKEN", "GATEWAY_BEARER_TOKENS", "GATEWAY_HOST", "GATEWAY_PORT", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPLIANCE_ENV_FILE", "/dev/null")


class Commands:
    """Runs commands against one gateway and keeps what they said."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capsys = capsys
        self.said = ""
        self.complained = ""

    def __call__(self, *argv: str) -> int:
        self._capsys.readouterr()
        code = main([*argv, "--base-url", self._url, "--token", TOKEN])
        self.said, self.complained = self._capsys.readouterr()
        return code

    def json(self, *argv: str) -> Any:
        assert self(*argv, "--json") == 0, self.complained
        return json.loads(self.said)


@pytest.fixture
def appliance(gateway: GatewayProcess, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(gateway.url, capsys)


def run_of(commands: Commands, text: str, agent: str = "editor") -> str:
    commands("agent", "run", text, "--agent", agent, "--json")
    return str(json.loads(commands.said.splitlines()[0])["run_id"])


def test_tools_are_listed_for_people_and_for_programs(appliance: Commands) -> None:
    assert appliance("tools", "list") == 0
    assert "count_words" in appliance.said
    assert "registry" in appliance.said
    assert "noop" in [tool["name"] for tool in appliance.json("tools", "list")["data"]]


def test_a_tool_is_run_and_its_record_shown_byte_for_byte(appliance: Commands) -> None:
    assert appliance("tools", "run", "count_words", '{"text": "a b a"}') == 0
    ran = json.loads(appliance.said)
    assert ran["stdout_json"]["words"] == 3
    assert appliance("tools", "replay", ran["replay_id"]) == 0
    assert json.loads(appliance.said)["request_hash"] == ran["request_hash"]


def test_arguments_may_come_on_stdin(appliance: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    import io  # noqa: PLC0415 -- here alone

    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "x"}'))
    assert appliance("tools", "run", "noop", "-") == 0
    assert json.loads(appliance.said)["text"] == "x"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("tools", "run", "noop", "{no"), "no JSON"),
        (("tools", "run", "noop", "[1]"), "must be a JSON object"),
        (("tools", "replay", "../../metrics"), "is no id"),
        (("tools", "replay", "run-" + "0" * 24), "is no id"),
        (("agent", "show", "run-x"), "is no id"),
        (("agent", "show", "run-x\n"), "is no id"),
        (("agent", "verify",), "Missing argument"),
        (("agent", "fork", "run-" + "0" * 24), "--step"),
        (("agent", "fork", "run-" + "0" * 24, "--step", "-1"), "--step"),
        (("agent", "list", "--limit", "0"), "--limit"),
        (("agent", "run"), "Missing argument"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2_and_says_what(appliance: Commands, argv: tuple[str, ...], said: str) -> None:
    assert appliance(*argv) == 2
    assert appliance.said == ""
    assert said in appliance.complained


@pytest.mark.parametrize(
    "argv",
    [
        ("tools", "run", "nothing"),
        ("tools", "run", "noop", '{"text": 5, "nothing": 1}'),
        ("tools", "replay", "tool-" + "0" * 24),
        ("agent", "show", "run-" + "0" * 24),
        ("agent", "verify", "run-" + "0" * 24),
        ("agent", "run", "hi", "--agent", "nobody"),
        ("agent", "run", " "),
    ],
)
def test_what_the_gateway_refuses_is_exit_1_in_its_words(appliance: Commands, argv: tuple[str, ...]) -> None:
    code = appliance(*argv)
    assert (code, appliance.said) == (1, "")
    assert appliance.complained.startswith("Error: 4")


def test_a_run_is_shown_as_it_happens_with_its_whole_answer(appliance: Commands) -> None:
    assert appliance("agent", "run", "count this", "--agent", "editor") == 0
    lines = appliance.said.splitlines()
    assert lines[0].endswith("editor (tier 2) on mock:mock")
    assert "tokens" in lines[1]
    assert any("calls count_words" in line for line in lines)
    assert any('count_words {"text":"a b a"} -> ok' in line for line in lines)
    assert "  ok: The answer\nin two lines: " in appliance.said
    assert "\x1b" not in appliance.said


def test_a_run_as_json_is_one_event_a_line(appliance: Commands) -> None:
    assert appliance("agent", "run", "count this", "--agent", "editor", "--json") == 0
    types = [json.loads(line)["type"] for line in appliance.said.splitlines()]
    assert (types[0], types[-1]) == ("run_started", "run_completed")


def test_a_run_that_fails_is_exit_1(appliance: Commands) -> None:
    assert appliance("agent", "run", "loop", "--agent", "editor") == 1
    assert "  failed: agent turn limit exceeded" in appliance.said


def test_a_run_is_shown_again_and_listed(appliance: Commands) -> None:
    run_id = run_of(appliance, "count this")
    assert appliance("agent", "show", run_id) == 0
    assert "-> ok" in appliance.said
    assert appliance.json("agent", "show", run_id)["run_id"] == run_id
    assert appliance("agent", "list", "--limit", "1", "--agent", "editor", "--ok") == 0
    assert appliance.said.startswith(run_id)
    assert appliance.json("agent", "list", "--failed", "--agent", "default")["data"] == []


def test_what_a_step_sent_and_received_is_given_byte_for_byte(appliance: Commands) -> None:
    run_id = run_of(appliance, "count this")
    assert appliance("agent", "show", run_id, "--sent", "0") == 0
    sent = appliance.said
    assert json.loads(sent)["messages"][-1]["content"] == "count this"
    assert appliance("agent", "show", run_id, "--received", "0") == 0
    received = appliance.said
    assert received.startswith("data: {")
    assert received.endswith("data: [DONE]\n\n")
    stored = appliance.json("agent", "show", run_id)["events"][1]
    assert (stored["request"], stored["response"]) == (sent, received)
    assert appliance("agent", "show", run_id, "--received", "2") == 2
    assert "step 2 of this run is no model call" in appliance.complained


def test_a_run_forks_onto_another_model(appliance: Commands) -> None:
    run_id = run_of(appliance, "count this")
    assert appliance("agent", "fork", run_id, "--step", "3", "--model", "mock:second") == 0
    assert f"forked from {run_id} at step 3" in appliance.said
    assert "The second speaks." in appliance.said


def test_a_true_run_verifies_and_a_false_one_shows_both_sides(appliance: Commands, gateway: GatewayProcess) -> None:
    run_id = run_of(appliance, "count this")
    assert (appliance("agent", "verify", run_id), appliance.said) == (0, "identical: 5 steps\n")
    assert appliance.json("agent", "verify", run_id) == {"identical": True, "steps": 5}
    rewrite(gateway, run_id, b'"text":"The answer', b'"text":"That answer')
    assert appliance("agent", "verify", run_id) == 1
    assert appliance.said.startswith("diverges at event 5, step 4: text\n  recorded: That answer in two lines")
    assert "\n  now:      The answer in two lines" in appliance.said
    assert appliance("agent", "verify", run_id, "--json") == 1
    assert json.loads(appliance.said)["identical"] is False


def test_sides_that_begin_alike_are_shown_from_where_they_part(appliance: Commands, gateway: GatewayProcess) -> None:
    run_id = run_of(appliance, "count this")
    rewrite(gateway, run_id, b'\\"content\\":\\"count this\\"', b'\\"content\\":\\"count that\\"')
    assert appliance("agent", "verify", run_id) == 1
    _, recorded, now = appliance.said.splitlines()
    assert recorded.startswith("  recorded: ... ")
    assert "count that" in recorded
    assert "count this" in now


def test_a_flipped_byte_is_named_with_the_reason(appliance: Commands, gateway: GatewayProcess) -> None:
    run_id = run_of(appliance, "count this")
    path = transcript(gateway, run_id)
    path.write_bytes(path.read_bytes().replace(b"I plan", b"I plot", 1))
    assert appliance("agent", "verify", run_id) == 1
    assert appliance.said.startswith("diverges at event 1: stored event\n  its bytes do not match its hash")


def transcript(gateway: GatewayProcess, run_id: str) -> Path:
    return gateway.output.parent / "state" / "agent" / f"{run_id}.jsonl"


def rewrite(gateway: GatewayProcess, run_id: str, old: bytes, new: bytes) -> None:
    """Forge a transcript: change its text and chain it anew, as somebody with the file could."""
    from appliance.storage.chain import GENESIS, make_draft, seal  # noqa: PLC0415 -- here alone

    link, lines = GENESIS, []
    for line in transcript(gateway, run_id).read_bytes().replace(old, new).splitlines():
        fields = {name: value for name, value in json.loads(line).items() if name not in {"seq", "prev", "hash"}}
        sealed = seal(make_draft(fields), link)
        link = sealed.link
        lines.append(sealed.line)
    transcript(gateway, run_id).write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize(
    "argv", [("tools", "list"), ("tools", "run", "noop"), ("agent", "list"), ("agent", "run", "hi")]
)
def test_a_gateway_that_is_not_there_is_exit_69(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    assert main([*argv, "--base-url", "http://127.0.0.1:9", "--token", TOKEN]) == 69
    assert "is the gateway running?" in capsys.readouterr().err


def test_an_address_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "list", "--base-url", "ftp://x", "--token", TOKEN]) == 2
    assert "--base-url" in capsys.readouterr().err


def test_without_a_token_a_command_says_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "list", "--base-url", "http://127.0.0.1:9"]) == 2
    assert "--token" in capsys.readouterr().err


def test_a_stream_that_breaks_off_is_exit_69_and_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = "run-" + "a" * 24
    event = {
        "type": "run_started",
        "run_id": run_id,
        "agent": "default",
        "tier": 0,
        "backend": "b",
        "upstream_model": "m",
    }
    with answering(f"data: {json.dumps(event)}\n\n".encode()) as url:
        assert main(["agent", "run", "hi", "--base-url", url, "--token", TOKEN]) == 69
    captured = capsys.readouterr()
    assert run_id in captured.out
    assert f"appliance agent show {run_id}" in captured.err


def test_an_error_in_a_stream_is_exit_1_in_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b'data: {"error":{"message":"The disk is full."}}\n\n') as url:
        assert main(["agent", "run", "hi", "--base-url", url, "--token", TOKEN]) == 1
    assert "The disk is full." in capsys.readouterr().err


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers every POST with this stream, and then hangs up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_schema_of_agents_takes_the_example_and_refuses_what_the_start_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "schema", "agents"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads((EXAMPLES / "agents.json").read_text()))
    for wrong in ({}, {"a b": {}}, {"a": {"tier": 3}}, {"a": {"turns": 1}}, {"a": {"max_turns": 0}}, {"a": []}):
        assert not validator.is_valid(wrong), wrong
