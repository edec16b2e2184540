"""Values: how the text of one setting becomes what it means. Every ValueError here says what to write instead."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

Network = IPv4Network | IPv6Network

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # underscores: container names have them
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_MAPPED_BITS = 96  # ::ffff:0:0/96


def parse_boolean(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return _BOOLEANS[value.strip().lower()]
    except KeyError:
        raise ValueError("is neither yes nor no: write true or false (1, 0, yes, no, on, off)") from None


def split_csv(text: str) -> tuple[str, ...]:
    """Items are stripped, empty ones dropped."""
    return tuple(item for part in text.split(",") if (item := part.strip()))


def parse_networks(value: object) -> object:
    return tuple(parse_network(item) for item in split_csv(value)) if isinstance(value, str) else value


def parse_network(text: str) -> Network:
    """An address or a CIDR. IPv4-mapped IPv6 becomes IPv4, as addresses of peers do."""
    try:
        address = ip_address(text.partition("/")[0])
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{_quoted(text)} is no IP address or CIDR: write 192.168.1.0/24 or 10.0.0.7") from None
    if network.network_address != address:
        raise ValueError(f"{_quoted(text)} has bits after its prefix: write {network}") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def parse_host(value: str) -> str:
    """A name as a Host header holds it, or an IP address without brackets; no scheme and no port."""
    text = value.strip()
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        pass
    numeric = all(part.isdigit() for part in text.rstrip(".").split("."))  # 300.1.1.1 and 127.1 are no names
    if numeric or len(text) > 253 or not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{_quoted(text)} is no host: write a name or an IP address, without scheme and port")
    return text.lower().rstrip(".")


def parse_host_names(value: object) -> object:
    return tuple(parse_host(item) for item in split_csv(value)) if isinstance(value, str) else value


def parse_host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port` or `[v6]:port`; the host as `parse_host` gives it, None for any port."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (text.count(":") > 1 and not host.endswith("]")):  # a bare IPv6 address has no port
        return parse_host(text), None
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise ValueError(f"{_quoted(text)} has no valid port: write host:port, with a port from 1 to 65535")
    return parse_host(host), int(port)


def parse_host_ports(value: object) -> object:
    """Each entry in its one form: brackets around an IPv6 address that has a port, and only there."""
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(_host_port(*parse_host_port(item)) for item in split_csv(value)))


def _host_port(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_names(value: object) -> object:
    """Names with commas between them; the same name twice counts once."""
    return tuple(dict.fromkeys(split_csv(value))) if isinstance(value, str) else value


def parse_paths(value: object) -> object:
    return tuple(Path(item) for item in split_csv(value)) if isinstance(value, str) else value


def parse_base_url(value: str) -> str:
    """An http(s) URL that paths are added to, without its last slash; empty stays empty.

    Its text is never repeated in an error: it may hold a password.
    """
    text = value.strip()
    if not text:
        return ""
    parts = _split_url(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password, which is not supported: write the URL without them")
    if "?" in text or "#" in text:
        raise ValueError("has a query or fragment: write the URL without ? and #")
    return text.rstrip("/")


def _split_url(text: str) -> SplitResult:
    if not text.isascii() or not text.isprintable() or set(text) & set(' \\"<>{}^|`'):
        raise ValueError("holds characters that no URL has: write http://host:port")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise ValueError("is no URL: write http://host:port") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("is no http or https URL: write http://host:port")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has no valid port: write http://host:port, with a port from 1 to 65535")
    if ":" not in host:
        parse_host(host)
    return parts


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener bound to this host. Other names count as reachable."""
    if host == "localhost":
        return True
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
