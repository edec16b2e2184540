"""Examining: all checks, one after the other; none of them keeps the others from being made."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import trio

from appliance.backends.looking import Looked, look_at_all
from appliance.backends.probing import probe
from appliance.config.classes import BackendClass
from appliance.config.errors import ConfigError
from appliance.config.loading import Configuration, load_configuration
from appliance.doctor.patient import Check, Free, Moment, Patient, Reply, Result
from appliance.doctor.registry import CHECKS
from appliance.host.bootloader import is_frozen
from appliance.host.failures import HostFailure
from appliance.host.machine import Machine
from appliance.host.receipt import load_receipt

_CORRECT = "correct it until `appliance config check` is content; on an installed box ask as root"


def admit(environ: Mapping[str, str], machine: Machine, ask: Callable[[str], Reply | None]) -> Patient:
    """The box as its gateway sees it: on an installed one, with the service's directories and user."""
    user = _service_user(machine)
    seen = _as_the_service(environ, machine) if user is not None else dict(environ)
    configuration: Configuration | ConfigError
    try:
        configuration = load_configuration(seen)
    except ConfigError as error:
        configuration = error

    def look(classes: tuple[BackendClass, ...]) -> list[Looked]:
        if isinstance(configuration, ConfigError):
            return []
        timeout_s = configuration.settings.health_check_timeout_sec
        return trio.run(
            look_at_all, configuration.settings, classes, lambda one, upstream: probe(one, upstream, timeout_s)
        )

    return Patient(
        environ=seen,
        configuration=configuration,
        machine=machine,
        uid=os.geteuid() if user is None else user,
        began=_now(),
        now=_now,
        ask=ask,
        look=look,
        free=_free,
        is_frozen=is_frozen(),
    )


def examine(patient: Patient, checks: Mapping[str, Check] = CHECKS) -> tuple[Result, ...]:
    """Everything that was found, in the order of the registry. Looks, and changes nothing."""
    configuration = patient.configuration
    if isinstance(configuration, ConfigError):
        mistakes = [Result("configuration", "failure", str(one), _CORRECT) for one in configuration.mistakes]
        return (
            *mistakes,
            Result("others", "warning", f"{len(checks)} checks wait for a good configuration", "ask again"),
        )
    warned = [Result("configuration", "warning", warning, _CORRECT) for warning in configuration.warnings]
    changed = sum(origin != "default" for origin in configuration.origins.values())
    good = Result("configuration", "ok", f"{changed} of {len(configuration.origins)} settings set")
    found = [result for name, check in checks.items() for result in _contained(name, check, patient, configuration)]
    return (*(warned or [good]), *found)


def is_well(results: tuple[Result, ...]) -> bool:
    return all(result.verdict != "failure" for result in results)


def _contained(name: str, check: Check, patient: Patient, configuration: Configuration) -> Iterator[Result]:
    try:
        yield from check(patient, configuration)
    except OSError as error:
        yield Result(name, "failure", f"it cannot be looked at: {error}", "ask as root, or as the gateway's user")


def _service_user(machine: Machine) -> int | None:
    try:
        receipt = load_receipt(machine)
    except HostFailure:
        return None  # the check of the release says so
    user = machine.find_user() if receipt is not None and receipt.current is not None else None
    return user[0] if user is not None else None


def _as_the_service(environ: Mapping[str, str], machine: Machine) -> dict[str, str]:
    own = {
        "STATE_DIRECTORY": str(machine.state),
        "CREDENTIALS_DIRECTORY": str(machine.etc),
        "APPLIANCE_ENV_FILE": str(machine.etc / "appliance.env"),
    }
    return {**own, **environ}


def _now() -> Moment:
    return Moment(time.time(), time.monotonic())


def _free(path: Path) -> Free:
    counted = os.statvfs(path)
    return Free(shutil.disk_usage(path).free, counted.f_favail if counted.f_files else None)
