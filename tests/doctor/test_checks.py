"""The doctor: a healthy box is well; of each illness it knows the name and the remedy."""

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.backends.probing import Finding
from appliance.config.errors import ConfigError
from appliance.doctor import state as state_check
from appliance.doctor.backends import check_backends
from appliance.doctor.examining import admit, examine, is_well
from appliance.doctor.patient import Free, Moment, Reply
from appliance.doctor.registry import CHECKS
from appliance.host.machine import Ran
from appliance.host.receipt import Receipt, Release
from appliance.storage.chain import GENESIS, make_draft, seal
from tests.doctor.box import NOON, OLLAMA, Box
from tools.devtools.binary import seal as seal_file


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_a_healthy_box_is_well(box: Box) -> None:
    results = box.results()
    assert {one.verdict for one in results.values()} == {"ok"}
    assert all(one.remedy is None for one in results.values())
    assert is_well(tuple(results.values()))


def test_all_that_is_not_well_has_a_remedy_and_a_failure_is_not_well(box: Box) -> None:
    box.findings, box.room, box.uid = {}, Free(1, None), os.geteuid() + 1
    results = box.results()
    assert all((one.remedy is None) == (one.verdict == "ok") for one in results.values())
    assert not is_well(tuple(results.values()))


def test_mistakes_of_the_configuration_are_all_named_and_the_rest_waits(box: Box) -> None:
    box.settings = {"GATEWAY_PORT": "x", "DRAIN_TIMEOUT_SEC": "y"}
    results = examine(box.patient())
    assert [one.id for one in results] == ["configuration", "configuration", "others"]
    assert not is_well(results)


def test_what_config_check_warns_of_is_a_warning(box: Box) -> None:
    box.settings = {"GATEWAY_PROT": "1"}
    found = box.results("clock")["configuration"]
    assert (found.verdict, "did you mean GATEWAY_PORT" in found.seen) == ("warning", True)


def test_a_state_directory_that_is_not_there_yet_is_fine(box: Box) -> None:
    box.state.rmdir()
    assert "the first start makes it" in box.results("state_directory")["state_directory"].seen
    assert not box.state.exists()


def test_a_state_directory_that_cannot_be_made_is_a_failure(box: Box) -> None:
    (box.tmp / "file").touch()
    box.settings = {"STATE_DIRECTORY": str(box.tmp / "file" / "state")}
    found = box.results("state_directory")
    assert "failure" in {one.verdict for one in found.values()}


def test_a_state_directory_that_is_a_file_is_a_failure(box: Box) -> None:
    box.state.rmdir()
    box.state.touch()
    assert "is no directory" in box.results("state_directory")["state_directory"].seen


def test_a_state_directory_of_another_user_is_a_failure(box: Box) -> None:
    box.uid += 1
    found = box.results("state_directory")["state_directory"]
    assert (found.verdict, found.remedy) == ("failure", f"chown -R {box.uid} {box.state}")


def test_a_state_directory_that_others_may_read_is_a_warning(box: Box) -> None:
    box.state.chmod(0o755)
    found = box.results("state_directory")["state_directory"]
    assert (found.verdict, found.remedy) == ("warning", f"chmod 700 {box.state}")


def test_a_state_directory_that_cannot_be_written_is_a_failure(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_check.os, "write", full)
    found = box.results("state_directory")["state_directory"]
    assert (found.verdict, "No space left" in found.seen) == ("failure", True)
    assert list(box.state.iterdir()) == []


@pytest.mark.parametrize(
    ("room", "verdict"),
    [
        (Free(99_999_999, None), "failure"),
        (Free(50_000_000_000, 999), "failure"),
        (Free(100_000_000, 1_000), "warning"),
        (Free(50_000_000_000, None), "ok"),
    ],
)
def test_room_on_the_disk_is_judged_by_what_may_be_written(box: Box, room: Free, verdict: str) -> None:
    box.room = room
    assert box.results("disk_space")["disk_space"].verdict == verdict


