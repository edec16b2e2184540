"""The unit and the first settings: what the service is to systemd, and what an operator finds to fill in."""

from pathlib import Path

from appliance.host.bootloader import is_frozen
from appliance.host.machine import UNIT

DEFAULT_PREFIX = "/usr/local"


def unit_for(prefix: Path) -> str:
    """The text of `appliance.service`."""
    text = _read(UNIT)
    return text.replace(f"={DEFAULT_PREFIX}/lib/appliance/", f"={prefix}/lib/appliance/")


def first_settings(host: str, port: int) -> str:
    """The text of `appliance.env` on a fresh box: the example, with the address that was asked for."""
    text = _read("appliance.env.example")
    return text.replace("#GATEWAY_HOST=0.0.0.0\n", f"GATEWAY_HOST={host}\n").replace(
        "#GATEWAY_PORT=8800\n", f"GATEWAY_PORT={port}\n"
    )


def _read(name: str) -> str:
    """A file of the tree's folder `systemd`, which the build puts into the package."""
    package = Path(__file__).parent.parent
    folder = package if is_frozen() else package.parent
    return (folder / "systemd" / name).read_text(encoding="utf-8")
