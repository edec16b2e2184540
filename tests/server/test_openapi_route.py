"""`/openapi.json` in a whole house: it is the routes, and what the routes answer is what it says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from appliance import __version__
from appliance.protocol.errors import ANSWERS
from appliance.protocol.openapi import OPERATIONS
from appliance.protocol.openapi_answers import error_statuses
from appliance.server.gateway import Gateway
from appliance.server.listener_limits import Refusal
from appliance.server.refusals import render_refusal
from appliance.server.strict import check_head
from tests.house import House, open_house, open_house_with_records


def served(gateway: Gateway) -> dict[str, set[str]]:
    """Each path with its methods."""
    return {path: set(methods) for path, methods in gateway.routes.items()}


async def test_it_lists_every_route_and_method_and_no_other(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        listed = {path: set(methods) for path, methods in OPERATIONS.items()}
        assert listed == served(house.site.api)
        assert served(house.site.observability).items() <= listed.items()


async def test_it_wants_a_token_and_names_the_version(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        assert (await house.ask("GET", "/openapi.json", headers={})).status == 401
        document = (await house.ask("GET", "/openapi.json")).json()
        assert (await house.observe("/openapi.json")).status != 200
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == __version__


async def test_which_routes_need_no_token_is_what_it_says(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        for path, methods in OPERATIONS.items():
            for method, one in methods.items():
                answer = await house.ask(method, path.replace("<path:", "<"), headers={})
                assert (answer.status == 401) == (one.access != "open"), path


async def test_answers_and_errors_fit_their_schemas(tmp_path: Path) -> None:
    models = {"MOCK_CHAT_SCRIPT": "builtin", "DEFAULT_BACKEND": "mock", "OLLAMA_BASE_URL": ""}
    aliases = {"MODEL_ALIASES_JSON": '{"aliases":{"default":"mock:mock","fast":"mock:mock"}}'}
    hello = {"model": "mock:mock", "messages": [{"role": "user", "content": "hello"}]}
    async with open_house_with_records(tmp_path, **models, **aliases) as house:
        document = (await house.ask("GET", "/openapi.json")).json()
        for path in ("/health", "/readyz", "/health/upstreams", "/v1/gateway/status", "/v1/models", "/v1/tools"):
            check(document, path, "get", await house.ask("GET", path))
        check(document, "/v1/models/{model_id}", "get", await house.ask("GET", "/v1/models/mock:mock"))
        check(document, "/v1/models/{model_id}", "get", await house.ask("GET", "/v1/models/nobody"), status=404)
        check(document, "/v1/chat/completions", "post", await house.post("/v1/chat/completions", hello))
        await check_texts(house, document)
        check(document, "/v1/images/generations", "post", await house.draw())
        ran = await house.post("/v1/tools/noop", {"text": "x"})
        check(document, "/v1/tools/{name}", "post", ran)
        check(document, "/v1/tools", "post", await house.post("/v1/tools", {"name": "noop"}))
        replay = await house.ask("GET", f"/v1/tools/replay/{ran.json()['replay_id']}")
        check(document, "/v1/tools/replay/{replay_id}", "get", replay)
        await check_agents(house, document)


async def check_texts(house: House, document: Mapping[str, Any]) -> None:
    for path, fields in {
        "/v1/completions": {"prompt": "hello"},
        "/v1/responses": {"input": "hello"},
        "/v1/embeddings": {"input": "hello"},
        "/v1/rerank": {"query": "q", "documents": ["a"]},
    }.items():
        check(document, path, "post", await house.post(path, {"model": "mock:mock", **fields}))
        check(document, path, "post", await house.post(path, {"model": 3}), status=400)


async def check_agents(house: House, document: Mapping[str, Any]) -> None:
    ran = await house.post("/v1/agent/run", {"input": "hello"})
    check(document, "/v1/agent/run", "post", ran)
    path = f"/v1/agent/replay/{ran.json()['run_id']}"
    check(document, "/v1/agent/replay/{run_id}", "get", await house.ask("GET", path))
    check(document, "/v1/agent/replay/{run_id}", "post", await house.post(path, {"mode": "verify"}))
    check(document, "/v1/agent/runs", "get", await house.ask("GET", "/v1/agent/runs"))


def check(document: Mapping[str, Any], path: str, method: str, answer: Any, *, status: int = 200) -> None:
    assert answer.status == status, (path, answer.body)
    response = document["paths"][path][method]["responses"][str(status)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def test_the_listeners_own_statuses_are_in_it() -> None:
    """Heads that are refused before there is a route, one of each kind that `strict` has."""
    heads = [
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000,
    ]
    faults = [check_head(head) for head in heads]
    assert {fault.status for fault in faults if fault} == {400, 505, 405, 417, 431}
    assert error_statuses() >= {fault.status for fault in faults if fault} | {one.status for one in ANSWERS.values()}


def test_a_method_that_the_listener_refuses_is_told_which_there_are() -> None:
    answer = render_refusal(Refusal(405, "method_not_allowed", "no", "127.0.0.1"), "req-0")
    assert b"\r\nallow: GET, HEAD, POST\r\n" in answer
    assert b"allow:" not in render_refusal(Refusal(400, "bad_target", "no", "127.0.0.1"), "req-0")
