"""Answers of OpenAI-style servers, without a server: which shapes are taken, mended or refused."""

import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.openai_answers import checked_answer, models_in
from appliance.backends.openai_streams import events_of
from appliance.protocol.errors import UpstreamFailed
from tests.backends.language import language_call
from tests.fakes.openai_chat import DONE, USAGE, chat_answer

VECTOR = [0.25, -0.5]
TOKENS = [[1, 2], [3, 4]]


def dumped(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def embedded(said, **fields):
    return json.loads(checked_answer(dumped(said), language_call(kind="embeddings", **fields)))


def vectors_of(said, **fields):
    answer = embedded(said, **fields)
    assert answer["object"] == "list"
    assert [entry["object"] for entry in answer["data"]] == ["embedding"] * len(answer["data"])
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return [entry["embedding"] for entry in answer["data"]]


@pytest.mark.parametrize(
    "said",
    [
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}], "model": "m"},
        {"data": [{"index": 0, "embedding": "AACAPg=="}], "usage": USAGE, "model": "m", "extra": 1},
        {"data": [{"index": 0, "embedding": [0, 1]}]},
    ],
)
def test_embeddings_in_openais_shape_are_not_touched(said):
    body = json.dumps(said, indent=2).encode()
    assert checked_answer(body, language_call(kind="embeddings")) == body


@pytest.mark.parametrize(
    "said",
    [
        {"data": [{"index": 0, "embedding": [VECTOR]}]},
        {"data": [{"embedding": VECTOR}]},
        {"data": [VECTOR]},
        {"data": [[VECTOR]]},
        [{"index": 0, "embedding": [VECTOR]}],
        [VECTOR],
        {"embedding": VECTOR},
        {"embedding": [VECTOR]},
        {"embeddings": [VECTOR]},
        {"results": [{"embedding": VECTOR}]},
    ],
)
def test_embeddings_in_other_shapes_become_openais(said):
    assert vectors_of(said) == [VECTOR]


def test_mended_embeddings_say_their_model_and_usage():
    answer = embedded({"data": [{"embedding": [VECTOR]}], "model": "nomic", "usage": USAGE})
    assert (answer["model"], answer["usage"]) == ("nomic", USAGE)
    answer = embedded([VECTOR])
    assert (answer["model"], answer["usage"]) == ("small", {"prompt_tokens": 0, "total_tokens": 0})


def test_embeddings_come_in_the_order_of_their_inputs():
    said = [{"index": 1, "embedding": [[2.0]]}, {"index": 0, "embedding": [[1.0]]}]
    assert vectors_of(said, input=["a", "b"]) == [[1.0], [2.0]]


@pytest.mark.parametrize(("given", "count"), [("a", 1), (["a"], 1), (["a", "b"], 2), ([1, 2, 3], 1), (TOKENS, 2)])
def test_there_is_one_embedding_for_every_input(given, count):
    assert len(vectors_of([VECTOR] * count, input=given)) == count
    with pytest.raises(UpstreamFailed, match=rf"{count + 1} embedding\(s\) for {count} input\(s\)"):
        embedded([VECTOR] * (count + 1), input=given)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"data": [{"embedding": [VECTOR, VECTOR]}]}, "an embedding for every token"),
        ({"data": [{"embedding": []}]}, "no list of numbers"),
        ({"data": [{"embedding": [[]]}]}, "no list of numbers"),
        ({"data": [{"embedding": ["a"]}]}, "no list of numbers"),
        ({"data": [{"embedding": [True]}]}, "no list of numbers"),
        ({"data": [{"embedding": [None]}]}, "no list of numbers"),
        ({"data": [{"embedding": [[0.5, None]]}]}, "no list of numbers"),
        (b'{"data": [{"embedding": [[0.5, 1e999]]}]}', "no list of numbers"),
        (b'{"data": [{"index": 0, "embedding": [0.5, NaN]}]}', "not JSON"),
        ({"data": [{}]}, "no list of numbers"),
        ({"data": [None]}, "no list of numbers"),
        ({"data": {}}, "no list of embeddings"),
        ({"data": None}, "no list of embeddings"),
        ({"data": []}, r"0 embedding\(s\) for 1 input"),
        ({}, "no list of embeddings"),
        ("text", "no list of embeddings"),
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"error": {"message": "too long"}}, "answered 200: too long"),
        ({"error": "too long"}, "answered 200: too long"),
    ],
)
def test_embeddings_that_are_none_are_refused(said, words):
    with pytest.raises(UpstreamFailed, match=words) as caught:
        embedded(said)
    assert caught.value.status == 502


