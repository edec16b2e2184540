"""The scripted model: which rule answers, how it streams, fails and waits; its vectors and rankings."""

import base64
import json
import math
import struct
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from appliance.backends.mock_chat import MockChatBackend
from appliance.backends.mock_vectors import embed, read_query, score
from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.config.mock_script import parse_mock_script
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.ids import is_id
from appliance.protocol.sse import DONE, SseReader, data_of
from tests.backends.language import answer, language_call, language_class, stream

BACKEND = MockChatBackend(now=lambda: 7.0)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
                "where": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "required": ["x"]},
                "maybe": {"type": "string"},
            },
            "required": ["city", "days", "unit", "where"],
        },
    },
}
NO_UPSTREAM = None  # nothing is ever asked of it


def call(*rules, kind="chat", models=("mock",), **fields):
    """A call of a class with these rules, or with the builtin script."""
    script = None
    if rules:
        data = {"models": list(models), "rules": [*rules, {"answer": {"text": "else: {{input}}"}}]}
        script = parse_mock_script(json.dumps(data).encode())
    scripted = language_class("", provider="mock_chat", name="mock", script=script)
    return language_call(kind=kind, backend_class=scripted, **{"model": "mock", **fields})


def says(text):
    return [{"role": "user", "content": text}]


def rule(when=None, **fields):
    return {"when": when if when is not None else {"equals": "go"}, "answer": fields}


async def choice_of(*rules, **fields):
    return (await answer(BACKEND, call(*rules, **fields), NO_UPSTREAM))["choices"][0]


async def text_of(*rules, **fields):
    return (await choice_of(*rules, **fields))["message"]["content"]


def chunks(data):
    events = [data_of(event) for event in SseReader().feed(data)]
    return [json.loads(event) for event in events if event != b"[DONE]"]


def joined(data, name="content"):
    return "".join(c["choices"][0]["delta"].get(name, "") for c in chunks(data) if c["choices"])


def test_registry_knows_it():
    backend = LANGUAGE_BACKENDS["mock_chat"]
    assert isinstance(backend, MockChatBackend)
    assert backend.kinds(call().backend_class) == {"chat", "completions", "embeddings", "rerank"}


async def test_models_are_the_scripts():
    one = call(rule({"model": "b"}), models=["a"])
    assert [model.name for model in await BACKEND.list_models(one.backend_class, NO_UPSTREAM, 3)] == ["a", "b"]


TOOLS = {"tools": [WEATHER]}
RESULT = [
    *says("go"),
    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "Rain"},
]


@pytest.mark.parametrize(
    ("when", "fields"),
    [
        ({"equals": " HELLO"}, {"messages": says("hello ")}),
        ({"contains": "ell"}, {"messages": says("HELLO")}),
        ({"contains": "one"}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]}),
        ({"regex": "^h.l"}, {"messages": says("Hello")}),
        ({"model": "other"}, {"model": "other"}),
        ({"kind": "chat"}, {}),
        ({"system_contains": "brief"}, {"messages": [{"role": "system", "content": "Be brief"}, *says("x")]}),
        ({"turn": 2}, {"messages": [*says("a"), {"role": "assistant", "content": "b"}, *says("c")]}),
        ({"tools": True}, TOOLS),
        ({"tools": False}, {}),
        ({"tools": False}, {**TOOLS, "tool_choice": "none"}),
        ({"offers": "weather"}, TOOLS),
        ({"must_call": True}, {**TOOLS, "tool_choice": "required"}),
        ({"tool_results": 1}, {"messages": RESULT}),
        ({"after_tool": "weather"}, {"messages": RESULT}),
        ({"after_tool": "*"}, {"messages": RESULT}),
        ({"tool_result_contains": "rain"}, {"messages": RESULT}),
        ({"response_format": "json_object"}, {"response_format": {"type": "json_object"}}),
        ({"stream": False}, {}),
        ({"turn": 1, "contains": "go"}, {"messages": says("go")}),
    ],
)
async def test_rule_answers_what_it_waits_for(when, fields):
    assert await text_of(rule(when, text="met"), **fields) == "met"


