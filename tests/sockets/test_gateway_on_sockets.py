"""The gateway behind its own listener, by both ways in: who is cut off is told so, who leaves takes nothing with him."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.storage.journal import RequestJournal
from tests.gated_language import GatedLanguage, chunk
from tests.house import AUTH, open_house
from tests.sockets.listening import eventually, listening, read_to_end, read_until

pytestmark = pytest.mark.usefixtures("http1")


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> GatedLanguage:
    """Stands in for Ollama."""
    fake = GatedLanguage()
    monkeypatch.setitem(cast("dict[str, object]", LANGUAGE_BACKENDS), "ollama", fake)
    return fake


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The journal's lines."""
    written: list[Any] = []
    monkeypatch.setattr(RequestJournal, "record_nowait", lambda _journal, line: written.append(line))
    return written


def ask(*, stream: bool) -> bytes:
    body = {"model": "ollama:m", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    raw = json.dumps(body).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in AUTH.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(raw)}", "", ""]).encode() + raw


@pytest.mark.parametrize("stream", [True, False])
async def test_who_is_cut_off_by_the_stop_is_told_and_the_slot_comes_back(
    tmp_path: Path, language: GatedLanguage, lines: list[Any], stream: bool
) -> None:
    async with open_house(tmp_path) as inner, listening(inner.site.api) as house, await house.connect() as client:
        await client.send_all(ask(stream=stream))
        await eventually(lambda: inner.inflight() == 1)
        if stream:
            language.say(chunk({"content": "x"}))
            await read_until(client, b'"x"')
        house.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        inner.site.stop_visits()
        rest = await read_to_end(client)
        await eventually(lambda: inner.inflight() == 0)
        await eventually(lambda: len(lines) == 1)
    assert rest.count(b'"shutting_down"') == 1
    assert rest.startswith(b"HTTP/1.1 503 ") is not stream
    assert b"[DONE]" not in rest
    assert [(line["code"], line["status"]) for line in lines] == [("shutting_down", 200 if stream else 503)]
    assert not house.refusals, "the listener had to say it in the gateway's place"


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_ends_his_request_alone(
    tmp_path: Path, language: GatedLanguage, lines: list[Any], stream: bool
) -> None:
    async with open_house(tmp_path) as inner, listening(inner.site.api) as house, await house.connect() as other:
        async with await house.connect() as client:
            await client.send_all(ask(stream=stream))
            await other.send_all(ask(stream=True))
            await eventually(lambda: inner.inflight() == 2)
        await eventually(lambda: inner.inflight() == 1)
        await eventually(lambda: len(lines) == 1)
        language.say(chunk({"content": "x"}))
        await read_until(other, b'"x"')
    assert lines[0]["outcome"] == "disconnected"
    assert language.opened == language.closed
    assert not house.crashes
