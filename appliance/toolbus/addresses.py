"""Addresses: what kind of place an IP address is, whatever it is wrapped in. Pure.

The tables are the IANA special-purpose address registries, written out: `ipaddress` answers differently from one Python
to the next, and calls several wrapped forms global. What is in no row is reserved, so that a new block is closed.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Literal

Address = IPv4Address | IPv6Address

AddressClass = Literal[
    "global", "private", "loopback", "link_local", "multicast", "unspecified", "metadata", "reserved", "disguised"
]
"""`disguised`: an IPv6 form around an IPv4 address that is not global. `metadata`: a cloud's, which hands out keys."""

# The first row that holds the address counts.
_IPV4: tuple[tuple[str, AddressClass], ...] = (
    ("100.100.100.200/32", "metadata"),  # Alibaba
    ("168.63.129.16/32", "metadata"),  # Azure
    ("192.0.0.192/32", "metadata"),  # Oracle
    ("0.0.0.0/8", "unspecified"),  # Linux connects 0.0.0.0 to itself
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "private"),  # behind a carrier's NAT; Tailscale's
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link_local"),  # 169.254.169.254: metadata of most clouds
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),  # the broadcast address too
    ("0.0.0.0/0", "global"),
)
_IPV6: tuple[tuple[str, AddressClass], ...] = (
    ("fd00:ec2::254/128", "metadata"),  # Amazon
    ("fd20:ce::254/128", "metadata"),  # Google
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b::/96", "global"),  # NAT64: what a network without IPv4 dials for it
    ("fc00::/7", "private"),
    ("fe80::/10", "link_local"),
    ("ff00::/8", "multicast"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
    ("2000::/3", "global"),
    (
        "::/0",
        "reserved",
    ),  # discard, compatible, local NAT64, segment routing, site-local, and what is not given out yet
)


def _networks(rows: tuple[tuple[str, AddressClass], ...]) -> tuple[tuple[IPv4Network | IPv6Network, AddressClass], ...]:
    return tuple((ip_network(text), kind) for text, kind in rows)


_TABLES = {4: _networks(_IPV4), 6: _networks(_IPV6)}
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214: the upper half of an interface's identifier
_LOW_32 = 0xFFFF_FFFF


def unmap(address: Address) -> Address:
    """The IPv4 address that the system dials for an IPv4-mapped one; any other as it is, without its zone."""
    if isinstance(address, IPv4Address):
        return address
    if address in _MAPPED:
        return IPv4Address(int(address) & _LOW_32)
    return IPv6Address(int(address))


def classify_address(address: Address) -> AddressClass:
    """Say what kind of place this is: the row of the address itself, unless it hides an IPv4 address that is not global."""
    address = unmap(address)
    kind = next(kind for network, kind in _TABLES[address.version] if address in network)
    if isinstance(address, IPv4Address) or kind in ("loopback", "unspecified"):
        return kind
    return kind if all(classify_address(one) == "global" for one in _wrapped(address)) else "disguised"


def _wrapped(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a gateway on the way, or this machine's own tunnel, would take from it."""
    number = int(address)
    if address in _NAT64 or address in _COMPATIBLE or address in _TRANSLATED or number >> 32 & _LOW_32 in _ISATAP:
        return (IPv4Address(number & _LOW_32),)
    if address in _6TO4:
        return (IPv4Address(number >> 80 & _LOW_32),)
    if address in _TEREDO:  # RFC 4380: the server, and the client with its bits turned over
        return (IPv4Address(number >> 64 & _LOW_32), IPv4Address(number & _LOW_32 ^ _LOW_32))
    return ()
