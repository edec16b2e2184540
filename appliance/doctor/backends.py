"""Backends: of each configured class, whether it answers, what it is, and what its cancel can do."""

from collections.abc import Iterator

from appliance.backends.looking import Looked
from appliance.backends.probing import Finding
from appliance.config.classes import BackendClass, capabilities_of
from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result, Verdict

_NO_CANCEL = "none"  # how `probing` begins to say that a job runs to its end


def check_backends(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    classes = tuple(one for one in configuration.backends.classes.values() if one.configured)
    if not classes:
        yield Result("backends", "ok", "no class is configured")
        return
    for looked in patient.look(classes):
        yield _judge(looked)


def _judge(looked: Looked) -> Result:
    one, finding = looked.one, looked.finding
    place = f"backend.{one.name}"
    if finding is None:
        remedy = f"start it, or correct its base_url ({one.base_url}): `appliance backends discover` finds servers"
        verdict: Verdict = "failure" if one.required else "warning"
        return Result(place, verdict, looked.error or "nothing known answers", remedy)
    seen = f"{_title(finding)}; {', '.join(sorted(one.capabilities))}; cancels: {finding.cancel}"
    beyond = one.capabilities - capabilities_of(one.provider)
    if beyond:
        return Result(place, "warning", f"{seen}; it cannot do {', '.join(sorted(beyond))}", "correct its capabilities")
    if not finding.models and finding.provider not in {"mock_chat", "openai_images"}:
        return Result(place, "warning", f"{seen}: it lists none", "load or pull a model there")
    if _waits(one, finding):
        return Result(place, "warning", seen, "set `on_disconnect: finish`: a retry then gets what was drawn")
    return Result(place, "ok", seen)


def _waits(one: BackendClass, finding: Finding) -> bool:
    return one.on_disconnect == "cancel" and finding.cancel.startswith(_NO_CANCEL)


def _title(finding: Finding) -> str:
    if finding.provider == "mock_chat":
        return finding.kind  # a script has neither version nor list
    return f"{finding.kind} {finding.version or '(its version is not told)'}, {len(finding.models)} models"
