"""Starting: what `appliance serve` does. Bad configuration is said before 0.2 s of imports."""

import os


def start() -> int:
    """Load the configuration, then run until told to stop; the exit code. Raises ConfigError."""
    from appliance.config.loading import load_configuration  # noqa: PLC0415 -- `serve --help` does without

    configuration = load_configuration(os.environ)
    from appliance.serve import run  # noqa: PLC0415 -- bad configuration does without

    return run(configuration)
