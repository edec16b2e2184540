"""Appliance: a local AI gateway in one executable."""

__version__ = "0.1.0"
