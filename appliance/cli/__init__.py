"""Commands: the table of all of them, and how one is chosen. Nothing is imported before its command is called."""

# ruff: noqa: PLC0415 -- a command that is not called costs nothing

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `load` imports the command inside its body: PyInstaller and mypy see the import."""

    help: str
    load: Callable[[], click.Command]


def _serve() -> click.Command:
    from appliance.cli.serve import serve

    return serve


def _config() -> click.Command:
    from appliance.cli.config import config

    return config


def _journal() -> click.Command:
    from appliance.cli.journal import journal

    return journal


def _backends() -> click.Command:
    from appliance.cli.backends import backends

    return backends


def _version() -> click.Command:
    from appliance.cli.version import version

    return version


def _tools() -> click.Command:
    from appliance.cli.tools import tools

    return tools


def _agent() -> click.Command:
    from appliance.cli.agent import agent

    return agent


def _verify() -> click.Command:
    from appliance.cli.verify import verify

    return verify


def _smoke_test() -> click.Command:
    from appliance.cli.verify import smoke_test

    return smoke_test


def _verify_images() -> click.Command:
    from appliance.cli.verify import verify_images

    return verify_images


def _eval() -> click.Command:
    from appliance.cli.verify import eval_command

    return eval_command


def _doctor() -> click.Command:
    from appliance.cli.doctor import doctor

    return doctor


def _bug_report() -> click.Command:
    from appliance.cli.doctor import bug_report

    return bug_report


def _install() -> click.Command:
    from appliance.cli.install import install_command

    return install_command


def _upgrade() -> click.Command:
    from appliance.cli.upgrade import upgrade_command

    return upgrade_command


def _rollback() -> click.Command:
    from appliance.cli.upgrade import rollback_command

    return rollback_command


def _status() -> click.Command:
    from appliance.cli.status import status

    return status


def _uninstall() -> click.Command:
    from appliance.cli.uninstall import uninstall_command

    return uninstall_command


def _backup() -> click.Command:
    from appliance.cli.backup import backup

    return backup


def _release() -> click.Command:
    from appliance.cli.release import release

    return release


def _completion() -> click.Command:
    from appliance.cli.completion import completion

    return completion


COMMANDS: Mapping[str, Row] = {
    "serve": Row("Run the gateway.", _serve),
    "config": Row("Check or show the configuration.", _config),
    "journal": Row("Check the records of tool runs for changes.", _journal),
    "tools": Row("List, run and replay tools; check a tool registry.", _tools),
    "agent": Row("Run agents; show, verify, fork and list their runs.", _agent),
    "backends": Row("List the classes, ask what they are, find servers.", _backends),
    "version": Row("Say which version this is.", _version),
    "doctor": Row("Say what is wrong with this box, and what to do.", _doctor),
    "bug-report": Row("Write an archive for those who help, without secrets.", _bug_report),
    "install": Row("Make this file a service of this machine.", _install),
    "upgrade": Row("Let another release take over.", _upgrade),
    "rollback": Row("Go back to the release before.", _rollback),
    "status": Row("Say what is installed and whether it runs.", _status),
    "uninstall": Row("Remove what was installed.", _uninstall),
    "backup": Row("Save configuration and state, or put them back.", _backup),
    "smoke-test": Row("Start this file on free ports and prove that it works.", _smoke_test),
    "verify": Row("Check a gateway from outside, or one started for it.", _verify),
    "verify-images": Row("Check a running gateway's images from outside.", _verify_images),
    "eval": Row("Ask a gateway the cases of a file, and judge its answers.", _eval),
    "release": Row("Freeze, verify and compare releases.", _release),
    "completion": Row("Print the completion of bash, zsh or fish.", _completion),
}


class CommandTable(click.Group):
    """A click group whose commands come from the table, each loaded when it is called."""

    # ruff: noqa: PLC0415 -- a command that is not called costs nothing

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        return row.load() if row else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `appliance {near[0]}`?" if near else "see `appliance --help`."
            raise click.UsageError(f"there is no command {args[0]!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


appliance = CommandTable(
    name="appliance",
    help="A local AI gateway: a GPU slot is held exactly as long as it is needed.",
    epilog="Settings come from the environment or an env file (APPLIANCE_ENV_FILE): see `appliance config show`.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
