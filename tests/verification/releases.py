"""A small executable of PyInstaller's form, made in memory, and a small tree: what release tests freeze."""

import importlib.util
import json
import marshal
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

MODULES = {"appliance": b"code of appliance", "appliance.cli": b"code of cli"}
BUILD = {
    "schema": "appliance_build.v1",
    "version": "1.2.3",
    "commit": "c" * 40,
    "tree": "d" * 40,
    "changed": False,
    "python": "CPython 3.11.7",
    "machine": "x86_64",
    "glibc_floor": "2.35",
    "distributions": [
        {"name": "trio", "version": "0.30", "licence": "MIT OR Apache-2.0", "sha256": "a" * 64, "use": "runtime"},
        {"name": "pyinstaller", "version": "6.22", "licence": None, "sha256": "b" * 64, "use": "build"},
    ],
    "libraries": [
        {"name": "libssl.so.3", "sha256": "e" * 64, "package": "libssl3 3.0.15"},
        {"name": "run", "sha256": "f" * 64, "package": None},
    ],
}


def executable(folder: Path, *, modules: Mapping[str, bytes] = MODULES, extra: bytes = b"data") -> Path:
    """One that starts: a script that answers `{}` to every question, with the archive behind it."""
    entries = {"appliance/buildinfo.json": json.dumps(BUILD).encode(), "extra": extra, "PYZ.pyz": pyz(modules)}
    body, toc = b"", b""
    for name, content in entries.items():
        packed = content if name == "PYZ.pyz" else zlib.compress(content)
        row = struct.pack("!IIIIBc", 18 + len(name) + 1, len(body), len(packed), len(content), packed != content, b"x")
        toc += row + name.encode() + b"\0"
        body += packed
    length = len(body) + len(toc) + 88
    cookie = struct.pack("!8sIIII64s", b"MEI\014\013\012\013\016", length, len(body), len(toc), 311, b"libpython")
    file = folder / "appliance"
    file.write_bytes(b"#!/bin/sh\necho '{}'\nexit 0\n" + body + toc + cookie + b"appliance-sha256:" + b"0" * 64 + b"\n")
    file.chmod(0o755)
    return file


def pyz(modules: Mapping[str, bytes]) -> bytes:
    body, rows = b"", []
    for name, code in modules.items():
        packed = zlib.compress(code)
        rows.append((name, (0, 12 + len(body), len(packed))))
        body += packed
    rows.append(("a_namespace", (3, 12, 0)))
    return b"PYZ\0" + importlib.util.MAGIC_NUMBER + struct.pack("!i", 12 + len(body)) + body + marshal.dumps(rows)


def tree(folder: Path) -> Path:
    """A source tree with one lock."""
    (folder / "appliance").mkdir(parents=True)
    (folder / "packaging").mkdir()
    (folder / "appliance" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (folder / "appliance" / "__main__.py").write_text("print('{}')\n")
    lock = f"trio==0.30 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\nh11==0.16\n"
    (folder / "packaging" / "requirements.lock").write_text(lock)
    return folder
