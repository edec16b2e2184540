"""Language over HTTP: order of checks, headers, streams with one true end, slots, and clients that leave."""

import json
from pathlib import Path
from typing import Any

import openai.types.responses
import pydantic
import pytest
import trio
import trio.testing

from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.telemetry.exposition import write_page
from appliance.upstream.health import Health
from tests.asgi import Exchange, Response, open_call
from tests.gated_language import GatedLanguage, chunk
from tests.house import AUTH, House, open_house

JSON_AUTH = {**AUTH, "content-type": "application/json"}
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "ollama:qwen2.5:7b", "messages": [{"role": "user", "content": "hello"}]}
BROKEN = UpstreamFailed("ollama broke off the connection.", upstream="ollama")


async def post(house: House, path: str, body: object, headers: dict[str, str] | None = None) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await house.ask("POST", path, headers={**JSON_AUTH, **(headers or {})}, body=raw)


def stream(
    nursery: trio.Nursery, house: House, body: dict[str, Any] | None = None, path: str = CHAT, **more: Any
) -> Any:
    raw = json.dumps({**(body or HELLO), "stream": True}).encode()
    return open_call(nursery, house.site.api, "POST", path, headers=JSON_AUTH, body=raw, **more)


async def test_an_unchanged_body_goes_on_byte_for_byte_and_says_where(tmp_path: Path, language: GatedLanguage) -> None:
    language.gate.set()
    raw = b'{ "model":"default",  "messages":[{"role":"user","content":"h\xc3\xa9"}], "min_p": 0.1, "x": {"y":[1]} }'
    async with open_house(tmp_path) as house:
        answer = await post(house, CHAT, raw)
        direct = await post(house, CHAT, raw.replace(b"default", b"some-model"))
    assert answer.status == direct.status == 200
    assert answer.body == language.answers
    assert answer.header("x-backend-used") == "ollama"
    assert answer.header("x-model-used") == "qwen2.5:32b"
    assert answer.header("x-router-reason") == "alias:default"
    assert direct.header("x-router-reason") == "direct:model"
    assert language.calls[0].body["min_p"] == 0.1
    assert language.calls[0].raw is None, "the model was changed"
    assert language.calls[1].raw == raw.replace(b"default", b"some-model")


async def test_checks_come_in_the_contracts_order(tmp_path: Path, language: GatedLanguage) -> None:
    down = Health(required=False, healthy=False, ready=False, error="down")
    async with open_house(tmp_path) as house:
        house.components.health.record("ollama", down)
        bad_body = await post(house, CHAT, {"model": "gpu_heavy:x", "messages": 5})
        unable = await post(house, CHAT, HELLO, {"x-backend": "gpu_heavy"})
        unknown = await post(house, CHAT, HELLO, {"x-backend": "nobody"})
        not_ready = await post(house, CHAT, HELLO)
        assert [answer.status for answer in (bad_body, unable, unknown, not_ready)] == [400, 400, 400, 503]
        codes = [answer.json()["error"]["code"] for answer in (unable, unknown, not_ready)]
        assert codes == ["capability_not_supported", "backend_not_found", "backend_not_ready"]
        assert (house.inflight(), language.calls) == (0, [])


