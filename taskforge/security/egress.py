"""Which addresses a step's request may connect to. Pure policy: no DNS, no sockets of its own.

The transport asks for every address it is about to connect to, at every hop, after resolution. Some addresses are
refused always (link-local, cloud metadata, multicast, reserved); loopback and private ranges by configuration; the
server's own sockets unless `allow_self`. An address inside another (IPv4-mapped, NAT64, 6to4, Teredo …) is judged too.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from taskforge.core.record import dataclass

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_METADATA: Final = _networks(
    "169.254.169.254",  # AWS, Azure, Google, OpenStack and most others
    "169.254.170.2",  # AWS container credentials
    "100.100.100.200",  # Alibaba
    "168.63.129.16",  # Azure wire server
    "192.0.0.192",  # Oracle, classic
    "fd00:ec2::/32",  # AWS over IPv6
    "fd20:ce::254",  # Google over IPv6
    "fd00:42::42",  # Scaleway over IPv6
)

_ALWAYS: Final = (
    ("a cloud metadata address", _METADATA),
    ("a link-local address", _networks("169.254.0.0/16", "fe80::/10")),
    ("an unspecified address", _networks("0.0.0.0/8", "::")),
    ("a multicast address", _networks("224.0.0.0/4", "ff00::/8")),
    ("the broadcast address", _networks("255.255.255.255")),
    ("a reserved address", _networks("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4")),
)

_LOOPBACK: Final = _networks("127.0.0.0/8", "::1")

_PRIVATE: Final = _networks(
    "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "2001::/23", "2001:db8::/32", "3fff::/20", "fc00::/7", "fec0::/10",
)  # fmt: skip
"""Ranges of the IANA special-purpose registries that are not globally reachable, documentation ranges included."""

_IPV6_IN_USE: Final = _networks("::1", "64:ff9b::/96", "64:ff9b:1::/48", "2000::/3", "fc00::/7", "fec0::/10")
"""All other IPv6 space is reserved, IPv4-compatible addresses (`::10.0.0.1`) included."""

_IPV4_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_LAST_32_BITS: Final = tuple(IPv6Network(text) for text in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


def is_local_address(ip: str) -> bool:
    """Say whether `ip` belongs to this machine. Binds a UDP socket to it and sends nothing."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class EgressPolicy:
    """What `[egress]` in the configuration says.

    `allow` opens networks that `allow_loopback` or `allow_private` closes, never those that are always refused; `deny`
    wins over everything. `own_addresses` are (ip, port) of sockets that steps must not reach: where this server
    listens, its PostgreSQL and Redis. A wildcard there (`0.0.0.0`, `::`) stands for every address of this machine.
    """

    allow_loopback: bool = True
    allow_private: bool = True
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    own_addresses: frozenset[tuple[str, int]] = frozenset()
    allow_self: bool = False
    is_local: Callable[[str], bool] = is_local_address

    def refusal(self, ip: str, port: int) -> str | None:
        """Return why a connection to `ip` and `port` is refused, in words for people; None where it is allowed."""
        if "%" in ip:
            return f"{ip} names a network interface, which is refused always"
        try:
            outer = ipaddress.ip_address(ip)
        except ValueError:
            return f"{ip[:80]!r} is no IP address"
        for address in embedded_addresses(outer):
            reason = self._refusal_of(address, port)
            if reason is not None:
                return reason if address == outer else f"{ip} stands for {address}; {reason}"
        return None

    def _refusal_of(self, address: Address, port: int) -> str | None:
        denied = _containing(address, self.deny)
        if denied is not None:
            return f"{address} is in {denied}, which [egress] deny lists"
        for what, networks in _ALWAYS:
            if _containing(address, networks) is not None:
                return f"{address} is {what}, which is refused always"
        if isinstance(address, IPv6Address) and _containing(address, _IPV6_IN_USE) is None:
            return f"{address} is a reserved address, which is refused always"
        if not self.allow_self and self._is_own(address, port):
            return (
                f"{address} port {port} is the server's own address or its database; "
                "set [egress] allow_self = true to let steps reach it"
            )
        for what, networks, is_open, setting in (
            ("a loopback address", _LOOPBACK, self.allow_loopback, "allow_loopback"),
            ("a private address", _PRIVATE, self.allow_private, "allow_private"),
        ):
            closed = not is_open and _containing(address, networks) is not None
            if closed and _containing(address, self.allow) is None:
                return f"{address} is {what}, closed by [egress] {setting} = false; [egress] allow can open it"
        return None

    def _is_own(self, address: Address, port: int) -> bool:
        for own_ip, own_port in self.own_addresses:
            if own_port != port:
                continue
            own = ipaddress.ip_address(own_ip)
            own = getattr(own, "ipv4_mapped", None) or own
            if own == address:
                return True
            # A loopback socket has several spellings (127.0.0.1, 127.1.2.3, ::1); none of them is worth a try.
            if address.is_loopback and (own.is_loopback or own.is_unspecified):
                return True
            if own.is_unspecified and self.is_local(str(address)):
                return True
        return False


