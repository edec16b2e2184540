"""The Ollama provider against its fake on real sockets: every kind, every death, and clients that leave."""

import base64
import json
import struct

import pytest
import trio
import trio.testing
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from appliance.backends.ollama import OllamaBackend, endpoint
from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.ids import is_id
from appliance.protocol.sse import DONE, SseReader, data_of
from appliance.upstream.client import open_upstream
from tests.backends.language import answer, language_call, language_class, stream
from tests.fakes.ollama import (
    COUNTS,
    DEATHS,
    LAST,
    STREAM_HEAD,
    WORD,
    answers,
    chunked,
    ndjson,
    open_fake_ollama,
    raw,
    streams,
)

BACKEND = OllamaBackend(now=lambda: 7.5)
CALL = {"function": {"name": "weather", "arguments": {"city": "Köln"}}}


@pytest.fixture
async def upstream():
    async with open_upstream(Settings()) as client:
        yield client


def chunks(data):
    events = [data_of(event) for event in SseReader().feed(data)]
    return [json.loads(event) for event in events if event != b"[DONE]"]


def test_registry_knows_it():
    assert isinstance(LANGUAGE_BACKENDS["ollama"], OllamaBackend)
    assert BACKEND.kinds(language_class("http://h", provider="ollama")) == {"chat", "completions", "embeddings"}


