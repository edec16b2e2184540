"""The guard of URLs: each row of its table, each spelling that two parsers read in two ways, each way to our own door."""

from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.config.settings import Settings
from appliance.toolbus.addresses import Address
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.urlguard import MAX_ADDRESSES, MAX_URL_CHARS, Target, UrlGuard, is_own_address, parse_url
from tests.toolbus.environments import Names

OWN = frozenset({8800, 8801})
HERE = {"192.168.1.5", "fd00::5", "93.184.215.14"}


def make_guard(allowed: str, table: dict[str, list[str]] | None = None, *, loopback_only: bool = False) -> UrlGuard:
    settings = Settings.model_validate({"tools_http_allowed_hosts": allowed})
    return UrlGuard(
        settings.tools_http_allowed_hosts,
        own_ports=OWN,
        resolve=Names(table or {}),
        loopback_only=loopback_only,
        is_own=lambda address: str(address) in HERE,
    )


async def refusal(guard: UrlGuard, url: str) -> str:
    with pytest.raises(ToolFailed) as caught:
        await guard.admit(url)
    return caught.value.kind


GOOD_URLS = {
    "http://example.com": Target("http", "example.com", 80, "/"),
    "HTTPS://Example.COM/A?b=c#d": Target("https", "example.com", 443, "/A?b=c"),
    "http://example.com?q": Target("http", "example.com", 80, "/?q"),
    "http://example.com#f?no/query": Target("http", "example.com", 80, "/"),
    "http://my_box.local:7860/x%20y": Target("http", "my_box.local", 7860, "/x%20y"),
    "http://127.0.0.1:65535/": Target("http", "127.0.0.1", 65535, "/"),
    "http://[::1]:1/": Target("http", "::1", 1, "/"),
    "http://[0:0::0001]/": Target("http", "::1", 80, "/"),
    "http://xn--bcher-kva.example/": Target("http", "xn--bcher-kva.example", 80, "/"),
    "http://a/b@c:d": Target("http", "a", 80, "/b@c:d"),
    "http://1.example.com//x/../y": Target("http", "1.example.com", 80, "//x/../y"),
    "http://0x7f.example/": Target("http", "0x7f.example", 80, "/"),
}


@pytest.mark.parametrize("url", GOOD_URLS)
def test_plain_url_is_taken_apart(url: str) -> None:
    assert parse_url(url) == GOOD_URLS[url]


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://h:80/", "h"), ("https://h:443/", "h"), ("http://h:443/", "h:443"), ("https://h:80/", "h:80"),
        ("http://[::1]/", "[::1]"), ("http://[::1]:9/", "[::1]:9"),
    ],
)  # fmt: skip
def test_host_header_has_the_port_that_is_not_the_schemes_own(url: str, authority: str) -> None:
    assert parse_url(url).authority == authority


