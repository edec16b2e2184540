"""Clients as the LAN has them against a running gateway: openai of PyPI and npm, langchain, litellm, curl."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.process import TOKEN, GatewayProcess, start_gateway
from tests.real.clients.environments import LANGCHAIN_PINS, LITELLM_PINS, NODE, ensure_node_modules, run_client
from tests.real.venvs import CannotInstall, ensure_pinned

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("program")]

CLIENTS = Path(__file__).parent / "clients"
MODEL = "mock:mock"
SAID = "You said: say: a lighthouse"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
USE_TOOL: Any = [{"role": "user", "content": "use the tool"}]
SAY: Any = [{"role": "user", "content": "say: a lighthouse"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One with the scripted model, two of whose chats run at a time."""
    folder = tmp_path_factory.mktemp("gateway")
    one = {
        "provider": "mock_chat",
        "supported_capabilities": ["chat", "embeddings", "rerank"],
        "concurrency_limits": {"chat": 2, "embeddings": 2, "rerank": 2},
    }
    config = folder / "backends.yaml"
    config.write_text(json.dumps({"backends": {"mock": one}}))  # JSON is YAML
    with start_gateway(folder, {"BACKENDS_CONFIG_PATH": str(config), "MOCK_CHAT_SCRIPT": "builtin"}) as running:
        yield running


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0) as sdk:
        yield sdk


def inflight(gateway: GatewayProcess) -> int:
    with gateway.client() as http:
        taken: int = http.get("/v1/gateway/status").json()["admission_control"]["mock.chat"]["inflight"]
        return taken


def until_inflight(gateway: GatewayProcess, wanted: int) -> None:
    end = time.monotonic() + 5
    while inflight(gateway) != wanted:
        assert time.monotonic() < end, f"{inflight(gateway)} slots are taken, not {wanted}"
        time.sleep(0.01)


def test_openai_sdk_chats_whole_and_streamed(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=SAY)
    assert raw.headers["x-backend-used"] == "mock"
    assert raw.headers["x-model-used"] == "mock"
    assert raw.headers["x-router-reason"] == "pinned:model"
    assert raw.headers["x-request-id"].startswith("req-")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    answer = raw.parse()
    assert answer.choices[0].message.content == SAID
    assert answer._request_id == raw.headers["x-request-id"]
    assert answer.usage is not None
    stream = client.chat.completions.create(
        model=MODEL, messages=SAY, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == answer.usage


def test_openai_sdk_gets_tool_calls_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=USE_TOOL, tools=[TOOL]).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    call: Any = whole.message.tool_calls[0]
    with client.chat.completions.stream(model=MODEL, messages=USE_TOOL, tools=[TOOL]) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls is not None
    function: Any = streamed.message.tool_calls[0].function
    assert (function.name, json.loads(function.arguments)) == ("weather", json.loads(call.function.arguments))
    told: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    said: Any = whole.message.model_dump(exclude_none=True)
    answer = client.chat.completions.create(model=MODEL, messages=[*USE_TOOL, said, told], tools=[TOOL])
    assert answer.choices[0].message.content == "The tool answered: rain"


def test_openai_sdk_reads_embeddings_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input=["one", "two"])  # the SDK asks for base64 by itself
    plain = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding


def test_openai_sdk_reads_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input="say: a lighthouse")
    assert whole.output_text == SAID
    assert whole.status == "completed"
    with client.responses.stream(model=MODEL, input="say: a lighthouse") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == SAID
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    tool: Any = {"type": "function", **TOOL["function"], "strict": False}
    called = client.responses.create(model=MODEL, input="use the tool", tools=[tool])
    call = next(item for item in called.output if item.type == "function_call")
    back: Any = [
        {"role": "user", "content": "use the tool"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert client.responses.create(model=MODEL, input=back, tools=[tool]).output_text == "The tool answered: rain"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", previous_response_id="resp-1")
    assert refused.value.param == "previous_response_id"


def test_openai_sdk_reads_completions_and_models(client: openai.OpenAI) -> None:
    assert "a lighthouse" in client.completions.create(model=MODEL, prompt="say: a lighthouse").choices[0].text
    pieces = client.completions.create(model=MODEL, prompt="say: a lighthouse", stream=True)
    assert "a lighthouse" in "".join(piece.choices[0].text for piece in pieces if piece.choices)
    models = client.models.list().data
    assert {"mock:mock", "auto"} <= {model.id for model in models}
    assert all(client.models.retrieve(model.id).id == model.id for model in models)


def test_openai_sdk_raises_the_class_that_fits_each_refusal(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="mock:mok", messages=SAY)
    assert missing.value.code == "model_not_found"
    assert "mock" in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=SAY, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model=MODEL, messages=SAY)
    fail: Any = [{"role": "user", "content": "fail"}]
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model=MODEL, messages=fail)
    assert failed.value.status_code == 502


