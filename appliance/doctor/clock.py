"""The clock: signed URLs, journals and TLS believe it; deadlines do not."""

import time
from collections.abc import Iterator

from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result

ID = "clock"
FIRST_YEAR = 2025  # before this program was written
LAST_YEAR = 2099
MAX_STEP_S = 1.0  # within the examination, which takes seconds; NTP slews by at most 0.5 ms a second (adjtimex(2))
MAX_FUTURE_S = 60.0

_REMEDY = "set the clock and keep it right: `timedatectl set-ntp true`"


def check_clock(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    now = patient.now()
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now.wall_s))
    year = time.gmtime(now.wall_s).tm_year
    step_s = (now.wall_s - patient.began.wall_s) - (now.monotonic_s - patient.began.monotonic_s)
    ahead_s = _newest_line(configuration) - now.wall_s
    if not FIRST_YEAR <= year <= LAST_YEAR:
        yield Result(ID, "failure", f"it is {shown}: signed URLs and certificates fail", _REMEDY)
    elif abs(step_s) > MAX_STEP_S:
        yield Result(ID, "warning", f"{shown}; it jumped by {step_s:+.1f} s while this was looked at", _REMEDY)
    elif ahead_s > MAX_FUTURE_S:
        yield Result(ID, "warning", f"{shown}; the journal was written {ahead_s:.0f} s later than now", _REMEDY)
    else:
        yield Result(ID, "ok", shown)


def _newest_line(configuration: Configuration) -> float:
    try:
        return configuration.settings.request_log_path.stat().st_mtime
    except OSError:
        return 0.0  # no journal yet, or not for our eyes: `journals` says so
