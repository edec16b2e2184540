"""A box for the doctor: healthy, until a test makes it ill."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.backends.looking import Looked
from appliance.backends.probing import Finding
from appliance.config.classes import BackendClass
from appliance.config.errors import ConfigError
from appliance.config.loading import Configuration, load_configuration
from appliance.doctor.examining import examine
from appliance.doctor.patient import Free, Moment, Patient, Reply, Result
from appliance.doctor.registry import CHECKS
from tests.host.fake_machine import FakeSystem

NOON = 1_800_000_000.0
OLLAMA = Finding("ollama", "Ollama", "0.9", ("qwen",), "by closing the connection")


@dataclass(slots=True)
class Box:
    """What the doctor sees; `settings`: variables besides the ones that keep a box to itself."""

    tmp: Path
    settings: dict[str, str] = field(default_factory=dict)
    findings: Mapping[str, Finding | str] = field(default_factory=lambda: {"ollama": OLLAMA})
    replies: Mapping[str, Reply] = field(default_factory=dict)
    uid: int = field(default_factory=os.geteuid)
    room: Free = field(default_factory=lambda: Free(50_000_000_000, 1_000_000))
    moments: list[Moment] = field(default_factory=lambda: [Moment(NOON, 0.0), Moment(NOON + 1, 1.0)])
    system: FakeSystem = field(init=False)

    def __post_init__(self) -> None:
        self.state.mkdir(mode=0o700)
        (self.tmp / "box.env").touch(mode=0o600)
        (self.tmp / "root").mkdir()
        self.system = FakeSystem(self.tmp / "root")

    @property
    def state(self) -> Path:
        return self.tmp / "state"

    def patient(self) -> Patient:
        environ = {
            "STATE_DIRECTORY": str(self.state),
            "APPLIANCE_ENV_FILE": str(self.tmp / "box.env"),
            "GATEWAY_PORT": "0",
            "OBSERVABILITY_PORT": "0",
            **self.settings,
        }
        configuration: Configuration | ConfigError
        try:
            configuration = load_configuration(environ, etc=self.tmp)
        except ConfigError as error:
            configuration = error
        moments = iter(self.moments)
        return Patient(
            environ=environ,
            configuration=configuration,
            machine=self.system.machine,
            uid=self.uid,
            began=next(moments),
            now=lambda: next(moments),
            ask=self.replies.get,
            look=self._look,
            free=lambda _path: self.room,
        )

    def results(self, *names: str) -> dict[str, Result]:
        """What these checks find, by id; all without names."""
        chosen = {name: check for name, check in CHECKS.items() if not names or name in names}
        return {result.id: result for result in examine(self.patient(), chosen)}

    def _look(self, classes: tuple[BackendClass, ...]) -> list[Looked]:
        found = [(one, self.findings.get(one.name, "cannot be reached")) for one in classes]
        return [Looked(one, error=said) if isinstance(said, str) else Looked(one, finding=said) for one, said in found]
