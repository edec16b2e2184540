"""`appliance serve`: load the configuration, then run."""

# ruff: noqa: PLC0415 -- bad configuration is said before half a second of imports

import os

import click


@click.command(help="Run the gateway until it is told to stop (SIGTERM or Ctrl-C).")
def serve() -> int:
    from appliance.config.loading import load_configuration

    configuration = load_configuration(os.environ)
    from appliance.serve import run

    return run(configuration)
