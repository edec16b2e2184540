"""What is kept of runs, as clients meet it: every way of keeping them, full disks, damage, runs that still go on."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.agents import without_volatile
from tests.asgi import open_call
from tests.house import AUTH, House, open_house_with_records
from tests.server.test_agents_route import OTHER_AUTH, REPLAY, RUN, RUNS, agents, events_of, run

JSON_AUTH = {**AUTH, "content-type": "application/json"}


def body_of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("mode", ["per_run", "ndjson", "both"])
@pytest.mark.parametrize("text", ["look", "look " + "long " * 5_000])
async def test_a_run_is_answered_shown_listed_verified_and_forked_however_it_is_kept(
    tmp_path: Path, mode: str, text: str
) -> None:
    async with agents(tmp_path, AGENT_RUNS_LOG_MODE=mode) as house:
        answer = await house.post(RUN, {"input": text})
        path = f"{REPLAY}/{answer.json()['run_id']}"
        shown = await house.ask("GET", path)
        verdict = (await house.post(path, {"mode": "verify"})).json()
        fork = (await house.post(path, {"mode": "fork", "from_step": 2})).json()
        listed = (await house.ask("GET", RUNS)).json()["data"]
        names = os.listdir(tmp_path / "state" / "agent")
    assert answer.json()["ok"]
    assert shown.body == answer.body
    assert verdict == {"identical": True, "steps": 6}
    assert fork["forked_from"]["run_id"] == answer.json()["run_id"]
    assert [row["run_id"] for row in listed] == [fork["run_id"], answer.json()["run_id"]]
    assert any(name.startswith("run-") for name in names) == (mode != "ndjson")
    assert ("runs.jsonl" in names) == (mode != "per_run")


@pytest.mark.parametrize("mode", ["per_run", "ndjson", "both"])
async def test_runs_are_there_after_a_restart_however_they_are_kept(tmp_path: Path, mode: str) -> None:
    async with agents(tmp_path, AGENT_RUNS_LOG_MODE=mode) as house:
        answer = await house.post(RUN, {"input": "look"})
        path = f"{REPLAY}/{answer.json()['run_id']}"
    async with agents(tmp_path, AGENT_RUNS_LOG_MODE=mode) as house:
        assert (await house.ask("GET", path)).body == answer.body
        assert (await house.ask("GET", path, headers=OTHER_AUTH)).status == 404
        assert len((await house.ask("GET", RUNS)).json()["data"]) == 1


async def test_a_run_that_still_goes_on_is_shown_verified_and_listed_as_far_as_it_is(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    async with agents(tmp_path) as house:
        body = body_of(input="slow plan", stream=True)
        async with open_call(nursery, house.site.api, "POST", RUN, headers=JSON_AUTH, body=body) as exchange:
            first = await exchange.chunk()
            assert first is not None
            run_id = json.loads(first.split(b"data: ")[1])["run_id"]
            shown = (await house.ask("GET", f"{REPLAY}/{run_id}")).json()
            verdict = (await house.post(f"{REPLAY}/{run_id}", {"mode": "verify"})).json()
            [row] = (await house.ask("GET", RUNS)).json()["data"]
    assert (shown["ok"], shown["error"], len(shown["events"])) == (False, "running", 1)
    assert verdict == {"identical": True, "steps": 0}
    assert (row["run_id"], row["ok"], row["duration_s"]) == (run_id, None, None)


async def test_a_run_that_is_silent_for_long_pings(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.server.running.PING_INTERVAL_S", 0.01)
    async with agents(tmp_path) as house:
        body = body_of(input="slow plan", stream=True)
        async with open_call(nursery, house.site.api, "POST", RUN, headers=JSON_AUTH, body=body) as exchange:
            first, *pings = [await exchange.chunk() for _ in range(3)]
    assert first is not None
    assert first.startswith(b"event: run_started")
    assert pings == [b": ping\n\n"] * 2


def fill_disk(house: House, *, after: int) -> None:
    """Every write but the next few to a run's file fails."""
    left = after

    def write(file: int, data: memoryview) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1
        return os.write(file, data)

    house.components.agents.store._files._write = write


@pytest.mark.parametrize("after", range(6))
async def test_a_disk_that_fills_in_the_middle_of_a_run_refuses_it_and_the_rest_goes_on(
    tmp_path: Path, after: int
) -> None:
    async with agents(tmp_path) as house:
        fill_disk(house, after=after)
        answer = await house.post(RUN, {"input": "look"})
        chat = await house.post(
            "/v1/chat/completions", {"model": "mock", "messages": [{"role": "user", "content": "a"}]}
        )
        readyz = (await house.observe("/readyz")).json()
        page = (await house.observe("/metrics")).body.decode()
        fill_disk(house, after=1_000)
        again = await house.post(RUN, {"input": "look"})
        recovered = (await house.observe("/metrics")).body.decode()
    assert (answer.status, answer.json()["error"]["code"]) == (507, "storage_full")
    assert answer.header("retry-after") == "30"
    assert chat.status == 200
    assert "agents' runs cannot be stored" in json.dumps(readyz)
    assert "gateway_agent_store_failing 1.0" in page
    assert again.json()["ok"]
    assert "gateway_agent_store_failing 0.0" in recovered


