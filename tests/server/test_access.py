"""Access: who is let in, from outside, before any route is looked at."""

import re
from pathlib import Path

import pytest
import trio

from tests.asgi import call
from tests.house import AUTH, TOKEN, open_house

STATUS = "/v1/gateway/status"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"authorization": f"BEARER {TOKEN}"},
        {"x-api-key": TOKEN},
    ],
)
async def test_a_known_token_comes_in(tmp_path: Path, headers: dict[str, str]) -> None:
    async with open_house(tmp_path) as house:
        assert (await house.ask("GET", STATUS, headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Bearer  {TOKEN}")],
        [("authorization", f"Bearer {TOKEN} ")],
        [("authorization", f"Bearer\t{TOKEN}")],
        [("authorization", TOKEN)],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN.upper()}")],
        [("authorization", "Bearer \xff\xfe")],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}"), ("x-api-key", TOKEN)],
        [("x-api-key", TOKEN), ("x-api-key", TOKEN)],
        [("x-api-key", "")],
        [("cookie", f"token={TOKEN}")],
    ],
)
@pytest.mark.parametrize(
    "path", [STATUS, "/no/such/path", f"/v1/models?token={TOKEN}", "/metrics", "/health/upstreams"]
)
async def test_anything_else_is_401_before_the_path_is_looked_at(
    tmp_path: Path, headers: list[tuple[str, str]], path: str
) -> None:
    async with open_house(tmp_path) as house:
        answer = await call(house.site.api, "GET", path, headers=headers)
    assert answer.status == 401
    assert answer.header("www-authenticate") == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["source"]) == ("authentication_error", None, "gateway")
    assert TOKEN not in answer.body.decode()


async def test_every_answer_has_a_request_id_errors_included(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answers = [
            await house.ask("GET", "/health", headers={}),
            await house.ask("GET", STATUS, headers={}),
            await house.ask("GET", "/nothing"),
            await house.ask("DELETE", STATUS),
        ]
    ids = {answer.header("x-request-id") or "" for answer in answers}
    assert [answer.status for answer in answers] == [200, 401, 404, 405]
    assert len(ids) == 4
    assert all(re.fullmatch(r"req-[0-9a-f]{24}", text) for text in ids)


async def test_health_needs_no_token_and_the_observability_listener_none_for_its_four(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        for path in ("/health", "/readyz"):
            assert (await house.ask("GET", path, headers={})).status == 200
        for path in ("/health", "/readyz", "/health/upstreams", "/metrics"):
            assert (await house.observe(path)).status == 200
            assert (await house.observe(path, method="HEAD")).status == 200
        assert (await house.observe(STATUS)).status == 401
        assert (await house.observe(STATUS, headers=AUTH)).status == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8800", 200), ("127.0.0.1:8800", 200), ("127.0.0.1", 200), ("gw.example", 200),
        ("box.lan:443", 200), ("localhost.", 200), ("[::ffff:127.0.0.1]:8800", 200),
        ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost@evil.example", 421), ("", 421), (":80", 421),
        ("localhost:x", 421), ("local\thost", 421), ("a/b", 421), ("10.0.0.9", 421), ("[::1", 421),
    ],
)  # fmt: skip
async def test_the_host_must_be_one_of_ours(tmp_path: Path, host: str, status: int) -> None:
    async with open_house(
        tmp_path, PUBLIC_BASE_URL="https://gw.example", GATEWAY_ALLOWED_HOSTS="box.lan,other.lan"
    ) as house:
        answer = await house.ask("GET", "/health", headers={"host": host})
    assert answer.status == status
    if status == 421:
        assert "GATEWAY_ALLOWED_HOSTS" in answer.json()["error"]["message"]


async def test_the_address_that_a_client_reached_is_a_name_of_ours(tmp_path: Path) -> None:
    async with open_house(tmp_path, GATEWAY_HOST="0.0.0.0") as house:
        good = await call(
            house.site.api, "GET", "/health", headers={"host": "192.168.7.5:8800"}, server=("192.168.7.5", 8800)
        )
        bad = await call(
            house.site.api, "GET", "/health", headers={"host": "192.168.7.6:8800"}, server=("192.168.7.5", 8800)
        )
        any_address = await call(
            house.site.api, "GET", "/health", headers={"host": "0.0.0.0:8800"}, server=("127.0.0.1", 8800)
        )
    assert (good.status, bad.status, any_address.status) == (200, 421, 421)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8800", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("", 403),
    ],
)
async def test_a_page_of_another_origin_is_refused(tmp_path: Path, origin: str, status: int) -> None:
    async with open_house(tmp_path) as house:
        answer = await house.ask("GET", STATUS, headers={**AUTH, "origin": origin})
    assert answer.status == status
    assert answer.header("access-control-allow-origin") is None


