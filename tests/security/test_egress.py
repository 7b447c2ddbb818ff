"""The egress policy: which addresses a step may reach, in every spelling."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.security.egress import EgressPolicy, is_local_address, literal_address, parse_networks

OPEN = EgressPolicy()
CLOSED = EgressPolicy(allow_loopback=False, allow_private=False)

ALWAYS_REFUSED = """
169.254.169.254 169.254.170.2 169.254.0.1 169.254.255.255 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254
fd00:ec2::23 fd20:ce::254 fd00:42::42 fe80::1 febf::1 0.0.0.0 0.1.2.3 :: 224.0.0.1 239.255.255.255 ff02::1
255.255.255.255 240.0.0.1 192.0.0.1 192.88.99.1 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::169.254.169.254 ::127.0.0.1
::ffff:0:169.254.169.254 64:ff9b::169.254.169.254 64:ff9b:1::169.254.169.254 64:ff9b:1:a9fe:a9:fe00::
2002:a9fe:a9fe::1 2001:0:a9fe:a9fe::1 2001:0:808:808:0:0:5601:5601 2001:db8::5efe:169.254.169.254
::ffff:0.0.0.0 ::ffff:224.0.0.1 100::1 4000::1 fe80::1%eth0 fe80::1%1 ::1%lo 2002:6464:64c8::
"""

LOOPBACK = "127.0.0.1 127.1.2.3 127.255.255.255 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"

PRIVATE = """
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1 192.0.2.1 198.51.100.1 203.0.113.1
fc00::1 fd12:3456::1 fec0::1 2001:db8::1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 2002:c0a8:101::1
"""

PUBLIC = """
8.8.8.8 1.1.1.1 172.15.0.1 172.32.0.1 192.167.0.1 100.63.255.255 100.128.0.1 126.0.0.1 128.0.0.1 169.253.0.1
2606:4700:4700::1111 2001:4860:4860::8888 64:ff9b::8.8.8.8 64:ff9b:1::8.8.8.8 64:ff9b:1:808:8:800:: ::ffff:8.8.8.8
"""


@pytest.mark.parametrize("ip", ALWAYS_REFUSED.split())
def test_link_local_metadata_and_reserved_addresses_are_refused_whatever_is_allowed(ip: str) -> None:
    everything = parse_networks(["0.0.0.0/0", "::/0"])
    assert OPEN.refusal(ip, 80)
    assert EgressPolicy(allow=everything).refusal(ip, 80)
    assert EgressPolicy(allow=everything, allow_self=True).refusal(ip, 443)


@pytest.mark.parametrize("ip", LOOPBACK.split())
def test_loopback_is_open_by_default_and_closed_by_one_setting(ip: str) -> None:
    assert OPEN.refusal(ip, 80) is None
    assert "allow_loopback" in str(EgressPolicy(allow_loopback=False).refusal(ip, 80))
    assert EgressPolicy(allow_private=False).refusal(ip, 80) is None


@pytest.mark.parametrize("ip", PRIVATE.split())
def test_private_ranges_are_open_by_default_and_closed_by_one_setting(ip: str) -> None:
    assert OPEN.refusal(ip, 80) is None
    assert "allow_private" in str(EgressPolicy(allow_private=False).refusal(ip, 80))


@pytest.mark.parametrize("ip", PUBLIC.split())
def test_public_addresses_stay_open_when_all_else_is_closed(ip: str) -> None:
    assert CLOSED.refusal(ip, 80) is None


@pytest.mark.parametrize(
    "ip", ["", "localhost", "127.1", "0x7f000001", "1.2.3.4.5", "[::1]", "127.0.0.1\n", "١٢٧.0.0.1"]
)
def test_what_is_no_address_is_refused(ip: str) -> None:
    assert OPEN.refusal(ip, 80)


def test_allow_opens_a_part_of_a_closed_range() -> None:
    policy = EgressPolicy(allow_loopback=False, allow_private=False, allow=parse_networks(["10.1.0.0/16", "::1"]))
    assert policy.refusal("10.1.2.3", 80) is None
    assert policy.refusal("::ffff:10.1.2.3", 80) is None
    assert policy.refusal("::1", 80) is None
    assert policy.refusal("10.2.0.1", 80)
    assert policy.refusal("127.0.0.1", 80)


def test_deny_wins_over_allow_in_every_spelling() -> None:
    networks = parse_networks(["8.8.8.0/24"])
    policy = EgressPolicy(allow=networks, deny=networks)
    for ip in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"):
        assert "[egress] deny" in str(policy.refusal(ip, 80))
    assert policy.refusal("8.8.9.8", 80) is None


def test_own_sockets_are_refused_by_address_and_port_unless_allow_self() -> None:
    own = frozenset({("10.0.0.5", 5432), ("127.0.0.1", 7788), ("::1", 6379)})
    policy = EgressPolicy(own_addresses=own)
    for ip, port in (
        ("10.0.0.5", 5432),
        ("::ffff:10.0.0.5", 5432),
        ("127.0.0.1", 7788),
        ("127.9.9.9", 7788),
        ("::1", 7788),
        ("::ffff:127.0.0.1", 7788),
        ("127.0.0.1", 6379),
        ("64:ff9b::7f00:1", 7788),
    ):
        assert "allow_self" in str(policy.refusal(ip, port)), (ip, port)
        assert EgressPolicy(own_addresses=own, allow_self=True).refusal(ip, port) is None
    assert policy.refusal("10.0.0.5", 80) is None
    assert policy.refusal("127.0.0.1", 7789) is None


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_server_on_every_address_is_refused_on_every_address_of_the_machine(wildcard: str) -> None:
    policy = EgressPolicy(
        own_addresses=frozenset({(wildcard, 7788)}), is_local=lambda ip: ip in ("192.168.1.5", "fd12::5")
    )
    for ip in ("127.0.0.1", "127.3.2.1", "::1", "192.168.1.5", "fd12::5", "::ffff:192.168.1.5"):
        assert "allow_self" in str(policy.refusal(ip, 7788)), ip
    assert policy.refusal("192.168.1.6", 7788) is None
    assert policy.refusal("192.168.1.5", 80) is None


def test_allow_does_not_open_own_sockets() -> None:
    policy = EgressPolicy(own_addresses=frozenset({("127.0.0.1", 7788)}), allow=parse_networks(["127.0.0.0/8"]))
    assert "allow_self" in str(policy.refusal("127.0.0.1", 7788))


def test_local_addresses_are_recognised_without_sending_anything() -> None:
    assert is_local_address("127.0.0.1")
    assert not is_local_address("192.0.2.77")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9)) if _has_route() else probe.bind(("127.0.0.1", 0))
        assert is_local_address(probe.getsockname()[0])


def _has_route() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(("192.0.2.1", 9)) == 0


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_mapped_form(ip: IPv4Address) -> None:
    for policy in (OPEN, CLOSED):
        assert (policy.refusal(str(ip), 80) is None) == (policy.refusal(f"::ffff:{ip}", 80) is None)


@given(st.ip_addresses(v=4), st.integers(0, 0xFFFF))
def test_a_refused_ipv4_address_is_refused_inside_every_other_form(ip: IPv4Address, rest: int) -> None:
    value = int(ip)
    forms = [
        IPv6Address((0x64_FF9B << 96) | value),
        IPv6Address((0x2002 << 112) | (value << 80) | rest),
        IPv6Address((0x2001_0000 << 96) | (0x0808_0808 << 64) | (value ^ 0xFFFF_FFFF)),
        IPv6Address((0x2001_0000 << 96) | (value << 64) | rest),
    ]
    for policy in (OPEN, CLOSED):
        if policy.refusal(str(ip), 80) is not None:
            assert all(policy.refusal(str(form), 80) for form in forms)


@given(st.ip_addresses(v=6))
def test_only_global_and_known_local_ipv6_space_is_ever_open(ip: IPv6Address) -> None:
    if CLOSED.refusal(str(ip), 80) is None:
        assert ip in ipaddress.ip_network("2000::/3") or ip in ipaddress.ip_network("64:ff9b::/32") or ip.ipv4_mapped


def test_networks_are_read_and_a_wrong_one_is_named_with_the_nearest_right_one() -> None:
    assert parse_networks(["10.0.0.0/8", " fd00::/8 ", "192.0.2.1"]) == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("fd00::/8"),
        ipaddress.ip_network("192.0.2.1/32"),
    )
    with pytest.raises(ValueError, match=r"did you mean '10\.0\.0\.0/8'"):
        parse_networks(["10.1.2.3/8"])
    with pytest.raises(ValueError, match="'example' is no network"):
        parse_networks(["example"])


def test_a_range_of_ipv4_mapped_addresses_stands_for_the_ipv4_range_that_it_reaches() -> None:
    mapped = parse_networks(["::ffff:10.0.0.0/104", "::ffff:0:0/96"])
    assert mapped == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("0.0.0.0/0"))
    assert parse_networks(["::/0", "::/64"]) == (ipaddress.ip_network("::/0"), ipaddress.ip_network("::/64"))
    policy = EgressPolicy(deny=mapped[:1])
    assert policy.refusal("10.0.0.1", 80) and policy.refusal("::ffff:10.0.0.1", 80)


@pytest.mark.parametrize(
    ("host", "ip"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.0x0.0x0.0x1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("0xA9FEA9FE", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("::1", "::1"),
        ("::ffff:7f00:1", "::ffff:7f00:1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("example.com", None),
        ("1.example.com", None),
        ("0xcafe.example", None),
        ("a1", None),
        ("deadbeef", None),
    ],
)
def test_a_literal_host_is_read_as_systems_read_it(host: str, ip: str | None) -> None:
    found = literal_address(host)
    # As objects: Python 3.13 writes mapped addresses with dots.
    assert (found and ipaddress.ip_address(found)) == (ip and ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    "host", ["256.0.0.1", "1.2.3.4.5", "4294967296", "1.2.3.256", "08.0.0.1", "foo.1", "1.2.3.0x100000000", "9" * 40]
)
def test_a_host_that_ends_in_a_number_and_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"host|IPv4"):
        literal_address(host)


@given(st.ip_addresses(v=4))
def test_all_spellings_of_an_ipv4_address_are_one(ip: IPv4Address) -> None:
    value, octets = int(ip), ip.packed
    for host in (str(value), hex(value), f"0{value:o}", ".".join(map(hex, octets)), f"{octets[0]}.{value & 0xFFFFFF}"):
        assert literal_address(host) == str(ip)
