"""The bus: whoever calls passes the gate; a refused call leaves nothing, a run leaves one record."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from appliance.admission.grace import Grace
from appliance.config.policies import TokenPolicy
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidArguments, RateLimited, StorageFull, UndeclaredTool, UnknownTool
from appliance.protocol.ids import new_id
from appliance.protocol.tools import Invocation, ToolCall
from appliance.telemetry.metrics import Metrics
from appliance.telemetry.readings import Readings
from appliance.toolbus.base import Outcome, Tool, ToolFailed
from appliance.toolbus.bus import ToolBus, ToolCaller
from tests.fakes.tools import GatedTool, MemoryRecords

CALLER = ToolCaller("owner-1", TokenPolicy())
ONE_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False}


def make_bus(*tools: Tool, records: MemoryRecords | None = None, **settings: Any) -> ToolBus:
    return ToolBus(
        {tool.name: tool for tool in tools},
        Settings(**settings),
        records or MemoryRecords(),
        grace=Grace(),
        metrics=Metrics(version="0", routes=(), readings=Readings()),
        new_id=new_id,
        now=lambda: 1_700_000_000.25,
    )


async def invoke(bus: ToolBus, name: str = "slow", caller: ToolCaller = CALLER, **arguments: Any) -> Invocation:
    return await bus.invoke(caller, ToolCall(name, arguments))


async def test_a_run_answers_what_its_record_says() -> None:
    records = MemoryRecords()
    tool = GatedTool(Outcome({"said": "done"}, io_bytes=7, cpu_s=0.002)).opened()
    done = await invoke(make_bus(tool.tool(), records=records), text="a")
    [record] = records.records()
    body = done.body()
    assert body["ok"] is True
    assert body["said"] == "done"
    assert record["result"] == {"said": "done"}
    assert record["args"] == {"text": "a"}
    assert (record["tool"], record["version"], record["owner"], record["ts"]) == (
        "slow",
        "1",
        "owner-1",
        1_700_000_000.25,
    )
    shared = ("replay_id", "request_hash", "tool_runtime_ms", "tool_cpu_ms", "tool_io_bytes", "ok")
    assert {key: record[key] for key in shared} == {key: body[key] for key in shared}
    assert (body["tool_cpu_ms"], body["tool_io_bytes"]) == (2.0, 7)


async def test_a_tool_that_fails_is_an_answer_and_says_why() -> None:
    records = MemoryRecords()
    bus = make_bus(GatedTool(ToolFailed("timeout", "It took too long.")).opened().tool(), records=records)
    body = (await invoke(bus)).body()
    assert body["ok"] is False
    assert (body["error"], body["error_type"], body["error_message"]) == ("tool_failed", "timeout", "It took too long.")
    assert records.records()[0]["ok"] is False


async def test_a_failure_may_have_something_to_show() -> None:
    failed = Outcome({"returncode": 3}, failure=ToolFailed("nonzero_exit", "It exited with 3."))
    body = (await invoke(make_bus(GatedTool(failed).opened().tool()))).body()
    assert (body["ok"], body["returncode"], body["error_type"]) == (False, 3, "nonzero_exit")


@pytest.mark.parametrize(
    ("policy", "settings", "error"),
    [
        (TokenPolicy(tools_allowlist=("other",)), {}, UnknownTool),
        (TokenPolicy(), {"tools_allowlist": ("other",)}, UnknownTool),
        (TokenPolicy(), {"tools_allowlist": ("gone",)}, UnknownTool),
        (TokenPolicy(tools_allow_shell=False), {"tools_allow_shell": True}, UnknownTool),
        (TokenPolicy(tools_allow_shell=True), {}, UnknownTool),
    ],
    ids=["policy's list", "allowlist", "allowlist without it", "policy's switch", "switch"],
)
async def test_what_may_not_run_looks_like_what_is_missing(
    policy: TokenPolicy, settings: Mapping[str, Any], error: type[Exception]
) -> None:
    tool = GatedTool().opened()
    bus = make_bus(tool.tool("shell"), **settings)
    with pytest.raises(error) as denied:
        await invoke(bus, "shell", ToolCaller("o", policy))
    with pytest.raises(UnknownTool) as missing:
        await make_bus().invoke(CALLER, ToolCall("shell", {}))
    assert str(denied.value) == str(missing.value)
    assert tool.started == 0
    assert bus.tools(ToolCaller("o", policy)) == []


async def test_an_allowed_name_that_nothing_declares_is_said_to_be_undeclared() -> None:
    bus = make_bus(tools_allowlist=("weather",))
    with pytest.raises(UndeclaredTool):
        await invoke(bus, "weather")
    with pytest.raises(UnknownTool):  # a token that may not run it is not told that somebody may
        await invoke(bus, "weather", ToolCaller("o", TokenPolicy(tools_allowlist=("noop",))))


async def test_tools_are_listed_by_name_and_only_those_that_may_run() -> None:
    bus = make_bus(GatedTool().tool("zebra"), GatedTool().tool("git"), GatedTool().tool("ant"))
    assert [tool.name for tool in bus.tools(CALLER)] == ["ant", "zebra"]


async def test_arguments_that_do_not_fit_are_refused_with_pointer_and_reason() -> None:
    records = MemoryRecords()
    tool = GatedTool(parameters={**ONE_TEXT, "required": ["text"]}).opened()
    bus = make_bus(tool.tool(), records=records)
    with pytest.raises(InvalidArguments) as refused:
        await bus.invoke(CALLER, ToolCall("slow", {"text": 5, "a/b~c": 1}))
    issues: Any = refused.value.extra["issues"]
    assert [issue["pointer"] for issue in issues] == ["", "/text"]
    assert "'a/b~c' was unexpected" in issues[0]["reason"]
    assert (tool.started, records.lines, bus.running) == (0, {}, 0)


async def test_a_long_value_is_not_repeated_in_the_reason() -> None:
    bus = make_bus(GatedTool(parameters=ONE_TEXT).tool())
    with pytest.raises(InvalidArguments) as refused:
        await invoke(bus, text=["x" * 100_000])
    assert len(refused.value.message) < 400


async def test_calls_wait_their_turn_and_then_are_told_to_come_back(autojump_clock: trio.testing.MockClock) -> None:
    records = MemoryRecords()
    tool = GatedTool()
    bus = make_bus(tool.tool(), records=records, tools_max_concurrent=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(invoke, bus)
        nursery.start_soon(invoke, bus)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(RateLimited) as refused:
            await invoke(bus)
        assert trio.current_time() - began == pytest.approx(5)
        assert refused.value.retry_after_s
        nursery.start_soon(invoke, bus)
        await trio.testing.wait_all_tasks_blocked()
        assert (bus.running, tool.started) == (2, 2)
        tool.gate.set()
    assert (bus.running, tool.ended, len(records.lines)) == (0, 3, 3)


async def test_a_token_that_calls_too_often_is_told_when_to_come_back(autojump_clock: trio.testing.MockClock) -> None:
    tool = GatedTool().opened()
    bus = make_bus(tool.tool(), tools_rate_limit_rps=2.0, tools_rate_limit_burst=3)
    for _ in range(3):
        await invoke(bus)
    with pytest.raises(RateLimited) as refused:
        await invoke(bus)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    await invoke(bus, caller=ToolCaller("owner-2", TokenPolicy()))  # others have their own
    await trio.sleep(0.5)
    await invoke(bus)
    assert tool.ended == 5


async def test_refused_calls_keep_no_slot() -> None:
    tool = GatedTool(parameters=ONE_TEXT).opened()
    bus = make_bus(tool.tool(), tools_rate_limit_rps=0.001, tools_rate_limit_burst=201)
    for _ in range(200):
        with pytest.raises(InvalidArguments):
            await invoke(bus, text=1)
    for _ in range(200):
        with pytest.raises(UnknownTool):
            await invoke(bus, "nothing")
    assert (await invoke(bus)).ok
    with pytest.raises(RateLimited):
        await invoke(bus)
    assert bus.running == 0


async def test_nothing_runs_whose_record_could_not_be_written() -> None:
    records = MemoryRecords(full=True)
    tool = GatedTool().opened()
    bus = make_bus(tool.tool(), records=records)
    with pytest.raises(StorageFull):
        await invoke(bus)
    assert (tool.started, bus.running) == (0, 0)
    records.full = False
    assert (await invoke(bus)).ok


@pytest.mark.parametrize(
    ("side_effects", "durability", "synced"), [(True, "strict", True), (False, "strict", False), (True, "batch", False)]
)
async def test_side_effects_are_on_the_disk_before_the_answer(
    side_effects: bool, durability: str, synced: bool
) -> None:
    records = MemoryRecords()
    tool = GatedTool(side_effects=side_effects).opened()
    await invoke(make_bus(tool.tool(), records=records, tools_durability=durability))
    assert records.durable == [synced]


async def test_a_caller_that_leaves_during_the_run_leaves_a_record_and_no_slot(nursery: trio.Nursery) -> None:
    records = MemoryRecords()
    tool = GatedTool()
    bus = make_bus(tool.tool(), records=records)
    with trio.CancelScope() as leaving:
        nursery.start_soon(_cancel_when, leaving, lambda: tool.started)
        await invoke(bus)
    assert (tool.cancelled, bus.running) == (1, 0)
    [record] = records.records()
    assert (record["ok"], record["result"]["error_type"]) == (False, "interrupted")


async def test_a_caller_that_leaves_while_waiting_leaves_nothing(nursery: trio.Nursery) -> None:
    records = MemoryRecords()
    tool = GatedTool()
    bus = make_bus(tool.tool(), records=records, tools_max_concurrent=1)
    nursery.start_soon(invoke, bus)
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as leaving:
        nursery.start_soon(_cancel_when, leaving, lambda: True)
        await invoke(bus)
    assert (tool.started, bus.running) == (1, 1)
    tool.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (bus.running, len(records.lines)) == (0, 1)


async def test_a_slot_is_free_while_the_record_of_its_run_is_written(nursery: trio.Nursery) -> None:
    records = MemoryRecords(gate=trio.Event())
    tool = GatedTool().opened()
    bus = make_bus(tool.tool(), records=records, tools_max_concurrent=1)
    nursery.start_soon(invoke, bus)
    nursery.start_soon(invoke, bus)
    await trio.testing.wait_all_tasks_blocked()
    assert (tool.ended, bus.running) == (2, 0)
    nursery.cancel_scope.cancel()


async def test_a_caller_that_leaves_while_the_record_is_written_has_no_answer(nursery: trio.Nursery) -> None:
    records = MemoryRecords(gate=trio.Event())
    bus = make_bus(GatedTool().opened().tool(), records=records)
    with trio.CancelScope() as leaving:
        nursery.start_soon(_cancel_when, leaving, lambda: True)
        await invoke(bus)
    assert leaving.cancelled_caught
    assert bus.running == 0


async def test_a_tool_that_breaks_leaves_a_record_and_no_slot() -> None:
    records = MemoryRecords()
    bus = make_bus(GatedTool(ZeroDivisionError()).opened().tool(), records=records)
    with pytest.raises(ZeroDivisionError):
        await invoke(bus)
    assert (records.records()[0]["ok"], bus.running) == (False, 0)


async def _cancel_when(scope: trio.CancelScope, ready: Any) -> None:
    while not ready():
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
