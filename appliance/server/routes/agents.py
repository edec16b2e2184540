"""`/v1/agent`: running an agent, showing a run, doing it again, forking it, and listing the runs there were."""

import re
from collections.abc import Mapping, Set
from typing import Any
from urllib.parse import parse_qsl

from appliance.agents.agents import transcript_of
from appliance.agents.transcript import transcript_json
from appliance.components import Components
from appliance.protocol.agents import RUNS_LISTED, RUNS_LISTED_MAX, parse_replay, parse_run
from appliance.protocol.errors import InvalidRequest
from appliance.server.callers import run_caller
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer
from appliance.server.running import serve_run
from appliance.storage.run_index import RunRow
from appliance.storage.run_records import whole_lines

_CURSOR = re.compile(r"([0-9]{1,12}\.[0-9]{1,6})-(run-[0-9a-f]{24})")
_FLAGS: Mapping[str, bool] = {"true": True, "false": False}


def agent_routes(components: Components) -> DirectRoutes:
    """Contract 7."""
    agents = components.agents

    async def run(request: Request) -> Answer:
        wanted = parse_run(request.json())
        ready = agents.prepare(run_caller(request.visit), wanted)
        return await serve_run(agents, request.visit, ready, stream=wanted.stream)

    async def runs(request: Request) -> Answer:
        query = _query(request.query, {"limit", "cursor", "agent", "ok"})
        limit = _limit(query.get("limit"))
        rows = await agents.store.newest(
            limit=limit + 1,
            owner=run_caller(request.visit).tools.owner,
            agent=query.get("agent"),
            ok=_flag(query.get("ok"), "ok"),
            before=_cursor(query.get("cursor")),
        )
        more = _cursor_of(rows[limit - 1]) if len(rows) > limit else None
        return json_answer({"object": "list", "data": [_shown(row) for row in rows[:limit]], "next_cursor": more})

    async def show(request: Request) -> Answer:
        whole = _flag(_query(request.query, {"payloads"}).get("payloads"), "payloads")
        stored = await agents.load(run_caller(request.visit), request.variable)
        return Answer(transcript_json(whole_lines(stored) if whole else stored.lines))

    async def do_again(request: Request) -> Answer:
        wanted = parse_replay(request.json())
        caller = run_caller(request.visit)
        stored = await agents.load(caller, request.variable)
        if wanted is None:
            return json_answer((await agents.verify(stored)).body())
        ready = agents.prepare_fork(caller, transcript_of(stored), wanted)
        return await serve_run(agents, request.visit, ready, stream=wanted.stream)

    return {
        "/v1/agent/run": {"POST": run},
        "/v1/agent/runs": {"GET": runs},
        "/v1/agent/replay/<run_id>": {"GET": show, "POST": do_again},
    }


def _query(raw: bytes, known: Set[str]) -> Mapping[str, str]:
    pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    query = dict(pairs)
    for name in query:
        if name not in known:
            raise InvalidRequest(f"{name[:64]!r} is unknown here: send {', '.join(sorted(known))}.", param=name[:64])
    if len(query) != len(pairs):
        raise InvalidRequest("A parameter was sent twice: send each once.")
    return query


def _limit(text: str | None) -> int:
    if text is None:
        return RUNS_LISTED
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= RUNS_LISTED_MAX):
        raise InvalidRequest(f"limit must be a number from 1 to {RUNS_LISTED_MAX}.", param="limit")
    return int(text)


def _flag(text: str | None, name: str) -> bool | None:
    if text is not None and text not in _FLAGS:
        raise InvalidRequest(f"{name} must be true or false.", param=name)
    return None if text is None else _FLAGS[text]


def _cursor(text: str | None) -> tuple[float, str] | None:
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidRequest("cursor must be the next_cursor of the page before.", param="cursor")
    return float(match[1]), match[2]


def _cursor_of(row: RunRow) -> str:
    return f"{row.started:.6f}-{row.run_id}"


def _shown(row: RunRow) -> dict[str, Any]:
    return {
        "run_id": row.run_id,
        "object": "agent.run",
        "created": int(row.started),
        "agent": row.agent,
        "backend": row.backend,
        "upstream_model": row.upstream_model,
        "ok": row.ok,
        "error": row.error,
        "steps": row.steps,
        "duration_s": None if row.ended is None else round(row.ended - row.started, 3),
    }
