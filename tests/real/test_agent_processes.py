"""Agents of a gateway that is a process: what does not depend on the process, and what is left when it is killed."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.protocol.agents import without_volatile
from appliance.protocol.canonical import canonical_json
from tests.process import GatewayProcess, start_gateway

pytestmark = pytest.mark.real

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RUN, RUNS, REPLAY = "/v1/agent/run", "/v1/agent/runs", "/v1/agent/replay"
COUNT = {"name": "count_words", "arguments": {"text": "to be or not to be \u2603", "most": 2}}
SCRIPT: Mapping[str, Any] = {
    "models": ["mock"],
    "rules": [
        {"when": {"system_contains": "planning"}, "answer": {"text": "I plan: {{input}}", "first_byte_delay_s": 0.02}},
        {"when": {"contains": "broken"}, "answer": {"tool_calls": [{"name": "noop", "arguments": "{no"}]}},
        {"when": {"contains": "fail"}, "answer": {"fail": {"status": 500, "message": "it broke"}}},
        {"when": {"contains": "long"}, "answer": {"text": "a long answer \u2603 ", "repeat": 3000}},
        {
            "when": {"contains": "loop"},
            "answer": {"first_byte_delay_s": 0.01, "tool_calls": [{"name": "noop", "arguments": {"text": "{{turn}}"}}]},
        },
        {
            "when": {"contains": "count", "tool_results": 0},
            "answer": {
                "tool_calls": [
                    COUNT,
                    {"name": "noop", "arguments": {"z": 1, "a": 2, "text": "\u00e9"}},
                    {"name": "shell", "arguments": {"cmd": "ls"}},
                    COUNT,
                ]
            },
        },
        {"answer": {"text": "Done: {{tool_result}}"}},
    ],
}
TEXTS = ("count", "broken", "fail", "long", "loop", "just say it")
WORLDS: tuple[Mapping[str, str], ...] = (
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LANG": "C.UTF-8"},
    {"PYTHONHASHSEED": "12345", "TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
    {"PYTHONHASHSEED": "random", "TZ": "America/St_Johns", "LANG": "C", "LC_ALL": "POSIX"},
)


@contextmanager
def gateway(tmp_path: Path, **settings: str) -> Iterator[GatewayProcess]:
    """With the agents and the registry of the documentation's examples, and the scripted model as `fast`."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    paths = {
        "MOCK_CHAT_SCRIPT": str(script),
        "MODEL_ALIASES_JSON": '{"aliases": {"fast": "mock:mock"}}',
        "AGENT_SPECS_PATH": str(EXAMPLES / "agents.json"),
        "TOOLS_REGISTRY_PATH": str(EXAMPLES / "tools_registry.json"),
    }
    with start_gateway(tmp_path, {**paths, **settings}) as process:
        yield process


def test_a_run_is_the_same_in_every_process_but_for_what_is_volatile(tmp_path: Path, program: str) -> None:
    seen: list[list[bytes]] = []
    for number, world in enumerate(WORLDS):
        directory = tmp_path / str(number)
        directory.mkdir()
        with gateway(directory, **world) as process, process.client() as client:
            runs = [client.post(RUN, json={"agent": "editor", "input": text}).json() for text in TEXTS]
            verdicts = [client.post(f"{REPLAY}/{run['run_id']}", json={"mode": "verify"}).json() for run in runs]
        assert [verdict["identical"] for verdict in verdicts] == [True] * len(TEXTS)
        seen.append([canonical_json(without_volatile(run)).encode() for run in runs])
        counted = [event for event in runs[0]["events"] if event["type"] == "tool"]
        assert counted[0]["result"]["stdout_json"]["words"] == 7
    assert seen[0] == seen[1] == seen[2]


@dataclass
class Watcher:
    """A client of one streamed run that notes what it was shown, byte for byte."""

    url: str
    text: str
    shown: list[bytes] = field(default_factory=list)

    def watch(self, client: httpx.Client) -> None:
        try:
            with client.stream("POST", RUN, json={"agent": "editor", "input": self.text, "stream": True}) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.shown.append(line[6:].encode())
        except httpx.HTTPError:
            return  # the gateway was killed

    @property
    def run_id(self) -> str:
        return str(json.loads(self.shown[0])["run_id"])


KILLS = 60
LONGEST_S = 0.6
LONG_RUNS = {"editor": {"model": "fast", "max_turns": 100}}  # three seconds and more


def test_a_run_that_kill_9_cuts_off_replays_to_all_that_was_acknowledged(tmp_path: Path) -> None:
    moments = random.Random(20_261_125)
    seen: list[Watcher] = []
    outcomes: dict[str, int] = {}
    specs = tmp_path / "long_runs.json"
    specs.write_text(json.dumps(LONG_RUNS))
    for number in range(KILLS + 1):
        with gateway(tmp_path, AGENT_SPECS_PATH=str(specs)) as process, process.client() as client:
            for watcher in seen:
                outcome = check(client, watcher)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            seen = []
            if number < KILLS:
                seen = kill_while_they_run(process, client, moments)
    assert outcomes["interrupted"] >= KILLS, outcomes
    files = list((tmp_path / "state" / "agent").glob("run-*.jsonl"))
    assert len(files) >= outcomes["interrupted"]


def kill_while_they_run(process: GatewayProcess, client: httpx.Client, moments: random.Random) -> list[Watcher]:
    watchers = [Watcher(process.url, text) for text in ("loop", "count", "loop again")]
    threads = [threading.Thread(target=watcher.watch, args=(client,)) for watcher in watchers]
    for thread in threads:
        thread.start()
    time.sleep(moments.uniform(0.02, LONGEST_S))
    os.kill(process.process.pid, signal.SIGKILL)
    process.wait_exit()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return [watcher for watcher in watchers if watcher.shown]


def check(client: httpx.Client, watcher: Watcher) -> str:
    """What was shown is the beginning of what is kept, byte for byte; returns how the run ended."""
    path = f"{REPLAY}/{watcher.run_id}"
    kept = client.get(path)
    assert kept.status_code == 200, kept.text
    assert b'"events":[' + b",".join(watcher.shown) in kept.content
    run = kept.json()
    assert len(run["events"]) >= len(watcher.shown)
    assert client.post(path, json={"mode": "verify"}).json()["identical"]
    last = run["events"][-1]
    assert last["type"] in {"run_completed", "run_failed"}
    return "completed" if run["ok"] else str(run["error"])
