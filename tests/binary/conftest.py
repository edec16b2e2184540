"""What the tests of the installed executable share: a container with it in, and files that pose as other releases."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.binary.container import Container, open_container
from tests.real.debian import NotAvailable
from tools.devtools.binary import seal

Pose = Callable[..., str]

POSING = """#!/bin/sh
case "$1" in
version) [ "$2" = --json ] && echo '{{"version": "{version}"}}' || echo {version} ;;
serve) {serve} ;;
*) exec /srv/appliance "$@" ;;
esac
exit $?
"""


@pytest.fixture
def box(tmp_path: Path, executable: Path) -> Iterator[Container]:
    """A clean machine; the file that a person copied there is /root/appliance."""
    try:
        with open_container(tmp_path) as container:
            container.put(executable, "/root/appliance")
            yield container
    except NotAvailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def installed(box: Container) -> Container:
    """The same, after `appliance install`."""
    box.ok("/root/appliance", "install")
    return box


@pytest.fixture
def pose(box: Container, executable: Path, tmp_path: Path) -> Pose:
    """Make a sealed file that says it is this version and serves as told; its path in the container."""
    box.put(executable, "/srv/appliance")  # where the service's user reaches it

    def make(version: str, serve: str = 'exec /srv/appliance "$@"') -> str:
        file = tmp_path / "posing"
        file.write_text(POSING.format(version=shlex.quote(version).strip("'"), serve=serve))
        seal(file)
        box.put(file, f"/root/appliance-{version}")
        return f"/root/appliance-{version}"

    return make
