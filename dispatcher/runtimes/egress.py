"""The network of sandboxes with `network = "egress"`: public addresses, and nothing of ours.

A bridge of its own for each state folder, so that two stacks on one machine, with different lists of what may
be reached, leave each other's rules alone. Its sandboxes are hidden from each other (`enable_icc`), and rules
(`firewall`), hooked where Docker leaves room for the operator's (DOCKER-USER) and where packets to this
machine come in (INPUT), drop whatever is not public. IPv6 is off on it.

As a program, it makes the network and prints this machine's address there, for what is to listen on it; with
the argument `remove` it takes the network away.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import APIError, DockerException, NotFound

from dispatcher.runtimes.engine import connect
from dispatcher.runtimes.firewall import Firewall, split
from dispatcher.runtimes.ownership import folder_label, is_deserted
from mayfly.errors import MayflyError, SandboxLost
from mayfly.settings import Settings

LABEL: Final = "mayfly.egress"
RECHECK_SECONDS: Final = 10.0
"""A firewall that somebody reloads forgets our rules; they are set again when they are older than this."""
DESERTED_AFTER: Final = timedelta(minutes=10)
"""A network is made before the dispatchers that will use it."""
BRIDGE_FILTER: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


class EgressNetwork:
    """The Docker network and its rules. `refusal` says why there can be none here."""

    def __init__(self, settings: Settings) -> None:
        self._folder = folder_label(settings.state_dir)
        digest = hashlib.sha256(self._folder.encode()).hexdigest()[:8]
        self.name = f"mayfly-egress-{digest}"
        # 15 characters, the longest name that Linux gives an interface.
        self._bridge = f"mayfly-{digest}"
        self.refusal: str | None = None
        self._allow = settings.egress_allow
        self._open = settings.egress_open
        self._lock = threading.Lock()
        self._gateway = ""
        self._checked = float("-inf")

    def check(self, api: docker.APIClient) -> None:
        """Set `refusal` where it is plain that the rules cannot be set. Raises `SettingsError`."""
        for pair in self._allow:
            split(pair)
        if self._open:
            return
        if not api.base_url.startswith("http+docker://"):
            self._refuse("the engine is on another machine, where this one cannot set address rules")
        elif os.geteuid() != 0:
            self._refuse("only root can set address rules")
        elif shutil.which("iptables-restore") is None:
            self._refuse("iptables is not installed")

    def ensure(self, api: docker.APIClient) -> tuple[str, str]:
        """The network's name and this machine's address on it. Blocks; raises `SandboxLost`."""
        if self.refusal is not None:
            raise SandboxLost(self.refusal)
        with self._lock:
            if time.monotonic() - self._checked > RECHECK_SECONDS:
                self._gateway = str(self._network(api)["IPAM"]["Config"][0]["Gateway"])
                if not self._open:
                    self._set_rules()
                self._checked = time.monotonic()
        return self.name, self._gateway

    def _set_rules(self) -> None:
        if not Path("/sys/class/net", self._bridge).exists():
            self._refuse("the engine's networks are not this machine's")
        elif not BRIDGE_FILTER.exists() or BRIDGE_FILTER.read_text().strip() != "1":
            self._refuse(f"sandboxes cannot be hidden from each other while {BRIDGE_FILTER} is not 1")
        if self.refusal is not None:
            raise SandboxLost(self.refusal)
        Firewall(self._bridge).set(self._allow, self._gateway)

    def _refuse(self, reason: str) -> None:
        self.refusal = (
            f'network = "egress" is refused: {reason}. MAYFLY_EGRESS_OPEN=true accepts egress without rules'
        )

    def _network(self, api: docker.APIClient) -> dict[str, Any]:
        try:
            return _inspect(api, self.name)
        except NotFound:
            _remove_deserted(api)
        options = {
            "com.docker.network.bridge.name": self._bridge,
            "com.docker.network.bridge.enable_icc": "false",
        }
        try:
            labels = {LABEL: self._folder}
            api.create_network(self.name, "bridge", options, check_duplicate=True, labels=labels)
        except APIError as error:
            # Another dispatcher may have made it just now.
            try:
                return _inspect(api, self.name)
            except NotFound:
                raise SandboxLost(f"the egress network cannot be made: {error.explanation}") from error
        return _inspect(api, self.name)


def ensure_egress_network(settings: Settings, api: docker.APIClient) -> str:
    """Make the network and its rules; answers this machine's address on it. Blocks; raises `SandboxLost`."""
    network = EgressNetwork(settings)
    network.check(api)
    return network.ensure(api)[1]


def remove_egress_network(settings: Settings, api: docker.APIClient) -> None:
    """Take the network and its rules away. Blocks; raises `SandboxLost` while sandboxes use it."""
    try:
        _remove(api, _inspect(api, EgressNetwork(settings).name))
    except NotFound:
        return
    except APIError as error:
        raise SandboxLost(f"the egress network cannot be removed: {error.explanation}") from error


def _remove_deserted(api: docker.APIClient) -> None:
    """Take away the networks of stacks that were killed: an engine has room for about thirty."""
    for network in api.networks(filters={"label": LABEL}):
        made = datetime.fromisoformat(network["Created"][:19]).replace(tzinfo=UTC)
        if datetime.now(UTC) - made > DESERTED_AFTER and is_deserted(network["Labels"][LABEL]):
            # In use, or another dispatcher is faster.
            with contextlib.suppress(APIError, SandboxLost):
                _remove(api, network)


def _remove(api: docker.APIClient, network: dict[str, Any]) -> None:
    api.remove_network(network["Id"])
    if os.geteuid() == 0:
        Firewall(network["Options"]["com.docker.network.bridge.name"]).remove()


def _inspect(api: docker.APIClient, name: str) -> dict[str, Any]:
    network: dict[str, Any] = api.inspect_network(name)
    return network


def main(*arguments: str) -> int:
    try:
        settings = Settings()
        api = connect(settings)
        if arguments == ("remove",):
            remove_egress_network(settings, api)
        else:
            print(ensure_egress_network(settings, api))
    except (MayflyError, DockerException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
