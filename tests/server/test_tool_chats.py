"""`X-Gateway-Tools: run`: the gateway runs its own tools in a chat, and the client is shown the end of it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.asgi import Response, open_call
from tests.house import AUTH, TOKEN, House, open_house_with_records

RUN = {**AUTH, "content-type": "application/json", "x-gateway-tools": "run"}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
THEIRS = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCRIPT: Mapping[str, Any] = {
    "models": ["mock"],
    "rules": [
        {"when": {"contains": "loop"}, "answer": {"tool_calls": [{"name": "noop", "arguments": {}}]}},
        {
            "when": {"contains": "echo", "tool_results": 0},
            "answer": {
                "text": "I look. ",
                "tool_calls": [
                    {"name": "noop", "arguments": {"text": "one"}},
                    {"name": "noop", "arguments": {"text": "two"}},
                ],
            },
        },
        {
            "when": {"contains": "mixed", "tool_results": 0},
            "answer": {
                "tool_calls": [{"name": "noop", "arguments": {}}, {"name": "weather", "arguments": {"city": "Ulm"}}]
            },
        },
        {
            "when": {"contains": "broken", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "noop", "arguments": "{no"}]},
        },
        {
            "when": {"contains": "wrong", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "noop", "arguments": {"x": 1}}]},
        },
        {
            "when": {"contains": "denied", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "shell", "arguments": {}}]},
        },
        {"when": {"contains": "offers"}, "answer": {"text": "{{tools}}"}},
        {"when": {"after_tool": "*"}, "answer": {"text": "The tool says: {{tool_result}}"}},
        {"answer": {"text": "You said: {{input}}"}},
    ],
}


@asynccontextmanager
async def chatting(tmp_path: Path, **settings: str) -> AsyncIterator[House]:
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    async with open_house_with_records(tmp_path, MOCK_CHAT_SCRIPT=str(script), **settings) as house:
        yield house
        assert house.inflight() == 0
        assert house.components.toolbus.running == 0


async def chat(house: House, text: str, **fields: Any) -> Response:
    body = {"model": "mock", "messages": [{"role": "user", "content": text}], **fields}
    return await house.post(CHAT, body, headers=RUN)


def events_of(answer: Response) -> list[Any]:
    return [
        json.loads(line[6:])
        for line in answer.body.decode().splitlines()
        if line.startswith("data: ") and "[DONE]" not in line
    ]


async def test_the_gateway_runs_its_tools_and_answers_with_the_end(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        answer = await chat(house, "echo")
        assert house.components.tool_records.statistics().written == 2
    said = answer.json()
    message = said["choices"][0]["message"]
    assert message["content"] == 'The tool says: {"ok":true,"text":"two"}'
    assert "tool_calls" not in message
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"]
    assert answer.header("x-backend-used") == "mock"


async def test_the_usage_is_that_of_every_call(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        alone = (await chat(house, "hello")).json()["usage"]
        looped = (await chat(house, "echo")).json()["usage"]
    assert looped["completion_tokens"] > alone["completion_tokens"]


async def test_the_model_is_offered_the_clients_tools_and_ours(tmp_path: Path) -> None:
    async with chatting(tmp_path, TOOLS_ALLOW_SYSTEM_INFO="1") as house:
        offered = (await chat(house, "offers", tools=[THEIRS])).json()["choices"][0]["message"]["content"]
    assert [name in offered for name in ("weather", "noop", "system_info", "shell")] == [True, True, True, False]


async def test_calls_of_the_clients_own_tools_go_back_to_the_client(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        whole = (await chat(house, "mixed", tools=[THEIRS])).json()["choices"][0]
        streamed = events_of(await chat(house, "mixed", tools=[THEIRS], stream=True))
        assert house.components.tool_records.statistics().written == 0
    assert whole["finish_reason"] == "tool_calls"
    assert [call["function"]["name"] for call in whole["message"]["tool_calls"]] == ["noop", "weather"]
    [called] = [event["choices"][0]["delta"] for event in streamed if "tool_calls" in event["choices"][0]["delta"]]
    assert [call["function"]["name"] for call in called["tool_calls"]] == ["noop", "weather"]
    assert [call["index"] for call in called["tool_calls"]] == [0, 1]
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_that_is_no_call_goes_back_to_the_client(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        said = (await chat(house, "broken")).json()["choices"][0]
    assert said["message"]["tool_calls"][0]["function"]["arguments"] == "{no"


async def test_a_call_that_the_bus_refuses_is_told_to_the_model(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        said = (await chat(house, "wrong")).json()["choices"][0]["message"]["content"]
    assert "invalid_arguments" in said


async def test_a_tool_that_the_token_may_not_run_is_not_run(tmp_path: Path) -> None:
    policy = json.dumps({TOKEN: {"tools_allow_shell": False}})
    async with chatting(tmp_path, TOOLS_ALLOW_SHELL="1", GATEWAY_TOKEN_POLICIES_JSON=policy) as house:
        said = (await chat(house, "denied")).json()["choices"][0]
        assert house.components.tool_records.statistics().written == 0
    assert said["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_calls_for_ever_is_stopped_after_eight_calls(tmp_path: Path, stream: bool) -> None:
    async with chatting(tmp_path) as house:
        answer = await chat(house, "loop", stream=stream)
        assert house.components.tool_records.statistics().written == 7
    error = events_of(answer)[-1]["error"] if stream else answer.json()["error"]
    assert error["code"] == "tool_loop_exceeded"
    assert answer.status == (200 if stream else 500)
    assert b"[DONE]" not in answer.body


async def test_a_streamed_chat_is_one_answer_whose_calls_are_not_shown(tmp_path: Path) -> None:
    async with chatting(tmp_path) as house:
        answer = await chat(house, "echo", stream=True, stream_options={"include_usage": True})
    events = events_of(answer)
    assert answer.body.count(b"data: [DONE]") == 1
    assert len({event["id"] for event in events}) == 1
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert (
        "".join(one["delta"].get("content") or "" for one in choices)
        == 'I look. The tool says: {"ok":true,"text":"two"}'
    )
    assert [one["delta"].get("role") for one in choices].count("assistant") == 1
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]
    assert not any("tool_calls" in one["delta"] for one in choices)
    assert events[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_are_made_of_such_a_chat(tmp_path: Path, stream: bool) -> None:
    async with chatting(tmp_path) as house:
        answer = await house.post(RESPONSES, {"model": "mock", "input": "echo", "stream": stream}, headers=RUN)
    response = events_of(answer)[-1]["response"] if stream else answer.json()
    texts = [part["text"] for item in response["output"] for part in item.get("content", ())]
    assert texts[-1].endswith('The tool says: {"ok":true,"text":"two"}')
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["status"] == "completed"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "noop"}}])
async def test_a_forced_call_is_forced_once(tmp_path: Path, choice: object) -> None:
    async with chatting(tmp_path) as house:
        answer = await chat(house, "echo", tool_choice=choice)
    assert answer.status == 200
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "value", "fields"),
    [
        (CHAT, "yes", {}),
        (CHAT, "run", {"n": 2}),
        ("/v1/embeddings", "run", {"input": "x"}),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, path: str, value: str, fields: Mapping[str, Any]
) -> None:
    async with chatting(tmp_path) as house:
        body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], **fields}
        answer = await house.post(path, body, headers={**RUN, "x-gateway-tools": value})
    assert answer.status == 400
    assert answer.json()["error"]["param"] in {"X-Gateway-Tools", "n"}


async def test_a_client_that_leaves_in_the_middle_gives_everything_back(tmp_path: Path, nursery: trio.Nursery) -> None:
    script = {"models": ["mock"], "rules": [{"answer": {"text": "slow", "first_byte_delay_s": 1000}}]}
    (tmp_path / "slow.json").write_text(json.dumps(script))
    async with open_house_with_records(tmp_path, MOCK_CHAT_SCRIPT=str(tmp_path / "slow.json")) as house:
        for stream in (False, True):
            body = {"model": "mock", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
            async with open_call(
                nursery, house.site.api, "POST", CHAT, headers=RUN, body=json.dumps(body).encode()
            ) as left:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert house.inflight() == 1
                left.disconnect()
                await left.finished()
            assert house.inflight() == 0
