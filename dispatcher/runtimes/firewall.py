"""The address rules of one egress network: a chain of iptables rules, and what leads to it.

What is dropped is RFC 6890's list of special-purpose addresses (a cloud's metadata service has a link-local
one), and this machine by any of its addresses.
"""

import ipaddress
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dispatcher.runtimes.hardening import HOST_NAME
from mayfly.errors import SandboxLost, SettingsError

NOT_PUBLIC: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
MATCH: Final = "-m conntrack --ctorigdst {} --ctorigdstport {}"
"""By the destination that the sandbox named: Docker's published ports have another by the time we look."""
ANSWERS: Final = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
RESOLVERS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
COMMAND_SECONDS: Final = 30


class Firewall:
    """The rules for what comes in from one bridge. Everything blocks, and raises `SandboxLost`."""

    def __init__(self, bridge: str) -> None:
        self._bridge = bridge
        self._chain = bridge.upper()

    def set(self, allow: Iterable[str], gateway: str) -> None:
        """Set the rules, or set them again. `allow` holds `host:port`, `gateway` is this machine there."""
        try:
            # One transaction: at no moment is the chain empty.
            _run("iptables-restore", "-w", "--noflush", input=self._rules(allow, gateway))
            for hook in self._hooks:
                if not _holds(hook):
                    _run("iptables", "-w", "-I", *hook)
        except SettingsError as error:
            raise SandboxLost(str(error)) from error

    def remove(self) -> None:
        for hook in self._hooks:
            while _holds(hook):
                _run("iptables", "-w", "-D", *hook)
        _run("iptables", "-w", "-F", self._chain, check=False)
        _run("iptables", "-w", "-X", self._chain, check=False)

    @property
    def _hooks(self) -> tuple[tuple[str, ...], ...]:
        """What leads to our chain, as arguments behind `iptables -I`, `-C` or `-D`."""
        return (
            ("INPUT", "-i", self._bridge, "-j", self._chain),
            ("DOCKER-USER", "-i", self._bridge, "-j", self._chain),
            # Docker drops what passes between its bridges, the answers of an allowed one too.
            ("DOCKER-USER", "-o", self._bridge, *ANSWERS),
        )

    def _rules(self, allow: Iterable[str], gateway: str) -> str:
        """For both directions alike: packets to this machine, and those that it forwards."""
        add = f"-A {self._chain}"
        places = [("tcp", *place) for pair in allow for place in addresses(pair, gateway)]
        # Docker's resolver asks the machine's own name servers from within the sandbox's network.
        places += [(protocol, server, 53) for server in name_servers() for protocol in ("udp", "tcp")]
        rules = [
            "*filter",
            f":{self._chain} - [0:0]",
            f"{add} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            *(f"{add} -p {protocol} {MATCH.format(host, port)} -j ACCEPT" for protocol, host, port in places),
            f"{add} -m addrtype --dst-type LOCAL -j DROP",
            *(f"{add} -d {network} -j DROP" for network in NOT_PUBLIC),
            f"{add} -j RETURN",
            "COMMIT",
        ]
        return "\n".join(rules) + "\n"


def split(pair: str) -> tuple[str, int]:
    """The parts of a `host:port`. Raises `SettingsError`."""
    host, _, port = pair.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"MAYFLY_EGRESS_ALLOW: {pair!r} is not host:port")
    return host, int(port)


def addresses(pair: str, gateway: str) -> list[tuple[str, int]]:
    """The IPv4 addresses and the port of a `host:port`. Raises `SettingsError`."""
    host, port = split(pair)
    if host == HOST_NAME:
        return [(gateway, port)]
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"MAYFLY_EGRESS_ALLOW: {host} has no IPv4 address: {error}") from error
    return sorted({(str(address[0]), port) for *_, address in found})


def name_servers() -> list[str]:
    """The IPv4 name servers that Docker may ask, but for those on loopback, which it cannot."""
    servers: set[str] = set()
    for path in RESOLVERS:
        lines = path.read_text().splitlines() if path.exists() else []
        for words in (line.split() for line in lines):
            if len(words) > 1 and words[0] == "nameserver" and _is_remote(words[1]):
                servers.add(words[1])
    return sorted(servers)


def _is_remote(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not address.is_loopback


def _holds(rule: tuple[str, ...]) -> bool:
    return _run("iptables", "-w", "-C", *rule, check=False) == 0


def _run(*command: str, input: str | None = None, check: bool = True) -> int:
    try:
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxLost(f"{command[0]}: {error}") from error
    if check and done.returncode:
        raise SandboxLost(f"{command[0]}: {done.stderr.strip()}")
    return done.returncode
