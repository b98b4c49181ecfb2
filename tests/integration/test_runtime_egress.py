"""What a sandbox with `network = "egress"` reaches. Nothing here is sent further than to this machine."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import docker
import pytest
from conftest import Sandboxes

from dispatcher.runtimes.docker import DockerRuntime
from dispatcher.runtimes.egress import EgressNetwork, ensure_egress_network, remove_egress_network
from dispatcher.runtimes.firewall import NOT_PUBLIC, addresses, split
from mayfly.errors import SandboxLost, SettingsError
from mayfly.function import Function
from mayfly.settings import Settings

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("iptables-restore") is None, reason="only root can set address rules"
)

CONNECT = """
import socket
result = {}
for host, port in given:
    try:
        socket.create_connection((host, port), timeout=3).close()
        result[f"{host}:{port}"] = "answered"
    except TimeoutError:
        result[f"{host}:{port}"] = "dropped"
    except OSError as error:
        result[f"{host}:{port}"] = error.__class__.__name__
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Answers on every address of this machine."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server


@pytest.fixture
async def egress(
    listener: socket.socket,
    runtime_settings: Settings,
    docker_engine: docker.DockerClient,
    python_probe: Function,
    unix_probe: Function,
) -> AsyncIterator[Sandboxes]:
    """Sandboxes that may reach the listener, by the name that they know this machine by, and nothing else."""
    allowed = f"host.mayfly.internal:{listener.getsockname()[1]}"
    settings = runtime_settings.model_copy(update={"egress_allow": (allowed,)})
    runtime = DockerRuntime(settings, "egress-test")
    await runtime.start()
    assert runtime.egress_refusal is None
    try:
        yield Sandboxes(runtime, python_probe, unix_probe)
    finally:
        await runtime.close()
        remove_egress_network(settings, docker_engine.api)


def rules() -> list[str]:
    return subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True).stdout.splitlines()


async def test_the_allowed_place_answers_and_this_machine_does_not_otherwise(egress, listener, docker_engine):
    port = listener.getsockname()[1]
    with socket.create_server(("0.0.0.0", 0)) as forbidden:
        other = forbidden.getsockname()[1]
        gateway = await egress.inside(
            'import socket; result = socket.gethostbyname("host.mayfly.internal")',
            spec={"network": "egress"},
        )
        bridge = docker_engine.api.inspect_network("bridge")["IPAM"]["Config"][0].get("Gateway", "172.17.0.1")
        own = [host for host in (gateway, bridge, primary_address()) if host]
        given = [(gateway, port), *((host, other) for host in own)]
        found = await egress.inside(CONNECT, given=given, spec={"network": "egress"})
    assert found.pop(f"{gateway}:{port}") == "answered"
    assert found == {f"{host}:{other}": "dropped" for host in own}


def primary_address() -> str | None:
    """This machine's address towards others; asking for a route sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


PRIVATE = ("10.254.254.254", "100.64.254.254", "169.254.77.77", "192.168.254.254", "198.18.254.254")
PUBLIC = "1.2.3.4"
ANSWER = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    server.accept()[0].close()
"""


@pytest.fixture
def neighbour() -> Iterator[None]:
    """A machine next door, which is a network namespace on this one: all of those addresses are its own."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    name = "mayfly-test"
    ip("netns", "add", name)
    try:
        ip("link", "add", "mayfly-t0", "type", "veth", "peer", "name", "mayfly-t1", "netns", name)
        ip("addr", "add", "198.18.254.1/32", "dev", "mayfly-t0")
        ip("link", "set", "mayfly-t0", "up")
        for device in ("lo", "mayfly-t1"):
            ip("-n", name, "link", "set", device, "up")
        for address in (*PRIVATE, PUBLIC):
            ip("-n", name, "addr", "add", f"{address}/32", "dev", "mayfly-t1")
            ip("route", "add", f"{address}/32", "dev", "mayfly-t0", "src", "198.18.254.1")
        ip("-n", name, "route", "add", "198.18.254.1/32", "dev", "mayfly-t1")
        command = ["ip", "netns", "exec", name, sys.executable, "-c", ANSWER]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield
            server.kill()
    finally:
        # Its devices go with it, and their routes with them.
        ip("netns", "del", name)


async def test_public_addresses_answer_and_those_that_are_not_are_dropped(egress, neighbour):
    for address in (*PRIVATE, PUBLIC):
        socket.create_connection((address, 7000), timeout=10).close()
    given = [(address, 7000) for address in (*PRIVATE, PUBLIC)]
    found = await egress.inside(CONNECT, given=given, spec={"network": "egress"})
    assert found.pop(f"{PUBLIC}:7000") == "answered"
    assert found == {f"{address}:7000": "dropped" for address in PRIVATE}


async def test_another_sandbox_is_hidden(egress, docker_engine):
    server = await egress.runtime.launch(
        egress.unix_spec(
            """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print(socket.gethostbyname(socket.gethostname()), flush=True)
while True:
    server.accept()