def test_pictures_elsewhere_are_looked_at_there(box: Box) -> None:
    box.settings, box.room = {"UI_IMAGE_DIR": str(box.tmp / "pictures")}, Free(100_000_000, None)
    found = box.results("disk_space")
    assert (found["disk_space"].verdict, found["disk_space.images"].verdict) == ("ok", "warning")


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Moment(NOON, 0.0), Moment(NOON + 30, 30.0), "ok"),
        (Moment(NOON, 0.0), Moment(NOON + 32, 30.0), "warning"),
        (Moment(NOON, 0.0), Moment(NOON - 2, 1.0), "warning"),
        (Moment(0.0, 0.0), Moment(1.0, 1.0), "failure"),
        (Moment(9e9, 0.0), Moment(9e9, 0.0), "failure"),
    ],
)
def test_a_clock_that_is_wrong_or_jumps_is_noticed(box: Box, first: Moment, second: Moment, verdict: str) -> None:
    box.moments = [first, second]
    assert box.results("clock")["clock"].verdict == verdict


def test_a_journal_from_the_future_means_that_the_clock_went_back(box: Box) -> None:
    journal = box.state / "requests.jsonl"
    journal.touch()
    os.utime(journal, (NOON + 3600, NOON + 3600))
    assert "later than now" in box.results("clock")["clock"].seen


def with_port(box: Box, port: int, reply: Reply | None) -> Any:
    box.settings = {"GATEWAY_PORT": str(port)}
    box.replies = {f"http://127.0.0.1:{port}/health": reply} if reply else {}
    return box.results("ports")["port.api"]


@pytest.mark.parametrize(
    ("reply", "verdict", "words"),
    [
        (Reply(200, "req-" + "0" * 24, b""), "ok", "a gateway serves"),
        (Reply(503, "req-" + "0" * 24, b""), "ok", "draining"),
        (Reply(200, None, b""), "failure", "another program"),
        (Reply(200, "req-x", b""), "failure", "another program"),
        (None, "failure", "another program"),
    ],
)
def test_a_port_that_is_taken_is_ours_or_anothers(box: Box, reply: Reply | None, verdict: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = with_port(box, listener.getsockname()[1], reply)
    assert (found.verdict, words in found.seen) == (verdict, True)


def test_a_port_that_is_free_is_said_to_be(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "is free" in with_port(box, port, None).seen


def test_an_address_of_another_machine_is_a_failure(box: Box) -> None:
    box.settings = {"OBSERVABILITY_HOST": "192.0.2.1", "OBSERVABILITY_PORT": "9"}
    found = box.results("ports")["port.observability"]
    assert (found.verdict, "OBSERVABILITY_HOST" in (found.remedy or "")) == ("failure", True)


@pytest.mark.parametrize(("mode", "verdict"), [(0o600, "ok"), (0o640, "failure"), (0o602, "failure")])
def test_files_that_hold_secrets_are_for_their_owner_alone(box: Box, mode: int, verdict: str) -> None:
    (box.state / "token").touch(mode=0o600)
    (box.state / "token").chmod(mode)
    (box.tmp / "box.env").chmod(mode)
    found = box.results("tokens")
    assert (found["secret_file.own_token"].verdict, found["secret_file.env"].verdict) == (verdict, verdict)


def test_a_secret_that_belongs_to_another_user_is_a_failure(box: Box) -> None:
    token = box.state / "token"
    token.touch(mode=0o600)
    if os.geteuid() == 0:  # what is root's is fine
        os.chown(token, 4711, -1)
    else:
        box.uid += 1
    assert "another user's" in box.results("tokens")["secret_file.own_token"].seen


def test_an_env_file_that_is_a_device_is_no_secret(box: Box) -> None:
    box.settings = {"APPLIANCE_ENV_FILE": "/dev/null", "GATEWAY_BEARER_TOKEN": "x" * 40}
    found = box.results("tokens")
    assert "secret_file.env" not in found
    assert found["tokens"].seen.startswith("1, from")


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (OLLAMA, "ok", "Ollama 0.9, 1 models; chat, embeddings; cancels: by closing"),
        (replace(OLLAMA, version=None), "ok", "its version is not told"),
        (replace(OLLAMA, models=()), "warning", "lists none"),
        (replace(OLLAMA, cancel="none: it draws to the end"), "warning", "none: it draws"),
        ("ollama cannot be reached.", "warning", "cannot be reached"),
    ],
)
def test_a_backend_is_asked_what_it_is(box: Box, finding: Finding | str, verdict: str, words: str) -> None:
    box.findings = {"ollama": finding}
    found = box.results("backends")["backend.ollama"]
    assert (found.verdict, words in found.seen) == (verdict, True)