def test_openai_sdk_raises_what_happens_in_mid_stream(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    broken: Any = [{"role": "user", "content": "break off"}]
    said = []
    with pytest.raises(openai.APIError, match="broke off"):
        for chunk in client.chat.completions.create(model=MODEL, messages=broken, stream=True):
            said.append(chunk.choices[0].delta.content)
    assert any(said), "what came before the failure was delivered"
    until_inflight(gateway, 0)


def test_openai_sdk_that_leaves_a_stream_frees_its_slot(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    slow: Any = [{"role": "user", "content": "tell me a long story"}]
    with client.chat.completions.create(model=MODEL, messages=slow, stream=True) as stream:
        next(iter(stream))
        assert inflight(gateway) == 1
    until_inflight(gateway, 0)


def test_openai_sdk_waits_as_it_is_told_by_429_and_then_succeeds(gateway: GatewayProcess) -> None:
    """Two streams of four seconds hold both slots; a third chat is told five."""
    slow: Any = [{"role": "user", "content": "answer slowly"}]
    sdk = openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=2)
    with sdk:
        holders = [
            threading.Thread(target=lambda: list(sdk.chat.completions.create(model=MODEL, messages=slow, stream=True)))
            for _ in range(2)
        ]
        for holder in holders:
            holder.start()
        until_inflight(gateway, 2)
        with pytest.raises(openai.RateLimitError) as refused:
            sdk.with_options(max_retries=0).chat.completions.create(model=MODEL, messages=SAY)
        assert refused.value.code == "backend_overloaded"
        assert refused.value.response.headers["retry-after-ms"] == "5000"
        asked_s = time.monotonic()
        raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=SAY)
        waited_s = time.monotonic() - asked_s
        for holder in holders:
            holder.join()
    assert raw.parse().choices[0].message.content == SAID
    assert raw.retries_taken == 1, "it was told the truth: once was enough"
    assert waited_s >= 5, "it obeyed, and did not come back by a clock of its own"


def test_openai_of_npm_does_all_of_it(gateway: GatewayProcess, tmp_path: Path) -> None:
    try:
        modules = ensure_node_modules()
    except CannotInstall as reason:
        pytest.skip(f"no openai of npm: {reason}")
    (tmp_path / "node_modules").symlink_to(modules)
    shutil.copy(NODE / "client.mjs", tmp_path)
    found = run_client(["node", "client.mjs"], url=gateway.url, token=TOKEN, model=MODEL, folder=tmp_path)
    assert found["chat"] == found["stream"] == found["response"] == found["responseText"] == SAID
    assert found["streamUsage"] == found["usage"] > 0
    assert found["headers"]["backend"] == "mock"
    assert found["headers"]["reason"] == "pinned:model"
    assert found["headers"]["request"].startswith("req-")
    assert found["call"]["name"] == "weather"
    assert list(found["call"]["arguments"]) == ["city"]
    assert found["afterCall"] == "The tool answered: rain"
    assert found["responseTypes"][0] == "response.created"
    assert found["responseTypes"][-1] == "response.completed"
    assert found["embeddings"][0] == found["embeddings"][1] > 0
    assert found["embeddingDifference"] < 1e-6
    assert found["oneModel"] == found["models"][0] == "mock:mock"
    assert found["wrongToken"]["name"] == "AuthenticationError"
    assert found["wrongModel"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    assert (found["wrongField"]["status"], found["wrongField"]["param"]) == (400, "temperature")


def test_litellm_as_a_library_does_all_of_it(gateway: GatewayProcess, tmp_path: Path) -> None:
    try:
        python = ensure_pinned(LITELLM_PINS)
    except CannotInstall as reason:
        pytest.skip(f"no litellm: {reason}")
    command = [python, CLIENTS / "litellm_client.py"]
    found = run_client(command, url=gateway.url, token=TOKEN, model=MODEL, folder=tmp_path)
    assert found["chat"] == found["stream"] == found["response"] == SAID
    assert found["call"]["name"] == "weather"
    assert list(found["call"]["arguments"]) == ["city"]
    assert found["embeddings"][0] == found["embeddings"][1] > 0
    assert found["wrong_token"] == "AuthenticationError"


def test_langchain_does_all_of_it(gateway: GatewayProcess, tmp_path: Path) -> None:
    try:
        python = ensure_pinned(LANGCHAIN_PINS)
    except CannotInstall as reason:
        pytest.skip(f"no langchain: {reason}")
    command = [python, CLIENTS / "langchain_client.py"]
    found = run_client(command, url=gateway.url, token=TOKEN, model=MODEL, folder=tmp_path)
    assert found["chat"] == found["stream"] == found["response"] == found["streamed_response"] == SAID
    assert found["usage"] > 0
    assert found["call"] == found["streamed_call"]
    assert found["call"]["name"] == "weather"
    assert found["embeddings"][0] == found["embeddings"][1] > 0


def curl(gateway: GatewayProcess, path: str, body: object, *flags: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("no curl on PATH")
    command = ["curl", "-sS", "-i", "--max-time", "20", *flags, gateway.url + path]
    sent = ["-H", f"Authorization: Bearer {TOKEN}", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return subprocess.run([*command, *sent], capture_output=True, check=True).stdout.decode()


def test_curl_sees_the_bare_protocol(gateway: GatewayProcess) -> None:
    asked = {"model": MODEL, "messages": SAY, "stream": True}
    head, _, body = curl(gateway, "/v1/chat/completions", asked).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    fields = {line.lower() for line in head.splitlines()}
    assert "cache-control: no-cache" in fields
    assert "x-accel-buffering: no" in fields
    events = body.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    documents = ["a lighthouse at dusk", "bread"]
    ranked = curl(gateway, "/v1/rerank", {"model": MODEL, "query": "lighthouse", "documents": documents, "top_n": 1})
    data = json.loads(ranked.partition("\r\n\r\n")[2])["data"]
    assert [(item["index"], item["document"]) for item in data] == [(0, {"text": documents[0]})]


def test_curl_that_expects_a_100_gets_it(gateway: GatewayProcess) -> None:
    """curl asks before it sends more than a megabyte, and older ones from a kilobyte on."""
    long: Any = [{"role": "user", "content": "word " * 1000}]
    said = curl(gateway, "/v1/chat/completions", {"model": MODEL, "messages": long}, "-H", "Expect: 100-continue")
    interim, _, rest = said.partition("\r\n\r\n")
    assert interim.startswith("HTTP/1.1 100")
    assert rest.startswith("HTTP/1.1 200")
