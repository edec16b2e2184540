"""verify_gateway: a good gateway passes; each point of the contract that is broken fails the check that is for it."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from appliance.verification import gateway as program
from appliance.verification.http import Answer, Call, Exchange, open_exchange
from appliance.verification.starting import DidNotStartError, Started, own_command, started_gateway

Spoil = Callable[[Any], Any]


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    """One gateway, in a process of its own, for all tests here."""
    with started_gateway(own_command()) as one:
        yield one


def arguments(started: Started, *more: str) -> list[str]:
    urls = ["--base-url", started.base_url, "--obs-url", started.obs_url]
    return [*urls, "--token", started.token, "--appliance", "--json", *more]


def spoiled(path: str, spoil: Spoil, *, method: str = "", nth: int = 0) -> Exchange:
    """Answers below this path are changed on their way; `nth`: only from this one on."""
    carry = open_exchange(insecure=False, timeout_s=30)
    seen = 0

    def exchange(call: Call) -> Answer:
        nonlocal seen
        answer = carry(call)
        parts = urlsplit(call.url)
        if not parts.path.startswith(path) or (method and call.method != method):
            return answer
        seen += 1
        if seen <= nth:
            return answer
        body = answer.json()
        changed = spoil(body if body is not None else answer)
        if isinstance(changed, Answer):
            return changed
        return Answer(answer.status, answer.headers, json.dumps(changed).encode())

    return exchange


def outcomes(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {line["name"]: line["outcome"] for line in json.loads(capsys.readouterr().out)["checks"]}


def test_a_good_gateway_passes_every_check(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(arguments(started)) == 0
    found = outcomes(capsys)
    assert set(found.values()) == {"OK", "SKIP"}
    assert [name for name, outcome in found.items() if outcome == "SKIP"] == ["pytest", "start_server"]
    assert {"tool_exec_noop", "tool_exec_system_info", "agent_replay", "chat_stream", "images"} <= found.keys()


def set_to(**fields: Any) -> Spoil:
    return lambda body: {**body, **fields}


def without(name: str) -> Spoil:
    return lambda body: {key: value for key, value in body.items() if key != name}


def unsorted(body: Any) -> Any:
    return {**body, "data": body["data"][::-1]}


def no_noop(body: Any) -> Any:
    return {**body, "data": [tool for tool in body["data"] if tool["name"] != "noop"]}


def without_auto(body: Any) -> Any:
    return {**body, "data": [model for model in body.get("data", []) if model["id"] != "auto"]}


def undone(answer: Any) -> Any:
    return Answer(200, (), answer.body.replace(b"data: [DONE]", b"data: {}"))


def other_bytes(body: Any) -> Any:
    return {**body, "padding": " "}


@pytest.mark.parametrize(
    ("path", "spoil", "check", "options"),
    [
        ("/health", set_to(ok="yes"), "health_get", {"method": "GET"}),
        ("/metrics", lambda _answer: Answer(200, (), b"nothing 1"), "metrics", {}),
        ("/v1/models", without_auto, "models", {}),
        ("/v1/tools", unsorted, "tools_list", {"method": "GET"}),
        ("/v1/tools", no_noop, "tools_has_noop", {"method": "GET"}),
        ("/v1/tools/noop", set_to(ok=False), "tool_exec_noop", {}),
        ("/v1/tools/noop", set_to(replay_id="tool-1"), "tool_exec_noop", {}),
        ("/v1/tools", set_to(request_hash="0" * 64), "tool_dispatch_noop", {"method": "POST", "nth": 1}),
        ("/v1/tools/replay/", set_to(args={}), "tool_replay", {}),
        ("/v1/tools/replay/", set_to(ok=False), "tool_replay", {}),
        ("/v1/tools/noop", set_to(request_hash="1" * 64), "tool_hash_vectors", {"nth": 1}),
        ("/v1/agent/run", set_to(ok=False, error="no"), "agent_run", {}),
        ("/v1/agent/replay/", other_bytes, "agent_replay", {}),
        ("/v1/agent/replay/", set_to(identical=False), "agent_replay", {"method": "POST"}),
        ("/v1/embeddings", set_to(data=[{"embedding": []}]), "embeddings", {}),
        ("/v1/responses", set_to(object="chat"), "responses", {}),
        ("/v1/chat/completions", without("choices"), "chat", {}),
        (
            "/v1/chat/completions",
            lambda found: undone(found) if isinstance(found, Answer) else found,
            "chat_stream",
            {},
        ),
        ("/v1/images/generations", without("_gateway"), "images", {}),
    ],
)
def test_what_is_broken_fails_its_check(
    started: Started, capsys: pytest.CaptureFixture[str], path: str, spoil: Spoil, check: str, options: dict[str, Any]
) -> None:
    assert program.main(arguments(started), exchange=spoiled(path, spoil, **options)) == 1
    assert outcomes(capsys)[check] == "FAIL"


def test_a_model_that_does_not_answer_is_skipped_unless_it_was_required(
    started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = spoiled("/v1/chat/completions", lambda _body: Answer(503, (), b'{"error":{"message":"not ready"}}'))
    plain = [argument for argument in arguments(started) if argument != "--appliance"]
    assert program.main(plain, exchange=gone) == 0
    assert outcomes(capsys)["chat"] == "SKIP"
    assert program.main([*plain, "--require-backend"], exchange=gone) == 1
    assert outcomes(capsys)["chat"] == "FAIL"


def test_without_an_address_it_starts_one_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.smoke_test(["--json"]) == 0
    assert outcomes(capsys)["start_server"] == "OK"


def test_nobody_there_ends_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--base-url", "http://127.0.0.1:9", "--token", "x" * 20, "--json"]) == 1
    assert list(outcomes(capsys)) == ["pytest", "start_server", "health_get"]


@pytest.mark.parametrize(
    "arguments",
    [["--no-start"], ["--base-url", "nowhere"], ["--nothing"], ["--base-url", "http://x", "--token", "a b"]],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert program.main(arguments, environ={}) == 2


def test_a_program_that_is_no_gateway_is_said_not_to_start() -> None:
    with pytest.raises(DidNotStartError, match="it ended"), started_gateway(["/bin/false"]):
        raise AssertionError("unreachable")