def ranked(said, **fields):
    return json.loads(checked_answer(dumped(said), language_call(kind="rerank", **fields)))


RESULTS = [{"index": 0, "relevance_score": 0.1}, {"index": 2, "relevance_score": 0.9}, {"index": 1, "score": 0.5}]


@pytest.mark.parametrize("said", [{"results": RESULTS}, {"data": RESULTS}, {"rankings": RESULTS}, RESULTS])
def test_ranking_in_any_shape_becomes_the_contracts_best_first(said):
    assert ranked(said) == {
        "object": "list",
        "data": [
            {"index": 2, "relevance_score": 0.9, "document": {"text": "c"}},
            {"index": 1, "relevance_score": 0.5, "document": {"text": "b"}},
            {"index": 0, "relevance_score": 0.1, "document": {"text": "a"}},
        ],
        "model": "small",
    }


def test_ranking_keeps_the_backends_model_and_usage_but_echoes_the_requests_documents():
    said = {"model": "bge", "usage": USAGE, "results": [{"index": 0, "relevance_score": 1, "document": "forged"}]}
    answer = ranked(said, documents=[{"text": "a", "id": 7}])
    assert (answer["model"], answer["usage"]) == ("bge", USAGE)
    assert answer["data"] == [{"index": 0, "relevance_score": 1, "document": {"text": "a", "id": 7}}]


def test_ranking_is_cut_at_top_n_and_echoes_nothing_where_nothing_was_asked():
    answer = ranked({"results": RESULTS}, top_n=1, return_documents=False)
    assert answer["data"] == [{"index": 2, "relevance_score": 0.9}]
    assert len(ranked({"results": RESULTS}, top_n=None)["data"]) == 3


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"results": [{"index": 3, "score": 1}]}, "none of the documents"),
        ({"results": [{"index": -1, "score": 1}]}, "none of the documents"),
        ({"results": [{"index": True, "score": 1}]}, "none of the documents"),
        ({"results": [{"score": 1}]}, "none of the documents"),
        ({"results": ["a"]}, "none of the documents"),
        ({"results": [{"index": 0}]}, "without a score"),
        ({"results": [{"index": 0, "score": "1"}]}, "without a score"),
        (b'{"results": [{"index": 0, "score": 1e999}]}', "without a score"),
        ({"results": [{"index": 0, "score": 10**400}]}, "without a score"),
        ({"results": [{"index": 0, "score": 1}] * 2}, "names a document twice"),
        ({"results": {}}, "no list of results"),
        ({}, "no list of results"),
        ({"error": "busy"}, "answered 200: busy"),
        (b"nonsense", "not JSON"),
    ],
)
def test_ranking_that_is_none_is_refused(said, words):
    with pytest.raises(UpstreamFailed, match=words):
        ranked(said)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ({"models": [{"name": "a"}, {"model": "b"}], "object": "list"}, ["a", "b"]),
        ({"models": [{"name": "x"}], "data": [{"id": "a"}]}, ["a"]),
        ([{"id": "a"}, "b"], ["a", "b"]),
        ({"data": []}, []),
        ({"data": [{"id": "a"}, {"id": "a"}, {"id": " a "}]}, ["a"]),
        ({"data": [{"id": ""}, {"id": 7}, {"id": "x" * 257}, {"id": "a\n"}, {"id": "\u202ea"}, {}, 3, None]}, []),
        ({"data": [{"id": "größe/☃:7b"}]}, ["größe/☃:7b"]),
        ({"data": [{"id": f"m{number}"} for number in range(3000)]}, [f"m{number}" for number in range(2000)]),
    ],
)
def test_models_are_found_in_any_shape_and_unfit_names_are_left_out(said, names):
    assert [entry.name for entry in models_in(dumped(said), upstream="gpu")] == names