@pytest.mark.parametrize("base", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/api", "http://h:1/api/"])
def test_native_api_is_found_whatever_the_base_url_ends_in(base):
    assert endpoint(base, "/api/chat") == "http://h:1/api/chat"


async def test_chat_comes_back_in_openais_shape(upstream):
    async with open_fake_ollama(thinking=["Hm"]) as fake:
        said = await answer(BACKEND, language_call(fake.base_url, temperature=0.5), upstream)
    assert fake.payloads == [
        {"messages": [{"role": "user", "content": "Hi"}], "model": "small", "stream": False}
        | {"options": {"temperature": 0.5}}
    ]
    assert is_id("chatcmpl", said.pop("id"))
    message = {"role": "assistant", "content": "Grüße ☃", "reasoning_content": "Hm"}
    assert said == {
        "object": "chat.completion",
        "created": 7,
        "model": "small",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


async def test_tool_calls_come_back_with_arguments_as_a_string(upstream):
    async with open_fake_ollama(words=[], calls=[CALL, CALL]) as fake:
        said = await answer(BACKEND, language_call(fake.base_url), upstream)
    choice = said["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [call["function"] for call in calls] == [{"name": "weather", "arguments": '{"city":"Köln"}'}] * 2
    assert all(is_id("toolcall", call["id"]) for call in calls)
    assert calls[0]["id"] != calls[1]["id"]


async def test_empty_answer_without_counts_is_an_answer(upstream):
    async with open_fake_ollama(words=[], last={"done_reason": "load"}) as fake:
        said = await answer(BACKEND, language_call(fake.base_url), upstream)
    assert said["choices"][0]["message"]["content"] == ""
    assert said["usage"]["total_tokens"] == 0


async def test_completion_comes_back_as_text(upstream):
    async with open_fake_ollama(last={"done_reason": "length", **COUNTS}) as fake:
        said = await answer(BACKEND, language_call(fake.base_url, "completions"), upstream)
        assert fake.requests[0].path == "/api/generate"
    assert is_id("cmpl", said["id"])
    assert said["choices"] == [{"index": 0, "text": "Grüße ☃", "logprobs": None, "finish_reason": "length"}]


async def test_embeddings_come_as_numbers_or_base64(upstream):
    async with open_fake_ollama() as fake:
        said = await answer(BACKEND, language_call(fake.base_url, "embeddings", input=["a", "b"]), upstream)
        assert said == {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": [0.5, -1.0, index]} for index in range(2)],
            "model": "small",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
        call = language_call(fake.base_url, "embeddings", encoding_format="base64")
        encoded = (await answer(BACKEND, call, upstream))["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(encoded)) == (0.5, -1.0, 0.0)


@pytest.mark.parametrize(
    "embeddings", [None, [], [[]], [[1], [2]], [["x"]], [[True]], [None], [1], {"a": 1}, [[1e300]], [[[1]]]]
)
async def test_embeddings_that_are_none_are_a_failure(upstream, embeddings):
    async with open_fake_ollama(script=answers(200, {"embeddings": embeddings})) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            await answer(BACKEND, language_call(fake.base_url, "embeddings", encoding_format="base64"), upstream)
    assert caught.value.status == 502


async def test_models_are_listed_with_their_time(upstream):
    async with open_fake_ollama() as fake:
        models = await BACKEND.list_models(language_class(fake.base_url), upstream, 3)
    assert [(model.name, model.created) for model in models] == [("qwen2.5:7b", 1772359200), ("llama3:latest", 0)]


@pytest.mark.parametrize("body", [b"nonsense", {"models": 5}, {}, [], {"error": "x"}])
async def test_list_that_is_none_is_a_failure(upstream, body):
    async with open_fake_ollama(script=answers(200, body)) as fake:
        with pytest.raises(UpstreamFailed):
            await BACKEND.list_models(language_class(fake.base_url), upstream, 3)


async def test_dead_server_does_not_hold_up_the_list(upstream, loopback_clock):
    async with open_fake_ollama(script=raw(b"", stay=True)) as fake:
        with pytest.raises(UpstreamTimeout):
            await BACKEND.list_models(language_class(fake.base_url), upstream, 3)


async def test_stream_comes_as_events_with_usage_and_one_end(upstream):
    async with open_fake_ollama(thinking=["Hm"], calls=[CALL]) as fake:
        call = language_call(fake.base_url, stream=True, stream_options={"include_usage": True})
        said = await stream(BACKEND, call, upstream)
        assert fake.payloads[0]["stream"] is True
        assert "stream_options" not in fake.payloads[0]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(said) if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Grüße ☃"
    assert chunks(said)[-1]["usage"]["total_tokens"] == 18
    assert said.endswith(DONE)
    assert said.count(b"[DONE]") == 1


async def test_answers_are_what_the_openai_sdk_reads(upstream):
    async with open_fake_ollama(thinking=["Hm"], calls=[CALL]) as fake:
        whole = await BACKEND.answer(language_call(fake.base_url), upstream)
        ChatCompletion.model_validate_json(whole, strict=True)
        call = language_call(fake.base_url, stream=True, stream_options={"include_usage": True})
        for chunk in chunks(await stream(BACKEND, call, upstream)):
            ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)


async def test_completions_stream(upstream):
    async with open_fake_ollama() as fake:
        said = await stream(BACKEND, language_call(fake.base_url, "completions", stream=True), upstream)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks(said)) == "Grüße ☃"
    assert said.endswith(DONE)


async def test_all_lines_of_one_read_come_as_one_piece(upstream):
    async with open_fake_ollama(script=raw(STREAM_HEAD + chunked(WORD * 3 + LAST) + b"0\r\n\r\n")) as fake:
        async with BACKEND.stream(language_call(fake.base_url, stream=True), upstream) as source:
            assert (await source.receive()).count(b"data: ") == 6
            assert await source.receive() == b""
            assert await source.receive() == b""


async def test_end_of_the_answer_does_not_wait_for_the_end_of_the_connection(upstream):
    async with open_fake_ollama(script=raw(STREAM_HEAD + chunked(LAST), stay=True)) as fake:
        with trio.fail_after(1):
            assert (await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)).endswith(DONE)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("death", sorted(DEATHS))
async def test_death_in_each_phase_is_a_failure_without_an_invented_end(upstream, death, reset):
    seen = []
    async with open_fake_ollama(script=raw(DEATHS[death], reset=reset)) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            async with BACKEND.stream(language_call(fake.base_url, stream=True), upstream) as source:
                while piece := await source.receive():
                    seen.append(piece)
    assert caught.value.status == 502
    assert all(piece.endswith(b"\n\n") for piece in seen)
    assert b"[DONE]" not in b"".join(seen)
    assert b"stop" not in b"".join(seen)


async def test_clean_end_without_a_last_line_is_a_failure(upstream):
    async with open_fake_ollama(script=streams(WORD)) as fake:
        with pytest.raises(UpstreamFailed, match="before the answer was complete"):
            await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)


@pytest.mark.parametrize("death", ["before the head", "in the head"])
async def test_death_before_the_head_is_a_failure_of_a_whole_answer_too(upstream, death):
    async with open_fake_ollama(script=raw(DEATHS[death])) as fake:
        with pytest.raises(UpstreamFailed):
            await answer(BACKEND, language_call(fake.base_url), upstream)


async def test_error_in_the_middle_is_raised_after_what_came_before_it_without_reading_on(upstream):
    lines = chunked(WORD + ndjson({"error": "out of memory"}))
    async with open_fake_ollama(script=raw(STREAM_HEAD + lines, stay=True)) as fake:
        async with BACKEND.stream(language_call(fake.base_url, stream=True), upstream) as source:
            assert "Grüße" in (await source.receive()).decode()
            for _ in range(2):
                with pytest.raises(UpstreamFailed, match="out of memory"), trio.fail_after(1):
                    await source.receive()


@pytest.mark.parametrize("body", [b"", b"<html>", {"error": "no"}, {}, {"message": {}, "done": False}, [1]])
async def test_whole_answer_that_is_none_is_a_failure(upstream, body):
    async with open_fake_ollama(script=answers(200, body)) as fake:
        for kind in ("chat", "completions"):
            with pytest.raises(UpstreamFailed) as caught:
                await answer(BACKEND, language_call(fake.base_url, kind), upstream)
            assert caught.value.status == 502


@pytest.mark.parametrize(
    ("status", "said", "wanted", "code"),
    [
        (404, {"error": "model 'x' not found"}, 404, "model_not_found"),
        (404, b"404 page not found", 502, "upstream_error"),
        (400, {"error": "registry.ollama.ai/library/x does not support tools"}, 400, "upstream_error"),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, 429, "upstream_busy"),
        (500, {"error": "llama runner process has terminated"}, 502, "upstream_error"),
    ],
)
async def test_refusals_say_what_is_true(upstream, status, said, wanted, code):
    async with open_fake_ollama(script=answers(status, said)) as fake:
        for act in (answer, stream):
            with pytest.raises(UpstreamFailed) as caught:
                await act(BACKEND, language_call(fake.base_url), upstream)
            assert (caught.value.status, caught.value.code) == (wanted, code)
            assert caught.value.extra["status"] == status
            assert (caught.value.retry_after_s is not None) == (wanted == 429)


