"""`/v1/models` in a whole house."""

import json
from pathlib import Path

from tests.house import open_house

NOBODY = {"OLLAMA_BASE_URL": "http://127.0.0.1:9"}  # discard: nothing listens there
ALIASES = json.dumps(
    {"aliases": {"Coder": "ollama:qwen-coder", "small": {"backend": "mlx", "model": "x", "max_tokens_cap": 9}}}
)


async def test_the_list_has_models_classes_and_aliases(tmp_path: Path) -> None:
    variables = {**NOBODY, "MOCK_CHAT_SCRIPT": "builtin", "MODEL_ALIASES_JSON": ALIASES}
    async with open_house(tmp_path, **variables) as house:
        answer = await house.ask("GET", "/v1/models")
    listed = answer.json()
    assert (answer.status, listed["object"]) == (200, "list")
    by_id = {entry["id"]: entry for entry in listed["data"]}
    assert len(by_id) == len(listed["data"])
    assert set(by_id["mock:mock"]) == {"id", "object", "created", "owned_by"}
    assert (by_id["mock:mock"]["object"], by_id["mock:mock"]["owned_by"]) == ("model", "local")
    own = ["auto", "ollama", "local_mlx", "coder", "default", "fast", "mock", "small"]
    assert list(by_id) == ["mock:mock", *own], "the class `mock` and the alias are one name"
    assert by_id["auto"]["owned_by"] == "gateway"
    assert isinstance(by_id["auto"]["created"], int)
    small = by_id["small"]
    assert (small["backend"], small["upstream_model"], small["max_tokens_cap"]) == ("local_mlx", "x", 9)
    assert "tools" not in small
    assert "temperature_cap" not in small


async def test_a_dead_upstream_is_named_in_the_warnings(tmp_path: Path) -> None:
    async with open_house(tmp_path, **NOBODY, MLX_BASE_URL="http://127.0.0.1:9") as house:
        listed = (await house.ask("GET", "/v1/models")).json()
    assert [warning.split()[0] for warning in listed["warnings"]] == ["ollama", "local_mlx"]
    assert [entry["id"] for entry in listed["data"]] == ["auto", "ollama", "local_mlx", "default", "fast"]


async def test_one_model_is_found_by_an_id_with_slashes_colons_and_escapes(tmp_path: Path) -> None:
    aliases = json.dumps({"aliases": {"org/name:tag": "ollama:x", "100%": "ollama:y"}})
    async with open_house(tmp_path, **NOBODY, MODEL_ALIASES_JSON=aliases) as house:
        for path in ("org/name:tag", "org%2Fname%3Atag", "ORG/Name:Tag", "org%2fname:tag"):
            answer = await house.ask("GET", f"/v1/models/{path}")
            assert (answer.status, answer.json()["id"]) == (200, "org/name:tag"), path
        assert (await house.ask("GET", "/v1/models/100%25")).json()["upstream_model"] == "y"


async def test_an_unknown_model_is_404_with_the_nearest_names(tmp_path: Path) -> None:
    async with open_house(tmp_path, **NOBODY, MODEL_ALIASES_JSON=ALIASES) as house:
        for path in ("codr", "mlx:codr", "a//b", "%20", "x" * 300):
            answer = await house.ask("GET", f"/v1/models/{path}")
            error = answer.json()["error"]
            assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model"), path
        assert "coder" in (await house.ask("GET", "/v1/models/codr")).json()["error"]["nearest"]


async def test_the_lists_need_a_token_and_are_only_read(tmp_path: Path) -> None:
    async with open_house(tmp_path, **NOBODY) as house:
        for path in ("/v1/models", "/v1/models/auto"):
            assert (await house.ask("GET", path, headers={})).status == 401
            assert (await house.ask("POST", path)).status == 405
            assert (await house.ask("HEAD", path)).status == 200


async def test_the_scripted_model_is_always_ready(tmp_path: Path) -> None:
    async with open_house(tmp_path, **NOBODY, MOCK_CHAT_SCRIPT="builtin") as house:
        backends = (await house.observe("/readyz")).json()["backends"]
    assert (backends["mock"]["ready"], backends["mock"]["required"]) == (True, False)
    assert not backends["local_mlx"]["ready"], "it has no address"