async def test_a_run_cut_off_by_a_full_disk_is_shown_interrupted_after_the_next_start(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        fill_disk(house, after=3)
        await house.post(RUN, {"input": "look"})
    async with agents(tmp_path) as house:
        [row] = (await house.ask("GET", RUNS)).json()["data"]
        shown = (await house.ask("GET", f"{REPLAY}/{row['run_id']}")).json()
        verdict = (await house.post(f"{REPLAY}/{row['run_id']}", {"mode": "verify"})).json()
    assert (shown["error"], len(shown["events"])) == ("interrupted", 4)
    assert verdict == {"identical": True, "steps": 2}


async def test_a_run_whose_end_a_full_disk_refused_gets_it_when_the_disk_takes_events_again(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        fill_disk(house, after=3)
        await house.post(RUN, {"input": "look"})
        [before] = (await house.ask("GET", RUNS)).json()["data"]
        fill_disk(house, after=1_000)
        await house.post(RUN, {"input": "look"})
        _, after = (await house.ask("GET", RUNS)).json()["data"]
        shown = (await house.ask("GET", f"{REPLAY}/{after['run_id']}")).json()
    assert (before["ok"], after["ok"], after["error"], after["steps"]) == (None, False, "interrupted", 2)
    assert (before["run_id"], shown["error"]) == (after["run_id"], "interrupted")


async def test_a_streamed_run_is_refused_before_its_head_where_its_first_event_cannot_be_kept(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        fill_disk(house, after=0)
        refused = await house.post(RUN, {"input": "look", "stream": True})
        fill_disk(house, after=2)
        cut = await house.post(RUN, {"input": "look", "stream": True})
    assert (refused.status, refused.json()["error"]["code"]) == (507, "storage_full")
    assert cut.status == 200
    last = events_of(cut)[-1]
    assert last["error"]["code"] == "storage_full"


async def test_a_damaged_first_event_is_named_to_its_owner_and_to_nobody_else(tmp_path: Path) -> None:
    async with agents(tmp_path) as house:
        done = await run(house, "look")
        path = f"{REPLAY}/{done['run_id']}"
        file = tmp_path / "state" / "agent" / f"{done['run_id']}.jsonl"
        file.write_bytes(file.read_bytes().replace(b'"tier":0', b'"tier":2', 1))
        verdict = (await house.post(path, {"mode": "verify"})).json()
        foreign = await house.post(path, {"mode": "verify"}, headers=OTHER_AUTH)
    assert verdict["first_divergence"]["event"] == 0
    assert foreign.status == 404


async def test_runs_whose_answers_lie_beside_their_lines_are_the_same_but_for_what_is_volatile(tmp_path: Path) -> None:
    script: Mapping[str, Any] = {"rules": [{"answer": {"text": "a long answer ", "repeat": 2_000}}]}
    (tmp_path / "long.json").write_text(json.dumps(script))
    (tmp_path / "specs.json").write_text('{"default": {"model": "mock"}}')
    paths = {"MOCK_CHAT_SCRIPT": str(tmp_path / "long.json"), "AGENT_SPECS_PATH": str(tmp_path / "specs.json")}
    async with open_house_with_records(tmp_path, **paths) as house:
        one, two = await run(house, "hi"), await run(house, "hi")
    assert one["events"][1]["blobs"]["response"] != two["events"][1]["blobs"]["response"]
    assert without_volatile(one) == without_volatile(two)
    assert one["output_text"] == one["events"][-1]["output_text"] == "a long answer " * 2_000


async def test_runs_are_counted_by_agent_and_outcome_with_their_steps(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with agents(tmp_path) as house:
        await run(house, "look")
        await run(house, "loop", agent="short")
        body = body_of(input="slow plan")
        async with open_call(nursery, house.site.api, "POST", RUN, headers=JSON_AUTH, body=body):
            while house.inflight() < 1:
                await trio.testing.wait_all_tasks_blocked(0.005)
            during = (await house.observe("/metrics")).body.decode()
        page = (await house.observe("/metrics")).body.decode()
    assert 'gateway_agent_runs_running{backend_class="mock"} 1.0' in during
    assert 'gateway_agent_runs_waiting{backend_class="mock"} 0.0' in during
    assert 'gateway_agent_run_limit{backend_class="mock"} 4.0' in during
    for line in (
        'gateway_agent_runs_total{agent="default",outcome="ok"} 1.0',
        'gateway_agent_runs_total{agent="short",outcome="failed"} 1.0',
        'gateway_agent_runs_total{agent="default",outcome="cancelled"} 1.0',
        'gateway_agent_steps_total{agent="default"} 6.0',
        'gateway_agent_runs_running{backend_class="mock"} 0.0',
        "gateway_agent_runs_interrupted_total 0.0",
    ):
        assert line in page
    assert 'gateway_tokens_total{backend_class="mock",direction="out"}' in page