@pytest.mark.parametrize(
    ("when", "fields"),
    [
        ({"equals": "hello"}, {"messages": says("hello you")}),
        ({"contains": "x"}, {"messages": says("hello")}),
        ({"regex": "^x"}, {"messages": says("hello")}),
        ({"model": "other"}, {}),
        ({"kind": "completions"}, {}),
        ({"system_contains": "brief"}, {}),
        ({"turn": 2}, {}),
        ({"tools": True}, {**TOOLS, "tool_choice": "none"}),
        ({"offers": "noop"}, TOOLS),
        ({"must_call": True}, TOOLS),
        ({"tool_results": 1}, {}),
        ({"after_tool": "noop"}, {"messages": RESULT}),
        ({"after_tool": "*"}, {"messages": [*RESULT, *says("and?")]}),
        ({"tool_result_contains": "sun"}, {"messages": RESULT}),
        ({"response_format": "json_object"}, {}),
        ({"stream": True}, {}),
        ({"turn": 1, "contains": "x"}, {"messages": says("go")}),
    ],
)
async def test_rule_leaves_the_rest_to_the_next(when, fields):
    assert (await text_of(rule(when, text="met"), **fields)).startswith("else: ")


async def test_placeholders_are_filled_in_once_and_as_json_where_asked():
    template = "{{input}}|{{ input | json }}|{{tool_result}}|{{model}}|{{turn}}|{{tool}}|{{tools}}|{{system}}"
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": 'a"{{model}}'}, *RESULT[1:]]
    found = await text_of(rule({"turn": 1}, text=template), messages=messages, **TOOLS)
    assert found == 'a"{{model}}|"a\\"{{model}}"|Rain|mock|1|weather|weather|S'


async def test_same_request_gets_the_same_answer_and_another_request_other_ids():
    one = call(rule(tool_calls=[{"name": "f"}], text="x"), messages=says("go"))
    assert await BACKEND.answer(one, NO_UPSTREAM) == await BACKEND.answer(one, NO_UPSTREAM)
    assert await stream(BACKEND, one, NO_UPSTREAM) == await stream(BACKEND, one, NO_UPSTREAM)
    other = await answer(BACKEND, call(rule(tool_calls=[{"name": "f"}]), messages=says("go")), NO_UPSTREAM)
    first = await answer(BACKEND, one, NO_UPSTREAM)
    assert is_id("chatcmpl", first["id"])
    assert first["id"] != other["id"]
    ids = [said["choices"][0]["message"]["tool_calls"][0]["id"] for said in (first, other)]
    assert ids[0] != ids[1]
    assert all(is_id("toolcall", one) for one in ids)


async def test_calls_of_later_turns_have_other_ids():
    one = call(rule({"turn": 1}, tool_calls=[{"name": "f"}, {"name": "f"}]), messages=says("go"))
    longer = {**one.body, "messages": RESULT}
    second = replace(one, body=longer)
    ids = [
        call["id"]
        for asked in (one, second)
        for call in (await answer(BACKEND, asked, NO_UPSTREAM))["choices"][0]["message"]["tool_calls"]
    ]
    assert len(set(ids)) == 4


async def test_tool_calls_have_arguments_filled_in_or_made_to_fit():
    calls = [
        {"name": "a", "arguments": {"text": "{{input}}", "list": ["{{turn}}", 1]}},
        {"name": "b", "arguments": '{"broken": '},
        {"name": "{{tool}}", "arguments": "auto"},
        {"name": "d"},
    ]
    choice = await choice_of(rule(tool_calls=calls), messages=says("go"), **TOOLS)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    made = [(one["function"]["name"], one["function"]["arguments"]) for one in choice["message"]["tool_calls"]]
    assert made == [
        ("a", '{"text":"go","list":["1",1]}'),
        ("b", '{"broken": '),
        ("weather", '{"city":"go","days":1,"unit":"C","where":{"x":1}}'),
        ("d", "{}"),
    ]


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"max_tokens": 2}, "0123 567", "length"),
        ({"max_completion_tokens": 2, "max_tokens": 9}, "0123 567", "length"),
        ({"max_tokens": 3}, "0123 5678", "stop"),
        ({"stop": "5"}, "0123 ", "stop"),
        ({"stop": ["8", "3"]}, "012", "stop"),
        ({"stop": ["zz", ""]}, "0123 5678", "stop"),
    ],
)
async def test_limits_of_the_request_cut_the_answer(fields, text, reason):
    choice = await choice_of(rule(text="0123 5678"), messages=says("go"), **fields)
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)


