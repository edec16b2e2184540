"""Checks: what must hold between settings, and between them and the files they name."""

import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from appliance.config.classes import BackendClass
from appliance.config.errors import Findings
from appliance.config.reading import Given
from appliance.config.values import is_loopback, split_csv


def check_settings(given: Given, findings: Findings) -> None:
    _check_listeners(given, findings)
    _check_server_tls(given, findings)
    _check_upstream_tls(given, findings)
    _check_sizes(given, findings)
    _check_commands(given, findings)


def check_no_loop(given: Given, backend_class: BackendClass, findings: Findings) -> None:
    """A class that points at our own listener would answer itself until every slot is taken."""
    settings = given.settings
    parts = urlsplit(backend_class.base_url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not backend_class.base_url or not is_loopback(parts.hostname or ""):
        return
    if port in {settings.gateway_port, settings.observability_port if settings.observability_enabled else None}:
        findings.refuse(
            f"class {backend_class.name}",
            f"its base_url is this gateway itself (port {port}): write the backend's address",
        )


def _check_listeners(given: Given, findings: Findings) -> None:
    settings = given.settings
    if not settings.observability_enabled:
        return
    same_port = settings.gateway_port == settings.observability_port != 0
    if same_port and _overlap(settings.gateway_host, settings.observability_host):
        findings.refuse(
            given.where("observability_port"),
            f"{settings.observability_port} is GATEWAY_PORT too: write another port, or OBSERVABILITY_ENABLED=false",
        )
    if not is_loopback(settings.observability_host):
        findings.warn(given.where("observability_host"), "health and metrics are open to the network without a token")


def _overlap(one: str, other: str) -> bool:
    return one == other or _is_wildcard(one) or _is_wildcard(other)


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _check_server_tls(given: Given, findings: Findings) -> None:
    certificate, key = given.settings.gateway_tls_cert_path, given.settings.gateway_tls_key_path
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        there, missing = ("key", "cert") if certificate is None else ("cert", "key")
        findings.refuse(
            given.where(f"gateway_tls_{there}_path"), f"needs GATEWAY_TLS_{missing.upper()}_PATH as well: set both"
        )
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = {"gateway_tls_cert_path": certificate, "gateway_tls_key_path": key}
    readable = [_check_readable(given, field, path, findings) for field, path in pair.items()]
    if all(readable):
        _check_loads(
            given,
            "gateway_tls_cert_path",
            lambda: context.load_cert_chain(certificate, key, password=_no_password),
            "write a PEM chain, and its PEM key without a password in GATEWAY_TLS_KEY_PATH",
            findings,
        )


def _check_upstream_tls(given: Given, findings: Findings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bundle = given.settings.backend_ca_bundle
    if bundle is not None and _check_readable(given, "backend_ca_bundle", bundle, findings):
        advice = "write a file of PEM certificates"
        _check_loads(given, "backend_ca_bundle", lambda: context.load_verify_locations(bundle), advice, findings)
    paths = [Path(part) for part in split_csv(given.settings.backend_client_cert)]
    if len(paths) > 2:
        findings.refuse(given.where("backend_client_cert"), "names more than two files: write `pem` or `cert,key`")
        return
    readable = [_check_readable(given, "backend_client_cert", path, findings) for path in paths]
    if paths and all(readable):
        _check_loads(
            given,
            "backend_client_cert",
            lambda: context.load_cert_chain(paths[0], paths[-1], password=_no_password),
            "write `pem` (certificate and key in one file) or `cert,key`, without a password",
            findings,
        )


def _check_readable(given: Given, field: str, path: Path, findings: Findings) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError as error:
        findings.refuse(given.where(field), f"{path} cannot be read ({error.strerror}): name a readable file")
        return False


def _check_loads(given: Given, field: str, load: Callable[[], None], advice: str, findings: Findings) -> None:
    try:
        load()
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
        findings.refuse(given.where(field), f"cannot be used ({str(reason).lower().replace('_', ' ')}): {advice}")


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal."""
    raise ValueError("encrypted")


def _check_sizes(given: Given, findings: Findings) -> None:
    settings = given.settings
    if settings.ui_image_max_bytes > settings.ui_image_store_max_bytes:
        findings.refuse(
            given.where("ui_image_max_bytes"),
            f"is more than UI_IMAGE_STORE_MAX_BYTES ({settings.ui_image_store_max_bytes}): write less, or raise that",
        )


def _check_commands(given: Given, findings: Findings) -> None:
    for name in given.settings.tools_shell_allowed_cmds:
        if "/" in name and not name.startswith("/"):
            where = given.where("tools_shell_allowed_cmds")
            findings.refuse(where, f"{name[:60]!r} is relative: write a name, or a path that begins with /")