@pytest.mark.parametrize(("created", "told"), [(7, 7), (None, 0), ("7", 0), (-1, 0), (1 << 60, 0), (True, 0), (1.5, 0)])
def test_age_of_a_model_is_told_where_it_is_one(created, told):
    assert models_in(dumped({"data": [{"id": "a", "created": created}]}), upstream="gpu")[0].created == told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "results", "embedding", "index", "score", "choices", "message", "error", "id", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(said=JSON, kind=st.sampled_from(["chat", "completions", "responses", "embeddings", "rerank", "models"]))
def test_any_json_is_an_answer_or_an_upstream_failure(said, kind):
    body = json.dumps(said).encode()
    try:
        if kind == "models":
            models_in(body, upstream="gpu")
        else:
            assert isinstance(json.loads(checked_answer(body, language_call(kind=kind))), dict)
    except UpstreamFailed:
        return


def test_number_that_json_does_not_have_is_not_passed_on():
    body = b'{"results": [{"index": 0, "score": 1}], "usage": {"total_tokens": 1e999}}'
    assert json.loads(checked_answer(body, language_call(kind="rerank")))["usage"] == {"total_tokens": None}


def test_response_without_output_is_refused():
    with pytest.raises(UpstreamFailed, match="without a list of output"):
        checked_answer(b"{}", language_call(kind="responses"))


def test_error_of_null_is_no_error():
    body = dumped({"error": None, "output": []})
    assert checked_answer(body, language_call(kind="responses")) == body


def chunks_of(answer, **fields):
    events = events_of(answer, language_call(stream=True, **fields))
    assert events.endswith(DONE)
    return [json.loads(event[6:]) for event in events.split(b"\n\n")[:-2]]


def test_tool_calls_of_a_whole_answer_are_numbered_in_its_stream():
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)]
    answer = chat_answer(None)
    answer["choices"][0] |= {"message": {"role": "assistant", "tool_calls": calls}, "finish_reason": "tool_calls"}
    opening, closing = chunks_of(answer)
    assert opening["choices"][0]["delta"]["tool_calls"] == [{"index": n, **calls[n]} for n in (0, 1)]
    assert closing["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


def test_usage_of_a_whole_answer_is_a_chunk_of_its_own_where_it_was_asked_for():
    assert all("usage" not in chunk for chunk in chunks_of(chat_answer("Hi")))
    *_, last = chunks_of(chat_answer("Hi"), stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], USAGE)


def test_whole_completion_is_its_own_chunk():
    answer = {"object": "text_completion", "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}], "id": "1"}
    events = events_of(answer, language_call(kind="completions", stream=True))
    assert [json.loads(event[6:]) for event in events.removesuffix(DONE).split(b"\n\n")[:-1]] == [answer]


async def test_official_client_reads_the_stream_of_a_whole_answer():
    answer = chat_answer("Hello", id="chatcmpl-1", created=7, model="small")
    call = language_call(stream=True, stream_options={"include_usage": True})
    events = events_of(answer, call)
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, content=events, headers={"Content-Type": "text/event-stream"})
    )
    with openai.OpenAI(api_key="x", base_url="http://h/v1", http_client=httpx.Client(transport=transport)) as client:
        chunks = list(client.chat.completions.create(model="small", messages=[], stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "Hello"
    assert chunks[-1].usage.total_tokens == 5
