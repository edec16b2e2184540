"""The unit: systemd's description of the service, for the prefix that the box has."""

from pathlib import Path

from appliance.host.bootloader import is_frozen
from appliance.host.machine import UNIT

DEFAULT_PREFIX = "/usr/local"


def unit_for(prefix: Path) -> str:
    """The text of `appliance.service`."""
    package = Path(__file__).parent.parent
    folder = package if is_frozen() else package.parent  # the build puts the folder `systemd` into the package
    text = (folder / "systemd" / UNIT).read_text(encoding="utf-8")
    return text.replace(f"={DEFAULT_PREFIX}/lib/appliance/", f"={prefix}/lib/appliance/")
