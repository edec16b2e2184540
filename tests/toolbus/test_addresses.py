"""Addresses: every row of the tables, every wrapping, and that nothing wrapped is better than what it wraps."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.toolbus.addresses import classify_address, unmap

KINDS = {
    "global": [
        "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
        "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255",
        "192.169.0.0", "198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
        "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::", "2606:4700::1111", "2a00:1450::200e", "2001:200::1",
    ],
    "private": [
        "10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255", "100.64.0.0",
        "100.127.255.255", "::ffff:10.0.0.1", "fc00::1", "fdff:ffff::1",
    ],
    "loopback": ["127.0.0.0", "127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"],
    "link_local": ["169.254.0.0", "169.254.169.254", "169.254.255.255", "::ffff:169.254.169.254", "fe80::1", "febf::1", "fe80::1%eth0"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1", "::ffff:224.0.0.1"],
    "unspecified": ["0.0.0.0", "0.255.255.255", "::", "::ffff:0.0.0.0"],
    "metadata": ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "::ffff:100.100.100.200"],
    "reserved": [
        "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "240.0.0.0", "255.255.255.255", "::ffff:255.255.255.255", "100::1", "64:ff9b:1::1", "2001:2::1", "2001:20::1",
        "2001:db8::1", "3fff::1", "5f00::1", "fec0::1", "4000::1", "e000::1",
        "::8.8.8.8", "::ffff:0:8.8.8.8", "2001:0:808:808::f7f7:f7f7",
    ],
    "disguised": [
        "64:ff9b::a9fe:a9fe", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::0.0.0.0", "64:ff9b::100.100.100.200",
        "2002:a9fe:a9fe::", "2002:7f00:1::1", "2002:c0a8:1::", "2002:e000:1::",
        "::169.254.169.254", "::127.0.0.1", "::2", "::ffff:0:127.0.0.1",
        "2001:0:808:808::80ff:fffe", "2001:0:7f00:1::f7f7:f7f7", "2001::5601:5601",
        "2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:a00:1", "fd00::5efe:a00:1", "fe80::5efe:a9fe:a9fe",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in KINDS.items() for text in texts])
def test_address_is_of_its_kind(kind: str, text: str) -> None:
    assert classify_address(ip_address(text)) == kind


WRAPPINGS = {
    "mapped": lambda inner: 0xFFFF << 32 | inner,
    "compatible": lambda inner: inner,
    "translated": lambda inner: 0xFFFF << 48 | inner,
    "nat64": lambda inner: 0x64_FF9B << 96 | inner,
    "6to4": lambda inner: 0x2002 << 112 | inner << 80,
    "teredo client": lambda inner: 0x2001_0000 << 96 | 0x0808_0808 << 64 | inner ^ 0xFFFF_FFFF,
    "teredo server": lambda inner: 0x2001_0000 << 96 | inner << 64 | 0xF7F7_F7F7,
    "isatap": lambda inner: 0x2A00_1450 << 96 | 0x5EFE << 32 | inner,
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@given(
    inner=st.one_of(
        st.ip_addresses(v=4),
        st.ip_addresses(v=4, network="127.0.0.0/8"),
        st.ip_addresses(v=4, network="169.254.0.0/16"),
    )
)
def test_wrapped_address_is_never_better_than_what_it_wraps(wrapping: str, inner: IPv4Address) -> None:
    wrapped = IPv6Address(WRAPPINGS[wrapping](int(inner)))
    bare, kind = classify_address(inner), classify_address(wrapped)
    if wrapping == "mapped":
        assert kind == bare
        assert unmap(wrapped) == inner
    elif int(wrapped) > 1:  # :: and ::1 are themselves
        assert kind not in ("loopback", "private")
        assert kind != "global" or bare == "global"


@given(st.ip_addresses())
def test_every_address_has_a_kind_and_the_kernel_agrees_on_loopback(address: IPv4Address | IPv6Address) -> None:
    kind = classify_address(address)
    assert (kind == "loopback") == unmap(address).is_loopback
    if kind == "global":
        assert not any((address.is_multicast, address.is_link_local, address.is_unspecified))
        # Older Pythons take all of 6to4 for private; what such an address wraps is the test above's.
        assert not address.is_private or address in IPv6Network("2002::/16")


def test_a_zone_is_no_part_of_an_address() -> None:
    assert unmap(ip_address("fe80::1%eth0")) == IPv6Address("fe80::1")
