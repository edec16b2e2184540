"""The installed service under real systemd: it drains, comes back however it dies, and its log is clean."""

import json
import time
from typing import Any

import pytest

from tests.binary.container import Container, read_until

pytestmark = pytest.mark.real

SCRIPT = {
    "models": ["mock"],
    "rules": [{"answer": {"text": "one two three four five", "first_byte_delay_s": 0.5, "chunk_delay_s": 0.5}}],
}
STREAM = """
import json, sys, urllib.request
body = {"model": "mock", "stream": True, "messages": [{"role": "user", "content": "a secret prompt"}]}
headers = {"Authorization": f"Bearer {sys.argv[1]}", "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8800/v1/chat/completions", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request, timeout=60) as answer:
    print("begun", flush=True)
    print("ended", answer.read().decode().split("\\n\\n")[-2], flush=True)
"""


def configure(box: Container, **settings: str) -> None:
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    box.write("/etc/appliance/appliance.env", box.read("/etc/appliance/appliance.env") + lines)
    box.ok("systemctl", "restart", "appliance")


def wait_serving(box: Container, restarts: int) -> None:
    box.wait_for("NRestarts", str(restarts))
    box.wait_for("ActiveState", "active")
    assert box.ask("GET", "/health") == (200, {"ok": True})


def test_a_stream_that_runs_is_finished_before_a_stop_though_the_unit_allows_less(installed: Container) -> None:
    installed.write("/etc/systemd/system/appliance.service.d/stop.conf", "[Service]\nTimeoutStopSec=1\n")
    installed.ok("systemctl", "daemon-reload")
    installed.write("/etc/appliance/script.json", json.dumps(SCRIPT))
    configure(installed, MOCK_CHAT_SCRIPT="/etc/appliance/script.json")
    with installed.start_python(STREAM, installed.token()) as client:
        read_until(client, "begun")
        installed.ok("systemctl", "stop", "appliance")
        assert read_until(client, "ended").split() == ["ended", "data:", "[DONE]"]
    assert installed.show("Result") == "success"
    journal = installed.journal()
    assert '"event": "gateway_draining"' in journal
    assert '"event": "gateway_stopped"' in journal
    line = json.loads(installed.read("/var/lib/appliance/requests.jsonl").splitlines()[-1])
    assert (line["route"], line["outcome"]) == ("/v1/chat/completions", "completed")


def test_kill_9_of_either_process_is_followed_by_a_new_one(installed: Container) -> None:
    bootloader, gateway = installed.pids()
    installed.kill(gateway, "KILL")
    wait_serving(installed, 1)
    bootloader, gateway = installed.pids()
    assert str(bootloader) == installed.show("MainPID")
    installed.kill(bootloader, "KILL")
    wait_serving(installed, 2)
    assert set(installed.pids()).isdisjoint({bootloader, gateway})


def test_a_gateway_that_is_stopped_is_killed_by_the_watchdog_and_comes_back(installed: Container) -> None:
    installed.write("/etc/systemd/system/appliance.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    installed.ok("systemctl", "daemon-reload")
    installed.ok("systemctl", "restart", "appliance")
    time.sleep(5)  # it is fed: nothing happens
    assert installed.show("NRestarts") == "0"
    _, gateway = installed.pids()
    installed.kill(gateway, "STOP")
    wait_serving(installed, 1)
    assert "Watchdog timeout" in installed.journal()


def test_a_reload_reads_the_configuration_and_says_so(installed: Container) -> None:
    env = installed.read("/etc/appliance/appliance.env")
    main = installed.show("MainPID")
    installed.write("/etc/appliance/appliance.env", env + "IP_ALLOWLIST=192.0.2.1\n")
    installed.ok("systemctl", "reload", "appliance")
    assert installed.ask("GET", "/v1/models")[0] == 403
    installed.write("/etc/appliance/appliance.env", env + "IP_ALLOWLIST=nonsense\n")
    installed.ok("systemctl", "reload", "appliance")
    assert installed.ask("GET", "/v1/models")[0] == 403
    assert "the last reload failed: " in installed.show("StatusText")
    installed.write("/etc/appliance/appliance.env", env)
    installed.ok("systemctl", "reload", "appliance")
    assert installed.ask("GET", "/v1/models")[0] == 200
    assert (installed.show("StatusText"), installed.show("MainPID")) == ("Serving http://127.0.0.1:8800", main)


def test_a_mistake_in_the_configuration_is_not_tried_again_and_again(installed: Container) -> None:
    installed.write("/etc/appliance/appliance.env", "GATEWAY_PORT=many\n")
    installed.run("systemctl", "restart", "appliance")
    installed.wait_for("ActiveState", "failed")
    assert (installed.show("NRestarts"), installed.show("ExecMainStatus")) == ("0", "78")
    assert "GATEWAY_PORT" in installed.journal()


def test_its_log_is_json_events_and_holds_no_token_and_no_prompt(installed: Container) -> None:
    installed.ask("POST", "/v1/images/generations", body={"prompt": "a secret prompt", "size": "64x48"})
    installed.ok("systemctl", "stop", "appliance")
    journal = installed.journal()
    events = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    assert {"gateway_draining", "gateway_stopped"} <= {event["event"] for event in events}
    assert installed.token() not in journal
    assert "a secret prompt" not in journal


def test_the_sandbox_holds(installed: Container) -> None:
    _, gateway = installed.pids()
    status = dict(line.split(":\t", 1) for line in installed.read_proc(gateway, "status").splitlines() if ":\t" in line)
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    mounts = installed.read_proc(gateway, "mountinfo")
    assert " /run/appliance-exec " in mounts
    assert "_MEI" not in installed.ok("ls", "/run/appliance-exec", "/tmp")


def test_tools_run_in_the_sandbox(installed: Container) -> None:
    configure(
        installed,
        TOOLS_ALLOW_SHELL="true",
        TOOLS_SHELL_ALLOWED_CMDS="id,printenv,sleep",
        TOOLS_SHELL_TIMEOUT_SEC="1",
        TOOLS_ALLOW_SYSTEM_INFO="true",
        TOOLS_ALLOW_FS="true",
        TOOLS_FS_ROOTS="/usr/share",
    )

    def run(name: str, **arguments: str) -> Any:
        status, answer = installed.ask("POST", f"/v1/tools/{name}", body={"arguments": arguments})
        assert status == 200, answer
        return answer

    assert run("shell", cmd="id -un")["stdout"] == "appliance\n"
    assert "LD_LIBRARY_PATH" not in run("shell", cmd="printenv")["stdout"]
    assert run("shell", cmd="sleep 60")["error_type"] == "timeout"
    assert len(installed.pids()) == 2, "nothing is left of it"
    assert run("read_file", path="/usr/share/base-files/motd")["ok"] is True
    assert run("system_info")["ok"] is True
    replay = run("noop", text="a")["replay_id"]
    assert installed.ask("GET", f"/v1/tools/replay/{replay}")[0] == 200
