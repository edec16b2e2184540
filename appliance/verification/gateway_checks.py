"""Gateway checks: health, models, tools, agents and language of a gateway, against the contract, from outside."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from appliance.verification.http import Answer, Call, Gateway
from appliance.verification.report import CheckFailedError, CheckSkippedError, StopError, expect

# Contract 6: what these arguments of noop, version 1, hash to.
VECTORS: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({}, "af9575d59fcd216d806426a07271a738a48073b2e06385251be99ca2847f57d7"),
    ({"text": "a"}, "0869d184303c81a6924d5424320a0ba3fa28c1797634b345a8d5d25ef6d3912d"),
    ({"text": "é☃"}, "3ab521bda6d4ba6bb1e52021eee53b79f52a082bdfab54f94917452d3cc471df"),
)
# Arguments with which a listed tool can be tried without harm; any other tool is left alone.
HARMLESS: Mapping[str, Mapping[str, Any]] = {
    "noop": {"text": "verify"},
    "system_info": {},
    "models_refresh": {},
    "git": {"args": ["rev-parse", "--is-inside-work-tree"]},
}
METRICS = ("gateway_requests_total", "gateway_request_duration_ms_sum", "gateway_inflight", "process_open_fds")
_NOT_THERE = frozenset({404, 429, 502, 503, 504})  # no such backend, busy, broken, not ready, late
_TOOL_ID, _RUN_ID = re.compile(r"tool-[0-9a-f]{24}"), re.compile(r"run-[0-9a-f]{24}")


class GatewayChecks:
    """The checks against one gateway, in an order where later ones look at what earlier ones made.

    `observability` has its own address and no token. `require_backend`: a model that does not answer is a failure.
    """

    def __init__(self, gateway: Gateway, observability: Gateway | None, *, require_backend: bool) -> None:
        self._gateway = gateway
        self._observability = observability
        self._required = require_backend
        self._tools: list[Mapping[str, Any]] = []
        self._ran: Mapping[str, Any] = {}
        self._run: Answer | None = None

    def health_get(self) -> str:
        answer = self._gateway.get("/health")
        if answer.status != 200:
            raise StopError(answer.brief())
        expect(answer.json() == {"ok": True}, f"the body is {answer.body[:80]!r}, not {{'ok': true}}")
        expect(answer.has_request_id(), f"x-request-id is {answer.header('x-request-id')!r}")
        return "200"

    def health_head(self) -> str:
        answer = self._gateway.exchange(Call("HEAD", self._gateway.base_url + "/health"))
        expect(answer.status == 200, answer.brief())
        expect(not answer.body, "HEAD has a body")
        return "200, no body"

    def metrics(self) -> str:
        where = self._observability or self._gateway
        answer = where.get("/metrics", token=None if self._observability else self._gateway.token)
        if answer.status == 404:
            raise CheckSkippedError("METRICS_ENABLED is false")
        expect(answer.status == 200, answer.brief())
        page = answer.body.decode("utf-8", "replace")
        missing = [name for name in METRICS if name not in page]
        expect(not missing, f"without {', '.join(missing)}")
        return f"{sum(not line.startswith('#') for line in page.splitlines())} series"

    def models(self) -> str:
        listed = self._get("/v1/models").json()
        ids = [model["id"] for model in listed["data"]]
        expect(listed["object"] == "list" and "auto" in ids, f"the list is {ids[:5]}, without auto")
        expect(len(ids) == len(set(ids)), "an id is listed twice")
        one = self._get("/v1/models/auto").json()
        expect(one["id"] == "auto", f"/v1/models/auto is {one['id']!r}")
        missing = self._gateway.get("/v1/models/no-such-model", token=self._gateway.token)
        expect_error(missing, 404, "model_not_found")
        return f"{len(ids)} ids" + (f", {len(listed['warnings'])} classes not asked" if "warnings" in listed else "")

    def tools_list(self) -> str:
        listed = self._get("/v1/tools").json()
        self._tools = listed["data"]
        names = [tool["name"] for tool in self._tools]
        expect(names == sorted(names), "the tools are not sorted")
        for tool in self._tools:
            lacking = {"name", "version", "description", "parameters", "declared", "source"} - tool.keys()
            expect(not lacking, f"{tool['name']} has no {', '.join(sorted(lacking))}")
        return ", ".join(names) or "none"

    def tools_has_noop(self) -> str:
        if not any(tool["name"] == "noop" for tool in self._tools):
            raise CheckFailedError("noop is not listed: TOOLS_ALLOWLIST or the token's policy leaves it out")
        return "listed"

    def tool_exec_noop(self) -> str:
        self._ran = self._run_tool("/v1/tools/noop", {"arguments": {"text": "verify"}})
        return str(self._ran["replay_id"])

    def tool_dispatch_noop(self) -> str:
        again = self._run_tool("/v1/tools", {"name": "noop", "arguments": {"text": "verify"}})
        expect(again["request_hash"] == self._ran.get("request_hash"), "the same call has another request_hash")
        expect(again["replay_id"] != self._ran.get("replay_id"), "two runs have one replay_id")
        return "the same hash"

    def tool_replay(self) -> str:
        path = f"/v1/tools/replay/{self._ran['replay_id']}"
        first, second = self._get(path), self._get(path)
        expect(first.body == second.body, "the record differs from itself")
        record = first.json()
        for name in ("replay_id", "request_hash", "ok"):
            expect(record[name] == self._ran[name], f"{name} is not what the run answered")
        expect(record["args"] == {"text": "verify"}, f"the arguments are {record['args']!r}")
        missing = self._gateway.get("/v1/tools/replay/tool-" + "0" * 24, token=self._gateway.token)
        expect(missing.status == 404, f"a replay that never was: {missing.brief()}")
        return f"{len(first.body)} bytes"

    def tool_hash_vectors(self) -> str:
        for arguments, expected in VECTORS:
            found = self._run_tool("/v1/tools/noop", {"arguments": arguments})["request_hash"]
            expect(found == expected, f"noop {json.dumps(arguments)} hashes to {found}")
        return f"{len(VECTORS)} vectors"

    def tool_checks(self) -> list[tuple[str, Callable[[], str]]]:
        """One check for each tool that is listed, beside noop, which had its own."""

        def check(name: str) -> Callable[[], str]:
            def run() -> str:
                if name not in HARMLESS:
                    raise CheckSkippedError("it would do something")
                ran = self._post("/v1/tools", {"name": name, "arguments": HARMLESS[name]}).json()
                expect(ran["ok"] is True, f"{ran.get('error_type')}: {ran.get('error_message')}")
                return f"{ran['tool_runtime_ms']} ms"

            return run

        return [(f"tool_exec_{tool['name']}", check(tool["name"])) for tool in self._tools if tool["name"] != "noop"]

    def agent_run(self) -> str:
        answer = self._maybe(self._gateway.post("/v1/agent/run", {"input": "hello"}, token=self._gateway.token))
        run = answer.json()
        expect(_RUN_ID.fullmatch(run["run_id"]) is not None, f"run_id is {run['run_id']!r}")
        if not run["ok"] and not self._required:
            raise CheckSkippedError(f"its model failed: {run['error']}")
        expect(run["ok"] is True, str(run["error"]))
        types = [event["type"] for event in run["events"]]
        expect(types[0] == "run_started" and types[-1] == "run_completed", f"the events are {types}")
        self._run = answer
        return f"{run['backend']}:{run['upstream_model']}, {len(types)} events"

    def agent_replay(self) -> str:
        if self._run is None:
            raise CheckSkippedError("there is no run")
        path = f"/v1/agent/replay/{self._run.json()['run_id']}"
        shown = self._get(path)
        expect(shown.body == self._run.body, "the transcript is not the answer, byte for byte")
        verdict = self._post(path, {"mode": "verify"}).json()
        expect(verdict["identical"] is True, f"done again it differs: {verdict.get('first_divergence')}")
        return f"identical, {verdict['steps']} steps"

    def health_upstreams(self) -> str:
        upstreams = self._get("/health/upstreams").json()["upstreams"]
        ill = [name for name, one in upstreams.items() if not one["ok"]]
        return f"{len(upstreams)} classes" + (f", not well: {', '.join(sorted(ill))}" if ill else "")

    def backend_required(self) -> str:
        answer = self._gateway.get("/readyz")
        ready = [name for name, one in answer.json()["backends"].items() if one["ready"]]
        if not self._required:
            raise CheckSkippedError(f"not asked for; ready: {', '.join(sorted(ready)) or 'none'}")
        expect(answer.status == 200, f"{answer.status}: a required class is not ready")
        expect(bool(ready), "no class is ready")
        return ", ".join(sorted(ready))

    def embeddings(self) -> str:
        answer = self._language("/v1/embeddings", {"input": "hello"})
        vector = answer.json()["data"][0]["embedding"]
        expect(bool(vector) and all(isinstance(number, int | float) for number in vector), "no vector came")
        return f"{len(vector)} numbers"

    def responses(self) -> str:
        response = self._language("/v1/responses", {"input": "hello"}).json()
        expect(response["object"] == "response" and bool(response["output"]), f"object is {response['object']!r}")
        return str(response["status"])

    def chat(self) -> str:
        answer = self._language("/v1/chat/completions", _CHAT)
        content = answer.json()["choices"][0]["message"]["content"]
        expect(isinstance(content, str), f"content is {content!r}")
        return f"{answer.header('x-backend-used')}:{answer.header('x-model-used')}, {len(content)} characters"

    def chat_stream(self) -> str:
        answer = self._language("/v1/chat/completions", {**_CHAT, "stream": True})
        lines = [line for line in answer.body.decode("utf-8", "replace").splitlines() if line.startswith("data: ")]
        expect(lines.count("data: [DONE]") == 1 and lines[-1] == "data: [DONE]", "it does not end with one [DONE]")
        chunks = [json.loads(line[6:]) for line in lines[:-1]]
        expect(all("error" not in chunk for chunk in chunks), "an error came in the middle")
        return f"{len(chunks)} chunks"

    def _language(self, path: str, body: Mapping[str, Any]) -> Answer:
        return self._maybe(self._gateway.post(path, body, token=self._gateway.token))

    def _maybe(self, answer: Answer) -> Answer:
        """An answer that needs a model: without one there is nothing to check, unless one was required."""
        if answer.status in _NOT_THERE and not self._required:
            raise CheckSkippedError(answer.brief())
        expect(answer.status == 200, answer.brief())
        return answer

    def _run_tool(self, path: str, body: object) -> Mapping[str, Any]:
        ran = self._post(path, body).json()
        expect(ran["ok"] is True, f"it failed: {ran.get('error_message')}")
        expect(_TOOL_ID.fullmatch(ran["replay_id"]) is not None, f"replay_id is {ran['replay_id']!r}")
        return dict(ran)

    def _get(self, path: str) -> Answer:
        answer = self._gateway.get(path, token=self._gateway.token)
        expect(answer.status == 200, answer.brief())
        return answer

    def _post(self, path: str, body: object) -> Answer:
        answer = self._gateway.post(path, body, token=self._gateway.token)
        expect(answer.status == 200, answer.brief())
        return answer


_CHAT: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}


def expect_error(answer: Answer, status: int, code: str) -> None:
    """Fail unless this is an error of the contract's shape, with this status and code."""
    expect(answer.status == status, f"{answer.status}, not {status}")
    error = answer.json()["error"]
    lacking = {"message", "type", "param", "code", "source"} - error.keys()
    expect(not lacking, f"the error has no {', '.join(sorted(lacking))}")
    expect(error["code"] == code, f"the code is {error['code']!r}, not {code!r}")
