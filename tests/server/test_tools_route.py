"""`/v1/tools`: listing, running, replaying; another token's runs look like runs that never were."""

import json
from pathlib import Path

import pytest

from tests.house import TOKEN, open_house_with_records

OTHER = "another-token-for-tests-0123456789"
ADMIN = "the-admins-token-for-tests-0123456789"
OTHER_AUTH = {"authorization": f"Bearer {OTHER}"}
ADMIN_AUTH = {"authorization": f"Bearer {ADMIN}"}
TOKENS = {
    "GATEWAY_BEARER_TOKENS": f"{TOKEN},{OTHER},{ADMIN}",
    "GATEWAY_TOKEN_POLICIES_JSON": json.dumps({OTHER: {"tools_allow_system_info": False}, ADMIN: {"admin": True}}),
    "TOOLS_ALLOW_SYSTEM_INFO": "true",
}


async def test_only_what_the_token_may_run_is_listed(tmp_path: Path) -> None:
    async with open_house_with_records(tmp_path, **TOKENS) as house:
        own = (await house.ask("GET", "/v1/tools")).json()
        narrow = (await house.ask("GET", "/v1/tools", headers=OTHER_AUTH)).json()
    assert [tool["name"] for tool in own["data"]] == ["noop", "system_info"]
    assert [tool["name"] for tool in narrow["data"]] == ["noop"]
    noop = own["data"][0]
    assert own["object"] == "list"
    assert {"version": "1", "declared": True, "source": "builtin"}.items() <= noop.items()
    assert noop["parameters"]["additionalProperties"] is False


async def test_both_ways_of_running_give_the_same_hash(tmp_path: Path) -> None:
    async with open_house_with_records(tmp_path) as house:
        by_path = (await house.post("/v1/tools/noop", {"text": "a"})).json()
        wrapped = (await house.post("/v1/tools/noop", {"arguments": {"text": "a"}})).json()
        by_name = (await house.post("/v1/tools", {"name": "noop", "arguments": {"text": "a"}})).json()
    hashes = {answer["request_hash"] for answer in (by_path, wrapped, by_name)}
    assert hashes == {"0869d184303c81a6924d5424320a0ba3fa28c1797634b345a8d5d25ef6d3912d"}
    assert len({answer["replay_id"] for answer in (by_path, wrapped, by_name)}) == 3


async def test_a_replay_is_the_stored_line_byte_for_byte(tmp_path: Path) -> None:
    async with open_house_with_records(tmp_path) as house:
        ran = (await house.post("/v1/tools/noop", {"text": "é☃"})).json()
        shown = await house.ask("GET", f"/v1/tools/replay/{ran['replay_id']}")
        again = await house.ask("GET", f"/v1/tools/replay/{ran['replay_id']}")
    [line] = (tmp_path / "state/tools/invocations.jsonl").read_bytes().splitlines()
    assert shown.body == again.body == line
    record = shown.json()
    assert (record["result"], record["args"], record["seq"]) == ({"text": "é☃"}, {"text": "é☃"}, 1)


async def test_a_replay_of_another_token_looks_like_none(tmp_path: Path) -> None:
    async with open_house_with_records(tmp_path, **TOKENS) as house:
        ran = (await house.post("/v1/tools/noop", {})).json()
        foreign = await house.ask("GET", f"/v1/tools/replay/{ran['replay_id']}", headers=OTHER_AUTH)
        missing = await house.ask("GET", "/v1/tools/replay/tool-" + "0" * 24, headers=OTHER_AUTH)
        admin = await house.ask("GET", f"/v1/tools/replay/{ran['replay_id']}", headers=ADMIN_AUTH)
    assert (foreign.status, foreign.json()) == (missing.status, missing.json())
    assert foreign.json()["error"]["code"] == "replay_not_found"
    assert admin.status == 200


@pytest.mark.parametrize("name", ["req-" + "0" * 24, "tool-xyz", "..", "tool-" + "A" * 24, "%2e%2e"])
async def test_what_is_no_replay_id_is_a_plain_404(tmp_path: Path, name: str) -> None:
    async with open_house_with_records(tmp_path) as house:
        assert (await house.ask("GET", f"/v1/tools/replay/{name}")).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/tools/nothing", {}, 404, "unknown_tool"),
        ("/v1/tools/system_info", {}, 404, "unknown_tool"),
        ("/v1/tools", {"name": "nothing"}, 404, "unknown_tool"),
        ("/v1/tools", {"name": "weather"}, 404, "undeclared_tool"),
        ("/v1/tools", {}, 400, "invalid_request"),
        ("/v1/tools/noop", {"text": 5}, 400, "invalid_arguments"),
        ("/v1/tools/noop", {"arguments": 5}, 400, "invalid_request"),
        ("/v1/tools/noop", [], 400, "invalid_json"),
    ],
)
async def test_refusals_leave_no_record(tmp_path: Path, path: str, body: object, status: int, code: str) -> None:
    async with open_house_with_records(tmp_path, TOOLS_ALLOWLIST="noop,weather,shell") as house:
        refused = await house.post(path, body)
        assert (refused.status, refused.json()["error"]["code"]) == (status, code)
        assert house.components.toolbus.running == 0
        assert house.components.tool_records.statistics().written == 0


async def test_methods_and_types_are_checked(tmp_path: Path) -> None:
    async with open_house_with_records(tmp_path) as house:
        assert (await house.ask("GET", "/v1/tools/noop")).status == 405
        assert (await house.ask("POST", "/v1/tools/noop", body=b"{}")).status == 415
        assert (await house.ask("GET", "/v1/tools", headers={})).status == 401


async def test_tools_are_counted_by_name_and_status(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    async with open_house_with_records(tmp_path, TOOLS_ALLOW_FS="1", TOOLS_FS_ROOTS=str(root)) as house:
        await house.post("/v1/tools/noop", {})
        await house.post("/v1/tools/read_file", {"path": "missing"})
        await house.post("/v1/tools/nothing-of-ours", {})
        page = (await house.observe("/metrics")).body.decode()
    assert 'gateway_tool_invocations_total{status="ok",tool="noop"} 1.0' in page
    assert 'gateway_tool_invocations_total{status="error",tool="read_file"} 1.0' in page
    assert "nothing-of-ours" not in page
    assert 'gateway_requests_total{path="/v1/tools/<name>",status="200"}' in page
    assert 'gateway_tool_runtime_ms_bucket{le="10.0"}' in page