async def test_tokens_are_counted_and_never_more_than_was_allowed():
    said = await answer(
        BACKEND, call(rule(text="x" * 99, reasoning="y" * 9), messages=says("go"), max_tokens=5), NO_UPSTREAM
    )
    assert said["usage"] == {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    assert said["choices"][0]["message"]["reasoning_content"] == "y" * 9


async def test_answers_are_what_the_openai_sdk_reads():
    one = call(rule(text="a", reasoning="b", tool_calls=[{"name": "f"}]), messages=says("go"))
    ChatCompletion.model_validate_json(await BACKEND.answer(one, NO_UPSTREAM), strict=True)
    for chunk in chunks(await stream(BACKEND, one, NO_UPSTREAM)):
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    text = call(kind="completions")
    Completion.model_validate_json(await BACKEND.answer(text, NO_UPSTREAM), strict=True)
    CreateEmbeddingResponse.model_validate_json(await BACKEND.answer(call(kind="embeddings"), NO_UPSTREAM), strict=True)


async def test_finish_reason_may_be_scripted():
    assert (await choice_of(rule(text="x", finish_reason="content_filter"), messages=says("go")))[
        "finish_reason"
    ] == "content_filter"


@given(st.text(max_size=60), st.none() | st.integers(1, 9))
def test_stream_says_what_the_whole_answer_says(text, chunk_chars):
    async def compare():
        one = call(rule({"turn": 1}, text=text, reasoning="because", chunk_chars=chunk_chars))
        whole = await answer(BACKEND, one, NO_UPSTREAM)
        return whole, await stream(BACKEND, one, NO_UPSTREAM)

    if "{{" in text:
        return
    whole, streamed = trio.run(compare)
    assert joined(streamed) == whole["choices"][0]["message"]["content"]
    assert joined(streamed, "reasoning_content") == "because"
    assert {chunk["id"] for chunk in chunks(streamed)} == {whole["id"]}


async def test_stream_begins_with_the_role_and_ends_once_with_usage_where_asked():
    one = call(rule(text="a b", tool_calls=[{"name": "f"}]), messages=says("go"), stream=True)
    said = await stream(BACKEND, one, NO_UPSTREAM)
    found = chunks(said)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None] * 4 + ["tool_calls"]
    assert found[3]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert not any("usage" in chunk for chunk in found)
    assert said.endswith(DONE)
    assert said.count(b"[DONE]") == 1
    asked = call(rule(text="a b"), messages=says("go"), stream=True, stream_options={"include_usage": True})
    last = chunks(await stream(BACKEND, asked, NO_UPSTREAM))[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 1


async def test_pieces_without_a_pause_come_in_one_read_and_long_streams_in_several(autojump_clock):
    async with BACKEND.stream(call(rule(text="a b c"), messages=says("go")), NO_UPSTREAM) as source:
        assert (await source.receive()).endswith(DONE)
        assert await source.receive() == b""
        assert await source.receive() == b""
    async with BACKEND.stream(call(rule(text="word ", repeat=5000), messages=says("go")), NO_UPSTREAM) as source:
        sizes = []
        while piece := await source.receive():
            sizes.append(len(piece))
    assert len(sizes) > 10
    assert max(sizes) < 70_000


async def test_pauses_are_kept_whole_or_streamed(autojump_clock):
    one = call(rule(text="a b c", first_byte_delay_s=5, chunk_delay_s=2), messages=says("go"))
    times = []
    async with BACKEND.stream(one, NO_UPSTREAM) as source:
        started = trio.current_time()
        while await source.receive():
            times.append(trio.current_time() - started)
    assert times == [5, 7, 9, 11, 13]
    started = trio.current_time()
    await BACKEND.answer(one, NO_UPSTREAM)
    assert trio.current_time() - started == 13


async def test_receive_that_is_given_up_keeps_its_remaining_time(autojump_clock):
    one = call(rule(text="a b c", chunk_delay_s=10), messages=says("go"))
    pieces = []
    async with BACKEND.stream(one, NO_UPSTREAM) as source:
        started = trio.current_time()
        while not (pieces and pieces[-1] == b""):
            with trio.move_on_after(3):
                pieces.append(await source.receive())
        assert trio.current_time() - started == 40
    assert joined(b"".join(pieces)) == "a b c"


async def test_silence_longer_than_the_deadlines_is_a_timeout(autojump_clock):
    for answer_fields, words, pieces in (
        ({"first_byte_delay_s": 61}, "first byte", 0),
        ({"chunk_delay_s": 31}, "idle", 1),
        ({"stall_after_chunks": 0}, "first byte", 0),
        ({"stall_after_chunks": 2}, "idle", 1),
    ):
        seen = []
        one = call(rule(text="a b c", **answer_fields), messages=says("go"))
        with pytest.raises(UpstreamTimeout, match=words):
            async with BACKEND.stream(one, NO_UPSTREAM) as source:
                while True:
                    seen.append(await source.receive())
        assert len(seen) == pieces
        if words == "first byte" or "stall_after_chunks" in answer_fields:
            with pytest.raises(UpstreamTimeout):
                await BACKEND.answer(one, NO_UPSTREAM)


async def test_a_stream_that_is_never_silent_may_still_take_too_long(autojump_clock):
    one = replace(call(rule(text="a b c d e", chunk_delay_s=20), messages=says("go")), total_s=50)
    began = trio.current_time()
    async with BACKEND.stream(one, NO_UPSTREAM) as source:
        with pytest.raises(UpstreamTimeout, match="did not finish its answer within 50 s"):
            while await source.receive():
                pass
    assert trio.current_time() - began == 50


async def test_break_comes_after_so_many_pieces_and_again_when_asked_again(autojump_clock):
    one = call(rule(text="a b c", break_after_chunks=2), messages=says("go"))
    async with BACKEND.stream(one, NO_UPSTREAM) as source:
        assert joined(await source.receive()) == "a"
        for _ in range(2):
            with pytest.raises(UpstreamFailed, match="broke off"):
                await source.receive()
    with pytest.raises(UpstreamFailed):
        await BACKEND.answer(one, NO_UPSTREAM)


@pytest.mark.parametrize(
    ("fail", "status", "retry"),
    [
        ({"status": 429, "retry_after_s": 7}, 429, 7),
        ({"status": 400, "message": "no {{input}}"}, 400, None),
        ({"status": 500}, 502, None),
        ({"status": 503}, 502, None),
    ],
)
async def test_scripted_failure_is_what_a_backends_would_become(autojump_clock, fail, status, retry):
    one = call(rule(fail=fail, first_byte_delay_s=2), messages=says("go"))
    for act in (answer, stream):
        started = trio.current_time()
        with pytest.raises(UpstreamFailed) as caught:
            await act(BACKEND, one, NO_UPSTREAM)
        assert (caught.value.status, caught.value.retry_after_s) == (status, retry)
        assert caught.value.extra["status"] == fail["status"]
        assert trio.current_time() - started == 2
        if "message" in fail:
            assert "no go" in caught.value.message


async def test_unknown_model_is_404_and_none_is_the_first(autojump_clock):
    assert (await answer(BACKEND, call(model=""), NO_UPSTREAM))["model"] == "mock"
    for kind in ("chat", "completions", "embeddings", "rerank"):
        with pytest.raises(UpstreamFailed) as caught:
            await BACKEND.answer(call(kind=kind, model="gpt"), NO_UPSTREAM)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert await text_of(rule(), models=["*"], model="gpt") == "else: Hi"


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 2), ("logprobs", True), ("logit_bias", {"1": 1}), ("audio", {"voice": "x"}), ("top_logprobs", 2)],
)
async def test_what_would_change_the_shape_is_refused_by_name(name, value):
    for act in (answer, stream):
        with pytest.raises(InvalidRequest) as caught:
            await act(BACKEND, call(**{name: value}), NO_UPSTREAM)
        assert caught.value.param == name


