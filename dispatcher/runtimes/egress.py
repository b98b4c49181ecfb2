"""The network of sandboxes with `network = "egress"`: public addresses, and nothing of ours.

A bridge of its own for each state folder, so that two stacks on one machine, with different lists of what
may be reached, leave each other's rules alone. Its sandboxes are hidden from each other (`enable_icc`), and a
chain of iptables rules, hooked where Docker leaves room for the operator's (DOCKER-USER) and where packets to
this machine come in (INPUT), drops whatever is not public. IPv6 is off on it.

What is dropped is RFC 6890's list of special-purpose addresses; link-local has the clouds' metadata services.
"""

import hashlib
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import APIError, DockerException, NotFound

from dispatcher.runtimes.engine import connect
from dispatcher.runtimes.hardening import HOST_NAME
from mayfly.errors import MayflyError, SandboxLost, SettingsError
from mayfly.settings import Settings

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
RECHECK_SECONDS: Final = 10.0
"""A firewall that somebody reloads forgets our rules; they are set again when they are older than this."""
RESOLVERS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
BRIDGE_FILTER: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


MATCH: Final = "-m conntrack --ctorigdst {} --ctorigdstport {}"
"""By the destination that the sandbox named: Docker's published ports have another by the time we look."""
ANSWERS: Final = ("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")


class EgressNetwork:
    """The Docker network and its rules. `refusal` says why there can be none here."""

    def __init__(self, settings: Settings) -> None:
        digest = hashlib.sha256(str(settings.state_dir.resolve()).encode()).hexdigest()[:8]
        self.name = f"mayfly-egress-{digest}"
        # 15 characters, the longest name that Linux gives an interface.
        self.bridge = f"mayfly-{digest}"
        self.refusal: str | None = None
        self._chain = f"MAYFLY-{digest}"
        self._allow = settings.egress_allow
        self._open = settings.egress_open
        self._lock = threading.Lock()
        self._gateway = ""
        self._checked = float("-inf")

    def check(self, api: docker.APIClient) -> None:
        """Set `refusal` where it is plain that the rules cannot be set. Raises `SettingsError`."""
        if self._open:
            return
        reason = None
        if not api.base_url.startswith("http+docker://"):
            reason = "the engine is on another machine, where this one cannot set address rules"
        elif os.geteuid() != 0:
            reason = "only root can set address rules"
        elif shutil.which("iptables-restore") is None:
            reason = "iptables is not installed"
        self._refuse(reason)
        for pair in self._allow:
            split(pair)

    def _refuse(self, reason: str | None) -> None:
        self.refusal = reason and (
            f'network = "egress" is refused: {reason}. MAYFLY_EGRESS_OPEN=true accepts egress without rules'
        )

    def ensure(self, api: docker.APIClient) -> tuple[str, str]:
        """The network's name and this machine's address on it. Blocks; raises `SandboxLost`."""
        if self.refusal is not None:
            raise SandboxLost(self.refusal)
        with self._lock:
            if time.monotonic() - self._checked > RECHECK_SECONDS:
                self._gateway = self._gateway_of(self._network(api))
                if not self._open:
                    self._set_rules()
                self._checked = time.monotonic()
        return self.name, self._gateway

    def remove(self, api: docker.APIClient) -> None:
        """Take the network and its rules away: for a stack that is brought down. Blocks."""
        try:
            api.remove_network(self.name)
        except NotFound:
            pass
        except APIError as error:
            raise SandboxLost(f"the network {self.name} is in use: {error.explanation}") from error
        if self._open or self.refusal is not None:
            return
        for hook in self._hooks:
            while _holds(hook):
                _run("iptables", "-w", "-D", *hook)
        _run("iptables", "-w", "-F", self._chain, check=False)
        _run("iptables", "-w", "-X", self._chain, check=False)

    # --- the network

    def _network(self, api: docker.APIClient) -> dict[str, Any]:
        try:
            return self._inspect(api)
        except NotFound:
            pass
        options = {
            "com.docker.network.bridge.name": self.bridge,
            "com.docker.network.bridge.enable_icc": "false",
        }
        try:
            labels = {"mayfly.network": "egress"}
            api.create_network(self.name, "bridge", options, check_duplicate=True, labels=labels)
        except APIError as error:
            # Another dispatcher may have made it just now.
            try:
                return self._inspect(api)
            except NotFound:
                raise SandboxLost(f"the egress network cannot be made: {error.explanation}") from error
        return self._inspect(api)

    def _inspect(self, api: docker.APIClient) -> dict[str, Any]:
        network: dict[str, Any] = api.inspect_network(self.name)
        return network

    def _gateway_of(self, network: dict[str, Any]) -> str:
        return str(network["IPAM"]["Config"][0]["Gateway"])

    # --- the rules

    def _set_rules(self) -> None:
        self._refuse(self._obstacle())
        if self.refusal is not None:
            raise SandboxLost(self.refusal)
        try:
            # One transaction: at no moment is the chain empty.
            _run("iptables-restore", "-w", "--noflush", input=self._rules())
            for hook in self._hooks:
                if not _holds(hook):
                    _run("iptables", "-w", "-I", *hook)
        except (SandboxLost, SettingsError, OSError, subprocess.TimeoutExpired) as error:
            raise SandboxLost(f"the rules of egress cannot be set: {error}") from error

    def _obstacle(self) -> str | None:
        if not Path("/sys/class/net", self.bridge).exists():
            return "the engine's networks are not this machine's"
        if not BRIDGE_FILTER.exists() or BRIDGE_FILTER.read_text().strip() != "1":
            return f"sandboxes cannot be hidden from each other while {BRIDGE_FILTER} is not 1"
        return None

    @property
    def _hooks(self) -> tuple[tuple[str, ...], ...]:
        """What leads to our chain, as arguments behind `iptables -I`, `-C` or `-D`."""
        return (
            ("INPUT", "-i", self.bridge, "-j", self._chain),
            ("DOCKER-USER", "-i", self.bridge, "-j", self._chain),
            # Docker drops what passes between its bridges, the answers of an allowed one too.
            ("DOCKER-USER", "-o", self.bridge, *ANSWERS),
        )

    def _rules(self) -> str:
        """For both directions alike: packets to this machine, by any of its addresses, and to others."""
        add = f"-A {self._chain}"
        places = [("tcp", *place) for pair in self._allow for place in addresses(pair, self._gateway)]
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


def ensure_egress_network(settings: Settings, api: docker.APIClient) -> str:
    """Make the network and its rules; answers this machine's address on it. Blocks; raises `SandboxLost`."""
    network = EgressNetwork(settings)
    network.check(api)
    return network.ensure(api)[1]


def remove_egress_network(settings: Settings, api: docker.APIClient) -> None:
    """Take the network and its rules away. Blocks; raises `SandboxLost` while sandboxes use it."""
    network = EgressNetwork(settings)
    network.check(api)
    network.remove(api)


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
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise SandboxLost(f"{command[0]}: {done.stderr.strip()}")
    return done.returncode


def main() -> int:
    """Make the network and print this machine's address on it, for what is to listen there."""
    try:
        settings = Settings()
        print(ensure_egress_network(settings, connect(settings)))
    except (MayflyError, DockerException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
