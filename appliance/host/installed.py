"""Installed: the machine as its own receipt describes it."""

from dataclasses import replace
from pathlib import Path

from appliance.host.machine import Machine
from appliance.host.receipt import load_receipt


def installed_machine(machine: Machine | None = None) -> Machine:
    """The machine with the prefix that was installed to; the usual one if nothing is. Raises HostFailure."""
    found = machine or Machine()
    receipt = load_receipt(found)
    return found if receipt is None else replace(found, prefix=Path(receipt.prefix))
