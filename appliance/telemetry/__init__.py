"""Telemetry: what the process says about itself, as log events and as metrics."""
