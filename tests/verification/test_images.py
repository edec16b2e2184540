"""verify_images: what it finds, what it says and how it exits."""

import base64
import json
from pathlib import Path

import pytest

from appliance.verification.http import Answer, Call, Exchange, Unreachable
from appliance.verification.images import main
from tests.verification.fake_gateway import BASE_URL, PNG, TOKEN, FakeGateway
from tests.verification.faults import FAULTS, SPOILS

FLAGS = ["--gateway-base-url", BASE_URL, "--token", TOKEN]


def run(
    capsys: pytest.CaptureFixture[str], exchange: Exchange, *flags: str, environ: dict[str, str] | None = None
) -> tuple[int, str, str]:
    code = main([*FLAGS, *flags], {} if environ is None else environ, exchange)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_gateway_that_keeps_the_contract_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, FakeGateway().exchange)
    assert code == 0, out
    assert out.splitlines()[-1] == "16 ok, 0 skipped, 0 failed"
    assert err == ""


def test_each_line_names_check_outcome_and_detail(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, FakeGateway().exchange)
    assert out.splitlines()[0].split() == ["health_get", "OK", "200"]
    assert all(line.split()[1] in {"OK", "SKIP", "FAIL"} for line in out.splitlines()[:-1])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_promise_is_found(capsys: pytest.CaptureFixture[str], fault: str) -> None:
    code, out, _ = run(capsys, FakeGateway(fault).exchange)
    expect_failure(code, out, *FAULTS[fault])


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoilt_answer_is_found(capsys: pytest.CaptureFixture[str], name: str) -> None:
    spoil, check, words = SPOILS[name]
    code, out, _ = run(capsys, FakeGateway(spoil=spoil).exchange)
    expect_failure(code, out, check, words)


def expect_failure(code: int, out: str, check: str, words: str) -> None:
    assert code == 2
    line = next(line for line in out.splitlines() if line.startswith(f"{check} "))
    assert line.split()[1] == "FAIL", out
    assert words in line, out


def test_a_gateway_that_is_ill_is_not_asked_to_draw(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeGateway("ill")
    run(capsys, fake.exchange)
    assert len(fake.calls) == 1


def test_checks_of_pictures_are_skipped_when_none_was_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, FakeGateway("full").exchange)
    assert out.count("SKIP  no picture was drawn") == 5


def test_relative_urls_are_fetched_from_the_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, FakeGateway("relative_url").exchange)[0] == 0


def test_only_the_mock_must_draw_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, FakeGateway("random", backend="http_a1111").exchange)
    assert code == 0
    assert "SKIP  http_a1111 need not draw the same twice" in out


def test_signed_pictures_are_fetched_without_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeGateway()
    run(capsys, fake.exchange)
    assert not [call for call in fake.calls if "sig=" in call.url and "Authorization" in call.headers]


def test_an_unreachable_gateway_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, FakeGateway("unreachable").exchange)
    assert out.splitlines()[1:] == ["0 ok, 0 skipped, 1 failed, 15 not tried"]


def test_a_refused_token_points_to_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeGateway()
    code = main(["--gateway-base-url", BASE_URL, "--token", "not-the-one"], {}, fake.exchange)
    assert code == 2
    assert "give the right one by --token" in capsys.readouterr().out


def test_no_token_is_an_error_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gateway-base-url", BASE_URL], {}, FakeGateway().exchange) == 2
    assert "--token" in capsys.readouterr().err


def test_a_token_that_fits_no_header_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gateway-base-url", BASE_URL, "--token", "se\ncret"], {}, FakeGateway().exchange) == 2
    out, err = capsys.readouterr()
    assert "cret" not in out + err


def test_the_token_may_come_from_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"GATEWAY_BEARER_TOKEN": TOKEN}
    assert main(["--gateway-base-url", BASE_URL], environ, FakeGateway().exchange) == 0


def test_json_is_one_object_with_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, FakeGateway("open").exchange, "--json")
    report = json.loads(out)
    assert report["ok"] is False
    assert {"name": "token_required", "outcome": "FAIL"}.items() <= report["checks"][1].items()


