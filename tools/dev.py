#!/usr/bin/env python3
"""The developer's one command: makes its own `.venv` from the lock, then runs, tests, checks, locks or measures."""

import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

USAGE = """usage: python3 tools/dev.py COMMAND [ARGUMENTS]

  setup                  make .venv from packaging/dev.lock; quick when it is current
  run [ARGS]             start the appliance: `appliance serve ARGS`
  test [--all] [ARGS]    the fast suite, ARGS go to pytest; --cov shows the coverage;
                         --all adds the gates, the real backends and the executable
  check                  every gate: types, lint, format, layers, locks
  bench [NAMES]          the measurements in tools/bench, all of them or those named
  binary                 build the executable, dist/appliance, from the locks
  real                   prepare the cached real image server (minutes, once)
  lock [--upgrade]       make the files packaging/*.lock again
  man                    write packaging/appliance.1 from the table of commands
"""


def main(argv: "list[str]") -> int:
    if sys.version_info < (3, 11):
        return again_with_newer_python(argv)
    sys.path[0] = ROOT  # this file is started as a script, and found its own folder there
    from tools.devtools import commands  # noqa: PLC0415 - it needs the Python that was just checked for

    return commands.main(argv, USAGE)


def again_with_newer_python(argv: "list[str]") -> int:
    """This Python is too old to read the rest of the tools; nothing newer may be used in this file."""
    probe = "import sys; sys.exit(sys.version_info < (3, 11))"
    for name in ("python3.11", "python3.12", "python3.13", "python3.14"):
        found = shutil.which(name)
        # A version manager's stand-in is found too, and does not run.
        if found and subprocess.call([found, "-c", probe], stderr=subprocess.DEVNULL) == 0:
            os.execv(found, [found, os.path.abspath(__file__)] + argv)
    sys.stderr.write("the appliance needs Python 3.11 or later; this is %s %s\n" % (sys.executable, sys.version[:6]))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