BAD_URLS = [
    "", "x", "//h/", "h:80", "http:", "http:/h", "http:///h", "http://", "http://:80/", "http://?", "http://#",
    # other schemes
    "file:///etc/passwd", "ftp://h/", "gopher://h/", "ws://h/", "httpx://h/", "http+unix://h/", "javascript:alert(1)", "data:,x",
    # credentials, and what looks like them
    "http://u@h/", "http://u:p@h/", "http://@h/", "http://127.0.0.1@evil/", "http://a@b@c/",
    "http://127.0.0.1:80@evil/", "http://u%40h@h/",
    # numbers for a host
    "http://2130706433/", "http://0x7f000001/", "http://0X7F000001/", "http://017700000001/", "http://0/", "http://127.1/",
    "http://127.0.1/", "http://0177.0.0.1/", "http://127.0.0.01/", "http://0x7f.0.0.1/", "http://127.0.0.0x1/", "http://127.0.0.0x/",
    "http://256.0.0.1/", "http://1.2.3.4.5/", "http://1.2.3/", "http://x.1/", "http://127.0.0.1.:80/", "http://0x/",
    "http://00.0.0.0/",
    # dots, labels, characters
    "http://localhost./", "http://example.com./", "http://.example.com/", "http://a..b/", "http://./", "http://-a/", "http://a-/",
    "http://" + "a" * 64 + "/", "http://" + "a." * 127 + "aa/", "http://a b/", "http://a,b/", "http://a*/", "http://*/", "http://a!b/",
    "http://ex%61mple.com/", "http://%31%32%37.0.0.1/", "http://a%00b/",
    # not ASCII: two spellings of one name
    "http://bücher.example/", "http://\u2460\u2461\u2466.0.0.1/", "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020\u30020\u30021/", "http://loc\u00adalhost/",
    "http://\u017fafe/", "http://h/\u00e9", "http://h\u2044x/", "http://h\uff0fx/",
    # brackets
    "http://[::1/", "http://::1/", "http://::1]/", "http://[]/", "http://[127.0.0.1]/", "http://[fe80::1%eth0]/", "http://[fe80::1%25eth0]/",
    "http://[::1]x/", "http://x[::1]/", "http://[[::1]]/", "http://[::1]:/", "http://[v1.x]/", "http://[::g]/", "http://[::ffff:127.1]/",
    # ports
    "http://h:/", "http://h:0/", "http://h:00080/", "http://h:080/", "http://h:65536/", "http://h:99999/", "http://h:123456/", "http://h:-1/",
    "http://h:+80/", "http://h:8 0/", "http://h:80:80/", "http://h:x/", "http://h:\u0661/", "http://h:%38%30/",
    # what ends a line, or is taken for a slash
    "http://h/\r\nX: y", "http://h/\n", "http://h/\t", " http://h/", "http://h/ ", "ht\ntp://h/", "http://h/\0", "http://h/\x7f", "http://h\\@x/",
    "http:\\\\h\\", "http://h/\\", "http://h/a b", 'http://h/"', "http://h/<>", "http://h/{}", "http://h/|", "http://h/^", "http://h/`",
    "http://h/%", "http://h/%g0", "http://h/%0",
    "http://h/" + "a" * MAX_URL_CHARS,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        parse_url(url)
    assert caught.value.kind == "invalid_url"
    assert caught.value.message.startswith("The URL ")


def test_password_in_a_url_is_refused_in_plain_words_and_not_repeated() -> None:
    with pytest.raises(ToolFailed, match="leave them out") as caught:
        parse_url("http://user:hunter2@127.0.0.1/")
    assert "hunter2" not in caught.value.message


PIECES = st.sampled_from([
    "http", "https", "://", ":", "/", "@", "#", "?", "[", "]", "%", "\\", ".", "127", "0", "1", "0x7f", "localhost", "::1", "a", "80",
    "evil.example", "\u3002", "\t", " ", "-", "ffff", "%31",
])  # fmt: skip


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(PIECES, max_size=12).map("".join),
        st.lists(PIECES, max_size=8).map(lambda pieces: "http://" + "".join(pieces)),
    )
)
@example("http://a:80")
def test_any_text_is_refused_or_means_the_same_to_the_standard_library(url: str) -> None:
    try:
        target = parse_url(url)
    except ToolFailed as failure:
        assert failure.kind == "invalid_url"  # noqa: PT017 -- most texts are refused, a few are not
        return
    parts = urlsplit(url)
    assert parts.username is None
    assert (parts.scheme, parts.port or target.port) == (target.scheme, target.port)
    assert parts.hostname == target.host or ip_address(parts.hostname or "") == ip_address(target.host)
    again = parse_url(f"{target.scheme}://{target.authority}{target.path}")
    assert again == target, "what is sent means what was checked"


LISTS = [
    ("example.com", "http://example.com/", True),
    ("example.com", "https://EXAMPLE.com:8443/", True),
    ("example.com:443", "https://example.com/", True),
    ("example.com:443", "http://example.com/", False),
    ("example.com:80", "http://example.com:8080/", False),
    ("example.com", "http://www.example.com/", False),
    ("example.com", "http://example.com.evil/", False),
    ("example.com", "http://notexample.com/", False),
    ("127.0.0.1", "http://127.0.0.1:9/", True),
    ("127.0.0.1", "http://127.0.0.2/", False),
    ("127.0.0.1", "http://localhost/", False),
    ("127.0.0.1", "http://[::ffff:127.0.0.1]/", False),
    ("127.0.0.1:9", "http://127.0.0.1:9/", True),
    ("127.0.0.1:9", "http://127.0.0.1:10/", False),
    ("::1", "http://[::1]:9/", True),
    ("[::1]", "http://[::1]:9/", True),
    ("[::1]:9", "http://[::1]:9/", True),
    ("[::1]:9", "http://[::1]:10/", False),
    ("0:0:0:0:0:0:0:1", "http://[::1]/", True),
    ("", "http://127.0.0.1/", False),
    ("a.example, b.example:1", "http://b.example:1/", True),
]


