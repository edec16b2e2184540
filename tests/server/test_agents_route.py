"""`/v1/agent`: runs, whole and as they happen; replays, verdicts, forks and lists, each token its own."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.agents import without_volatile
from tests.asgi import Response, open_call
from tests.house import AUTH, TOKEN, House, open_house_with_records

RUN, RUNS, REPLAY = "/v1/agent/run", "/v1/agent/runs", "/v1/agent/replay"
OTHER = "another-token-for-tests-0123456789"
OTHER_AUTH = {"authorization": f"Bearer {OTHER}"}
SCRIPT: Mapping[str, Any] = {
    "models": ["mock", "second"],
    "rules": [
        {"when": {"tools": False, "contains": "slow plan"}, "answer": {"text": "x", "first_byte_delay_s": 1000}},
        {"when": {"tools": False, "system_contains": "planning"}, "answer": {"text": "I plan."}},
        {"when": {"contains": "loop"}, "answer": {"tool_calls": [{"name": "noop", "arguments": {}}]}},
        {"when": {"contains": "broken"}, "answer": {"tool_calls": [{"name": "noop", "arguments": "{no"}]}},
        {
            "when": {"contains": "look", "tool_results": 0},
            "answer": {
                "tool_calls": [
                    {"name": "noop", "arguments": {"text": "é"}},
                    {"name": "shell", "arguments": {"cmd": "ls"}},
                ]
            },
        },
        {"when": {"model": "second"}, "answer": {"text": "The second says {{tool_result}}"}},
        {"answer": {"text": "Done: {{tool_result}}"}},
    ],
}
SPECS = {
    "default": {"model": "mock"},
    "short": {"model": "mock", "max_turns": 2},
    "heavy": {"model": "mock", "tier": 2},
}


@asynccontextmanager
async def agents(
    tmp_path: Path, *, script: Mapping[str, Any] = SCRIPT, specs: Mapping[str, Any] = SPECS, **settings: str
) -> AsyncIterator[House]:
    (tmp_path / "script.json").write_text(json.dumps(script))
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    paths = {"MOCK_CHAT_SCRIPT": str(tmp_path / "script.json"), "AGENT_SPECS_PATH": str(tmp_path / "specs.json")}
    tokens = {"GATEWAY_BEARER_TOKENS": f"{TOKEN},{OTHER}"}
    async with open_house_with_records(tmp_path, **{**tokens, **paths, **settings}) as house:
        yield house
        assert house.inflight() == 0
        assert house.components.toolbus.running == 0
        assert all(one.running == 0 for one in house.components.agents.admission.statistics())


async def run(house: House, text: str, **fields: Any) -> Any:
    return (await house.post(RUN, {"input": text, **fields})).json()


def events_of(answer: Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]


async def test_a_run_answers_with_its_transcript(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        answer = await house.post(RUN, {"input": "look"})
        shown = await house.ask("GET", f"{REPLAY}/{answer.json()['run_id']}")
    done = answer.json()
    assert (done["ok"], done["error"], done["agent"], done["tier"]) == (True, None, "default", 0)
    assert (done["backend"], done["upstream_model"]) == ("mock", "mock")
    types = [event["type"] for event in done["events"]]
    assert types == ["run_started", "plan", "assistant", "tool", "tool", "plan", "assistant", "run_completed"]
    assert shown.body == answer.body
    noop, shell = done["events"][3:5]
    assert (noop["ok"], noop["result"]) == (True, {"text": "é"})
    assert (shell["ok"], shell["result"]["error_type"], shell["replay_id"]) == (False, "unknown_tool", None)
    assert answer.header("x-model-used") == "mock"


async def test_two_runs_of_the_same_are_the_same_but_for_what_is_volatile(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        one, two = await run(house, "look"), await run(house, "look")
    assert one["run_id"] != two["run_id"]
    assert without_volatile(one) == without_volatile(two)


async def test_a_streamed_run_shows_each_event_as_it_is_kept(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        answer = await house.post(RUN, {"input": "look", "stream": True})
        events = events_of(answer)
        stored = await house.ask("GET", f"{REPLAY}/{events[0]['run_id']}")
    assert answer.header("content-type") == "text/event-stream"
    assert events == stored.json()["events"]
    assert answer.body.startswith(b"event: run_started\ndata: {")


async def test_runs_verify_and_a_changed_byte_is_named(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "look")
        path = f"{REPLAY}/{done['run_id']}"
        good = (await house.post(path, {"mode": "verify"})).json()
        file = tmp_path / "state" / "agent" / f"{done['run_id']}.jsonl"
        file.write_bytes(file.read_bytes().replace(b"I plan.", b"I plot.", 1))
        bad = (await house.post(path, {"mode": "verify"})).json()
        fork = await house.post(path, {"mode": "fork", "from_step": 0})
    assert good == {"identical": True, "steps": 6}
    assert bad["identical"] is False
    assert bad["first_divergence"]["event"] == 1
    assert (fork.status, "damaged at event 1" in fork.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fork_goes_on_from_a_step_on_another_model(tmp_path: Path, stream: bool) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "look")
        body = {"mode": "fork", "from_step": 4, "model": "mock:second", "stream": stream}
        answer = await house.post(f"{REPLAY}/{done['run_id']}", body)
        events = events_of(answer) if stream else answer.json()["events"]
        verdict = (await house.post(f"{REPLAY}/{events[0]['run_id']}", {"mode": "verify"})).json()
        assert house.components.tool_records.statistics().written == 1
    assert events[0]["forked_from"] == {"run_id": done["run_id"], "step": 4}
    assert without_volatile(events[1:5]) == without_volatile(done["events"][1:5])
    assert events[-1]["output_text"].startswith("The second says")
    assert verdict["identical"]


async def test_a_fork_beyond_the_end_is_refused(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "look")
        path = f"{REPLAY}/{done['run_id']}"
        at_end = await house.post(path, {"mode": "fork", "from_step": 6})
        beyond = await house.post(path, {"mode": "fork", "from_step": 7})
    assert at_end.status == 200
    assert (beyond.status, beyond.json()["error"]["param"]) == (400, "from_step")


async def test_runs_of_another_token_look_like_none(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "hi")
        foreign = await house.ask("GET", f"{REPLAY}/{done['run_id']}", headers=OTHER_AUTH)
        missing = await house.ask("GET", f"{REPLAY}/run-{'0' * 24}", headers=OTHER_AUTH)
        listed = await house.ask("GET", RUNS, headers=OTHER_AUTH)
        forked = await house.post(f"{REPLAY}/{done['run_id']}", {"mode": "fork", "from_step": 0}, headers=OTHER_AUTH)
    assert (foreign.status, foreign.json()) == (missing.status, missing.json())
    assert (foreign.status, foreign.json()["error"]["code"]) == (404, "replay_not_found")
    assert (forked.status, listed.json()["data"]) == (404, [])


async def test_runs_are_listed_in_pages(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        ids = [
            (await run(house, text, agent=name))["run_id"]
            for text, name in (("a", "default"), ("loop", "short"), ("c", "default"))
        ]
        first = (await house.ask("GET", f"{RUNS}?limit=2")).json()
        second = (await house.ask("GET", f"{RUNS}?limit=2&cursor={first['next_cursor']}")).json()
        failed = (await house.ask("GET", f"{RUNS}?ok=false")).json()
        short = (await house.ask("GET", f"{RUNS}?agent=short")).json()
    assert [row["run_id"] for row in (*first["data"], *second["data"])] == ids[::-1]
    assert second["next_cursor"] is None
    assert [row["run_id"] for row in failed["data"]] == [row["run_id"] for row in short["data"]] == [ids[1]]
    assert failed["data"][0]["error"] == "agent turn limit exceeded"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"agent": "nobody", "input": "x"}, 404, "unknown_agent", "agent"),
        ({"agent": 5, "input": "x"}, 400, "invalid_request", "agent"),
        ({}, 400, "invalid_request", "input"),
        ({"input": " "}, 400, "invalid_request", "input"),
        ({"input": "x", "messages": []}, 400, "invalid_request", "input"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
        ({"input": "x", "stream": "yes"}, 400, "invalid_request", "stream"),
        ({"input": "x", "tool": 1}, 400, "invalid_request", "tool"),
    ],
)
async def test_what_is_no_run_is_refused_by_name(
    tmp_path: Path, body: Mapping[str, Any], status: int, code: str, param: str
) -> None:
    async with agents(tmp_path) as house:
        answer = await house.post(RUN, body)
        assert await house.components.agents.store.newest(limit=1, owner=None) == []
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize("query", ["payloads=maybe", "payloads=", "payload=true", "payloads=true&payloads=true"])
async def test_a_transcript_is_asked_for_in_words_that_are_known(tmp_path: Path, query: str) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "hi")
        answer = await house.ask("GET", f"{REPLAY}/{done['run_id']}?{query}", headers=AUTH)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [{}, {"mode": "redo"}, {"mode": "fork"}, {"mode": "fork", "from_step": -1}, {"mode": "fork", "from_step": True}],
)
async def test_what_is_no_replay_is_refused(tmp_path: Path, body: Mapping[str, Any]) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "hi")
        assert (await house.post(f"{REPLAY}/{done['run_id']}", body)).status == 400


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "ok=1", "cursor=x", "nothing=1", "limit=1&limit=2"]
)
async def test_what_is_no_query_is_refused(tmp_path: Path, query: str) -> None:
    async with agents(tmp_path) as house:
        assert (await house.ask("GET", f"{RUNS}?{query}")).status == 400


@pytest.mark.parametrize(
    ("text", "error"), [("loop", "agent turn limit exceeded"), ("broken", "invalid tool call from model")]
)
async def test_a_run_that_fails_is_an_answer(tmp_path: Path, text: str, error: str) -> None:
    async with agents(tmp_path) as house:
        answer = await house.post(RUN, {"input": text, "agent": "short"})
    assert (answer.status, answer.json()["ok"], answer.json()["error"]) == (200, False, error)


async def test_a_program_that_overdraws_the_io_budget_is_ended_and_so_is_the_run(tmp_path: Path) -> None:
    program = {"type": "subprocess", "argv": ["/usr/bin/yes"], "timeout_sec": 600}
    tool = {"name": "endless", "version": "1", "parameters": {"type": "object"}, "exec": program}
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [tool]}))
    spec = {"model": "mock", "tier": 2, "tools_allowlist": ["endless"], "max_total_tool_io_bytes": 500_000}
    script = {
        "models": ["mock"],
        "rules": [
            {"when": {"tools": True}, "answer": {"tool_calls": [{"name": "endless", "arguments": {}}]}},
            {"answer": {"text": "I plan."}},
        ],
    }
    async with agents(
        tmp_path, TOOLS_REGISTRY_PATH=str(tmp_path / "tools.json"), specs={"default": spec}, script=script
    ) as house:
        done = await run(house, "go")
        verdict = (await house.post(f"{REPLAY}/{done['run_id']}", {"mode": "verify"})).json()
    assert (done["ok"], done["error"]) == (False, "tool IO budget exceeded")
    [called] = [event for event in done["events"] if event["type"] == "tool"]
    assert called["result"]["error_type"] == "io_budget"
    assert 500_000 < called["io_bytes"] < 2_000_000
    assert verdict["identical"]


async def test_heavy_runs_do_not_wait_and_light_ones_wait_in_a_short_queue(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    settings = {"AGENT_QUEUE_MAX": "0", "AGENT_QUEUE_TIMEOUT_SEC": "0.05"}
    async with agents(tmp_path, **settings) as house:
        headers = {**AUTH, "content-type": "application/json"}
        body = json.dumps({"input": "slow plan"}).encode()
        opened = [open_call(nursery, house.site.api, "POST", RUN, headers=headers, body=body) for _ in range(4)]
        exchanges = [await one.__aenter__() for one in opened]
        while house.inflight() < 4:
            await trio.testing.wait_all_tasks_blocked(0.005)
        heavy = await house.post(RUN, {"input": "hi", "agent": "heavy"})
        light = await house.post(RUN, {"input": "hi"})
        for exchange in exchanges:
            exchange.disconnect()
            await exchange.finished()
        for one in opened:
            await one.__aexit__(None, None, None)
        runs = await house.components.agents.store.newest(limit=9, owner=None)
    assert (heavy.status, heavy.json()["error"]["code"]) == (429, "shed_heavy")
    assert (light.status, light.json()["error"]["code"]) == (429, "queue_full")
    assert heavy.header("retry-after")
    assert [row.error for row in runs] == ["cancelled"] * 4


async def test_a_run_that_waits_too_long_is_told_so(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with agents(tmp_path, AGENT_QUEUE_TIMEOUT_SEC="0.05") as house:
        admission = house.components.agents.admission
        async with admission.hold("a", "mock", 0), admission.hold("b", "mock", 0):
            async with admission.hold("c", "mock", 0), admission.hold("d", "mock", 0):
                answer = await house.post(RUN, {"input": "hi"})
    assert (answer.status, answer.json()["error"]["code"]) == (429, "queue_timeout")