async def test_only_listed_addresses_come_in_and_forwarding_counts_behind_a_trusted_proxy_alone(tmp_path: Path) -> None:
    settings = {"IP_ALLOWLIST": "10.1.0.0/16, 127.0.0.1", "TRUST_PROXY_CIDRS": "10.9.0.0/16"}

    async with open_house(tmp_path, **settings) as house:

        async def ask(peer: str, forwarded: str | None = None) -> int:
            headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
            return (await call(house.site.api, "GET", "/health", headers=headers, client=(peer, 1))).status

        assert await ask("10.1.2.3") == 200
        assert await ask("::ffff:10.1.2.3") == 200
        assert await ask("10.2.2.3") == 403
        assert await ask("10.2.2.3", "10.1.2.3") == 403, "an untrusted peer may claim what it likes"
        assert await ask("10.9.0.1", "10.1.2.3") == 200
        assert await ask("10.9.0.1", "10.1.2.3, 10.2.2.2") == 403, "the proxy vouches for the last one only"
        assert await ask("10.9.0.1", "10.1.2.3, 10.9.0.2") == 200, "a chain of trusted proxies"
        assert await ask("10.9.0.1", "nonsense") == 403


async def test_a_tokens_policy_narrows_addresses_and_size(tmp_path: Path) -> None:
    policy = f'{{"{TOKEN}": {{"ip_allowlist": "10.1.0.0/16", "max_request_bytes": 40}}}}'
    async with open_house(tmp_path, GATEWAY_TOKEN_POLICIES_JSON=policy) as house:
        inside = await call(house.site.api, "GET", STATUS, headers=AUTH, client=("10.1.0.1", 1))
        outside = await call(house.site.api, "GET", STATUS, headers=AUTH, client=("10.2.0.1", 1))
        large = await call(
            house.site.api,
            "POST",
            "/v1/images/generations",
            headers={**AUTH, "content-type": "application/json"},
            body=b"x" * 41,
            client=("10.1.0.1", 1),
        )
    assert (inside.status, outside.status, large.status) == (200, 403, 413)


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413_declared_or_not(tmp_path: Path, declared: bool) -> None:
    headers = {**AUTH, "content-type": "application/json"}
    if not declared:
        headers["transfer-encoding"] = "chunked"
        headers["content-length"] = "0"  # the client of these tests would add the true one
    async with open_house(tmp_path, MAX_REQUEST_BYTES="100") as house:
        answer = await house.ask(
            "POST", "/v1/images/generations", headers=headers, body=b'{"prompt":"' + b"a" * 100 + b'"}'
        )
    assert answer.status == 413
    assert "MAX_REQUEST_BYTES" in answer.json()["error"]["message"]


async def test_a_compressed_body_is_415(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        headers = {**AUTH, "content-type": "application/json", "content-encoding": "gzip"}
        gzipped = await house.ask("POST", "/v1/images/generations", headers=headers, body=b"xx")
        plain = await house.draw(headers={"content-encoding": "identity"})
    assert (gzipped.status, plain.status) == (415, 200)


async def test_guessing_is_slowed_for_the_guesser_and_for_nobody_else(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_house(tmp_path) as house:

        async def ask(token: str, peer: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            return (await call(house.site.api, "GET", STATUS, headers=headers, client=(peer, 1))).status

        assert await ask(TOKEN, "10.0.0.1") == 200
        guesses = [await ask(f"wrong-{number}", "10.0.0.1") for number in range(100)]
        assert guesses[:60] == [401] * 60
        assert set(guesses[61:]) == {429}
        assert await ask(TOKEN, "10.0.0.1") == 200, "a client that was right before shares the guesser's address"
        assert await ask(TOKEN, "10.0.0.2") == 200
        for number in range(100):
            await ask(f"wrong-{number}", "2001:db8::1")
        assert await ask(TOKEN, "2001:db8::2") == 429, "a new client within the guesser's /64 waits"
        await trio.sleep(120)
        assert await ask(TOKEN, "2001:db8::2") == 200
