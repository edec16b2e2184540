"""The OpenAI-style provider against its fake: every kind, whole and streamed, and the ways of real servers."""

import json
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.backends.openai import OpenAIBackend, endpoint
from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import open_upstream
from tests.backends.language import answer, language_call, language_class, stream
from tests.fakes.http import open_server
from tests.fakes.openai_chat import (
    DEATHS,
    DONE,
    EVENTS_HEAD,
    HTML,
    LAST,
    WORD,
    chunked,
    open_fake_openai_chat,
    raw,
    reset_after,
)
from tests.fakes.openai_chat import answer as answers

BACKEND = OpenAIBackend()


@pytest.fixture
async def upstream():
    async with open_upstream(Settings()) as client:
        yield client


def test_registry_knows_it():
    assert isinstance(LANGUAGE_BACKENDS["openai"], OpenAIBackend)


@pytest.mark.parametrize("base", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_one_v1_is_used(base):
    assert endpoint(base, "/v1/models") == "http://h:1/v1/models"


def test_base_path_is_kept():
    assert endpoint("http://h:1/api/v1", "/v1/models") == "http://h:1/api/v1/models"


def test_responses_are_its_own_only_where_the_operator_says_so():
    assert "responses" not in BACKEND.kinds(language_class("http://h"))
    assert "responses" in BACKEND.kinds(language_class("http://h", responses="native"))
    assert BACKEND.kinds(language_class("http://h")) >= {"chat", "completions", "embeddings", "rerank"}


async def test_body_goes_on_byte_for_byte_where_nothing_was_changed(upstream, loopback_clock):
    body = b'{ "model": "small",  "messages": [], "min_p": 0.10, "x": "\\u00e9" }'
    async with open_fake_openai_chat() as fake:
        await answer(BACKEND, language_call(fake.base_url, raw=body), upstream)
        assert fake.requests[0].body == body
        assert fake.requests[0].header("content-type") == "application/json"


async def test_changed_body_is_compact_utf8_with_its_unknown_fields(upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        await answer(BACKEND, language_call(fake.base_url, min_p=0.5, user="é☃"), upstream)
        assert '"min_p":0.5,"user":"é☃"}'.encode() in fake.requests[0].body


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
async def test_whole_answer_comes_back_byte_for_byte(upstream, loopback_clock, kind):
    async with open_fake_openai_chat() as fake:
        said = await BACKEND.answer(language_call(fake.base_url, kind), upstream)
        assert b"Hello there" in said
        assert json.loads(said)["object"] in ("chat.completion", "text_completion", "response")
        assert b'": ' in said  # as the server wrote it, not written again


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
async def test_stream_comes_through_to_its_end(upstream, loopback_clock, kind):
    async with open_fake_openai_chat() as fake:
        said = await stream(BACKEND, language_call(fake.base_url, kind, stream=True), upstream)
    events = said.split(b"\n\n")
    assert b"Hello" in said
    assert events[-2] == DONE.strip() or b"response.completed" in events[-2]


async def test_words_come_as_they_are_made(upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        fake.first_word_s, fake.word_s = 50, 20
        started = trio.current_time()
        async with BACKEND.stream(language_call(fake.base_url, stream=True), upstream) as source:
            times = []
            while await source.receive():
                times.append(round(trio.current_time() - started))
        assert times == [50, 70, 90, 110, 130]


async def test_usage_is_asked_for_and_comes(upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        call = language_call(fake.base_url, stream=True, stream_options={"include_usage": True})
        assert b'"usage"' in await stream(BACKEND, call, upstream)
        assert b'"usage"' not in await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)


async def test_embeddings_and_ranking(upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        said = await answer(BACKEND, language_call(fake.base_url, "embeddings", input=["a", "b"]), upstream)
        assert [entry["embedding"] for entry in said["data"]] == [[0.5, -1.0]] * 2
        said = await answer(BACKEND, language_call(fake.base_url, "rerank", top_n=2), upstream)
        assert said == {
            "object": "list",
            "data": [
                {"index": 2, "relevance_score": 0.2, "document": {"text": "c"}},
                {"index": 1, "relevance_score": 0.1, "document": {"text": "b"}},
            ],
            "model": "small",
        }


async def test_models_are_listed(upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        for base in (fake.base_url, fake.base_url + "/v1"):
            models = await BACKEND.list_models(language_class(base), upstream, 3)
            assert [(model.name, model.created) for model in models] == [("small", 7), ("large", 7)]


LISTINGS = {
    "500": (500, {"error": "no model is loaded"}, "answered 500: no model is loaded"),
    "401": (401, {"error": {"message": "key needed"}}, "answered 401: key needed"),
    "404": (404, {"detail": "Not Found"}, "gpu has no /v1/models: it answered 404"),
    "HTML": (200, HTML, "something that is not JSON"),
    "a string": (200, "models", "where a list of models was asked for"),
    "an error": (200, {"error": "loading"}, "answered 200: loading"),
    "no list": (200, {"data": {"id": "a"}}, "where a list of models was asked for"),
    "nothing": (200, b"", "something that is not JSON"),
}


@pytest.mark.parametrize("name", LISTINGS)
async def test_listing_that_is_none_is_a_failure(upstream, loopback_clock, name):
    status, body, words = LISTINGS[name]
    async with open_listing(status, body) as base_url:
        with pytest.raises(UpstreamFailed, match=words) as caught:
            await BACKEND.list_models(language_class(base_url), upstream, 3)
    assert caught.value.status == 502


async def test_silent_listing_ends_with_its_probe(upstream, loopback_clock):
    async with open_listing(None, None) as base_url:
        started = trio.current_time()
        with pytest.raises(UpstreamTimeout):
            await BACKEND.list_models(language_class(base_url), upstream, 3)
        assert trio.current_time() - started < 3.5


@asynccontextmanager
async def open_listing(status, body):
    """A server whose every answer is this; no status: silence."""

    async def handle(request):
        if status is None:
            await request.hung_up()
        await request.respond(status, body if isinstance(body, bytes) else json.dumps(body).encode())

    async with open_server(handle) as server:
        yield server.base_url


# What real servers do that is not OpenAI's, and what becomes of it.


async def test_stream_without_done_ends_properly_and_invents_none(upstream, loopback_clock):
    async with open_fake_openai_chat(script="no [DONE]") as fake:
        assert await stream(BACKEND, language_call(fake.base_url, stream=True), upstream) == WORD + LAST


async def test_http_1_0_stream_ends_with_its_connection(upstream, loopback_clock):
    async with open_fake_openai_chat(script="HTTP/1.0 stream") as fake:
        assert await stream(BACKEND, language_call(fake.base_url, stream=True), upstream) == WORD + LAST + DONE


async def test_http_1_0_answer_is_one(upstream, loopback_clock):
    async with open_fake_openai_chat(script="HTTP/1.0 answer") as fake:
        said = await answer(BACKEND, language_call(fake.base_url), upstream)
        assert said["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize(("script", "content"), [("empty content", ""), ("no content", None)])
async def test_empty_content_is_an_answer(upstream, loopback_clock, script, content):
    async with open_fake_openai_chat(script=script) as fake:
        said = await answer(BACKEND, language_call(fake.base_url), upstream)
        assert said["choices"][0]["message"]["content"] == content


async def test_whole_answer_to_a_stream_request_becomes_a_stream(upstream, loopback_clock):
    async with open_fake_openai_chat(script="ignores stream") as fake:
        said = await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)
    chunks = [json.loads(line[6:]) for line in said.split(b"\n\n")[:-2]]
    assert said.endswith(DONE)
    assert [chunk["object"] for chunk in chunks] == ["chat.completion.chunk"] * 2
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hello"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", ""])
async def test_event_stream_under_another_name_is_one(upstream, loopback_clock, content_type):
    async def mislabelled(fake, request):
        await request.send_raw(EVENTS_HEAD.replace(b"text/event-stream", content_type.encode()))
        for piece in (WORD[:3], WORD[3:], LAST):
            await trio.sleep(1)
            await request.send_raw(chunked(piece))
        await request.send_raw(b"0\r\n\r\n")

    async with open_fake_openai_chat(script=mislabelled) as fake:
        assert await stream(BACKEND, language_call(fake.base_url, stream=True), upstream) == WORD + LAST


REFUSALS = {
    "bare string error": (400, "invalid_request_error", None, "gpu answered 400: context too long"),
    "string error": (502, "upstream_error", None, "gpu answered 500: llama runner died"),
    "HTML error": (502, "upstream_error", None, "gpu answered 502: 502 Bad Gateway Bad Gateway nginx"),
    "nested error": (422, "invalid_request_error", None, "gpu answered 422: field required"),
    "empty error": (502, "upstream_error", None, "gpu answered 500."),
    "error in a 200": (502, "upstream_error", None, "gpu answered 200: slot is busy"),
    "model 404": (404, "invalid_request_error", "model_not_found", "gpu answered 404: model 'x' not found"),
    "route 404": (502, "upstream_error", None, "gpu has no /v1/chat/completions: it answered 404."),
    "route 405": (502, "upstream_error", None, "gpu has no /v1/chat/completions: it answered 405."),
    "too large": (413, "invalid_request_error", None, "gpu answered 413: too large"),
    "rate limit": (429, "rate_limit_error", None, "gpu answered 429: slow down"),
    "unauthorized": (502, "upstream_error", None, "gpu answered 401: no key"),
    "HTML in a 200": (502, "upstream_error", None, "gpu answered something that is not JSON."),
    "nothing in a 200": (502, "upstream_error", None, "gpu answered something that is not JSON."),
    "a string in a 200": (502, "upstream_error", None, "gpu answered JSON that is not an object."),
    "no choices": (502, "upstream_error", None, "gpu answered JSON without a list of choices."),
    "empty choices": (502, "upstream_error", None, "gpu answered JSON without a list of choices."),
    "choice without message": (502, "upstream_error", None, "gpu answered a choice without a message."),
    "204": (502, "upstream_error", None, "gpu answered 204."),
}
SCRIPTED = {
    "model 404": answers(404, {"error": {"message": "model 'x' not found"}}),
    "route 404": answers(404, {"detail": "Not Found"}),
    "route 405": answers(405, {"detail": "Method Not Allowed"}),
    "too large": answers(413, {"error": {"message": "too large"}}),
    "rate limit": answers(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}),
    "unauthorized": answers(401, {"error": {"message": "no key"}}),
    "HTML in a 200": answers(200, HTML, {"Content-Type": "text/html"}),
    "nothing in a 200": answers(200, b""),
    "a string in a 200": answers(200, "Hello"),
    "no choices": answers(200, {"object": "chat.completion"}),
    "empty choices": answers(200, {"choices": []}),
    "choice without message": answers(200, {"choices": [{"text": "Hello"}]}),
    "204": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_refusal_in_any_shape_becomes_the_contracts_error(upstream, loopback_clock, name, streamed):
    status, kind, code, message = REFUSALS[name]
    async with open_fake_openai_chat(script=SCRIPTED.get(name, name)) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            await (stream if streamed else answer)(BACKEND, language_call(fake.base_url, stream=streamed), upstream)
        await fake.statistics.until_no_connections()
    error = caught.value
    assert (error.status, error.type, error.message) == (status, kind, message)
    assert error.code == (code or "upstream_error")
    if name == "rate limit":
        assert error.retry_after_s == 7


async def test_refusal_whose_body_breaks_off_is_still_that_refusal(upstream, loopback_clock):
    script = raw(b"HTTP/1.1 400 Bad\r\nContent-Length: 500\r\n\r\ntoo long")
    async with open_fake_openai_chat(script=script) as fake:
        with pytest.raises(UpstreamFailed, match="gpu answered 400: too long") as caught:
            await answer(BACKEND, language_call(fake.base_url), upstream)
    assert caught.value.status == 400


async def test_endless_refusal_is_cut(upstream, loopback_clock):
    async def endless(fake, request):
        await request.send_raw(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await request.send_raw(chunked(b"x" * 65536))

    async with open_fake_openai_chat(script=endless) as fake:
        with pytest.raises(UpstreamFailed, match="answered 500"):
            await answer(BACKEND, language_call(fake.base_url), upstream)
        await fake.statistics.until_no_connections()


async def test_endless_answer_is_cut_at_16_mib(upstream, loopback_clock):
    async def endless(fake, request):
        await request.send_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await request.send_raw(chunked(b" " * 65536))

    async with open_fake_openai_chat(script=endless) as fake:
        with pytest.raises(UpstreamFailed, match="answered more than 16777216 bytes"):
            await answer(BACKEND, language_call(fake.base_url), upstream)


@pytest.mark.parametrize("phase", DEATHS)
@pytest.mark.parametrize("die", [raw, reset_after], ids=["closed", "reset"])
async def test_backend_that_dies_in_any_phase_is_a_failure_after_what_it_said(upstream, loopback_clock, phase, die):
    async with open_fake_openai_chat(script=die(DEATHS[phase])) as fake:
        with pytest.raises(UpstreamFailed, match="closed the connection before its answer was complete"):
            await stream(BACKEND, language_call(fake.base_url, stream=True), upstream)
        await fake.statistics.until_no_connections()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("after_s", [1, 75])
async def test_cancelled_call_aborts_the_backend_at_once(nursery, upstream, loopback_clock, streamed, after_s):
    async with open_fake_openai_chat() as fake:
        fake.first_word_s, fake.word_s, fake.words = 50, 20, ["a"] * 100
        if not streamed:
            fake.first_word_s, fake.word_s = 59, 0
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_later, fake, scope, after_s if streamed else 1)
            await (stream if streamed else answer)(BACKEND, language_call(fake.base_url, stream=streamed), upstream)
        assert scope.cancelled_caught
        with trio.fail_after(0.05):
            await fake.changes.until(lambda: fake.aborted == 1)


async def _cancel_later(fake, scope, after_s):
    await fake.until_working()
    await trio.sleep(after_s)
    scope.cancel()


async def test_stream_may_be_left_in_another_task(nursery, upstream, loopback_clock):
    async with open_fake_openai_chat() as fake:
        fake.word_s = 10
        manager = BACKEND.stream(language_call(fake.base_url, stream=True), upstream)
        source = await manager.__aenter__()
        assert await source.receive()
        nursery.start_soon(manager.__aexit__, None, None, None)
        with trio.fail_after(0.05):
            await fake.changes.until(lambda: fake.aborted == 1)
