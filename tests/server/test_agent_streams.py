"""Agents before a model server on a socket: whoever leaves ends its work; what it cannot stream is asked for whole."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.asgi import open_call
from tests.fakes.http import Request
from tests.fakes.openai_chat import (
    EVENTS_HEAD,
    WORD,
    FakeOpenAIChat,
    answer,
    chat_answer,
    chunked,
    open_fake_openai_chat,
    raw,
)
from tests.house import AUTH, House, open_house_with_records

RUN, REPLAY, CHAT = "/v1/agent/run", "/v1/agent/replay", "/v1/chat/completions"
JSON_AUTH = {**AUTH, "content-type": "application/json"}
TOOLS_RUN = {**JSON_AUTH, "x-gateway-tools": "run"}
SPECS = {"default": {"model": "gpu:small"}, "hurried": {"model": "gpu:small", "max_runtime_sec": 0.2}}


@asynccontextmanager
async def model_server(tmp_path: Path) -> AsyncIterator[tuple[House, FakeOpenAIChat]]:
    """A house whose one model server is a fake; both are at rest again when it is left."""
    async with open_fake_openai_chat() as fake:
        backend = {"provider": "openai", "base_url": fake.base_url, "supported_capabilities": ["chat"]}
        (tmp_path / "backends.yaml").write_text(json.dumps({"backends": {"gpu": backend}}))  # JSON is YAML
        (tmp_path / "specs.json").write_text(json.dumps(SPECS))
        paths = {"BACKENDS_CONFIG_PATH": str(tmp_path / "backends.yaml")}
        async with open_house_with_records(tmp_path, AGENT_SPECS_PATH=str(tmp_path / "specs.json"), **paths) as house:
            yield house, fake
            assert house.inflight() == 0
            with trio.fail_after(10):
                await fake.changes.until(lambda: fake.working == 0)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- what goes on behind a socket has no event
            await trio.sleep(0.001)


async def run(house: House, **fields: Any) -> Any:
    return (await house.post(RUN, {"input": "hi", **fields})).json()


async def verdict(house: House, run_id: str) -> Any:
    return (await house.post(f"{REPLAY}/{run_id}", {"mode": "verify"})).json()


async def test_models_are_asked_for_streams_and_the_record_says_so(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        done = await run(house)
        assert await verdict(house, done["run_id"]) == {"identical": True, "steps": 2}
    plan, act = done["events"][1:3]
    assert [plan["request"], act["request"]] == [request.body.decode() for request in fake.requests]
    assert all(payload["stream"] and payload["stream_options"]["include_usage"] for payload in fake.payloads)
    whole = json.loads(act["response"])
    assert (whole["object"], whole["choices"][0]["finish_reason"]) == ("chat.completion", "stop")
    assert (done["output_text"], act["usage"]) == ("Hello there", {"prompt_tokens": 3, "completion_tokens": 2})


@pytest.mark.parametrize("words", [0, 2], ids=["before its first word", "between words"])
@pytest.mark.parametrize("path", [RUN, CHAT])
async def test_a_client_that_leaves_ends_the_servers_work(
    tmp_path: Path, nursery: trio.Nursery, path: str, words: int
) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.words, fake.word_s, fake.first_word_s = ["word "] * 1000, 0.01, 0.0 if words else 1000.0
        asked = (
            {"input": "hi"} if path == RUN else {"model": "gpu:small", "messages": [{"role": "user", "content": "a"}]}
        )
        body = json.dumps(asked).encode()
        async with open_call(nursery, house.site.api, "POST", path, headers=TOOLS_RUN, body=body) as exchange:
            await until(lambda: fake.working == 1)
            await trio.sleep(0.01 * words)
            exchange.disconnect()
            await exchange.finished()
        await until(lambda: fake.aborted == 1)
        assert [payload["stream"] for payload in fake.payloads] == [True]


async def test_a_budget_that_binds_in_mid_answer_ends_the_servers_work(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.words, fake.word_s = ["word "] * 1000, 0.01
        done = await run(house, agent="hurried")
        await until(lambda: fake.aborted == 1)
    assert done["error"] == "agent runtime budget exceeded"


async def whole_where_tools_are(fake: FakeOpenAIChat, request: Request) -> None:
    """As servers that cannot tell text from calls before they have all of it."""
    payload = request.json()
    if payload.get("stream") and payload.get("tools"):
        await request.respond_json(400, {"error": {"message": "stream is not supported with tools"}})
    elif payload.get("stream"):
        await raw(EVENTS_HEAD + chunked(WORD) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")(fake, request)
    else:
        await request.respond_json(200, chat_answer("all of it"))


async def test_what_a_server_cannot_stream_is_asked_for_whole_once_and_recorded_so(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.script = whole_where_tools_are
        done = await run(house)
        path = f"{REPLAY}/{done['run_id']}"
        fork = (await house.post(path, {"mode": "fork", "from_step": 2})).json()
        verdicts = [await verdict(house, each["run_id"]) for each in (done, fork)]
    assert (done["ok"], done["output_text"]) == (True, "all of it")
    asked = [request.body.decode() for request in fake.requests]
    assert ["stream" in json.loads(body) for body in asked] == [True, True, False]
    assert [event["request"] for event in done["events"][1:3]] == [asked[0], asked[2]]
    assert [event["request"] for event in fork["events"][1:3]] == [asked[0], asked[2]]
    assert verdicts == [{"identical": True, "steps": 2}] * 2


async def test_a_tool_chat_of_a_server_that_cannot_stream_it_is_asked_for_whole(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.script = whole_where_tools_are
        chat = {"model": "gpu:small", "messages": [{"role": "user", "content": "a"}]}
        said = (await house.post(CHAT, chat, headers=TOOLS_RUN)).json()
    assert said["choices"][0]["message"]["content"] == "all of it"
    assert [payload.get("stream") for payload in fake.payloads] == [True, None]


async def test_a_server_that_refuses_whole_answers_too_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.script = answer(400, {"error": {"message": "no stream, no nothing"}})
        done = await run(house)
    assert (done["ok"], len(fake.requests)) == (False, 2)


async def test_a_client_that_leaves_ends_the_whole_answer_that_was_fallen_back_to(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    async with model_server(tmp_path) as (house, fake):

        async def script(fake: FakeOpenAIChat, request: Request) -> None:
            if request.json().get("stream"):
                await request.respond_json(501, {"error": "cannot stream"})
                return
            fake.working += 1
            await request.hung_up()
            fake.working -= 1
            fake.changes.notify()

        fake.script = script
        body = b'{"input": "hi"}'
        async with open_call(nursery, house.site.api, "POST", RUN, headers=JSON_AUTH, body=body) as exchange:
            await until(lambda: fake.working == 1)
            exchange.disconnect()
            await exchange.finished()
        await until(lambda: fake.working == 0)
        assert house.inflight() == 0


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (raw(EVENTS_HEAD + chunked(WORD) + b"0\r\n\r\n"), "ended its stream before the answer was complete"),
        (raw(EVENTS_HEAD + chunked(WORD)), "closed the connection before its answer was complete"),
        (raw(EVENTS_HEAD + chunked(b'data: {"error": {"message": "out of memory"}}\n\n')), "out of memory"),
        (answer(500, {"error": "llama runner died"}), "llama runner died"),
    ],
)
async def test_a_stream_that_fails_ends_the_run_with_the_servers_words(
    tmp_path: Path, script: Callable[[FakeOpenAIChat, Request], Awaitable[None]], words: str
) -> None:
    async with model_server(tmp_path) as (house, fake):
        fake.script = script
        done = await run(house)
        assert (await verdict(house, done["run_id"]))["identical"]
    assert not done["ok"]
    assert words in done["error"]
    assert len(fake.requests) == 1
