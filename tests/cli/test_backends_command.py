"""`appliance backends`: what is configured, what answers, and what is found, which `config check` then takes."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.__main__ import main
from appliance.backends.probing import Finding
from appliance.cli import backends
from appliance.config.settings import Settings

COMFYUI: dict[str, Any] = {
    "/system_stats": {"system": {"comfyui_version": "0.3.75"}},
    "/models/checkpoints": [f"model-{number}" for number in range(7)],
}
LLAMA_CPP: dict[str, Any] = {"/v1/models": {"data": [{"id": "qwen"}]}}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("APPLIANCE_ENV_FILE", str(tmp_path / "box.env"))
    (tmp_path / "box.env").touch(mode=0o600)


@contextmanager
def served(answers: dict[str, Any]) -> Iterator[int]:
    """A server of another program, on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in answers
            body = json.dumps(answers.get(self.path, {"detail": "Not Found"})).encode()
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 -- the name that http.server calls

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int) -> None:
    file = tmp_path / "backends.yaml"
    file.write_text(
        f"backends:\n  gpu_heavy:\n    base_url: http://127.0.0.1:{port}\n    provider: comfyui\n"
        "    supported_capabilities: [images]\n    on_disconnect: finish\n"
        "  spare:\n    base_url: ''\n    provider: ollama\n    supported_capabilities: [chat]\n"
    )
    monkeypatch.setenv("BACKENDS_CONFIG_PATH", str(file))


def test_list_shows_every_class_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, tmp_path, 1)
    assert main(["backends", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "gpu_heavy  comfyui  http://127.0.0.1:1  images 1  on disconnect: finish",
        "spare  ollama  (not configured)  chat 1  on disconnect: cancel",
    ]
    assert main(["backends", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["backends"]] == ["gpu_heavy", "spare"]


def test_probe_says_what_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(COMFYUI) as port:
        configure(monkeypatch, tmp_path, port)
        assert main(["backends", "probe"]) == 0
        models = "model-0, model-1, model-2, model-3, model-4 and 2 more"
        line = f"gpu_heavy  OK  ComfyUI 0.3.75; models: {models}; cancels: its own job, queued or running\n"
        assert capsys.readouterr().out == line
        assert main(["backends", "probe", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["backends"]
    assert {"ok": True, "kind": "ComfyUI", "version": "0.3.75", "error": None}.items() <= found.items()
    assert len(found["models"]) == 7


def test_probe_fails_for_a_class_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(LLAMA_CPP) as port:
        configure(monkeypatch, tmp_path, port)
        assert main(["backends", "probe"]) == 1
        assert capsys.readouterr().out.startswith("gpu_heavy  FAIL  gpu_heavy answered 404")
    assert main(["backends", "probe", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["backends"]
    assert (found["ok"], found["error"]) == (False, "gpu_heavy cannot be reached.")


def test_a_class_that_wants_a_login_is_said_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanting = Finding("invokeai", "InvokeAI", "6.14.2", (), "its own job", "a login: set IMAGES_INVOKEAI_USER")

    async def look(_one: object, _upstream: object, _timeout_s: float) -> Finding:
        return wanting

    monkeypatch.setattr(backends, "probe", look)
    monkeypatch.setattr(backends, "identify", look)
    monkeypatch.setattr(backends, "_PORTS", (1,))
    configure(monkeypatch, tmp_path, 1)
    assert main(["backends", "probe"]) == 1
    assert capsys.readouterr().out == "gpu_heavy  FAIL  InvokeAI 6.14.2; wants a login: set IMAGES_INVOKEAI_USER\n"
    assert main(["backends", "probe", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["backends"]
    assert (found["ok"], found["wants"]) == (False, wanting.wants)
    assert main(["backends", "discover"]) == 0
    printed = capsys.readouterr().out
    assert "# wants a login: set IMAGES_INVOKEAI_USER" in printed
    (tmp_path / "found.yaml").write_text(printed)
    monkeypatch.setenv("BACKENDS_CONFIG_PATH", str(tmp_path / "found.yaml"))
    assert main(["backends", "list"]) == 0, "still a backends file"


def test_what_discover_prints_is_a_backends_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(COMFYUI) as images, served(LLAMA_CPP) as chat, served(LLAMA_CPP) as more, served({}) as unknown:
        monkeypatch.setattr(backends, "_PORTS", (images, chat, more, unknown, 1))
        assert main(["backends", "discover"]) == 0
        printed = capsys.readouterr().out
        assert main(["backends", "discover", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["backends"]
        (tmp_path / "found.yaml").write_text(printed)
        monkeypatch.setenv("BACKENDS_CONFIG_PATH", str(tmp_path / "found.yaml"))
        assert main(["backends", "probe"]) == 0
    assert [one["name"] for one in found] == ["gpu_heavy", "openai", "openai_2"]
    assert f'base_url: "http://127.0.0.1:{images}"' in printed
    assert 'description: "ComfyUI 0.3.75"' in printed
    assert printed.endswith("# and set IMAGES_BACKEND=http_comfyui, so that it draws\n")


def test_discover_asks_loopback_alone_unless_it_is_told_a_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    async def note(one: Any, *_: Any) -> None:
        asked.append(one.base_url)

    monkeypatch.setattr(backends, "identify", note)
    monkeypatch.setattr(backends, "_PORTS", (7860,))
    assert main(["backends", "discover"]) == 1
    assert main(["backends", "discover", "--host", "ada2", "--host", "fd00::1"]) == 1
    assert asked[0] == "http://127.0.0.1:7860"
    assert sorted(asked[1:]) == ["http://[fd00::1]:7860", "http://ada2:7860"]
    assert "nothing answers on the usual ports of ada2, fd00::1" in capsys.readouterr().out
