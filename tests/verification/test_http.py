"""The stranger's HTTP: its one-line explanations over real loopback sockets, and what it takes for an address."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from appliance.verification.http import Answer, Call, Unreachable, check_base_url, is_loopback, one_line, open_exchange

OK = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nhi"


@contextmanager
def serve_once(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection, in a thread; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                try:
                    answer(connection)
                except OSError:
                    return  # the client went first: that is what some tests are about

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def respond(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return answer


def take(times: int) -> Callable[[socket.socket], None]:
    """Read, and say nothing."""

    def answer(connection: socket.socket) -> None:
        for _ in range(times):
            connection.recv(65536)

    return answer


def get(url: str, *, insecure: bool = False, timeout_s: float = 5) -> Answer:
    return open_exchange(insecure=insecure, timeout_s=timeout_s)(Call("GET", url))


def failure(url: str, *, timeout_s: float = 5) -> str:
    with pytest.raises(Unreachable) as caught:
        get(url, timeout_s=timeout_s)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_an_answer_keeps_doubled_headers() -> None:
    with serve_once(respond(OK)) as port:
        answer = get(f"http://127.0.0.1:{port}/x?y=1")
    assert (answer.status, answer.body, answer.header("X-A")) == (200, b"hi", "1, 2")


def test_redirects_are_not_followed() -> None:
    with serve_once(respond(b"HTTP/1.1 302 F\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")) as port:
        assert get(f"http://127.0.0.1:{port}/").status == 302


def test_refused_connections_are_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "connection refused" in failure(f"http://127.0.0.1:{port}/")


def test_silence_is_explained() -> None:
    with serve_once(take(2)) as port:
        assert "silent for 0.05 s" in failure(f"http://127.0.0.1:{port}/", timeout_s=0.05)


def test_a_hang_up_is_explained() -> None:
    with serve_once(take(1)) as port:
        assert "write https://" in failure(f"http://127.0.0.1:{port}/")


def test_an_answer_cut_short_is_explained() -> None:
    with serve_once(respond(OK[:-1])) as port:
        assert "IncompleteRead" in failure(f"http://127.0.0.1:{port}/")


def test_plain_http_behind_https_is_explained() -> None:
    with serve_once(respond(OK)) as port:
        assert "write http://" in failure(f"https://127.0.0.1:{port}/")


@pytest.fixture(scope="module")
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_an_unknown_certificate_points_to_insecure(server_context: ssl.SSLContext) -> None:
    def answer(connection: socket.socket) -> None:
        server_context.wrap_socket(connection, server_side=True).close()

    with serve_once(answer) as port:
        assert "--insecure" in failure(f"https://127.0.0.1:{port}/")


def test_insecure_takes_an_unknown_certificate(server_context: ssl.SSLContext) -> None:
    def answer(connection: socket.socket) -> None:
        with server_context.wrap_socket(connection, server_side=True) as tls:
            respond(OK)(tls)

    with serve_once(answer) as port:
        assert get(f"https://127.0.0.1:{port}/", insecure=True).body == b"hi"


@pytest.mark.parametrize(
    "text",
    ["localhost:8800", "ftp://a/", "http://", "http://u:p@a", "http://a?b=1", "http://a:x", "http://a b", "http://ä"],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        check_base_url(text)


def test_a_base_url_loses_its_trailing_slash() -> None:
    assert check_base_url("https://box.local:8800/ai/") == "https://box.local:8800/ai"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8800", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        ("http://127.evil.test", False),
        ("http://192.168.1.2", False),
        ("http://localhost.evil.test", False),
    ],
)
def test_loopback_is_told_from_the_rest(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


def test_what_a_server_says_cannot_write_on_the_terminal() -> None:
    assert one_line("a\n\x1b[2Jb") == "a  [2Jb"
    assert Answer(400, (), b'{"error":{"message":"x\\u001b[0m"}}').brief() == "400 x [0m"


def test_the_program_needs_no_installed_package(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program = Path(request.config.rootpath) / "tools" / "verify_images.py"
    python = Path(sys.base_prefix) / "bin" / "python3.11"
    with serve_once(respond(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n")) as port:
        flags = ["--gateway-base-url", f"http://127.0.0.1:{port}", "--token", "t" * 16]
        command = [str(python), "-I", "-S", "-B", str(program), *flags]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, env={}, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0].split() == ["health_get", "FAIL", "503"]
    assert done.stderr == ""