def test_a_backend_that_cannot_do_what_is_said_of_it_is_a_warning(box: Box) -> None:
    configured = box.patient().configuration
    assert not isinstance(configured, ConfigError)
    one = replace(configured.backends.classes["ollama"], capabilities=frozenset({"images"}))
    changed = replace(configured, backends=replace(configured.backends, classes={"ollama": one}))
    (found,) = check_backends(replace(box.patient(), configuration=changed), changed)
    assert (found.verdict, "it cannot do images" in found.seen) == ("warning", True)


def test_a_required_backend_that_does_not_answer_is_a_failure(box: Box) -> None:
    text = "backends: {one: {base_url: 'http://x', provider: ollama, supported_capabilities: [chat], required: true}}"
    (box.tmp / "backends.yaml").write_text(text)
    assert box.results("backends")["backend.one"].verdict == "failure"


def test_no_backend_at_all_is_fine(box: Box) -> None:
    text = "backends: {one: {base_url: '', provider: ollama, supported_capabilities: [chat]}}"
    (box.tmp / "backends.yaml").write_text(text)
    assert box.results("backends")["backends"].verdict == "ok"


def chain(count: int) -> list[bytes]:
    link, lines = GENESIS, []
    for number in range(count):
        sealed = seal(make_draft({"n": number}), link)
        link = sealed.link
        lines.append(sealed.line if sealed.line.endswith(b"\n") else sealed.line + b"\n")
    return lines


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda lines: lines, "ok"),
        (lambda lines: [*lines, b'{"n":'], "warning"),
        (lambda lines: [lines[0], lines[1].replace(b'"n":1', b'"n":7'), lines[2]], "failure"),
        (lambda lines: [lines[0], lines[2]], "failure"),
    ],
)
def test_the_end_of_a_chained_journal_is_verified(box: Box, spoil: Any, verdict: str) -> None:
    data = b"".join(spoil(chain(3)))
    for path in (box.state / "tools" / "invocations.jsonl", box.state / "agent" / "run.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    box.settings = {"TOOLS_LOG_PATH": "tools/invocations.jsonl"}
    found = box.results("journals")
    assert found["journal.tools"].verdict == verdict
    assert found["journal.agents_newest_run"].verdict == verdict


@pytest.mark.parametrize(
    ("text", "verdict"), [('{"a":1}\n', "ok"), ('{"a":1}\n{"a"', "warning"), ('{"a":1}\n[1]\n{"a":1}\n', "failure")]
)
def test_the_end_of_the_request_journal_is_read(box: Box, text: str, verdict: str) -> None:
    (box.state / "requests.jsonl").write_text(text)
    assert box.results("journals")["journal.requests"].verdict == verdict


def test_journals_that_may_not_be_read_are_not_said_to_be_empty(box: Box) -> None:
    (box.state / "agent").write_text("no directory")
    (box.state / "requests.jsonl").mkdir()
    found = box.results("journals")
    assert found["journal.agents_newest_run"].verdict == "warning"
    assert found["journal.requests"].verdict == "warning"


def test_only_the_end_of_a_long_journal_is_read(box: Box) -> None:
    (box.state / "requests.jsonl").write_bytes(b"nonsense\n" + b'{"ab":1}\n' * 150_000)  # the end begins within a line
    assert box.results("journals")["journal.requests"].verdict == "ok"


def install(box: Box) -> Path:
    """As if this release had been installed; the path of its file."""
    machine = box.system.machine
    file = machine.releases / "r" / "appliance"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"0.1.0\n" + b"x" * 200)
    seal_file(file)
    machine.current.symlink_to(file.parent)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    machine.etc.mkdir(parents=True, exist_ok=True)
    machine.receipt.write_bytes(Receipt(prefix="/usr/local", current=Release("r", "0.1.0", digest)).to_bytes())
    return file