def embedded_addresses(address: Address) -> tuple[Address, ...]:
    """Return the addresses to judge for one: itself, and the IPv4 addresses that it carries.

    An IPv4-mapped address reaches exactly its IPv4 address, so only that one is returned.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    value = int(address)
    if address in _IPV4_MAPPED:
        return (IPv4Address(value & 0xFFFF_FFFF),)
    inner: list[int] = []
    if value <= 1:  # `::` and `::1` carry nothing
        return (address,)
    if any(address in network for network in _LAST_32_BITS):
        inner.append(value)
    elif address in _NAT64_LOCAL:
        # RFC 6052, 2.2: prefixes of 48, 56, 64 and 96 bits; the octet of bits 64 to 71 is left out. What begins with
        # a zero octet is the gap of another length.
        shifted = (value >> 64) << 64 | (value & 0xFF_FFFF_FFFF_FFFF) << 8
        inner += [found for found in (shifted >> 48, shifted >> 40, shifted >> 32, value) if found & 0xFF00_0000]
    elif address in _SIX_TO_FOUR:
        inner.append(value >> 80)
    elif address in _TEREDO:
        inner += [value >> 64, ~value]
    if value >> 32 & 0xFFFF_FFFF in _ISATAP:
        inner.append(value)
    return (address, *(IPv4Address(found & 0xFFFF_FFFF) for found in inner))


def _containing(address: Address, networks: Iterable[Network]) -> Network | None:
    for network in networks:
        if address in network:
            return network
    return None


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read CIDR texts such as `10.0.0.0/8` or `fd00::/8`, or single addresses. ValueError says which one is wrong.

    A range of IPv4-mapped addresses comes back as the IPv4 range that it reaches: what is judged is the IPv4 address.
    """
    found: list[Network] = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text.strip())
            if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):
                network = IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
            found.append(network)
        except ValueError:
            try:
                nearest = ipaddress.ip_network(text.strip(), strict=False)
            except ValueError:
                raise ValueError(f"{text!r} is no network; write it as 10.0.0.0/8, fd00::/8 or 192.0.2.1") from None
            raise ValueError(f"{text!r} has bits set behind its prefix; did you mean {str(nearest)!r}?") from None
    return tuple(found)


def literal_address(host: str) -> str | None:
    """Read a URL's host as a literal address, or return None for a name.

    IPv4 in any spelling that systems take for an address (`127.1`, `0x7f000001`, `017700000001`, `2130706433`) comes
    back dotted, as browsers do it (WHATWG URL, "IPv4 parser"), so that what is checked is what is connected to.
    ValueError for a host that ends in a number and is no address.
    """
    if ":" in host:
        return str(IPv6Address(host))
    labels = host.removesuffix(".").split(".")
    if not _is_numeric(labels[-1]):
        return None
    if len(labels) > 4 or not all(map(_is_numeric, labels)):
        raise ValueError(f"{host!r} ends in a number but is no IPv4 address")
    numbers = [_number(label) for label in labels]
    *heads, last = numbers
    if any(number > 255 for number in heads) or last >= 256 ** (5 - len(numbers)):
        raise ValueError(f"{host!r} is out of the range of IPv4 addresses")
    value = last
    for place, number in enumerate(heads):
        value += number << 8 * (3 - place)
    return str(IPv4Address(value))


def _is_numeric(label: str) -> bool:
    if label[:2] in ("0x", "0X"):
        return all(digit in "0123456789abcdefABCDEF" for digit in label[2:]) and len(label) < 20
    return label.isascii() and label.isdigit()


def _number(label: str) -> int:
    if label[:2] in ("0x", "0X"):
        return int(label[2:] or "0", 16)
    if len(label) > 20:
        raise ValueError("a number in the host is too long for an IPv4 address")
    if label[0] == "0" and len(label) > 1:
        if "8" in label or "9" in label:
            raise ValueError(f"{label!r} in the host begins with 0 and is no octal number")
        return int(label, 8)
    return int(label)
