"""The running gateway before a real language model: what it says passes unchanged, and its slots are exact."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import trio

from tests.process import AUTH, TOKEN, GatewayProcess, start_gateway
from tests.real.smollm import CannotInstall, RunningSmolLM, SmolLM, ensure_smollm, open_smollm
from tools.bench.common import make_request

pytestmark = pytest.mark.real

PATIENCE_S = 120.0
CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Which colour is the sky?"}]
SHORT = {"model": "smollm:tiny", "messages": QUESTION, "max_tokens": 8, "temperature": 0}
# 400 tokens are about four seconds of one core.
LONG = {**SHORT, "messages": [{"role": "user", "content": "Tell me a very long story."}], "max_tokens": 400}


@pytest.fixture(scope="module")
def smollm() -> SmolLM:
    try:
        return ensure_smollm()
    except CannotInstall as reason:
        pytest.skip(f"no real language model: {reason}")


@dataclass(frozen=True, slots=True)
class House:
    """A gateway, the model behind it, and clients of both."""

    gateway: GatewayProcess
    model: RunningSmolLM
    client: httpx.AsyncClient
    direct: httpx.AsyncClient

    async def ask(self, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def events(self, body: dict[str, Any], path: str = CHAT) -> list[str]:
        """The data of every event of a stream."""
        answer = await self.ask({**body, "stream": True}, path)
        assert answer.status_code == 200, answer.text
        return data_of(answer.text)

    async def inflight(self) -> int:
        status = (await self.client.get("/v1/gateway/status")).json()
        taken = status["admission_control"]["smollm.chat"]["inflight"]
        assert isinstance(taken, int)
        return taken

    async def until_inflight(self, wanted: int) -> None:
        while await self.inflight() != wanted:  # noqa: ASYNC110 -- another process: nothing tells us
            await trio.sleep(0.01)


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


@asynccontextmanager
async def open_house(
    tmp_path: Path, smollm: SmolLM, *, slots: int = 2, agents: Mapping[str, Any] | None = None
) -> AsyncIterator[House]:
    folder = tmp_path / "model"
    folder.mkdir()
    config = tmp_path / "backends.yaml"
    async with open_smollm(smollm, folder) as model:
        one = {
            "provider": "openai",
            "base_url": model.base_url + "/v1",
            "supported_capabilities": ["chat", "embeddings"],
            "concurrency_limits": {"chat": slots},
        }
        config.write_text(json.dumps({"backends": {"smollm": one}}))  # JSON is YAML
        settings = {"BACKENDS_CONFIG_PATH": str(config)}
        if agents is not None:
            (tmp_path / "agents.json").write_text(json.dumps(agents))
            settings["AGENT_SPECS_PATH"] = str(tmp_path / "agents.json")
        with start_gateway(tmp_path, settings) as gateway:
            client = httpx.AsyncClient(base_url=gateway.url, headers=AUTH, trust_env=False, timeout=PATIENCE_S)
            direct = httpx.AsyncClient(base_url=model.base_url, trust_env=False, timeout=PATIENCE_S)
            async with client, direct:
                with trio.fail_after(PATIENCE_S):
                    await trio.lowlevel.checkpoint()
                    yield House(gateway, model, client, direct)


def without_names(answer: dict[str, Any]) -> dict[str, Any]:
    """What two runs of the same model must have in common."""
    return {key: value for key, value in answer.items() if key not in ("id", "created", "model")}


async def test_answer_is_what_the_model_says_without_a_gateway(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm) as house:
        direct = await house.direct.post(CHAT, json={**SHORT, "model": "tiny"})
        answer = await house.ask(SHORT)
    assert answer.status_code == 200
    assert without_names(answer.json()) == without_names(direct.json())
    assert answer.json()["choices"][0]["message"]["content"].strip()
    assert answer.json()["model"] == "tiny", "the prefix is the gateway's, not the model's"
    routed = {name: answer.headers[name] for name in ("x-backend-used", "x-model-used", "x-router-reason")}
    assert routed == {"x-backend-used": "smollm", "x-model-used": "tiny", "x-router-reason": "pinned:model"}


async def test_stream_is_the_models_own_with_one_end(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm) as house:
        answer = await house.direct.post(CHAT, json={**SHORT, "model": "tiny", "stream": True})
        direct = data_of(answer.text)
        events = await house.events(SHORT)
    assert direct[-1] == events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    said, expected = ([without_names(json.loads(event)) for event in each[:-1]] for each in (events, direct))
    assert said == expected
    assert said[0]["choices"][0]["delta"]["role"] == "assistant"
    assert said[-1]["choices"][0]["finish_reason"] == "stop"


async def test_responses_are_made_of_its_chat_whole_and_streamed(tmp_path: Path, smollm: SmolLM) -> None:
    body = {"model": "smollm:tiny", "input": QUESTION[0]["content"], "max_output_tokens": 8, "temperature": 0}
    async with open_house(tmp_path, smollm) as house:
        chat = (await house.ask(SHORT)).json()["choices"][0]["message"]["content"]
        whole = await house.ask(body, "/v1/responses")
        events = await house.events(body, "/v1/responses")
    assert whole.json()["output"][0]["content"][0]["text"] == chat
    typed = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert [event["sequence_number"] for event in typed] == list(range(len(typed)))
    assert "".join(event["delta"] for event in typed if event["type"] == "response.output_text.delta") == chat
    assert typed[-1]["type"] == "response.completed"


async def test_openai_sdk_talks_to_it_whole_streamed_and_in_responses(tmp_path: Path, smollm: SmolLM) -> None:
    ask: Any = {key: value for key, value in SHORT.items() if key != "max_tokens"}

    def talk(gateway: GatewayProcess) -> None:
        with openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0) as sdk:
            whole = sdk.chat.completions.create(**ask, max_tokens=8)
            chunks = list(sdk.chat.completions.create(**ask, max_tokens=8, stream=True))
            response = sdk.responses.create(
                model=ask["model"], input=QUESTION[0]["content"], max_output_tokens=8, temperature=0
            )
            models = [model.id for model in sdk.models.list()]
        said = whole.choices[0].message.content
        assert said
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said == response.output_text
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        assert "smollm:gpt-3.5-turbo" in models

    async with open_house(tmp_path, smollm) as house:
        await trio.to_thread.run_sync(talk, house.gateway)


async def test_what_the_server_cannot_do_is_said_with_its_name(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm) as house:
        completion = await house.ask({"model": "smollm:tiny", "prompt": "Once"}, "/v1/completions")
        embedding = await house.ask({"model": "smollm:tiny", "input": "Once"}, "/v1/embeddings")
        assert await house.inflight() == 0
    assert completion.status_code == 502
    assert "smollm has no /v1/completions" in completion.json()["error"]["message"]
    assert embedding.status_code == 400
    assert embedding.json()["error"]["source"] == "upstream"
    assert "Embeddings not enabled" in embedding.json()["error"]["message"]


async def test_its_models_are_listed_and_others_are_not(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm) as house:
        listed = (await house.client.get("/v1/models")).json()
        found = await house.client.get("/v1/models/smollm:gpt-3.5-turbo")
        missing = await house.client.get("/v1/models/smollm:gpt-9")
    assert "smollm:gpt-3.5-turbo" in [model["id"] for model in listed["data"]]
    assert "warnings" not in listed
    assert found.status_code == 200
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_prompt_beyond_its_context_ends_as_the_empty_answer_it_gives(tmp_path: Path, smollm: SmolLM) -> None:
    """This server says 200 and nothing where others say 400; an empty answer is an answer."""
    body = {**SHORT, "messages": [{"role": "user", "content": "word " * 3000}]}
    async with open_house(tmp_path, smollm) as house:
        whole = await house.ask(body)
        events = await house.events(body)
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["message"]["content"] == ""
    assert events[-1] == "[DONE]"


async def test_client_that_leaves_frees_the_slot_and_stops_the_model(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm, slots=1) as house:
        port = urlsplit(house.gateway.url).port or 0
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(make_request("POST", CHAT, TOKEN, {**LONG, "stream": True}, port=port))
            received = b""
            while received.count(b"data: ") < 3:
                received += await client.receive_some()
            assert await house.inflight() == 1
        with trio.fail_after(1):
            await house.until_inflight(0)
        await trio.sleep(0.3)
        used_s = house.model.cpu_s()
        await trio.sleep(0.5)
        assert house.model.cpu_s() - used_s < 0.2, "it goes on generating for nobody"
        assert (await house.ask(SHORT)).status_code == 200


async def test_four_of_eight_streams_run_and_four_are_refused_until_one_ends(tmp_path: Path, smollm: SmolLM) -> None:
    statuses: list[int] = []
    refused: list[httpx.Response] = []

    async with open_house(tmp_path, smollm, slots=4) as house, trio.open_nursery() as nursery:

        async def stream() -> None:
            answer = await house.ask({**LONG, "stream": True, "max_tokens": 40})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                refused.append(answer)
            else:
                assert data_of(answer.text)[-1] == "[DONE]"

        for _ in range(8):
            nursery.start_soon(stream)
        while len(refused) < 4:  # noqa: ASYNC110 -- the four that run take two seconds
            await trio.sleep(0.01)
        assert statuses == [429] * 4
        assert await house.inflight() == 4
        while len(statuses) < 5:  # noqa: ASYNC110 -- one of them ends
            await trio.sleep(0.01)
        assert (await house.ask({**SHORT, "max_tokens": 1})).status_code == 200
    assert sorted(statuses) == [200] * 4 + [429] * 4
    error = refused[0].json()["error"]
    assert (error["code"], error["limit"], error["backend_class"]) == ("backend_overloaded", 4, "smollm")
    assert refused[0].headers["retry-after"] == "5"
    assert refused[0].headers["retry-after-ms"]


async def test_server_killed_in_mid_stream_is_one_error_event_and_no_end(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm) as house:
        async with house.client.stream("POST", CHAT, json={**LONG, "stream": True}) as answer:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if text.count("data: ") >= 3 and house.model.process.returncode is None:
                    house.model.process.kill()
                    await house.model.process.wait()
        events = data_of(text)
        assert json.loads(events[-1])["error"]["type"] == "upstream_error"
        assert "[DONE]" not in events
        assert '"finish_reason": "stop"' not in text
        await house.until_inflight(0)
        dead = await house.ask(SHORT)
    assert dead.status_code in (502, 503)
    assert dead.json()["error"]["code"] is not None or dead.json()["error"]["type"] == "upstream_error"


STORY = "Tell me a very long story."
AGENTS = {
    "small": {"model": "smollm:tiny", "max_turns": 2, "max_runtime_sec": 100.0, "temperature": 0, "seed": 7},
    "hurried": {"model": "smollm:tiny", "max_runtime_sec": 0.3, "temperature": 0, "seed": 7},
}


def received(event: dict[str, Any]) -> Any:
    """What its server sent, or the hash of it where it is long."""
    return event.get("response") or event["blobs"]["response"]


async def test_an_agent_runs_on_it_to_an_end_that_verifies_and_forks(tmp_path: Path, smollm: SmolLM) -> None:
    """A model this small calls tools badly, or not at all: the loop ends well whatever it says."""
    async with open_house(tmp_path, smollm, slots=1, agents=AGENTS) as house:
        body = {"agent": "small", "input": "Call the tool noop with the text hello, then say what it gave."}
        done = (await house.ask(body, "/v1/agent/run")).json()
        path = f"/v1/agent/replay/{done['run_id']}"
        verdict = (await house.ask({"mode": "verify"}, path)).json()
        fork = (await house.ask({"mode": "fork", "from_step": 1}, path)).json()
        fork_verdict = (await house.ask({"mode": "verify"}, f"/v1/agent/replay/{fork['run_id']}")).json()
        hurried = (await house.ask({"agent": "hurried", "input": "Tell me a very long story."}, "/v1/agent/run")).json()
        assert await house.inflight() == 0
    assert done["ok"] or done["error"] in {"agent turn limit exceeded", "invalid tool call from model"}, done["error"]
    steps = [event["type"] for event in done["events"] if event["step"] is not None]
    assert steps[:2] == ["plan", "assistant"]
    assert done["events"][1]["text"], "this server counts no tokens in its streams, so the event has no usage"
    assert verdict == {"identical": True, "steps": len(steps)}
    assert received(fork["events"][1]) == received(done["events"][1])
    assert fork_verdict["identical"]
    assert hurried["error"] == "agent runtime budget exceeded"


async def test_a_client_that_leaves_its_agent_ends_the_run_and_stops_the_model(tmp_path: Path, smollm: SmolLM) -> None:
    """Against a client that stays: both end with the model at rest, one having had far less of it."""
    async with open_house(tmp_path, smollm, slots=1, agents=AGENTS) as house:
        body = {"agent": "small", "input": STORY}
        stayed_s = await spent(house, lambda: house.ask(body, "/v1/agent/run"))

        async def leave() -> None:
            port = urlsplit(house.gateway.url).port or 0
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(make_request("POST", "/v1/agent/run", TOKEN, {**body, "stream": True}, port=port))
                began_s = house.model.cpu_s()
                while house.model.cpu_s() - began_s < 0.2:  # noqa: ASYNC110 -- it computes: nothing tells us
                    await trio.sleep(0.01)
                assert await house.inflight() == 1
            with trio.fail_after(1):
                await house.until_inflight(0)

        left_s = await spent(house, leave)
        while (row := (await house.client.get("/v1/agent/runs")).json()["data"][0])["ok"] is None:  # noqa: ASYNC110
            await trio.sleep(0.01)  # another process: its slot is back a moment before its end is kept
    assert row["error"] == "cancelled"
    assert left_s < stayed_s / 4, f"it computed {left_s:.1f} s for nobody, {stayed_s:.1f} s for a client that stays"


async def test_a_budget_that_binds_in_the_middle_of_an_answer_stops_the_model(tmp_path: Path, smollm: SmolLM) -> None:
    async with open_house(tmp_path, smollm, slots=1, agents=AGENTS) as house:
        stayed_s = await spent(house, lambda: house.ask({"agent": "small", "input": STORY}, "/v1/agent/run"))
        hurried: list[httpx.Response] = []

        async def hurry() -> None:
            hurried.append(await house.ask({"agent": "hurried", "input": STORY}, "/v1/agent/run"))
            assert await house.inflight() == 0

        left_s = await spent(house, hurry)
    assert hurried[0].json()["error"] == "agent runtime budget exceeded"
    assert left_s < stayed_s / 4, f"it computed {left_s:.1f} s for nobody, {stayed_s:.1f} s for a client that stays"


async def spent(house: House, work: Callable[[], Awaitable[object]]) -> float:
    """CPU seconds of the model from the start of some work until it is at rest again."""
    before_s = house.model.cpu_s()
    await work()
    used_s, seen_s = house.model.cpu_s(), before_s
    while used_s - seen_s >= 0.1:
        await trio.sleep(0.5)
        used_s, seen_s = house.model.cpu_s(), used_s
    return used_s - before_s