async def test_completions_whole_and_streamed():
    one = call(kind="completions", prompt=["Once"], max_tokens=2, stream_options={"include_usage": True})
    said = await answer(BACKEND, one, NO_UPSTREAM)
    assert is_id("cmpl", said["id"])
    assert said["choices"][0] == {"index": 0, "text": "You said", "logprobs": None, "finish_reason": "length"}
    streamed = await stream(BACKEND, one, NO_UPSTREAM)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks(streamed) if chunk["choices"]) == "You said"
    assert chunks(streamed)[-1]["usage"] == said["usage"]
    for prompt in (["a", "b"], [1, 2]):
        with pytest.raises(InvalidRequest):
            await BACKEND.answer(call(kind="completions", prompt=prompt), NO_UPSTREAM)


def cosine(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


@given(st.text(max_size=50), st.integers(1, 300))
def test_embedding_is_a_unit_vector(text, dimensions):
    vector = embed(text, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-4)
    assert vector == embed(text, dimensions)


def test_similar_texts_are_near():
    cat = embed("the cat sat on the mat")
    assert cosine(cat, embed("a cat sits on a mat")) > cosine(cat, embed("quarterly tax report for Norway")) + 0.2


async def test_embeddings_whole_list_and_base64():
    said = await answer(BACKEND, call(kind="embeddings", input=["a", "b"], dimensions=8), NO_UPSTREAM)
    assert [item["index"] for item in said["data"]] == [0, 1]
    assert said["data"][1]["embedding"] == embed("b", 8)
    one = call(kind="embeddings", input="b", dimensions=8, encoding_format="base64")
    encoded = (await answer(BACKEND, one, NO_UPSTREAM))["data"][0]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(encoded)) == pytest.approx(embed("b", 8))
    for fields in ({"input": [1, 2]}, {"dimensions": 5000}):
        with pytest.raises(InvalidRequest):
            await BACKEND.answer(call(kind="embeddings", **fields), NO_UPSTREAM)