def test_an_installed_release_that_runs_is_well(box: Box) -> None:
    install(box)
    box.system.active = True
    found = box.results("release")
    assert (found["release.file"].verdict, found["release.service"].verdict) == ("ok", "ok")


def test_a_service_that_does_not_run_is_a_failure(box: Box) -> None:
    install(box)
    assert box.results("release")["release.service"].verdict == "failure"


def test_a_service_that_runs_something_else_is_a_failure(box: Box) -> None:
    install(box)
    box.system.active = True
    machine = box.system.machine

    def run(command: Sequence[str]) -> Ran:
        ran = machine.run(command)
        return replace(ran, output=ran.output.replace("MainPID=0", f"MainPID={os.getpid()}"))

    box.system.machine = replace(machine, run=run)
    found = box.results("release")["release.service"]
    assert (found.verdict, found.remedy) == ("failure", "systemctl restart appliance")


def test_a_unit_that_was_edited_is_a_warning(box: Box) -> None:
    install(box)
    box.system.active = True
    box.system.machine.unit.write_text("[Service]\n")
    assert box.results("release")["release.service"].verdict == "warning"


def test_a_release_that_was_changed_is_a_failure(box: Box) -> None:
    file = install(box)
    file.write_bytes(file.read_bytes().replace(b"xx", b"xy", 1))
    assert "damaged" in box.results("release")["release.file"].seen
    file.write_bytes(b"0.2.0\n" + b"y" * 200)
    seal_file(file)
    assert "not what was installed" in box.results("release")["release.file"].seen


def test_a_receipt_that_cannot_be_read_is_a_warning(box: Box) -> None:
    install(box)
    box.system.machine.receipt.write_text("{")
    assert box.results("release")["release"].verdict == "warning"


def test_a_check_that_cannot_look_keeps_no_other_from_looking(box: Box) -> None:
    def blind(*_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    configured = box.patient()
    results = examine(replace(configured, free=blind))
    assert {one.id: one.verdict for one in results}["disk_space"] == "failure"
    assert results[-1].id == "clock"
    assert json.dumps(results[-1].seen)


def test_an_installed_box_is_looked_at_as_its_service_sees_it(box: Box) -> None:
    install(box)
    box.system.user = (1234, 1234)
    machine = box.system.machine
    patient = admit({"LANG": "C"}, machine, lambda _url: None)
    assert patient.uid == 1234
    assert patient.environ["STATE_DIRECTORY"] == str(machine.state)
    assert patient.environ["CREDENTIALS_DIRECTORY"] == str(machine.etc)


def test_a_box_where_nothing_is_installed_is_looked_at_as_who_asks(box: Box) -> None:
    environ = {"STATE_DIRECTORY": str(box.state), "APPLIANCE_ENV_FILE": "/dev/null"}
    patient = admit(environ, box.system.machine, lambda _url: None)
    assert (patient.uid, dict(patient.environ)) == (os.geteuid(), environ)
    assert patient.free(box.state).size_bytes > 0


def test_every_check_has_its_row_and_is_kept_apart_from_its_siblings(box: Box) -> None:
    root = Path(__file__).parents[2]
    page, rules = (root / "docs" / "doctor.md").read_text(), (root / "pyproject.toml").read_text()
    found = {one.partition(".")[0] for one in box.results()}
    assert {name for name in found if f"`{name}" not in page} == set()
    assert {check.__module__ for check in CHECKS.values() if f'"{check.__module__}"' not in rules} == set()