def test_no_output_holds_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    for fault in ("", *FAULTS):
        _, out, err = run(capsys, FakeGateway(fault).exchange)
        assert TOKEN not in out + err


def test_an_interrupt_exits_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(call: Call) -> Answer:
        raise KeyboardInterrupt

    assert run(capsys, interrupted)[0] == 130


@pytest.mark.parametrize("flags", [["--nonsense"], ["--gateway-base-url", "localhost:8800"], ["--size", "64"]])
def test_wrong_use_exits_2(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert main(flags, {}, FakeGateway().exchange) == 2
    assert "error:" in capsys.readouterr().err


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}) == 0
    assert "--also-check-a1111" in capsys.readouterr().out


IMAGE_SERVERS = {
    "a1111": (["--also-check-a1111", "http://sd.test:7860"], "/sdapi/v1/txt2img", {"images": ["PNG"]}),
    "openai": (["--also-check-openai-images", "http://sd.test/v1"], "/v1/images/generations", {"data": [{"b64_json": "PNG"}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_SERVERS)
def test_an_image_server_is_asked_directly_and_without_our_token(capsys: pytest.CaptureFixture[str], name: str) -> None:
    flags, path, body = IMAGE_SERVERS[name]
    text = json.dumps(body).replace("PNG", base64.b64encode(PNG).decode()).encode()
    asked: list[Call] = []

    def server(call: Call) -> Answer:
        asked.append(call)
        return Answer(200, (), text)

    code, out, _ = run(capsys, split(server, FakeGateway()), *flags)
    assert code == 0, out
    assert "image/png 1x1" in out.splitlines()[0]
    assert [call.url.partition("sd.test")[2].removeprefix(":7860") for call in asked] == [path]
    assert "Authorization" not in asked[0].headers


@pytest.mark.parametrize("name", IMAGE_SERVERS)
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b'{"error":"server_error"}', "500 server_error"),
        (200, b"<html>", "no JSON object"),
        (200, b'{"images":[],"data":[]}', "is empty"),
        (200, b'{"images":["!!"],"data":[{"b64_json":"!!"}]}', "is no base64:"),
        (200, b'{"images":["aGk="],"data":[{"b64_json":"aGk="}]}', "2 bytes of no known picture format"),
        (200, b'{"images":[5],"data":[{"b64_json":5}]}', "no base64 text"),
    ],
)
def test_an_image_server_that_does_not_draw_fails(
    capsys: pytest.CaptureFixture[str], name: str, status: int, body: bytes, words: str
) -> None:
    answer = Answer(status, (), body)
    code, out, _ = run(capsys, split(lambda _: answer, FakeGateway()), *IMAGE_SERVERS[name][0])
    expect_failure(code, out, out.split()[0], words)
    assert "1 failed" in out.splitlines()[-1]


def test_a_dead_image_server_does_not_stop_the_checks_of_the_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    def dead(call: Call) -> Answer:
        raise Unreachable("connection refused")

    _, out, _ = run(capsys, split(dead, FakeGateway()), *IMAGE_SERVERS["a1111"][0])
    assert out.splitlines()[-1] == "16 ok, 0 skipped, 1 failed"


def test_a_gateway_that_dies_ends_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeGateway()

    def dying(call: Call) -> Answer:
        if len(fake.calls) == 4:
            raise Unreachable("hung up")
        return fake.exchange(call)

    _, out, _ = run(capsys, dying)
    assert out.splitlines()[-1] == "3 ok, 0 skipped, 1 failed, 12 not tried"


def split(server: Exchange, fake: FakeGateway) -> Exchange:
    return lambda call: fake.exchange(call) if call.url.startswith(BASE_URL) else server(call)


def test_the_programs_are_thin(request: pytest.FixtureRequest) -> None:
    program = Path(request.config.rootpath) / "tools" / "verify_images.py"
    assert len(program.read_text().splitlines()) < 20
