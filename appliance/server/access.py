"""Access: who may come in, decided on the head of a request alone, before routing and before the body."""

import hashlib
import hmac
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from appliance.config.loading import Configuration
from appliance.config.tokens import Token
from appliance.protocol.errors import (
    Forbidden,
    MisdirectedHost,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from appliance.protocol.frozen import frozen
from appliance.server.throttle import GuessThrottle

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")  # what a URL of ours may hold

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- browsers take them for this machine: no name of ours
REMEMBERED = 1024  # clients come again with the same few names and addresses, and parsing one costs 10 us

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(slots=True)  # not frozen: every request has one, and a frozen field takes three times as long to set
class Head:
    """What is known of a request before it is let in. `headers`: names in lower case, in order, repeats kept."""

    method: str
    path: str
    scheme: str
    headers: Sequence[tuple[bytes, bytes]]
    peer: str
    local: str
    _named: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._named = dict(self.headers)

    def all(self, name: bytes) -> list[str]:
        if name not in self._named:
            return []
        if len(self._named) == len(self.headers):  # none was sent twice
            return [self._named[name].decode("latin-1")]
        return [value.decode("latin-1") for key, value in self.headers if key == name]

    def one(self, name: bytes) -> str | None:
        value = self._named.get(name)
        if value is None:
            return None
        if len(self._named) == len(self.headers):
            return value.decode("latin-1")
        return self.all(name)[0]

    def has(self, name: bytes) -> bool:
        return name in self._named


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How large a request's body may be, and the setting that says so. 0: as large as it likes."""

    max_bytes: int
    setting: str = "MAX_REQUEST_BYTES"

    def error(self) -> PayloadTooLarge:
        """The same words whether the length was declared or found out."""
        return PayloadTooLarge(
            f"The request body is larger than {self.max_bytes} bytes: send less, or raise {self.setting}."
        )


@frozen
class Visitor:
    """Who was let in: the peer's address as it counts here, and the token unless the path is open."""

    peer: str
    token: Token | None
    base_url: str
    body_limit: BodyLimit


class Access:
    """The rules, built from one configuration; a reload builds new ones and keeps the throttle."""

    def __init__(self, configuration: Configuration, tokens: Sequence[Token], throttle: GuessThrottle) -> None:
        settings = configuration.settings
        self._tokens = tuple(tokens)
        self._throttle = throttle
        self._allowlist = tuple(settings.ip_allowlist)
        self._proxies = tuple(settings.trust_proxy_cidrs)
        self._body_limit = BodyLimit(settings.max_request_bytes)
        self._public_base_url = settings.public_base_url.rstrip("/")
        machine = socket.gethostname().lower()
        names = {"localhost", machine, machine.split(".")[0], f"{machine.split('.')[0]}.local"}
        names.update(name.lower().rstrip(".") for name in settings.gateway_allowed_hosts)
        names.update(_bound_name(host) for host in (settings.gateway_host, settings.observability_host))
        names -= ANY_ADDRESS
        if public_host := urlsplit(settings.public_base_url).hostname:
            names.add(public_host)
        self._names = frozenset(names)

    def admit(self, head: Head, *, is_open: bool, body_limit: BodyLimit | None = None) -> Visitor:
        """Let a request in, or raise: MisdirectedHost, Forbidden, Unauthenticated, TooManyAttempts,
        UnsupportedMediaType, PayloadTooLarge. `is_open`: this path needs no token here. `body_limit`: this route's
        own, in place of MAX_REQUEST_BYTES; a token's policy narrows both."""
        host = self._check_host(head)
        peer = self._peer(head)
        if self._allowlist and not _is_in(peer, self._allowlist):
            raise Forbidden("This address is not in IP_ALLOWLIST.")
        self._check_origin(head)
        shown = _shown(peer)
        token = None if is_open else self._authenticate(head, shown)
        limit = self._check_body(head, token, body_limit or self._body_limit)
        return Visitor(shown, token, self._base_url(head, host, peer), limit)

    def _check_host(self, head: Head) -> str | None:
        host = head.one(b"host")
        if host is None:
            return None  # HTTP/1.0, where no browser is; the listener refuses it in 1.1
        name = _host_name(host)
        if name is None or not self._is_ours(name, head):
            raise MisdirectedHost("This Host is not one of this gateway's names: add it to GATEWAY_ALLOWED_HOSTS.")
        return host

    def _is_ours(self, name: str, head: Head) -> bool:
        return name in self._names or name == _unmapped(head.local)

    def _check_origin(self, head: Head) -> None:
        if not head.has(b"origin"):
            return
        for origin in head.all(b"origin"):
            name = _host_name(origin.partition("://")[2])
            if name is None or not self._is_ours(name, head):
                raise Forbidden("Pages of other origins may not call this gateway.")

    def _peer(self, head: Head) -> Address:
        """The address that counts: the peer's own, or, behind a trusted proxy, the last one it vouches for."""
        peer = _address(head.peer)
        forwarded = ",".join(head.all(b"x-forwarded-for")).split(",") if self._proxies else []
        while forwarded and _is_in(peer, self._proxies):
            try:
                peer = _address(forwarded.pop().strip())
            except ValueError:
                break
        return peer

    def _authenticate(self, head: Head, peer: str) -> Token:
        digest = hashlib.sha256(_presented_token(head)).digest()
        token = self._find(digest)
        self._throttle.check(peer, digest if token else None)
        if token is None:
            self._throttle.wrong(peer)
            raise Unauthenticated("This token is not known here: send `Authorization: Bearer <token>`.")
        self._throttle.right(peer, digest)
        allowed = token.policy.ip_allowlist
        if allowed and not _is_in(_address(peer), allowed):
            raise Forbidden("This token may not be used from this address.")
        return token

    def _find(self, digest: bytes) -> Token | None:
        """Compare with every token, always: the time says nothing about which, or how much, matched."""
        found: Token | None = None
        for token in self._tokens:
            if hmac.compare_digest(digest, token.digest):
                found = token
        return found

    def _check_body(self, head: Head, token: Token | None, route: BodyLimit) -> BodyLimit:
        if head.has(b"content-encoding"):
            encodings = {value.strip().lower() for value in head.all(b"content-encoding")}
            if not encodings <= {"", "identity"}:
                raise UnsupportedMediaType(
                    "Compressed request bodies are not read here: send it without Content-Encoding."
                )
        limit, own = route, token.policy.max_request_bytes if token else None
        if own and (not route.max_bytes or own < route.max_bytes):
            limit = BodyLimit(own, route.setting)
        declared = head.one(b"content-length") or "0"
        if limit.max_bytes and (not declared.isdigit() or int(declared) > limit.max_bytes):
            raise limit.error()
        return limit

    def _base_url(self, head: Head, host: str | None, peer: Address) -> str:
        """Where this client reaches us, for absolute URLs; empty when it did not say."""
        if self._public_base_url:
            return self._public_base_url
        if host is None:
            return ""
        scheme = head.scheme
        if self._proxies and _is_in(_address(head.peer), self._proxies):
            forwarded = (head.one(b"x-forwarded-proto") or "").strip().lower()
            scheme = forwarded if forwarded in {"http", "https"} else scheme
        return f"{scheme}://{host}"


def _presented_token(head: Head) -> bytes:
    """The one credential of a request. Raises Unauthenticated where it is missing, malformed or doubled."""
    bearers = head.all(b"authorization")
    keys = head.all(b"x-api-key")
    if len(bearers) + len(keys) != 1:
        what = "Send one token" if bearers or keys else "A token is needed: send it"
        raise Unauthenticated(f"{what} as `Authorization: Bearer <token>`.")
    if keys:
        return keys[0].encode("latin-1")
    scheme, _, token = bearers[0].partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token:
        raise Unauthenticated("The Authorization header must be `Bearer <token>`, with one space.")
    return token.encode("latin-1")


@lru_cache(REMEMBERED)
def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port, in lower case; None for what is no host."""
    if not _HOST.fullmatch(host):
        return None
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    return _unmapped(name.rstrip(".")) if name else None


def _bound_name(host: str) -> str:
    return _unmapped(host.lower().strip("[]"))


@lru_cache(REMEMBERED)
def _address(text: str) -> Address:
    address = ip_address(text.split("%", maxsplit=1)[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


@lru_cache(REMEMBERED)
def _shown(address: Address) -> str:
    return str(address)


@lru_cache(REMEMBERED)
def _unmapped(text: str) -> str:
    """One spelling per address, so that `::ffff:10.0.0.1` and `10.0.0.1` are the same; names stay as they are."""
    try:
        return str(_address(text))
    except ValueError:
        return text


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
