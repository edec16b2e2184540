"""A small file system of its own, for disks that are full or read-only. Mounting takes root."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE_BYTES = 1_048_576


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "tmpfs", str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk takes root")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)