DOCUMENTS = ["tax report", {"text": "a red fox", "id": 1}, "the red house", "foxes"]


async def test_rerank_puts_the_nearest_first():
    said = await answer(BACKEND, call(kind="rerank", query="red fox", documents=DOCUMENTS), NO_UPSTREAM)
    assert [item["index"] for item in said["data"]] == [1, 2, 3, 0]
    assert said["data"][0] == {"index": 1, "relevance_score": 1.0, "document": {"text": "a red fox", "id": 1}}
    assert said["data"][3]["document"] == {"text": "tax report"}
    assert said["data"][3]["relevance_score"] < 0.1
    assert (said["object"], said["model"]) == ("list", "mock")
    short = call(kind="rerank", query="red fox", documents=DOCUMENTS, top_n=1, return_documents=False)
    assert (await answer(BACKEND, short, NO_UPSTREAM))["data"] == [{"index": 1, "relevance_score": 1.0}]


@given(st.text(max_size=20), st.text(max_size=20))
def test_scores_are_between_0_and_1(query, document):
    assert 0 <= score(read_query(query), document) <= 1
    assert score(read_query(query), query) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": says("Hello!")}, "scripted model"),
        ({"messages": says("blue")}, "You said: blue"),
        ({"messages": says("use the tool")}, "no tools"),
        ({"messages": RESULT}, "The tool answered: Rain"),
        ({"messages": says('q"'), "response_format": {"type": "json_object"}}, '{"model":"mock","input":"q\\""}'),
    ],
)
async def test_demo_answers(autojump_clock, fields, words):
    assert words in await text_of(**fields)


@pytest.mark.parametrize(
    "fields", [{"messages": says("Please use the tool")}, {"messages": says("x"), "tool_choice": "required"}]
)
async def test_demo_calls_the_tool_that_is_offered(fields):
    choice = await choice_of(**fields, **TOOLS)
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"


async def test_demo_calls_the_tool_that_is_named():
    other = {"type": "function", "function": {"name": "noop"}}
    choice = await choice_of(
        messages=says("x"), tools=[WEATHER, other], tool_choice={"type": "function", "function": {"name": "noop"}}
    )
    assert [one["function"]["name"] for one in choice["message"]["tool_calls"]] == ["noop"]


async def test_demo_shows_reasoning_a_long_stream_and_failures(autojump_clock):
    thinking = await stream(BACKEND, call(messages=says("think about cats")), NO_UPSTREAM)
    assert "cats" in joined(thinking, "reasoning_content")
    started = trio.current_time()
    assert len(joined(await stream(BACKEND, call(messages=says("a long story")), NO_UPSTREAM))) > 1000
    assert trio.current_time() - started > 5
    for words in ("fail", "break off"):
        with pytest.raises(UpstreamFailed):
            await stream(BACKEND, call(messages=says(words)), NO_UPSTREAM)
