"""The registry of checks, in the order in which they are made."""

from collections.abc import Mapping

from appliance.doctor.backends import check_backends
from appliance.doctor.clock import check_clock
from appliance.doctor.disk import check_disk
from appliance.doctor.journals import check_journals
from appliance.doctor.patient import Check
from appliance.doctor.ports import check_ports
from appliance.doctor.release import check_release
from appliance.doctor.state import check_state
from appliance.doctor.tokens import check_tokens

CHECKS: Mapping[str, Check] = {
    "state_directory": check_state,
    "disk_space": check_disk,
    "ports": check_ports,
    "tokens": check_tokens,
    "backends": check_backends,
    "release": check_release,
    "journals": check_journals,
    "clock": check_clock,  # last: a jump shows after some time
}
