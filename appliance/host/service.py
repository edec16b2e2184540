"""The service: started and waited for; what it says where it does not come up."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.host.failures import Exit, HostFailure
from appliance.host.machine import UNIT, Machine

READY_TIMEOUT_S = 60.0
POLL_S = 0.1
MAX_RESTARTS = 2  # one may be an accident; more is a release that does not run here
SHOWN_LINES = 15


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the manager says of the unit."""

    active: str
    sub: str
    result: str
    restarts: int
    main_pid: int
    status: str
    enabled: bool

    @property
    def running(self) -> bool:
        return self.active == "active"


def read_state(machine: Machine) -> ServiceState:
    """Ask the manager; a unit that it does not know is `inactive`."""
    names = "ActiveState,SubState,Result,NRestarts,MainPID,StatusText,UnitFileState"
    lines = machine.systemctl("show", UNIT, "--property", names).output.splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)

    def number(name: str) -> int:
        return int(said.get(name, "0") or 0)

    return ServiceState(
        active=said.get("ActiveState", "inactive"),
        sub=said.get("SubState", "dead"),
        result=said.get("Result", ""),
        restarts=number("NRestarts"),
        main_pid=number("MainPID"),
        status=said.get("StatusText", ""),
        enabled=said.get("UnitFileState") == "enabled",
    )


def start_service(
    machine: Machine, *, sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic
) -> None:
    """(Re)start the unit and wait until it says that it is ready. Raises HostFailure with its last lines."""
    machine.systemctl("daemon-reload")
    machine.systemctl("reset-failed", UNIT)
    ran = machine.systemctl("restart", "--no-block", UNIT)
    if ran.code != 0:
        raise HostFailure(f"systemctl restart: {ran.output}", Exit.SOFTWARE)
    end = now() + READY_TIMEOUT_S
    while now() < end:
        state = read_state(machine)
        if state.running:
            return
        if state.active == "failed" or state.restarts > MAX_RESTARTS:
            raise HostFailure(f"the service does not start ({state.result}):\n{last_lines(machine)}", Exit.SOFTWARE)
        sleep(POLL_S)
    raise HostFailure(f"the service was not ready in {READY_TIMEOUT_S:g} s:\n{last_lines(machine)}", Exit.SOFTWARE)


def last_lines(machine: Machine) -> str:
    """The end of the unit's log."""
    ran = machine.run(["journalctl", "-u", UNIT, "-n", str(SHOWN_LINES), "--no-pager", "-o", "cat"])
    return "\n".join(f"  {line}" for line in ran.output.splitlines())
