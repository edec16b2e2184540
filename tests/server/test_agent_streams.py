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
from tests.fakes.ollama import open_fake_ollama
from tests.fakes.openai_chat import (
    DONE,
    EVENTS_HEAD,
    LAST,
    WORD,
    FakeOpenAIChat,
    Script,
    answer,
    chat_answer,
    chunked,
    event,
    open_fake_openai_chat,
    raw,
)
from tests.house import AUTH, House, open_house_with_records

RUN, REPLAY, CHAT = "/v1/agent/run", "/v1/agent/replay", "/v1/chat/completions"
JSON_AUTH = {**AUTH, "content-type": "application/json"}
TOOLS_RUN = {**JSON_AUTH, "x-gateway-tools": "run"}
SPECS = {"default": {"model": "gpu:small"}, "hurried": {"model": "gpu:small", "max_runtime_sec": 0.2}}


@asynccontextmanager
async def serving(tmp_path: Path, backend: Any, **settings: str) -> AsyncIterator[House]:
    """A house with this one backend, at rest again when it is left."""
    (tmp_path / "backends.yaml").write_text(json.dumps({"backends": {"gpu": backend}}))  # JSON is YAML
    (tmp_path / "specs.json").write_text(json.dumps(SPECS))
    paths = {"BACKENDS_CONFIG_PATH": str(tmp_path / "backends.yaml"), "AGENT_SPECS_PATH": str(tmp_path / "specs.json")}
    async with open_house_with_records(tmp_path, **paths, **settings) as house:
        yield house
        assert house.inflight() == 0


@asynccontextmanager
async def model_server(tmp_path: Path, **settings: str) -> AsyncIterator[tuple[House, FakeOpenAIChat]]:
    """A house whose one model server is a fake; both are at rest again when it is left."""
    async with open_fake_openai_chat() as fake:
        backend = {"provider": "openai", "base_url": fake.base_url, "supported_capabilities": ["chat"]}
        async with serving(tmp_path, backend, **settings) as house:
            yield house, fake
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
    assert act["response"].startswith('data: {"')
    assert act["response"].endswith("data: [DONE]\n\n")
    assert (done["output_text"], act["usage"]) == ("Hello there", {"prompt_tokens": 3, "completion_tokens": 2})


def sent(*pieces: bytes) -> Script:
    """An event stream in these packets."""

    async def script(fake: FakeOpenAIChat, request: Request) -> None:
        await request.send_raw(EVENTS_HEAD)
        for piece in pieces:
            await request.send_raw(chunked(piece))
            await trio.sleep(0.001)  # a packet of its own
        await request.send_raw(b"0\r\n\r\n")

    return script


CUT = WORD.index("☃".encode()) + 1
CRLF = (WORD + LAST).replace(b"\n", b"\r\n")
LONG = WORD * 200  # beyond what stays in a line
STREAMS = {
    "in one": ([WORD + LAST + DONE], b""),
    "byte by byte": ([bytes([byte]) for byte in WORD[:40]] + [WORD[40:], LAST, DONE], b""),
    "a character cut": ([WORD[:CUT], WORD[CUT:] + LAST, DONE], b""),
    "CRLF, comments": ([b": hi\r\n\r\n", CRLF, b": keep-alive\r\n\r\n", b"data: [DONE]\r\n\r\n"], b""),
    "a mark": ([b"\xef\xbb", b"\xbf" + WORD, DONE], b""),
    "any bytes in a comment": ([WORD, b": \xff\xfe\xed\xa0\xbd\n\n", DONE], b""),
    "no [DONE]": ([WORD, LAST, b": bye"], b""),
    "more after [DONE]": ([WORD, DONE], b": bye\n\ndata: no JSON\n\n"),
    "long": ([LONG, b": \xff\n\n", DONE], b""),
}


@pytest.mark.parametrize(("name", "mode"), [*((name, "per_run") for name in STREAMS), ("long", "ndjson")])
async def test_what_a_server_sent_is_in_the_transcript_byte_for_byte(tmp_path: Path, name: str, mode: str) -> None:
    pieces, after = STREAMS[name]
    async with model_server(tmp_path, AGENT_RUNS_LOG_MODE=mode) as (house, fake):
        fake.script = sent(*pieces[:-1], pieces[-1] + after)
        done = await run(house)
        stored = await house.components.agents.store.load(done["run_id"])
        forked = (await house.post(f"{REPLAY}/{done['run_id']}", {"mode": "fork", "from_step": 2})).json()
        verdicts = [await verdict(house, each["run_id"]) for each in (done, forked)]
        shown = (await house.ask("GET", f"{REPLAY}/{done['run_id']}?payloads=true", headers=AUTH)).json()
    assert done["ok"], done["error"]
    assert [event["response"].encode("utf-8", "surrogateescape") for event in shown["events"][1:3]] == [
        b"".join(pieces)
    ] * 2
    assert all("blobs" not in event and event["hash"] for event in shown["events"])
    assert done["output_text"] == "Grüße ☃" * (200 if name == "long" else 1)
    assert verdicts == [{"identical": True, "steps": 2}] * 2
    assert stored is not None
    assert stored.flaw is None
    received = [event["response"].encode("utf-8", "surrogateescape") for event in stored.events[1:3]]
    assert received == [b"".join(pieces)] * 2
    assert [event.get("blobs", {}).keys() for event in done["events"][1:3]] == [
        {"response"} if name == "long" else set()
    ] * 2


async def test_of_a_server_that_does_not_stream_its_own_body_is_kept(tmp_path: Path) -> None:
    """Not the events that are made of it."""
    body = b' {"usage": {"prompt_tokens": 1, "completion_tokens": 2},\n"choices": [{"message": {"content": "all \xe2\x98\x83"}}]}'
    async with model_server(tmp_path) as (house, fake):
        fake.script = answer(200, body)
        done = await run(house)
        assert await verdict(house, done["run_id"]) == {"identical": True, "steps": 2}
    assert (done["output_text"], len(fake.requests)) == ("all ☃", 2)
    for step in done["events"][1:3]:
        assert step["response"].encode() == body
        assert step["usage"] == {"prompt_tokens": 1, "completion_tokens": 2}


async def test_an_answer_that_failed_is_no_step(tmp_path: Path) -> None:
    async with model_server(tmp_path) as (house, fake):
        for script in (sent(WORD), sent(WORD, event({"error": {"message": "out of memory"}})), sent(b"data: \xff\n\n")):
            fake.script = script
            done = await run(house)
            assert [each["type"] for each in done["events"]] == ["run_started", "run_failed"]
            assert done["error"].startswith("gpu ")
            assert await verdict(house, done["run_id"]) == {"identical": True, "steps": 0}


async def test_of_ollama_what_its_lines_were_translated_to_is_kept(tmp_path: Path) -> None:
    async with open_fake_ollama() as fake:
        backend = {"provider": "ollama", "base_url": fake.base_url, "supported_capabilities": ["chat"]}
        async with serving(tmp_path, backend) as house:
            done = await run(house)
            assert await verdict(house, done["run_id"]) == {"identical": True, "steps": 2}
    events = done["events"][2]["response"].split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"
    assert events[-2:] == ["data: [DONE]", ""]
    assert done["output_text"] == "Grüße ☃"


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
