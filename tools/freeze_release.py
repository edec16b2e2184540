#!/usr/bin/env python3
"""Freeze a release, verify one, compare two. Needs a bare Python 3.11 and this tree, nothing else."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.verification.release import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
