"""Requests to Ollama: every field of OpenAI's that is accepted is mapped, or refused by name; none vanishes."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.ollama_fields import HARMLESS
from appliance.backends.ollama_request import native_request
from appliance.protocol.errors import InvalidRequest

HI = [{"role": "user", "content": "Hi"}]
PICTURE = base64.b64encode(b"a picture").decode()
TOOL = {"type": "function", "function": {"name": "noop", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def chat(**fields):
    return native_request("chat", {"model": "m", "messages": HI, **fields}, "m", stream=False)


def messages(*given_messages):
    return chat(messages=list(given_messages))["messages"]


# Field, a value, and where it must be found.
MAPPED = {
    "max_tokens": (5, ("options", "num_predict"), 5),
    "temperature": (0.5, ("options", "temperature"), 0.5),
    "top_p": (0.9, ("options", "top_p"), 0.9),
    "top_k": (40, ("options", "top_k"), 40),
    "min_p": (0.05, ("options", "min_p"), 0.05),
    "typical_p": (0.7, ("options", "typical_p"), 0.7),
    "seed": (42, ("options", "seed"), 42),
    "stop": ("END", ("options", "stop"), ["END"]),
    "presence_penalty": (0.1, ("options", "presence_penalty"), 0.1),
    "frequency_penalty": (0.2, ("options", "frequency_penalty"), 0.2),
    "repeat_penalty": (1.1, ("options", "repeat_penalty"), 1.1),
    "repeat_last_n": (64, ("options", "repeat_last_n"), 64),
    "num_ctx": (8192, ("options", "num_ctx"), 8192),
    "mirostat": (2, ("options", "mirostat"), 2),
    "mirostat_tau": (5.0, ("options", "mirostat_tau"), 5.0),
    "mirostat_eta": (0.1, ("options", "mirostat_eta"), 0.1),
    "keep_alive": ("5m", ("keep_alive",), "5m"),
    "tools": ([TOOL], ("tools",), [TOOL]),
    "reasoning_effort": ("high", ("think",), "high"),
    "response_format": ({"type": "json_object"}, ("format",), "json"),
}
NOTHING_ASKED = {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"]}
CANNOT = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"1": 5},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "parallel_tool_calls": False,
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "chat_template_kwargs": {"enable_thinking": False},
    "web_search_options": {},
    "num_gpu": 1,
    "guided_json": {},
}


@given(st.sets(st.sampled_from(sorted(MAPPED))), st.sets(st.sampled_from(sorted(HARMLESS))))
def test_every_mapped_field_arrives(mapped, harmless):
    body = {name: MAPPED[name][0] for name in mapped} | dict.fromkeys(harmless, "x")
    native = chat(**body)
    for name in mapped:
        _, path, wanted = MAPPED[name]
        found = native
        for step in path:
            found = found[step]
        assert found == wanted, name
    sent = {"messages", "model", "stream"} | {MAPPED[name][1][0] for name in mapped}
    assert set(native) == sent
    assert len(native.get("options", {})) == sum(MAPPED[name][1][0] == "options" for name in mapped)


@given(st.text(min_size=1, max_size=30), st.sampled_from([0, 1, "x", [], {}, True, 2.5]))
def test_field_that_nobody_knows_is_refused_by_name(name, value):
    known = {"model", "messages", "stream", "stream_options", "tool_choice", "think"} | set(MAPPED) | set(CANNOT)
    if name in known | HARMLESS | set(NOTHING_ASKED):
        return
    try:
        chat(**{name: value})
    except InvalidRequest as error:
        assert error.param == name  # noqa: PT017 # hypothesis runs it many times
    else:
        raise AssertionError(f"{name} vanished")


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_what_ollama_cannot_do_is_refused_by_name(name):
    with pytest.raises(InvalidRequest) as caught:
        chat(**{name: CANNOT[name]})
    assert caught.value.param == name
    assert "ollama" in str(caught.value)
    assert caught.value.status == 400


def test_values_that_ask_for_nothing_are_taken_and_null_is_absence():
    assert set(chat(**NOTHING_ASKED)) == {"model", "messages", "stream"}
    assert chat(**dict.fromkeys([*MAPPED, *CANNOT, "who_knows"])) == chat()


def test_lower_of_two_limits_counts():
    assert chat(max_tokens=100, max_completion_tokens=50)["options"] == {"num_predict": 50}
    assert chat(max_completion_tokens=100, max_tokens=50)["options"] == {"num_predict": 50}


@pytest.mark.parametrize(("name", "value"), [("top_k", "many"), ("num_ctx", 0), ("min_p", True), ("seed", 2**63)])
def test_options_are_typed(name, value):
    with pytest.raises(InvalidRequest) as caught:
        chat(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")],
)
def test_reasoning_effort_becomes_think(effort, think):
    assert chat(reasoning_effort=effort)["think"] == think


def test_own_name_of_think_wins_and_is_typed():
    assert chat(reasoning_effort="high", think=True)["think"] is True
    for field, value in (("think", 3), ("reasoning_effort", "very")):
        with pytest.raises(InvalidRequest) as caught:
            chat(**{field: value})
        assert caught.value.param == field


def test_response_formats():
    assert "format" not in chat(response_format={"type": "text"})
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert chat(response_format=asked)["format"] == SCHEMA
    for bad, param in (
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "grammar"}, "response_format.type"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            chat(response_format=bad)
        assert caught.value.param == param


def test_tool_choice_none_leaves_the_tools_out_and_no_other_than_auto_is_taken():
    assert "tools" not in chat(tools=[TOOL], tool_choice="none")
    assert chat(tools=[TOOL], tool_choice="auto")["tools"] == [TOOL]
    for choice in ("required", {"type": "function", "function": {"name": "noop"}}):
        with pytest.raises(InvalidRequest) as caught:
            chat(tools=[TOOL], tool_choice=choice)
        assert caught.value.param == "tool_choice"


def test_keep_alive_is_seconds_or_a_duration():
    assert chat(keep_alive=-1)["keep_alive"] == -1
    with pytest.raises(InvalidRequest):
        chat(keep_alive=True)


def test_parts_become_text_and_images():
    parts = [
        {"type": "text", "text": "What"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}", "detail": "low"}},
        {"type": "text", "text": "is this?"},
    ]
    assert messages({"role": "user", "content": parts}) == [
        {"role": "user", "content": "What\nis this?", "images": [PICTURE]}
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/cat.png",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "data:image/png,raw",
        "data:text/html;base64,AA==",
    ],
)
def test_addresses_of_images_are_refused_by_name(url):
    with pytest.raises(InvalidRequest) as caught:
        messages(*HI, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert caught.value.param == "messages[1].content[0].image_url.url"


@pytest.mark.parametrize("data", ["not base64!", "AAA", "ä"])
def test_bad_base64_is_refused(data):
    with pytest.raises(InvalidRequest):
        messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:;base64,{data}"}}]})


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url"])
def test_other_parts_are_refused_by_name(kind):
    with pytest.raises(InvalidRequest) as caught:
        messages({"role": "user", "content": [{"type": kind}]})
    assert caught.value.param == "messages[0].content[0].type"


def test_developer_speaks_as_system():
    assert messages({"role": "developer", "content": "Be brief."}) == [{"role": "system", "content": "Be brief."}]


def test_tool_calls_and_results_are_translated():
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Köln"}'}}
    said = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call], "annotations": []}
    assert messages(said, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}) == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Köln"}}}],
        },
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]


def test_result_of_an_unknown_call_goes_without_a_name():
    assert messages({"role": "tool", "tool_call_id": "x", "content": "1"}) == [{"role": "tool", "content": "1"}]


def test_older_function_calls_are_translated():
    call = {"name": "f", "arguments": "{}"}
    said = messages({"role": "assistant", "function_call": call}, {"role": "function", "name": "f", "content": "1"})
    assert said[0]["tool_calls"] == [{"function": {"name": "f", "arguments": {}}}]
    assert said[1] == {"role": "tool", "content": "1", "tool_name": "f"}


@pytest.mark.parametrize(("arguments", "wanted"), [("", {}), (None, {}), ({"a": 1}, {"a": 1}), (" {} ", {})])
def test_arguments_may_be_empty_or_an_object(arguments, wanted):
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    assert messages({"role": "assistant", "tool_calls": [call]})[0]["tool_calls"][0]["function"]["arguments"] == wanted


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '{"a":NaN}', "true"])
def test_arguments_that_are_no_object_are_refused_by_place(arguments):
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(InvalidRequest) as caught:
        messages(*HI, {"role": "assistant", "tool_calls": [call]})
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_unknown_field_of_a_message_is_refused_by_place():
    with pytest.raises(InvalidRequest) as caught:
        messages(*HI, {"role": "assistant", "content": "x", "audio": {"id": "1"}})
    assert caught.value.param == "messages[1].audio"


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=5))
def test_arguments_come_through_unchanged(arguments):
    call = {"id": "1", "function": {"name": "f", "arguments": json.dumps(arguments)}}
    native = messages({"role": "assistant", "tool_calls": [call]})
    assert native[0]["tool_calls"][0]["function"]["arguments"] == arguments


def completion(**fields):
    return native_request("completions", {"model": "m", "prompt": "Once", **fields}, "m", stream=True)


def test_completion_goes_on_from_its_prompt_without_a_template():
    assert completion(max_tokens=3) == {
        "model": "m",
        "stream": True,
        "prompt": "Once",
        "raw": True,
        "options": {"num_predict": 3},
    }
    assert completion(prompt=["Once"]) == completion()


def test_suffix_uses_the_models_template():
    assert completion(suffix=" end") == {"model": "m", "stream": True, "prompt": "Once", "suffix": " end"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("prompt", prompt) for prompt in ([1, 2], ["a", "b"], [[1]])),
        *(("echo", True), ("best_of", 2), ("logprobs", 2), ("max_tokens", 0)),
        *(("tools", [TOOL]), ("messages", HI)),
    ],
)
def test_completion_that_ollama_cannot_do_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest) as caught:
        completion(**{name: value})
    assert caught.value.param == name


def embeddings(**fields):
    return native_request("embeddings", {"model": "m", "input": "Hi", **fields}, "m", stream=False)


def test_embeddings_input_forms():
    assert embeddings() == {"model": "m", "input": ["Hi"]}
    sent = embeddings(input=["a", "b"], dimensions=8, encoding_format="base64", user="x", keep_alive=3, num_ctx=99)
    assert sent == {"model": "m", "input": ["a", "b"], "dimensions": 8, "keep_alive": 3, "options": {"num_ctx": 99}}


@pytest.mark.parametrize(
    ("name", "value"), [("input", [1, 2]), ("input", [[1]]), ("input_type", "query"), ("truncate", "END")]
)
def test_embeddings_that_ollama_cannot_do_are_refused_by_name(name, value):
    with pytest.raises(InvalidRequest) as caught:
        embeddings(**{name: value})
    assert caught.value.param == name
