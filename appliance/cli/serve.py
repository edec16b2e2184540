"""`appliance serve`: load the configuration, then run. Its help; without options `__main__` starts by itself."""

import click

from appliance.starting import start


@click.command(help="Run the gateway until it is told to stop (SIGTERM or Ctrl-C).")
def serve() -> int:
    return start()
