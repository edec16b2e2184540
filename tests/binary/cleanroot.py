"""A clean Debian without Python: made once, kept outside the clone, never written to."""

import os
import subprocess
import sys
from pathlib import Path

from tests.real.debian import NotAvailable, find_program
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir

SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus"


def ensure_clean_root() -> Path:
    """The root, made once. Raises NotAvailable."""
    if os.geteuid() != 0:
        raise NotAvailable("containers want root")
    find_program("systemd-nspawn", package="systemd-container")
    mmdebstrap = find_program("mmdebstrap", package="mmdebstrap")

    def make(folder: Path) -> None:
        print("making a clean Debian root for the tests: about a minute", file=sys.stderr, flush=True)
        command = [
            str(mmdebstrap),
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
            SUITE,
            str(folder / "root.tar"),
        ]
        subprocess.run(["nice", *command], check=True, timeout=900, capture_output=True)
        (folder / "root").mkdir()
        subprocess.run(["tar", "-C", folder / "root", "-xf", folder / "root.tar"], check=True, timeout=300)
        (folder / "root.tar").unlink()

    try:
        return make_once(cache_dir() / f"debian-root-{SUITE}", make) / "root"
    except (OSError, subprocess.SubprocessError) as problem:
        raise NotAvailable(f"no clean root: {type(problem).__name__}") from problem
