"""Asking: how commands talk to the running gateway: where it is, which token opens it, and what its refusals say."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from appliance.protocol.ids import Prefix, is_id
from appliance.verification.http import Answer, Call, Gateway, Unreachable, check_base_url, open_exchange, open_lines
from appliance.verification.tokens import find_token

F = TypeVar("F", bound=Callable[..., Any])

EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
TIMEOUT_S = 600.0  # a tool may take its own deadline, an agent its whole budget


class Unavailable(click.ClickException):
    """The gateway is not there, or no longer."""

    exit_code = EXIT_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Asked:
    """A running gateway, and how it is asked."""

    gateway: Gateway
    insecure: bool = False

    def get(self, path: str) -> Answer:
        """Raises ClickException where it cannot be reached or refuses."""
        with _explained():
            return _checked(self.gateway.get(path, token=self.gateway.token))

    def post(self, path: str, body: object) -> Answer:
        """Raises ClickException where it cannot be reached or refuses."""
        with _explained():
            return _checked(self.gateway.post(path, body, token=self.gateway.token))

    def stream(self, path: str, body: object) -> Iterator[Mapping[str, Any]]:
        """The events of a streamed answer. Raises ClickException, also for an error event."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.gateway.token}"}
        call = Call("POST", self.gateway.base_url + path, headers, json.dumps(body).encode())
        with _explained():
            for line in open_lines(call, timeout_s=TIMEOUT_S, insecure=self.insecure, on_refusal=_checked):
                if line.startswith(b"data: {"):
                    yield _event(line[len(b"data: ") :])


def id_argument(prefix: Prefix, name: str) -> Callable[[F], F]:
    """An argument that must be an id of this kind: it becomes a part of a path."""

    def check(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if not is_id(prefix, value):
            raise click.BadParameter(f"{value[:64]!r} is no id: write {prefix}- and 24 hex digits")
        return value

    return click.argument(name, callback=check)


def printable(text: str) -> str:
    """Text of a model's or a tool's for a terminal: its lines and tabs, and no other control characters."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def gateway_options(command: F) -> F:
    """`--base-url`, `--token`, `--insecure`: everything a command needs to find the gateway; `asked` makes use of it."""
    for option in (
        click.option("--insecure", is_flag=True, help="Do not check the gateway's certificate."),
        click.option("--token", help="Token; else from the environment, or the one the gateway made for itself."),
        click.option("--base-url", help="Where the gateway is; else as GATEWAY_HOST and GATEWAY_PORT say."),
    ):
        command = option(command)
    return command


def asked(base_url: str | None, token: str | None, *, insecure: bool) -> Asked:
    """Find the gateway and the token. Raises ClickException that says what to give."""
    try:
        url = check_base_url(base_url or _own_url(os.environ))
    except ValueError as error:
        raise click.UsageError(f"--base-url: {error}") from None
    found = find_token(token, os.environ, url)
    if found is None:
        raise click.UsageError("no token: give --token, or set GATEWAY_BEARER_TOKEN")
    return Asked(Gateway(url, found, open_exchange(insecure=insecure, timeout_s=TIMEOUT_S)), insecure)


def _own_url(environ: Mapping[str, str]) -> str:
    host = environ.get("GATEWAY_HOST") or "127.0.0.1"
    if host in {"0.0.0.0", "::"}:  # noqa: S104 -- bound to all: this machine is one of them
        host = "127.0.0.1"
    scheme = "https" if environ.get("GATEWAY_TLS_CERT_PATH") else "http"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{environ.get('GATEWAY_PORT') or 8800}"


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise Unavailable(f"{error} (is the gateway running?)") from None


def _checked(answer: Answer) -> Answer:
    if answer.status >= 400:
        raise click.ClickException(answer.brief())
    return answer


def _event(data: bytes) -> Mapping[str, Any]:
    event = json.loads(data)
    if "error" in event and "type" not in event:
        raise click.ClickException(str(event["error"].get("message")))
    return dict(event)