""",
            network="egress",
        )
    )
    address = (await asyncio.wait_for(anext(aiter(server.stdout)), 60)).decode().strip()
    # It does listen: this machine itself reaches it.
    await asyncio.to_thread(lambda: socket.create_connection((address, 7000), timeout=10).close())
    found = await egress.inside(CONNECT, given=[(address, 7000)], spec={"network": "egress"})
    assert found == {f"{address}:7000": "dropped"}
    await server.remove()


async def test_a_container_on_another_network_is_out_of_reach(egress, docker_engine, unix_probe):
    container = docker_engine.containers.run(
        unix_probe.image,
        ["import socket\ns = socket.create_server(('0.0.0.0', 7000))\nwhile True: s.accept()"],
        detach=True,
    )
    try:
        container.reload()
        networks = container.attrs["NetworkSettings"]["Networks"]
        address = networks["bridge"]["IPAddress"]
        found = await egress.inside(CONNECT, given=[(address, 7000)], spec={"network": "egress"})
        assert found == {f"{address}:7000": "dropped"}
    finally:
        container.remove(force=True)


async def test_rules_that_a_firewall_forgot_come_back_while_a_sandbox_runs(
    egress, runtime_settings, monkeypatch
):
    monkeypatch.setattr("dispatcher.runtimes.docker.RECHECK_SECONDS", 0.1)
    monkeypatch.setattr("dispatcher.runtimes.egress.RECHECK_SECONDS", 0.0)
    sandbox = await egress.make(network="egress")
    # Other stacks of this machine have rules as well.
    bridge = EgressNetwork(runtime_settings).name.replace("-egress", "")
    ours = [rule for rule in rules() if rule.startswith("-A DOCKER-USER") and bridge in rule]
    assert len(ours) == 2
    for rule in ours:
        subprocess.run(["iptables", *rule.replace("-A", "-D", 1).split()], check=True)
    async with asyncio.timeout(60):
        while not set(ours) <= set(rules()):
            await asyncio.sleep(0.05)
    await sandbox.remove()


async def test_it_has_no_ipv6(egress):
    found = await egress.inside(
        """
import os
result = open("/proc/net/if_inet6").read() if os.path.exists("/proc/net/if_inet6") else ""
""",
        spec={"network": "egress"},
    )
    assert found == ""


async def test_it_is_confined_as_one_without_a_network_is(egress):
    found = await egress.inside(
        """
fields = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
result = [fields[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")]
""",
        spec={"network": "egress"},
    )
    assert found == ["0" * 16, "0" * 16, "1", "2"]


def test_rules_that_somebody_flushed_are_set_again_and_never_twice(runtime_settings, docker_engine):
    ensure_egress_network(runtime_settings, docker_engine.api)
    try:
        whole = ours(runtime_settings)
        ensure_egress_network(runtime_settings, docker_engine.api)
        assert ours(runtime_settings) == whole
        chain = next(rule.split()[1] for rule in whole if rule.startswith("-N"))
        subprocess.run(["iptables", "-w", "-F", chain], check=True)
        subprocess.run(["iptables", "-w", "-D", "INPUT", "-i", chain.lower(), "-j", chain], check=True)
        assert ours(runtime_settings) != whole
        ensure_egress_network(runtime_settings, docker_engine.api)
        assert ours(runtime_settings) == whole
        for network in NOT_PUBLIC:
            assert f"-A {chain} -d {network} -j DROP" in whole
    finally:
        remove_egress_network(runtime_settings, docker_engine.api)
    assert ours(runtime_settings) == []


def ours(settings: Settings) -> list[str]:
    """The rules of this folder's network, in the order of their chains."""
    bridge = EgressNetwork(settings).name.replace("mayfly-egress-", "mayfly-")
    return sorted(rule for rule in rules() if bridge.upper() in rule or f"{bridge} -m" in rule)


def test_two_stacks_have_a_network_each(runtime_settings, docker_engine, tmp_path):
    other = runtime_settings.model_copy(update={"state_dir": tmp_path / "other"})
    try:
        first = ensure_egress_network(runtime_settings, docker_engine.api)
        second = ensure_egress_network(other, docker_engine.api)
        assert first != second
        assert ensure_egress_network(runtime_settings, docker_engine.api) == first
    finally:
        remove_egress_network(runtime_settings, docker_engine.api)
        remove_egress_network(other, docker_engine.api)


async def test_where_rules_cannot_be_set_egress_is_refused_unless_it_is_accepted_open(
    runtime_settings, sandboxes, monkeypatch
):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    runtime = DockerRuntime(runtime_settings, "no-root")
    await runtime.start()
    try:
        assert runtime.egress_refusal == (
            'network = "egress" is refused: only root can set address rules. '
            "MAYFLY_EGRESS_OPEN=true accepts egress without rules"
        )
        with pytest.raises(SandboxLost, match="only root can set address rules"):
            await runtime.launch(sandboxes.spec(network="egress"))
    finally:
        await runtime.close()
    accepted = DockerRuntime(runtime_settings.model_copy(update={"egress_open": True}), "no-root")
    await accepted.start()
    try:
        assert accepted.egress_refusal is None
    finally:
        await accepted.close()


@pytest.mark.parametrize("pair", ["mail", "mail:", ":25", "mail:0", "mail:65536", "mail:x", "mail:²"])
def test_what_is_no_host_and_port_is_refused(pair):
    with pytest.raises(SettingsError, match="is not host:port"):
        split(pair)


def test_a_name_is_allowed_by_each_of_its_addresses():
    assert addresses("localhost:25", "172.30.0.1") == [("127.0.0.1", 25)]
    assert addresses("host.mayfly.internal:25", "172.30.0.1") == [("172.30.0.1", 25)]
