"""Ports: of each listener, free, or taken by a gateway of ours."""

import errno
import re
import socket
from collections.abc import Iterator

from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result

_REQUEST_ID = re.compile(r"req-[0-9a-f]{24}")  # contract 1: every answer of a gateway has one


def check_ports(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    settings = configuration.settings
    scheme = "https" if settings.gateway_tls_cert_path else "http"
    yield _look(patient, "api", settings.gateway_host, settings.gateway_port, scheme, "GATEWAY")
    if settings.observability_enabled:
        host, port = settings.observability_host, settings.observability_port
        yield _look(patient, "observability", host, port, "http", "OBSERVABILITY")


def listener_url(host: str, port: int, scheme: str = "http") -> str:
    """Where a listener is reached from this machine."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- bound to all: we are one of them
    return f"{scheme}://[{near}]:{port}" if ":" in near else f"{scheme}://{near}:{port}"


def _look(patient: Patient, name: str, host: str, port: int, scheme: str, prefix: str) -> Result:
    place = f"port.{name}"
    if port == 0:
        return Result(place, "ok", f"{host}, any free port")
    error = _try_to_bind(host, port)
    if error is None:
        return Result(place, "ok", f"{host}:{port} is free: no gateway runs there")
    if error.errno == errno.EADDRINUSE:
        reply = patient.ask(f"{listener_url(host, port, scheme)}/health")
        if reply is not None and _REQUEST_ID.fullmatch(reply.request_id or ""):
            verdict = "serves" if reply.status == 200 else f"answers {reply.status}: it is draining"
            return Result(place, "ok", f"{host}:{port}: a gateway {verdict}")
        remedy = f"find it with `ss -ltnp 'sport = :{port}'`, or set {prefix}_PORT to another port"
        return Result(place, "failure", f"{host}:{port} is taken by another program", remedy)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Result(place, "failure", f"{host}:{port} may not be bound", f"set {prefix}_PORT to one above 1023")
    reason = error.strerror or str(error)
    return Result(place, "failure", f"{host}:{port}: {reason}", f"set {prefix}_HOST to an address of this machine")


def _try_to_bind(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the listener does: TIME_WAIT is no owner
        if family == socket.AF_INET6:
            tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            return error
    return None
