"""Asking: one case is sent to the gateway, and what came back is read into one shape, with its times."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.verification.evals_cases import PATHS, Case
from appliance.verification.http import Answer, Call, Exchange, open_exchange, open_lines
from appliance.verification.report import CheckFailedError, CheckSkippedError

NOT_THERE = frozenset({404, 429, 502, 503, 504})  # no such backend, busy, broken, not ready, late
STREAM_LIMIT_S = 900.0  # a stream that trickles on for ever ends here

Lines = Callable[[Call], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made. `arguments`: the object; None where it was none, or is not shown."""

    name: str
    arguments: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer. What its kind does not have is None or empty. Times in ms."""

    total_ms: float
    ttft_ms: float | None = None
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    tokens: int | None = None
    ok: bool = True
    error: str | None = None
    turns: int = 0
    order: tuple[int, ...] = ()
    model: str | None = None


class Refused(CheckFailedError):
    """An HTTP error instead of an answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.brief())
        self.status = answer.status


@dataclass(frozen=True, slots=True)
class Travel:
    """How calls travel, and the clock by which they are timed, in seconds."""

    exchange: Exchange
    lines: Lines
    clock: Callable[[], float] = time.monotonic


def open_travel(*, insecure: bool, timeout_s: float) -> Travel:
    """Over real connections. timeout_s: longest silence."""

    def lines(call: Call) -> Iterator[bytes]:
        return open_lines(call, timeout_s=timeout_s, insecure=insecure, on_refusal=_refuse)

    return Travel(open_exchange(insecure=insecure, timeout_s=timeout_s), lines)


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one gateway. `required`: a model that is not there is a failure, else the case is skipped."""

    base_url: str
    token: str
    travel: Travel
    required: bool

    def ask(self, case: Case) -> Seen:
        """Raises CheckFailedError, CheckSkippedError, Unreachable; whatever a strange answer makes its reader raise."""
        body = (
            {**case.request, "stream": True, "stream_options": {"include_usage": True}} if case.stream else case.request
        )
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        call = Call("POST", self.base_url + PATHS[case.kind], headers, json.dumps(body).encode())
        try:
            return self._stream(call) if case.stream else self._whole(call, case)
        except Refused as refused:
            if refused.status in NOT_THERE and not self.required:
                raise CheckSkippedError(str(refused)) from None
            raise

    def _whole(self, call: Call, case: Case) -> Seen:
        started_s = self.travel.clock()
        answer = self.travel.exchange(call)
        total_ms = _ms(self.travel.clock() - started_s)
        if answer.status != 200:
            raise Refused(answer)
        return _READERS[case.kind](answer.json(), total_ms)

    def _stream(self, call: Call) -> Seen:
        clock = self.travel.clock
        started_s = clock()
        said = _Said()
        ttft_ms = None
        for line in self.travel.lines(call):
            now_s = clock()
            if now_s - started_s > STREAM_LIMIT_S:
                raise CheckFailedError(f"the stream had not ended after {STREAM_LIMIT_S:g} s")
            if said.take(line) and ttft_ms is None:
                ttft_ms = _ms(now_s - started_s)
        if not said.done:
            raise CheckFailedError("the stream broke off before its [DONE]")
        return said.seen(ttft_ms, _ms(clock() - started_s))


@dataclass(slots=True)
class _Said:
    """A streamed chat as far as it has come."""

    text: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)
    finish_reason: str | None = None
    tokens: int | None = None
    model: str | None = None
    done: bool = False

    def take(self, line: bytes) -> bool:
        """Take one line; whether it brought something of the answer. Raises CheckFailedError for an error event."""
        if line.rstrip() == b"data: [DONE]":
            self.done = True
            return False
        if not line.startswith(b"data: "):
            return False
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise CheckFailedError(f"an error in the middle: {chunk['error'].get('message')}")
        self.model = chunk.get("model") or self.model
        if usage := chunk.get("usage"):
            self.tokens = usage["completion_tokens"]
        brought = [self._take_choice(choice) for choice in chunk.get("choices", ())]
        return any(brought)

    def seen(self, ttft_ms: float | None, total_ms: float) -> Seen:
        calls = tuple(_call(self.names[index], "".join(self.arguments[index])) for index in sorted(self.names))
        return Seen(
            total_ms=total_ms,
            ttft_ms=ttft_ms,
            text="".join(self.text),
            calls=calls,
            finish_reason=self.finish_reason,
            tokens=self.tokens,
            model=self.model,
        )

    def _take_choice(self, choice: Mapping[str, Any]) -> bool:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta") or {}
        if text := delta.get("content"):
            self.text.append(text)
        for call in delta.get("tool_calls") or ():
            function, index = call.get("function") or {}, call.get("index", 0)
            if function.get("name"):
                self.names[index] = function["name"]
            self.arguments.setdefault(index, []).append(function.get("arguments") or "")
        return bool(text or delta.get("reasoning_content") or delta.get("tool_calls"))


def _read_chat(body: Any, total_ms: float) -> Seen:
    choice = body["choices"][0]
    message = choice["message"]
    made = [call["function"] for call in message.get("tool_calls") or ()]
    return Seen(
        total_ms=total_ms,
        text=message.get("content") or "",
        calls=tuple(_call(one["name"], one.get("arguments") or "") for one in made),
        finish_reason=choice.get("finish_reason"),
        tokens=(body.get("usage") or {}).get("completion_tokens"),
        model=body.get("model"),
    )


def _read_agent(body: Any, total_ms: float) -> Seen:
    events = body["events"]
    used = [event["usage"] for event in events if event.get("usage")]
    turns = {event["turn"] for event in events if event["type"] in {"plan", "assistant", "tool"}}
    return Seen(
        total_ms=total_ms,
        text=body.get("output_text") or "",
        calls=tuple(_call(event["tool"], event.get("arguments")) for event in events if event["type"] == "tool"),
        tokens=sum(usage["completion_tokens"] for usage in used) if used else None,
        ok=body["ok"],
        error=body.get("error"),
        turns=len(turns),
        model=f"{body.get('backend')}:{body.get('upstream_model')}",
    )


def _read_rerank(body: Any, total_ms: float) -> Seen:
    ranked = sorted(body["data"], key=lambda item: -item["relevance_score"])
    if ranked != body["data"]:
        raise CheckFailedError("the documents do not come best first")
    return Seen(total_ms=total_ms, order=tuple(item["index"] for item in ranked), model=body.get("model"))


_READERS: Mapping[str, Callable[[Any, float], Seen]] = {
    "chat": _read_chat,
    "agent": _read_agent,
    "rerank": _read_rerank,
}


def _call(name: str, arguments: object) -> ToolCall:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    return ToolCall(name, arguments if isinstance(arguments, dict) else None)


def _refuse(answer: Answer) -> None:
    raise Refused(answer)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
