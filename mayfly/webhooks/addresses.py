"""Which addresses are anybody's to connect to. Pure.

An IPv6 address that carries an IPv4 one is judged by that: a packet to it may end up there.
"""

import ipaddress
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
"""IPv4-translated addresses (RFC 2765)."""
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_CARRIERS: Final = (_MAPPED, _TRANSLATED, _COMPATIBLE, _NAT64)
"""Their last 32 bits are an IPv4 address."""
_UNICAST: Final = IPv6Network("2000::/3")
"""All that IANA has given out so far for addresses that anybody may reach (RFC 4291)."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface's identifier whose lower half is an IPv4 address (RFC 5214)."""
_ASSIGNED: Final = IPv6Network("2001::/23")
"""IETF protocol assignments (RFC 2928)."""
_NOBODYS: Final = (
    # What Azure's hosts tell their guests, secrets among it: public by number only.
    IPv4Network("168.63.129.16/32"),
    # Anycast to whatever 6to4 relay is next, for the rest of its time.
    IPv4Network("192.88.99.0/24"),
    # Python's versions disagree on these: protocol assignments, documentation.
    IPv4Network("192.0.0.0/24"),
    IPv6Network("3fff::/20"),
    IPv6Network("2001:db8::/32"),
)


def is_public(address: Address) -> bool:
    """Whether it is a host's on the internet, and no other's: not this machine's, nor its network's."""
    if any(address in network for network in _NOBODYS if network.version == address.version):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved)
    if address.scope_id is not None:
        return False
    carried = list(carried_by(address))
    if not all(is_public(inner) for inner in carried):
        return False
    # What translates or tunnels is as public as what it leads to.
    wrapped = any(address in network for network in (*_CARRIERS, _SIX_TO_FOUR, _TEREDO))
    return wrapped or (address in _UNICAST and address not in _ASSIGNED and address.is_global)


def carried_by(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that it may lead to."""
    value = int(address)
    last = IPv4Address(value & 0xFFFF_FFFF)
    if any(address in network for network in _CARRIERS):
        yield last
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(value >> 80 & 0xFFFF_FFFF)
    elif address in _TEREDO:
        # The server, and the client with its bits turned over (RFC 4380).
        yield IPv4Address(value >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~value & 0xFFFF_FFFF)
    if value >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield last


def address_of(text: str) -> Address | None:
    """The address that a text is, in its one usual form; None for what is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
