"""The real image server's program: fetched as an sdist, compiled once, kept outside the clone."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.sdserver.weights import ensure_weights
from tools.devtools.files import make_once
from tools.devtools.paths import cache_dir
from tools.devtools.toolbox import ensure_toolbox
from tools.devtools.venv import SetupFailed

SDIST = "stable-diffusion-cpp-python"
VERSION = "0.4.7"
SDIST_SHA256 = "998d1957260dd5ae4e18a8acc0c14b0a8757aaa9f96515197b6d5bbf46df9282"
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=OFF",  # a cache may outlive the processor it was built on
    "-DSD_WEBP=OFF",
    "-DSD_WEBM=OFF",
    "-DSD_SERVER_BUILD_FRONTEND=OFF",  # the web page would want node and a network
)
BUILD_TIMEOUT_S = 1800.0  # 105 s on two quiet cores


class CannotBuild(Exception):
    """There is no real image server on this machine; the message is the reason a skipped test gives."""


@dataclass(frozen=True, slots=True)
class SdServer:
    """Where the program and the three files of weights are."""

    program: Path
    weights: Path

    def arguments(self, *, port: int, text_encoder: bool = True) -> list[str]:
        """The command line. Without its text encoder it starts, looks healthy, and dies on the first picture."""
        files = ["--diffusion-model", str(self.weights / "flux-tiny.safetensors")]
        if text_encoder:
            files += ["--clip_l", str(self.weights / "clip_l-rand-q4_0.gguf")]
        files += ["--tae", str(self.weights / "tae-tiny.safetensors")]
        listen = ["-l", "127.0.0.1", "--listen-port", str(port)]
        quick = ["-t", "2", "--steps", "2", "--cfg-scale", "1.0", "--sampling-method", "euler"]
        return [str(self.program), *files, *listen, *quick]


def ensure_sd_server() -> SdServer:
    """Build what is missing, minutes the first time. Raises CannotBuild."""
    cache = cache_dir()
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("gcc") is None:
        raise CannotBuild("no gcc and g++ on PATH to compile it with")
    try:
        folder = make_once(cache / f"sd-server-{VERSION}-{_build_key(compiler)}", build_sd_server)
    except (OSError, SetupFailed, subprocess.SubprocessError) as problem:
        raise CannotBuild(f"{type(problem).__name__}: {problem}") from problem
    return SdServer(program=folder / "sd-server", weights=ensure_weights(cache))


def _build_key(compiler: str) -> str:
    """Whatever changes the program, or where it runs, changes its folder."""
    version = _run([compiler, "-dumpfullversion"], "the compiler does not say its version").strip()
    parts = [SDIST_SHA256, FLAGS, platform.machine(), *platform.libc_ver(), version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def build_sd_server(folder: Path) -> None:
    """Leave the program, and nothing else, in `folder`. Raises CannotBuild."""
    print(f"building {SDIST} {VERSION}'s sd-server, about two minutes", file=sys.stderr, flush=True)
    tools = ensure_toolbox()
    scratch = folder / "scratch"
    scratch.mkdir()
    source = _unpack(_fetch(tools, scratch), scratch)
    build = scratch / "build"
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    _run(["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *FLAGS], "cmake could not configure it", env)
    _run(["cmake", "--build", str(build), "--target", "sd-server", "-j2"], "it did not compile", env)
    (build / "bin" / "sd-server").rename(folder / "sd-server")
    shutil.rmtree(scratch)


def _fetch(tools: Path, scratch: Path) -> Path:
    """The sdist, held to its hash. pip asks an sdist for its metadata: the toolbox has the backend that answers."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{SDIST}=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    download = ["download", "--no-deps", "--no-binary", SDIST, "--no-build-isolation", "--require-hashes"]
    pip = [str(tools / "python"), "-m", "pip", "-q", "--disable-pip-version-check"]
    _run([*pip, *download, "--dest", str(scratch), "-r", str(wanted)], "pip could not download the sdist")
    return next(scratch.glob("*.tar.gz"))


def _unpack(sdist: Path, scratch: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    return next(scratch.glob("*/vendor/stable-diffusion.cpp"))


def _run(command: Sequence[str], failure: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["nice", *command], env=env, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise CannotBuild(f"{failure}: {' | '.join((done.stdout + done.stderr).strip().splitlines()[-3:])}")
    return done.stdout