@pytest.mark.parametrize(("allowed", "url", "passes"), LISTS)
async def test_operators_list_is_asked_for_host_and_port(allowed: str, url: str, passes: bool) -> None:
    guard = make_guard(allowed)
    if passes:
        guard.check_host(parse_url(url))
    else:
        assert await refusal(guard, url) == "host_not_allowed"


async def test_name_that_is_not_on_the_list_is_never_looked_up() -> None:
    names = Names({"evil.example": ["8.8.8.8"]})
    guard = UrlGuard(("localhost",), own_ports=OWN, resolve=names)
    assert await refusal(guard, "http://evil.example/") == "host_not_allowed"
    assert names.asked == []


LEADS = [
    # a name leads to the world and to the LAN
    ("box.local", ["8.8.8.8"], True),
    ("box.local", ["10.1.2.3"], True),
    ("box.local", ["192.168.1.7", "fd00::7", "2a00:1450::1", "100.64.1.1"], True),
    ("box.local", ["::ffff:8.8.8.8"], True),
    ("box.local", ["64:ff9b::8.8.8.8"], True),
    # and nowhere else
    ("box.local", ["127.0.0.1"], False),
    ("box.local", ["::1"], False),
    ("box.local", ["127.0.1.1"], False),
    ("box.local", ["::ffff:127.0.0.1"], False),
    ("box.local", ["169.254.169.254"], False),
    ("box.local", ["100.100.100.200"], False),
    ("box.local", ["fd00:ec2::254"], False),
    ("box.local", ["fe80::1%eth0"], False),
    ("box.local", ["0.0.0.0"], False),
    ("box.local", ["::"], False),
    ("box.local", ["255.255.255.255"], False),
    ("box.local", ["224.0.0.1"], False),
    ("box.local", ["64:ff9b::a9fe:a9fe"], False),
    ("box.local", ["2002:7f00:1::"], False),
    ("box.local", ["::169.254.169.254"], False),
    ("box.local", ["no address"], False),
    # one bad address spoils them all, wherever it stands
    ("box.local", ["8.8.8.8", "127.0.0.1"], False),
    ("box.local", ["169.254.169.254", "8.8.8.8"], False),
    ("box.local", ["8.8.8.8"] * 50 + ["127.0.0.1"], False),
    # this machine is this machine
    ("localhost", ["127.0.0.1"], True),
    ("localhost", ["::1", "127.0.0.1"], True),
    ("app.localhost", ["127.0.0.1"], True),
    ("localhost", ["8.8.8.8"], False),
    ("localhost", ["192.168.1.5"], False),
    ("localhost", ["127.0.0.1", "10.0.0.1"], False),
    ("localhost", ["0.0.0.0"], False),
    ("localhost.evil", ["127.0.0.1"], False),
]


@pytest.mark.parametrize(("host", "addresses", "passes"), LEADS)
async def test_every_address_of_a_name_is_checked(host: str, addresses: list[str], passes: bool) -> None:
    guard = make_guard(host, {host: addresses})
    if passes:
        admitted = await guard.admit(f"http://{host}/")
        assert {str(address) for address in admitted.addresses} == {
            one.removeprefix("::ffff:") if "." in one and one.startswith("::ffff:") else str(ip_address(one))
            for one in addresses
        }
    else:
        assert await refusal(guard, f"http://{host}/") == "address_not_allowed"


LITERALS = [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("8.8.8.8", True), ("10.0.0.1", True), ("fd00::1", True),
    ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", True),
    ("169.254.169.254", False), ("100.100.100.200", False), ("fe80::1", False), ("0.0.0.0", False), ("::", False),
    ("255.255.255.255", False), ("224.0.0.1", False), ("ff02::1", False), ("64:ff9b::7f00:1", False), ("2002:a9fe:a9fe::", False),
    ("::7f00:1", False), ("::ffff:169.254.169.254", False),
]  # fmt: skip