async def test_eight_streams_on_four_slots_are_four_streams_and_four_refusals(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house:
        running: list[Exchange] = []
        async with stream(nursery, house) as one, stream(nursery, house) as two, stream(nursery, house) as three:
            async with stream(nursery, house) as four:
                running = [one, two, three, four]
                await trio.testing.wait_all_tasks_blocked()
                refused = [await post(house, CHAT, {**HELLO, "stream": True}) for _ in range(4)]
                assert [answer.status for answer in refused] == [429] * 4
                assert {answer.header("retry-after-ms") for answer in refused} == {"5000"}
                assert house.inflight() == 4
                assert len(language.calls) == 4
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 3
            async with stream(nursery, house):
                await trio.testing.wait_all_tasks_blocked()
                assert house.inflight() == 4
        assert len(running) == 4
        assert (house.inflight(), language.opened, language.closed) == (0, 5, 5)


async def test_a_stream_goes_out_as_it_comes_and_ends_with_done_once(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house:
        async with stream(nursery, house) as exchange:
            role, text, last = chunk({"role": "assistant", "content": ""}), chunk({"content": "hé"}), chunk({}, "stop")
            language.say(role)
            await exchange.started()
            assert exchange.status == 200
            assert exchange.header("content-type") == "text/event-stream"
            assert exchange.header("cache-control") == "no-cache"
            assert exchange.header("x-accel-buffering") == "no"
            assert await exchange.chunk() == role
            language.say(text[:20])
            await trio.testing.wait_all_tasks_blocked()
            language.say(text[20:] + last)
            assert await exchange.chunk() == text + last, "what came in one read goes out in one write"
            language.say(b"data: [DONE]\n\ndata: [DONE]\n\n")
            language.end()
            assert await exchange.chunk() == b"data: [DONE]\n\n"
            assert await exchange.chunk() is None
            await exchange.finished()
        assert (house.inflight(), language.closed) == (0, 1)


async def test_a_server_that_ends_without_done_after_its_finish_reason_is_given_one(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house) as exchange:
        language.say(chunk({"content": "x"}, "stop"))
        language.end()
        assert (await exchange.body()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("how", ["broken", "timeout", "ended early", "mid-event", "error event", "too long", "nothing"])
async def test_a_failure_after_the_first_byte_is_one_error_event_and_nothing_is_invented(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery, how: str
) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house) as exchange:
        if how != "nothing":
            language.say(chunk({"role": "assistant", "content": "half"}))
        match how:
            case "broken":
                language.fail(BROKEN)
            case "timeout":
                language.fail(UpstreamTimeout("ollama fell silent.", upstream="ollama"))
            case "mid-event":
                language.say(chunk({"content": "é"})[:-5])
                language.end()
            case "error event":
                language.say(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
            case "too long":
                language.say(b"data: " + b"x" * (2 << 20))
            case _:
                language.end()
        body = await exchange.body()
        events = [line for line in body.decode().split("\n\n") if line]
        assert b"[DONE]" not in body
        assert len(events) == (1 if how == "nothing" else 2)
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["type"] == "upstream_error"
        assert error["source"] == "upstream"
        if how == "error event":
            assert "out of memory" in error["message"]
        await exchange.finished()
        assert (house.inflight(), language.closed) == (0, 1)


async def test_silence_is_broken_by_pings_that_lose_nothing(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house) as exchange:
        language.say(chunk({"role": "assistant", "content": ""}))
        await exchange.chunk()
        began = trio.current_time()
        assert await exchange.chunk() == b": ping\n\n"
        assert trio.current_time() - began == pytest.approx(15)
        text = chunk({"content": "x"}, "stop")
        language.say(text[:9])
        assert await exchange.chunk() == b": ping\n\n"
        language.say(text[9:])
        assert await exchange.chunk() == text


async def test_a_refusal_before_the_first_byte_keeps_its_status(tmp_path: Path, language: GatedLanguage) -> None:
    language.refuse = UpstreamFailed("too many tokens", upstream="ollama", upstream_status=400, status=400)
    async with open_house(tmp_path) as house:
        for body in (HELLO, {**HELLO, "stream": True}):
            language.gate.set()
            answer = await post(house, CHAT, body)
            assert (answer.status, answer.json()["error"]["source"]) == (400, "upstream")
            assert answer.json()["error"]["upstream"] == "ollama"
        assert house.inflight() == 0


async def test_an_unknown_model_is_404_with_the_nearest_names(tmp_path: Path, language: GatedLanguage) -> None:
    language.gate.set()
    language.refuse = UpstreamFailed(
        "model 'qwen2.5:8b' not found", upstream="ollama", upstream_status=404, status=404, code="model_not_found"
    )
    async with open_house(tmp_path) as house:
        answer = await post(house, CHAT, {**HELLO, "model": "ollama:qwen2.5:8b"})
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "ollama:qwen2.5:7b" in error["message"]


@pytest.mark.parametrize("phase", ["whole answer", "before the first byte", "mid-stream", "while it is sent"])
async def test_a_client_may_leave_at_any_moment(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery, phase: str
) -> None:
    async with open_house(tmp_path) as house:
        raw = json.dumps({**HELLO, "stream": phase != "whole answer"}).encode()
        window = 0 if phase == "while it is sent" else 100
        async with open_call(
            nursery, house.site.api, "POST", CHAT, headers=JSON_AUTH, body=raw, window=window
        ) as exchange:
            if phase in {"mid-stream", "while it is sent"}:
                language.say(chunk({"content": "x"}))
                await exchange.started()
            await trio.testing.wait_all_tasks_blocked()
            assert house.inflight() == 1
            exchange.disconnect()
            await exchange.finished()
        assert house.inflight() == 0
        assert language.opened == language.closed


async def test_a_slow_reader_holds_up_the_upstream_and_not_the_memory(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house, window=0) as exchange:
        for number in range(50):
            language.say(chunk({"content": str(number)}))
        await exchange.started()
        await trio.testing.wait_all_tasks_blocked()
        assert len(language._pieces) >= 48, "what the client has not taken was not read from the backend"


async def test_a_stopping_gateway_ends_streams_with_one_error_event(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house, stream(nursery, house) as exchange:
        language.say(chunk({"content": "x"}))
        await exchange.chunk()
        await trio.testing.wait_all_tasks_blocked()
        house.site.stop_visits()
        last = await exchange.body()
        assert json.loads(last.decode().removeprefix("data: "))["error"]["code"] == "shutting_down"
        await exchange.finished()
        assert (house.inflight(), language.closed) == (0, 1)


async def test_responses_are_translated_both_ways(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    language.gate.set()
    asked = {"model": "ollama:m", "input": "hello", "instructions": "be brief"}
    async with open_house(tmp_path) as house:
        answer = await post(house, "/v1/responses", asked)
        parsed = openai.types.responses.Response.model_validate(answer.json())
        assert parsed.output_text == "hello"
        assert parsed.usage is not None
        assert parsed.usage.total_tokens == 5
        assert [message["role"] for message in language.calls[0].body["messages"]] == ["system", "user"]
        async with stream(nursery, house, asked, "/v1/responses") as exchange:
            language.say(chunk({"role": "assistant", "content": "hel"}), chunk({"content": "lo"}), chunk({}, "stop"))
            language.say(b"data: [DONE]\n\n")
            language.end()
            body = (await exchange.body()).decode()
        assert language.calls[1].body["stream_options"] == {"include_usage": True}
    assert body.endswith("data: [DONE]\n\n")
    adapter = pydantic.TypeAdapter(openai.types.responses.ResponseStreamEvent)
    events: list[Any] = []
    for block in body.removesuffix("data: [DONE]\n\n").strip().split("\n\n"):
        name, data = block.split("\n")
        event = adapter.validate_json(data.removeprefix("data: "))
        assert name == f"event: {event.type}"
        events.append(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "hello"


async def test_a_translated_stream_that_breaks_has_one_error_event_and_no_completion(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery
) -> None:
    async with open_house(tmp_path) as house:
        async with stream(nursery, house, {"model": "ollama:m", "input": "hello"}, "/v1/responses") as exchange:
            language.say(chunk({"content": "hel"}))
            language.fail(BROKEN)
            body = (await exchange.body()).decode()
    assert body.count("event: error") == 1
    assert "response.completed" not in body
    assert "[DONE]" not in body


@pytest.mark.parametrize("stream_it", [False, True])
async def test_tokens_are_counted_where_the_backend_reports_them(
    tmp_path: Path, language: GatedLanguage, nursery: trio.Nursery, stream_it: bool
) -> None:
    language.gate.set()
    async with open_house(tmp_path) as house:
        if stream_it:
            async with stream(nursery, house) as exchange:
                usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
                language.say(chunk({"content": "x"}, "stop"), chunk({}, usage=usage))
                language.end()
                await exchange.body()
                await exchange.finished()
        else:
            await post(house, CHAT, HELLO)
        page = write_page(house.components.metrics.read())[0].decode()
    assert 'gateway_tokens_total{backend_class="ollama",direction="in"} 3.0' in page
    assert 'gateway_tokens_total{backend_class="ollama",direction="out"} 2.0' in page
    first = f'gateway_time_to_first_byte_seconds_count{{backend_class="ollama",path="{CHAT}"}} 1.0'
    assert first in page


async def test_embeddings_and_rerank_take_their_own_slots(tmp_path: Path, language: GatedLanguage) -> None:
    language.gate.set()
    async with open_house(tmp_path) as house:
        answer = await post(house, "/v1/embeddings", {"model": "ollama:e", "input": "x"})
        assert answer.status == 200
        refused = await post(house, "/v1/rerank", {"model": "ollama:e", "query": "x", "documents": ["y"]})
        assert refused.json()["error"]["code"] == "capability_not_supported"
        assert (await post(house, "/v1/completions", {"model": "ollama:e", "prompt": "x"})).status == 200
    assert [call.kind for call in language.calls] == ["embeddings", "completions"]
