"""The guard of URLs: which ones a tool may fetch, and the addresses that it may dial for them.

Two lists decide. The operator's names hosts, with a port or for any port. The table below says where a host may lead:

| host                                          | to                                                    |
|-----------------------------------------------|-------------------------------------------------------|
| `localhost`, `*.localhost`, a loopback address | loopback                                              |
| any other name or address                     | global and private (a LAN, a carrier's NAT, fc00::/7) |
| any                                           | never: link-local, multicast, broadcast, unspecified, a cloud's metadata, reserved, IPv4 in disguise |

Every address of a name must pass, and none may be this gateway's own listener. A fetch that is for loopback alone
passes the operator's list as well.
"""

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from errno import EADDRNOTAVAIL, EAFNOSUPPORT
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from appliance.config.values import is_loopback, parse_host_port
from appliance.toolbus.addresses import Address, classify_address, unmap
from appliance.toolbus.base import Resolve, ToolFailed

MAX_URL_CHARS = 4096
MAX_ADDRESSES = 16  # of one name; nobody's service needs more

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?", re.IGNORECASE
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[1-9][0-9]{0,4}))?")
_UNSAFE = re.compile(r"""[^!-~]|[\\"<>^`{|}]|%(?![0-9a-f]{2})""", re.IGNORECASE)  # RFC 3986
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # WHATWG URL: a host whose last part is one is an IPv4 address, or nothing

_NEVER_SPELT = "spell the host as a name, as four decimal numbers, or as an IPv6 address in brackets"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `host`: in lower case, without brackets. `path`: with its query, as the request line has it."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """For the Host header: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A URL that may be fetched, from these addresses and no others."""

    target: Target
    addresses: tuple[Address, ...]


def parse_url(url: str) -> Target:
    """Take a URL apart, strictly. Raises ToolFailed `invalid_url` for what two parsers could read in two ways."""
    if len(url) > MAX_URL_CHARS:
        raise _invalid(f"is longer than {MAX_URL_CHARS} characters")
    if _UNSAFE.search(url):
        raise _invalid("holds characters that no URL has: percent-encode them, and write a name in its ASCII form")
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in _PORTS:
        raise _invalid("is no http or https URL: write http://host/path")
    if "@" in parts["authority"]:
        raise _invalid("holds a user name or password: leave them out")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise _invalid("has no host, or a port that is none: write http://host:port/path")
    scheme = parts["scheme"].lower()
    port = int(authority["port"] or _PORTS[scheme])
    if port > 65535:
        raise _invalid("has a port above 65535")
    return Target(scheme, _parse_host(authority["host"]), port, (parts["path"] or "/") + (parts["query"] or ""))


class UrlGuard:
    """Says which URLs may be fetched, and where from.

    `allowed`: the operator's hosts. `loopback_only`: this machine and nothing else. `is_own`: whether an address is one
    of this machine's, which is how `own_ports` are known on its other interfaces.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        *,
        own_ports: frozenset[int],
        resolve: Resolve,
        loopback_only: bool = False,
        is_own: Callable[[Address], bool] | None = None,
    ) -> None:
        self._allowed = frozenset(parse_host_port(entry) for entry in allowed)
        self._own_ports = own_ports
        self._resolve = resolve
        self._loopback_only = loopback_only
        self._is_own = is_own or is_own_address

    async def admit(self, url: str) -> Admitted:
        """Check the URL, look its name up once, check every address. The caller sets the deadline.

        Raises ToolFailed: `invalid_url`, `host_not_allowed`, `unknown_host`, `address_not_allowed`.
        """
        target = parse_url(url)
        self.check_host(target)
        return Admitted(target, self.check_addresses(target, await self._look_up(target)))

    def check_host(self, target: Target) -> None:
        """Ask the operator's list. Raises ToolFailed `host_not_allowed`."""
        if self._loopback_only and not _is_loopback_host(target.host):
            raise _host_refused("this tool asks this machine alone: write 127.0.0.1 or localhost")
        if self._allowed.isdisjoint({(target.host, None), (target.host, target.port)}):
            raise _host_refused("its host and port are not among TOOLS_HTTP_ALLOWED_HOSTS")

    def check_addresses(self, target: Target, addresses: Sequence[str]) -> tuple[Address, ...]:
        """Every address as it is to be dialled. Raises ToolFailed `address_not_allowed` if one of them may not be."""
        checked: dict[Address, None] = {}
        for text in addresses:
            try:
                address = ip_address(text)
            except ValueError:
                raise _address_refused("its name leads to something that is no address") from None
            self._check_address(target, address)
            checked[unmap(address)] = None
        if not checked:
            raise ToolFailed("unknown_host", "The host has no address.")
        return tuple(checked)[:MAX_ADDRESSES]

    def _check_address(self, target: Target, address: Address) -> None:
        kind = classify_address(address)
        here = _is_loopback_host(target.host)
        if kind not in (("loopback",) if here else ("global", "private")):
            words = kind.replace("_", "-")
            raise _address_refused(f"its host leads to a {words} address" + (", not to this machine" if here else ""))
        if target.port in self._own_ports and (here or self._is_own(unmap(address))):
            raise _address_refused("it leads to this gateway itself")

    async def _look_up(self, target: Target) -> Sequence[str]:
        if _as_address(target.host) is not None:
            return (target.host,)
        try:
            return await self._resolve(target.host, target.port)
        except OSError:
            raise ToolFailed("unknown_host", "The host's name cannot be looked up.") from None


def is_own_address(address: Address) -> bool:
    """Whether this machine answers at the address: one may bind to those and to no others. Asks the kernel, waits not.

    A router that sends a public address back to this machine cannot be seen from here.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (EADDRNOTAVAIL, EAFNOSUPPORT)
    return True


def _parse_host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(_without_zone(text[1:-1])))
        except AddressValueError:
            raise _invalid(f"has no valid IPv6 address in its brackets: {_NEVER_SPELT}") from None
    host = text.lower()
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise _invalid(f"has a number for a host: {_NEVER_SPELT}") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(f"has no host that can be one: {_NEVER_SPELT}")
    return host


def _without_zone(text: str) -> str:
    if "%" in text:
        raise AddressValueError("zone")
    return text


def _is_loopback_host(host: str) -> bool:
    return is_loopback(host) or host.endswith(".localhost")


def _as_address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _invalid(words: str) -> ToolFailed:
    return ToolFailed("invalid_url", f"The URL {words}.")


def _host_refused(words: str) -> ToolFailed:
    return ToolFailed("host_not_allowed", f"The URL may not be fetched: {words}.")


def _address_refused(words: str) -> ToolFailed:
    return ToolFailed("address_not_allowed", f"The URL may not be fetched: {words}.")
