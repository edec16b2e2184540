"""Things that are made once and then found: guarded by a lock file, complete or absent."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to make `target`; a second process waits here until the first is done or dead."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(target.name + ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder `target`, made by `make(folder)` if it is not there; an interrupted making leaves nothing."""
    if target.is_dir():
        return target
    with exclusive(target):
        if target.is_dir():
            return target
        for left_over in target.parent.glob(f".{target.name}.*"):
            shutil.rmtree(left_over)  # its maker was killed: we hold what it held
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            make(scratch)
            scratch.chmod(0o755)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def replace_text(target: Path, text: str) -> None:
    """Write `target` so that a reader sees the old text or the new one, never a part."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(target)
