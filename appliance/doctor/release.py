"""The release: what is installed is whole, what runs is what is installed, and this file is the one."""

from collections.abc import Iterator
from pathlib import Path

import appliance
from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result
from appliance.host.failures import HostFailure
from appliance.host.receipt import Release, load_receipt
from appliance.host.releasing import EXECUTABLE
from appliance.host.seal import BrokenSeal, check_seal
from appliance.host.standing import Standing, read_standing

_SELF = Path("/proc/self/exe")


def check_release(patient: Patient, _configuration: Configuration) -> Iterator[Result]:
    try:
        receipt = load_receipt(patient.machine)
        if receipt is None or receipt.current is None:
            yield Result("release", "ok", f"{appliance.__version__}, not installed as a service")
            return
        yield _look_at_file(patient, receipt.current)
        yield _look_at_service(read_standing(patient.machine))
    except HostFailure as failure:
        yield Result("release", "warning", str(failure), "ask as root: `sudo appliance doctor`")


def _look_at_file(patient: Patient, release: Release) -> Result:
    name, file = release.name, patient.machine.current / EXECUTABLE
    remedy = "install it again: `appliance upgrade FILE`, or `appliance rollback`"
    try:
        digest = check_seal(file)
        own = check_seal(_SELF) if patient.is_frozen else None
    except (BrokenSeal, OSError) as error:
        return Result("release.file", "failure", str(error), remedy)
    if digest != release.sha256:
        return Result("release.file", "failure", f"{file} is not what was installed as {name}", remedy)
    if own not in {None, digest}:
        return Result("release.file", "warning", f"{name} is installed; this file is another one", f"run {file}")
    return Result("release.file", "ok", f"{name}, whole")


def _look_at_service(standing: Standing) -> Result:
    service = standing.service
    if not service.running:
        return Result(
            "release.service", "failure", f"it does not run ({service.active})", "journalctl -u appliance -n 30"
        )
    if standing.same is False:
        remedy = "systemctl restart appliance"
        return Result("release.service", "failure", "what runs is not what is installed", remedy)
    if standing.unit_edited:
        remedy = "put changes into /etc/systemd/system/appliance.service.d/, so that upgrades bring theirs"
        return Result("release.service", "warning", "the unit was edited by hand", remedy)
    same = "as installed" if standing.same else "which release, only root may see"
    return Result("release.service", "ok", f"runs, {same}, restarted {service.restarts} times")