async def test_what_cannot_be_honoured_is_refused_before_anything_is_sent(upstream):
    async with open_fake_ollama() as fake:
        for act in (answer, stream):
            with pytest.raises(InvalidRequest) as caught:
                await act(BACKEND, language_call(fake.base_url, n=2), upstream)
            assert caught.value.param == "n"
        assert fake.statistics.connections_ever == 0


async def test_silence_ends_by_its_own_deadline(upstream, loopback_clock):
    for sent, words in ((b"", "first byte"), (STREAM_HEAD, "first byte"), (STREAM_HEAD + chunked(WORD), "idle")):
        async with open_fake_ollama(script=raw(sent, stay=True)) as fake:
            with pytest.raises(UpstreamTimeout, match=words):
                await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)


@pytest.mark.parametrize(
    "sent", [b"", STREAM_HEAD, STREAM_HEAD + chunked(WORD)[:20], STREAM_HEAD + chunked(WORD)],
    ids=["before the head", "before a line", "in a line", "after a line"],
)  # fmt: skip
async def test_client_that_leaves_closes_the_connection_at_once(upstream, nursery, sent):
    async with open_fake_ollama(script=raw(sent, stay=True)) as fake:
        scope = trio.CancelScope()

        async def run():
            with scope:
                await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)

        nursery.start_soon(run)
        await fake.until_working()
        await trio.testing.wait_all_tasks_blocked(0.01)
        scope.cancel()
        with trio.fail_after(0.05):
            await fake.statistics.until_no_connections()
        assert len(fake.statistics.hangups) == 1


async def test_client_that_leaves_a_whole_answer_frees_the_gpu_at_once(upstream, nursery):
    async with open_fake_ollama(word_s=5) as fake:
        scope = trio.CancelScope()

        async def run():
            with scope:
                await answer(BACKEND, language_call(fake.base_url), upstream)

        nursery.start_soon(run)
        await fake.until_working()
        scope.cancel()
        with trio.fail_after(0.05):
            await fake.statistics.until_no_connections()
        assert fake.aborted == 1


async def test_receive_that_is_given_up_loses_nothing(upstream, loopback_clock):
    async with open_fake_ollama(words=[f"{number} " for number in range(20)], word_s=1) as fake:
        pieces, given_up = [], 0
        async with BACKEND.stream(language_call(fake.base_url, stream=True), upstream) as source:
            while True:
                with trio.move_on_after(0.3) as patience:
                    piece = await source.receive()
                if patience.cancelled_caught:
                    given_up += 1
                    continue
                if not piece:
                    break
                pieces.append(piece)
    assert given_up > 20
    words = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(b"".join(pieces))]
    assert "".join(words) == "".join(f"{number} " for number in range(20))


async def test_stream_may_be_left_in_another_task(upstream):
    async with open_fake_ollama(word_s=5) as fake:
        context = BACKEND.stream(language_call(fake.base_url, stream=True), upstream)
        source = await context.__aenter__()
        assert b"assistant" in await source.receive()
        async with trio.open_nursery() as other:  # noqa: ASYNC112 -- another task is the point
            other.start_soon(context.__aexit__, None, None, None)
        with trio.fail_after(0.05):
            await fake.statistics.until_no_connections()
