"""Installing: from a file that a person copied here to a service that draws its first picture."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from appliance.host.bootloader import is_frozen
from appliance.host.candidate import Candidate, is_older
from appliance.host.changes import Changes, Made, open_changes
from appliance.host.failures import Exit, HostFailure
from appliance.host.locking import only_one, require_systemd
from appliance.host.machine import USER, Machine
from appliance.host.receipt import Receipt, load_receipt
from appliance.host.releasing import Released, Say, TryOut, as_host_failures, drop_old_releases, release
from appliance.host.smoke import smoke_test
from appliance.host.unit import first_settings

TOKEN_BYTES = 32
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8800


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """`host`, `port`: where the API is to listen, for a configuration that is made now. `start`: and try it."""

    host: str | None = None
    port: int | None = None
    start: bool = True


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it. `token`: the first one, if it was made now; it is not shown again."""

    released: Released
    token: str | None


def plan(machine: Machine, candidate: Candidate, options: InstallOptions) -> list[str]:
    """What `install` would do, one line each; changes nothing."""
    receipt = load_receipt(machine)
    _refuse_older(receipt, candidate)
    there = "is there, stays as it is"
    lines = [
        f"user {USER}: {there if machine.find_user() else 'is made, without a login'}",
        f"{machine.releases / candidate.release.name}/: the executable, {candidate.release.version}",
        f"{machine.current}: leads there",
        f"{machine.command}: the command",
        f"{machine.etc / 'appliance.env'}: {there if (machine.etc / 'appliance.env').exists() else 'is made'}",
        f"{machine.etc / 'tokens'}: {there if (machine.etc / 'tokens').exists() else 'is made, with a first token'}",
        f"{machine.unit}: the service, enabled",
        f"{machine.state}: its state, made by systemd",
    ]
    if options.start:
        lines.append("the service is started, waited for, and asked for a first picture")
    return lines


def install(
    machine: Machine, candidate: Candidate, options: InstallOptions, say: Say, try_out: TryOut = smoke_test
) -> Installed:
    """Install, or bring an installed box to this release. Raises HostFailure; the box is as it was then."""
    with only_one(machine):
        if options.start:
            require_systemd(machine)
        with as_host_failures(), open_changes(machine) as changes:
            receipt = load_receipt(machine) or Receipt(prefix=str(machine.prefix))
            _refuse_older(receipt, candidate)
            _refuse_other_prefix(machine, receipt)
            _refuse_foreign_command(machine)
            say(f"installing {candidate.release.version}")
            changes.make_directory(machine.lib, 0o755)
            changes.make_directory(machine.releases, 0o755)
            changes.make_directory(machine.command.parent, 0o755)
            token = _configure(machine, changes, options)
            released = release(machine, changes, receipt, candidate, start=options.start, say=say, try_out=try_out)
        drop_old_releases(machine, released.receipt)
    return Installed(released, token)


def _configure(machine: Machine, changes: Changes, options: InstallOptions) -> str | None:
    """User, settings and a first token, each only where there is none. The token, if it was made now."""
    _, group = changes.add_user()
    changes.make_directory(machine.etc, 0o750, (0, group), kept=True)
    env, tokens = machine.etc / "appliance.env", machine.etc / "tokens"
    if not env.exists():
        changes.write_file(
            env,
            first_settings(options.host or DEFAULT_HOST, options.port or DEFAULT_PORT).encode(),
            0o640,
            (0, group),
            kept=True,
        )
    elif options.host is not None or options.port is not None:
        raise HostFailure(f"{env} is there already: set GATEWAY_HOST and GATEWAY_PORT in it, without --bind", Exit.DATA)
    changes.made.append(Made("directory", str(machine.state), kept=True))
    if tokens.exists():
        return None
    token = secrets.token_urlsafe(TOKEN_BYTES)
    changes.write_file(tokens, f"# One token a line.\n{token}\n".encode(), 0o600, kept=True)
    return token


def _refuse_older(receipt: Receipt | None, candidate: Candidate) -> None:
    if receipt is None or receipt.current is None:
        return
    if is_older(candidate.release.version, receipt.current.version):
        raise HostFailure(
            f"{receipt.current.version} is installed, and this is the older {candidate.release.version}: "
            "`appliance rollback` goes back to the release before, `appliance upgrade --allow-older FILE` to this one",
            Exit.DATA,
        )


def _refuse_other_prefix(machine: Machine, receipt: Receipt) -> None:
    if receipt.current is not None and receipt.prefix != str(machine.prefix):
        raise HostFailure(
            f"it is installed below {receipt.prefix}: use --prefix {receipt.prefix}, or uninstall first", Exit.DATA
        )


def _refuse_foreign_command(machine: Machine) -> None:
    """Another program of our name is not ours to replace."""
    ours = str(machine.prefix / "lib" / "appliance")
    path = machine.command
    if path.is_symlink() and str(path.readlink()).startswith(ours):
        return
    if path.is_symlink() or path.exists():
        raise HostFailure(f"{path} is there and is not ours: move it away, then try again", Exit.CANNOT_CREATE)


def own_file(executable: str) -> Path:
    """The file that runs now. Raises HostFailure where the source runs."""
    if not is_frozen():
        raise HostFailure(
            "only the executable installs itself: build it with `python3 tools/dev.py binary`, run dist/appliance",
            Exit.UNAVAILABLE,
        )
    return Path(executable).resolve()