@pytest.mark.parametrize(("address", "passes"), LITERALS)
async def test_address_in_a_url_is_checked_even_when_it_is_on_the_list(address: str, passes: bool) -> None:
    guard = make_guard(address)
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
    if passes:
        assert len((await guard.admit(url)).addresses) == 1
    else:
        assert await refusal(guard, url) == "address_not_allowed"


OWN_DOORS = [
    ("http://127.0.0.1:8800/", {}),
    ("http://127.0.0.1:8801/", {}),
    ("http://127.7.7.7:8800/", {}),
    ("http://[::1]:8800/", {}),
    ("http://[::ffff:127.0.0.1]:8800/", {}),
    ("http://localhost:8800/", {"localhost": ["::1", "127.0.0.1"]}),
    ("http://192.168.1.5:8800/", {}),
    ("http://[::ffff:192.168.1.5]:8800/", {}),
    ("http://[fd00::5]:8801/", {}),
    ("https://me.local:8800/", {"me.local": ["192.168.1.5"]}),
    ("http://me.example:8800/", {"me.example": ["8.8.8.8", "93.184.215.14"]}),
]


@pytest.mark.parametrize(("url", "table"), OWN_DOORS)
async def test_own_listeners_are_never_asked_by_any_of_our_addresses(url: str, table: dict[str, list[str]]) -> None:
    target = parse_url(url)
    guard = make_guard(target.host, table)
    assert await refusal(guard, url) == "address_not_allowed"
    await guard.admit(url.replace(f":{target.port}/", ":9/"))


async def test_other_machines_may_have_our_port() -> None:
    assert (await make_guard("192.168.1.6").admit("http://192.168.1.6:8800/")).addresses


@pytest.mark.parametrize(
    ("allowed", "url", "passes"),
    [
        ("127.0.0.1,localhost", "http://127.0.0.1:9/", True),
        ("127.0.0.1,localhost", "http://localhost:9/", True),
        ("::1", "http://[::1]:9/", True),
        ("127.0.0.1:9", "http://127.0.0.1:10/", False),
        ("example.com", "http://127.0.0.1:9/", False),
        ("10.0.0.1", "http://10.0.0.1/", False),
        ("box.local", "http://box.local/", False),
        ("8.8.8.8", "http://8.8.8.8/", False),
    ],
)
async def test_guard_of_this_machine_asks_this_machine_alone_and_the_list_too(
    allowed: str, url: str, passes: bool
) -> None:
    guard = make_guard(allowed, {"localhost": ["127.0.0.1"], "box.local": ["127.0.0.1"]}, loopback_only=True)
    if passes:
        assert (await guard.admit(url)).addresses
    else:
        assert await refusal(guard, url) == "host_not_allowed"


@pytest.mark.parametrize("table", [{}, {"box.local": []}])
async def test_name_without_addresses_is_unknown(table: dict[str, list[str]]) -> None:
    assert await refusal(make_guard("box.local", table), "http://box.local/") == "unknown_host"


async def test_same_address_is_dialled_once_and_not_too_many() -> None:
    many = [f"10.0.0.{number}" for number in range(100)]
    guard = make_guard(
        "one.local,many.local", {"one.local": ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"], "many.local": many}
    )
    assert len((await guard.admit("http://one.local/")).addresses) == 1
    assert len((await guard.admit("http://many.local/")).addresses) == MAX_ADDRESSES


async def test_name_is_looked_up_once_and_an_address_never() -> None:
    names = Names({"box.local": ["10.0.0.1"]})
    guard = UrlGuard(("box.local", "10.0.0.2"), own_ports=OWN, resolve=names)
    await guard.admit("https://box.local/")
    await guard.admit("http://10.0.0.2/")
    assert names.asked == [("box.local", 443)]


async def test_look_up_is_cancelled_with_its_caller(autojump_clock: trio.testing.MockClock) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    guard = UrlGuard(("box.local",), own_ports=OWN, resolve=never)
    with trio.move_on_after(3) as scope:
        await guard.admit("http://box.local/")
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("address", "own"), [("127.0.0.1", True), ("::1", True), ("8.8.8.8", False), ("2a00:1450::1", False)]
)
def test_kernel_says_which_addresses_are_ours(address: Address, own: bool) -> None:
    assert is_own_address(ip_address(address)) is own
