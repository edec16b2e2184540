"""The whole process from outside: it starts, serves, reloads, drains and stops, and its state survives a kill."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.process import AUTH, TOKEN, GatewayProcess
from tests.process import start_gateway as start_process
from tests.sockets.listening import speaker

pytestmark = pytest.mark.usefixtures("http1")

pytestmark = pytest.mark.usefixtures("program")

DRAW = {"prompt": "a cat", "size": "64x48"}


def start_gateway(tmp_path: Path, settings: Mapping[str, str] | None = None) -> AbstractContextManager[GatewayProcess]:
    return start_process(tmp_path, {"GATEWAY_HTTP1": speaker.get(), **(settings or {})})


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)


class SilentBackend:
    """An image server that takes every connection and says nothing."""

    def __init__(self, kept: ExitStack) -> None:
        self._kept = kept
        self._listening = kept.enter_context(socket.create_server(("127.0.0.1", 0)))

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def accept(self) -> socket.socket:
        connection, _ = self._listening.accept()
        connection.settimeout(10)
        return self._kept.enter_context(connection)

    def settings(self) -> dict[str, str]:
        return {
            "IMAGES_BACKEND": "http_openai_images",
            "IMAGES_HTTP_BASE_URL": f"http://127.0.0.1:{self.port}",
            "HEALTH_CHECK_INTERVAL_SEC": "3600",
            "HEALTH_CHECK_TIMEOUT_SEC": "3600",
        }


@pytest.fixture
def silent_backend() -> Iterator[SilentBackend]:
    with ExitStack() as kept:
        yield SilentBackend(kept)


def begin_drawing(url: str) -> socket.socket:
    """Ask for a picture over a bare socket, and do not wait for it."""
    host, _, port = url.removeprefix("http://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=10)
    body = json.dumps(DRAW).encode()
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client


def inflight(client: httpx.Client) -> int:
    slots = client.get("/v1/gateway/status").json()["admission_control"]
    return int(slots["gpu_heavy.images"]["inflight"])


def test_it_serves_stops_in_order_and_its_pictures_survive_a_kill(tmp_path: Path) -> None:
    with start_gateway(tmp_path) as gateway:
        with gateway.client() as client:
            url = client.post("/v1/images/generations", json=DRAW).json()["data"][0]["url"]
            picture = httpx.get(url, trust_env=False).content
        gateway.signal(signal.SIGKILL)
        gateway.wait_exit()
    target = "/" + url.split("/", 3)[3]
    with start_gateway(tmp_path) as gateway:
        with gateway.client() as client:
            assert client.get(target, headers={"authorization": ""}).status_code == 401
            assert httpx.get(gateway.url + target, trust_env=False).content == picture
            assert httpx.get(gateway.observability_url + "/readyz", trust_env=False).json()["ready"] is True
            page = httpx.get(gateway.observability_url + "/metrics", trust_env=False).text
            assert 'gateway_open_connections{listener="api"} 1.0' in page
            assert 'gateway_open_connections{listener="observability"} 1.0' in page
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_exit() == 0
        assert "Traceback" not in gateway.text()
        assert gateway.text().rstrip().endswith('"event": "gateway_stopped"}')
    lines = [json.loads(line) for line in (tmp_path / "state" / "requests.jsonl").read_text().splitlines()]
    assert {line["route"] for line in lines} >= {"/ui/images/<name>", "/readyz"}
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o700"


def test_a_client_that_hangs_up_frees_its_slot_and_its_backend(tmp_path: Path, silent_backend: SilentBackend) -> None:
    with start_gateway(tmp_path, silent_backend.settings()) as gateway, gateway.client() as client:
        silent_backend.accept()  # the health check
        first = begin_drawing(gateway.url)
        upstream = silent_backend.accept()
        second = begin_drawing(gateway.url)
        silent_backend.accept()
        wait_for(lambda: inflight(client) == 2)
        refused = client.post("/v1/images/generations", json=DRAW)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "backend_overloaded")
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("5", "5000")
        first.close()
        while upstream.recv(65536):
            pass  # the request, then the end of it
        wait_for(lambda: inflight(client) == 1)
        second.close()
        wait_for(lambda: inflight(client) == 0)


def test_stopping_drains_then_tells_what_still_runs(tmp_path: Path, silent_backend: SilentBackend) -> None:
    settings = {**silent_backend.settings(), "DRAIN_TIMEOUT_SEC": "1", "BACKEND_CANCEL_TIMEOUT_SEC": "1"}
    with start_gateway(tmp_path, settings) as gateway, gateway.client() as client:
        running = begin_drawing(gateway.url)
        wait_for(lambda: inflight(client) == 1)
        gateway.signal(signal.SIGTERM)

        def draining() -> bool:
            return httpx.get(gateway.observability_url + "/health", trust_env=False).status_code == 503

        wait_for(draining)
        with pytest.raises(httpx.TransportError):
            httpx.get(gateway.url + "/health", trust_env=False)
        with closing(running), running.makefile("rb") as reader:
            answer = reader.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"shutting_down" in answer
        assert gateway.wait_exit() == 0


def test_a_second_signal_over_a_second_later_stops_at_once(tmp_path: Path, silent_backend: SilentBackend) -> None:
    settings = {**silent_backend.settings(), "DRAIN_TIMEOUT_SEC": "600"}
    with start_gateway(tmp_path, settings) as gateway, gateway.client() as client:
        running = begin_drawing(gateway.url)
        wait_for(lambda: inflight(client) == 1)
        gateway.signal(signal.SIGTERM)
        gateway.signal(signal.SIGTERM)  # the bootloader's copy counts as the same
        time.sleep(1.3)
        assert gateway.process.poll() is None
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_exit() == 0
        running.close()


def test_a_reload_changes_tokens_without_dropping_a_request_and_a_bad_one_changes_nothing(
    tmp_path: Path, silent_backend: SilentBackend
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN + "\n")
    tokens.chmod(0o600)
    settings = {**silent_backend.settings(), "GATEWAY_TOKEN_FILE": str(tokens), "GATEWAY_BEARER_TOKEN": ""}
    with start_gateway(tmp_path, settings) as gateway:
        running = begin_drawing(gateway.url)
        with gateway.client() as client:
            wait_for(lambda: inflight(client) == 1)
            tokens.write_text("")
            gateway.signal(signal.SIGHUP)
            wait_for(lambda: "reload_failed" in gateway.text())
            assert client.get("/v1/gateway/status").status_code == 200
            tokens.write_text("another-token-0123456789\n")
            gateway.signal(signal.SIGHUP)
            wait_for(lambda: "configuration_reloaded" in gateway.text())
            assert client.get("/v1/gateway/status").status_code == 401
            client.headers["authorization"] = "Bearer another-token-0123456789"
            assert inflight(client) == 1
        running.close()


def test_a_port_that_is_taken_is_one_line_and_exit_78(tmp_path: Path, silent_backend: SilentBackend) -> None:
    port = str(silent_backend.port)
    with pytest.raises(AssertionError, match=r"exit 78.*GATEWAY_PORT.*cannot be listened on"):
        with start_gateway(tmp_path, {"GATEWAY_PORT": port}):
            pass


def test_a_first_start_makes_a_token_and_shows_it_once(tmp_path: Path) -> None:
    with start_gateway(tmp_path, {"GATEWAY_BEARER_TOKEN": ""}) as gateway:
        path = tmp_path / "state" / "token"
        token = path.read_text().strip()
        assert gateway.text().count(token) == 1
        assert path.stat().st_mode & 0o777 == 0o600
        auth = {"authorization": f"Bearer {token}"}
        assert httpx.get(gateway.url + "/v1/gateway/status", headers=auth, trust_env=False).status_code == 200
    with start_gateway(tmp_path, {"GATEWAY_BEARER_TOKEN": ""}) as gateway:
        assert token not in gateway.text()
        assert httpx.get(gateway.url + "/v1/gateway/status", headers=AUTH, trust_env=False).status_code == 401


def test_a_body_that_never_ends_is_one_408_and_one_journal_line(tmp_path: Path) -> None:
    settings = {"BODY_IDLE_TIMEOUT_SEC": "0.3"}
    with start_gateway(tmp_path, settings) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408")
        gateway.signal(signal.SIGTERM)
        assert gateway.wait_exit() == 0
    [line] = [json.loads(line) for line in (tmp_path / "state" / "requests.jsonl").read_text().splitlines()]
    assert (line["status"], line["code"], line["outcome"]) == (408, "request_timeout", "completed")
    assert line["request_id"].encode() in answer


def test_two_authorization_headers_are_401(tmp_path: Path) -> None:
    with start_gateway(tmp_path) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        twice = f"Authorization: Bearer {TOKEN}\r\n" * 2
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{twice}Connection: close\r\n\r\n".encode())
            assert client.recv(65536).startswith(b"HTTP/1.1 401")


def test_it_tells_its_manager_when_it_is_ready_alive_reloading_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}

        def told(word: str) -> str:
            while True:
                text = manager.recv(4096).decode()
                if text.startswith(word):
                    return text

        with start_gateway(tmp_path, settings) as gateway:
            assert told("READY=1") == f"READY=1\nSTATUS=Serving {gateway.url}"
            assert httpx.get(gateway.url + "/health", trust_env=False).status_code == 200
            told("WATCHDOG=1")
            told("WATCHDOG=1")
            gateway.signal(signal.SIGHUP)
            told("RELOADING=1\nMONOTONIC_USEC=")
            told("READY=1")
            gateway.signal(signal.SIGTERM)
            assert "EXTEND_TIMEOUT_USEC=45000000" in told("STOPPING=1")
            assert gateway.wait_exit() == 0
        assert "watchdog_starved" not in gateway.text()
