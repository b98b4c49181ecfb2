"""Where callbacks may lead, and where they may not: nothing is connected to that is not public.

The corpus is of what servers that post to strangers' URLs were made to do before.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trustme

from dispatcher.courier import Answer, Courier, Undelivered
from mayfly.errors import SettingsError
from mayfly.settings import Settings
from mayfly.webhooks.addresses import address_of, is_public
from mayfly.webhooks.callback import MAX_URL_CHARS, Policy, parse

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Stream(httpcore.AsyncNetworkStream):
    def __init__(self, net: "Network", answer: Sequence[bytes]) -> None:
        self.net = net
        self.answer = list(answer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.net.hangs:
            await asyncio.Event().wait()
        return self.answer.pop(0) if self.answer else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.net.sent += buffer

    async def aclose(self) -> None:
        self.net.closed += 1

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        assert ssl_context.check_hostname
        assert ssl_context.verify_mode is ssl.CERT_REQUIRED
        self.net.names.append(server_hostname)
        return self


class Network(httpcore.AsyncNetworkBackend):
    """Notes what is connected to. `dead` addresses refuse."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self.names: list[str | None] = []
        self.dead: set[str] = set()
        self.answer: Sequence[bytes] = (OK,)
        self.hangs = False
        self.sent = b""
        self.closed = 0

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> Stream:
        self.connected.append(f"{host}:{port}")
        if host in self.dead:
            raise httpcore.ConnectError("refused")
        return Stream(self, self.answer)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> Stream:
        raise AssertionError("no callback leads to a socket's file")


class Names:
    """A name server whose answers change: each look-up of a name gets the next one."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError(-2, "Name or service not known")
        return answer


class World:
    def __init__(self, *answers: Sequence[str], timeout: float = 10.0, **policy: Any) -> None:
        self.names = Names(*(answers or ([PUBLIC],)))
        self.network = Network()
        self.courier = Courier(
            Policy(**policy),
            lookup=self.names.lookup,
            network=self.network,
            timeout=timeout,
            now=lambda: 1_795_521_600.0,
        )

    async def post(self, url: str) -> Answer:
        return await self.courier.post(url, {"webhook-id": "msg_1"}, b"{}")


REFUSED_BY_THEMSELVES = [
    # not https, or no URL
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com:6379/_FLUSHALL",
    "//example.com/",
    "example.com",
    "https:/example.com/",
    "https:///example.com/",
    "https://",
    "",
    " https://example.com/",
    "https://example.com/ x",
    "https://example.com/\r\nHost: 127.0.0.1",
    "https://example.com/\t",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/\\..\\x",
    "https://example.com/#fragment",
    "https://example.com/ü",
    "https://example.com/" + "x" * MAX_URL_CHARS,
    # user names
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1@example.com/",
    "https://example.com:443@127.0.0.1/",
    "https://@example.com/",
    # ports
    "https://example.com:0/",
    "https://example.com:22/",
    "https://example.com:25/",
    "https://example.com:80/",
    "https://example.com:65536/",
    "https://example.com:99999/",
    "https://example.com:/",
    "https://example.com:+443/",
    "https://example.com:4 43/",
    "https://example.com:0x1bb/",
    # hosts that are none, or that one reads in another way than the next
    "https://example.com./",
    "https://localhost./",
    "https://.example.com/",
    "https://example..com/",
    "https://-example.com/",
    "https://exa%6dple.com/",
    "https://127.0.0.1%2f@example.com/",
    "https://bücher.example/",
    "https://ⓔxample.com/",
    "https://127。0。0。1/",
    "https://１２７.0.0.1/",
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 130 + "com/",
    "https://[::1/",
    "https://::1/",
    "https://[::1]x/",
    "https://[fe80::1%25eth0]/",
    "https://[::ffff:0x7f.1]/",
    # addresses in other forms
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://0/",
    "https://1.1/",
    "https://127.0.0.01/",
    "https://127.0.0.0x1/",
    "https://127.0.0.1.0/",
    "https://256.1.1.1/",
    "https://93.184.216.34.5/",
    "https://1572395042/",
]

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.127.127.127",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::127.0.0.1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:a00:1::5db8:d822",
    "2001:0:5db8:d822:0:0:f5ff:fffe",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "2002:a00:1::1",
    "2606:2800:220:1:0:5efe:10.0.0.1",
    "2606:2800:220:1:200:5efe:192.168.0.1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


def test_the_corpus_is_a_corpus() -> None:
    assert len(set(REFUSED_BY_THEMSELVES)) == len(REFUSED_BY_THEMSELVES) >= 60
    assert len(set(PRIVATE)) == len(PRIVATE) >= 50


@pytest.mark.parametrize("url", REFUSED_BY_THEMSELVES)
async def test_what_is_no_callback_is_refused_without_a_look_up(url: str) -> None:
    world = World()
    with pytest.raises(ValueError):
        Policy().check(url)
    with pytest.raises(Undelivered, match="refused: the URL"):
        await world.post(url)
    assert (world.names.asked, world.network.connected) == ([], [])


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_leads_to_what_is_not_public_is_not_connected_to(address: str) -> None:
    world = World([address])
    with pytest.raises(Undelivered, match="not public"):
        await world.post("https://hooks.example.com/")
    assert world.network.connected == []


@pytest.mark.parametrize("address", [one for one in PRIVATE if "%" not in one])
async def test_nor_is_the_address_itself(address: str) -> None:
    world = World()
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Undelivered, match="which is no public address"):
        await world.post(f"https://{host}/")
    assert (world.names.asked, world.network.connected) == ([], [])


@pytest.mark.parametrize(
    "mixed", [[PUBLIC, "10.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC_6, "::1"], ["fd00:ec2::254", PUBLIC]]
)
async def test_one_address_that_is_not_public_condemns_the_others(mixed: list[str]) -> None:
    world = World(mixed)
    with pytest.raises(Undelivered, match="not public"):
        await world.post("https://hooks.example.com/")
    assert world.network.connected == []


@pytest.mark.parametrize("name", ["localhost", "metadata.google.internal", "a.localhost", "kafka", "redis"])
async def test_a_name_of_the_inside_is_judged_by_where_it_leads(name: str) -> None:
    world = World(["127.0.0.1"])
    with pytest.raises(Undelivered, match="not public"):
        await world.post(f"https://{name}/")
    assert world.network.connected == []


@pytest.mark.parametrize("second", [["127.0.0.1"], ["169.254.169.254"], ["::1"], ["fd00:ec2::254"]])
async def test_a_name_that_means_another_host_the_second_time_is_connected_to_as_it_was_checked(
    second: list[str],
) -> None:
    world = World([PUBLIC], second)
    assert await world.post("https://rebind.example.com/") == Answer(204)
    assert world.names.asked == ["rebind.example.com"]
    assert world.network.connected == [f"{PUBLIC}:443"]
    with pytest.raises(Undelivered, match="not public"):
        await world.post("https://rebind.example.com/")
    assert world.network.connected == [f"{PUBLIC}:443"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["http://169.254.169.254/latest/meta-data/", "https://127.0.0.1/", "/there"])
async def test_a_redirect_is_an_answer_like_any_other(status: int, to: str) -> None:
    world = World()
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    world.network.answer = [head.encode()]
    assert await world.post("https://hooks.example.com/") == Answer(status)
    assert world.network.connected == [f"{PUBLIC}:443"]
    assert world.names.asked == ["hooks.example.com"]


@pytest.mark.parametrize(
    "variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
)
async def test_no_proxy_is_asked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://10.0.0.1:3128")
    world = World()
    await world.post("https://hooks.example.com/")
    assert world.network.connected == [f"{PUBLIC}:443"]


# --- what goes through


@pytest.mark.parametrize(
    ("url", "connected", "name"),
    [
        ("https://hooks.example.com/", f"{PUBLIC}:443", "hooks.example.com"),
        ("https://HOOKS.example.com:8443/a?b=c", f"{PUBLIC}:8443", "hooks.example.com"),
        ("https://xn--bcher-kva.example/", f"{PUBLIC}:443", "xn--bcher-kva.example"),
        ("https://hooks.example.com?b=c", f"{PUBLIC}:443", "hooks.example.com"),
        (f"https://{PUBLIC}/", f"{PUBLIC}:443", PUBLIC),
        (f"https://[{PUBLIC_6}]/", f"{PUBLIC_6}:443", PUBLIC_6),
        ("https://[::ffff:93.184.216.34]/", "::ffff:5db8:d822:443", "::ffff:5db8:d822"),
    ],
)
async def test_what_is_public_is_connected_to_and_has_to_have_the_certificate(
    url: str, connected: str, name: str
) -> None:
    world = World()
    assert await world.post(url) == Answer(204)
    assert [one.replace("::ffff:93.184.216.34", "::ffff:5db8:d822") for one in world.network.connected] == [
        connected
    ]
    assert [
        one and one.replace("::ffff:93.184.216.34", "::ffff:5db8:d822") for one in world.network.names
    ] == [name]
    assert world.network.closed


async def test_what_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    await world.post("https://hooks.example.com:8443/a/b?c=d&e=%20")
    head, _, body = world.network.sent.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /a/b?c=d&e=%20 http/1.1"
    assert set(lines[1:]) == {
        "host: hooks.example.com:8443",
        "content-length: 2",
        "connection: close",
        "webhook-id: msg_1",
    }
    assert body == b"{}"


@pytest.mark.parametrize(
    "address",
    ["2002:5db8:d822::1", "64:ff9b::5db8:d822", "2001:0:808:808:0:0:a247:27dd", "::ffff:93.184.216.34"],
)
def test_an_address_that_carries_a_public_one_is_public(address: str) -> None:
    found = address_of(address)
    assert found is not None
    assert is_public(found)


async def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    world = World([PUBLIC_6, PUBLIC])
    world.network.dead = {PUBLIC_6}
    assert await world.post("https://hooks.example.com/") == Answer(204)
    assert world.network.connected == [f"{PUBLIC_6}:443", f"{PUBLIC}:443"]


# --- what an operator allows


@pytest.mark.parametrize(
    ("allow", "url", "address"),
    [
        ("127.0.0.1:9000", "https://127.0.0.1:9000/", "127.0.0.1"),
        ("[::1]:9000", "https://[::1]:9000/", "::1"),
        ("[0:0:0:0:0:0:0:1]:9000", "https://[::1]:9000/", "::1"),
        ("10.0.0.5:8443", "https://hooks.inside:8443/", "10.0.0.5"),
        ("Hooks.Inside:8443", "https://hooks.inside:8443/", "10.0.0.5"),
        ("hooks.inside:80", "https://hooks.inside:80/", "10.0.0.5"),
    ],
)
async def test_a_pair_that_is_allowed_may_be_private(allow: str, url: str, address: str) -> None:
    world = World([address], allow=[allow])
    assert await world.post(url) == Answer(204)
    assert [host.rpartition(":")[0] for host in world.network.connected] == [address]


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:9001/", "https://127.0.0.2:9000/", "https://[::1]:9000/", "https://x:9001/"]
)
async def test_nothing_beside_it_is(url: str) -> None:
    world = World(["127.0.0.1"], allow=["127.0.0.1:9000", "x:9000"])
    with pytest.raises(Undelivered):
        await world.post(url)
    assert world.network.connected == []


async def test_http_is_allowed_by_itself_and_private_addresses_are_not_with_it() -> None:
    world = World(allow_http=True)
    assert await world.post("http://hooks.example.com/") == Answer(204)
    assert (world.network.connected, world.network.names) == ([f"{PUBLIC}:80"], [])
    with pytest.raises(Undelivered):
        await world.post("http://127.0.0.1/")
    with pytest.raises(Undelivered):
        await World(["127.0.0.1"], allow=["127.0.0.1:80"]).post("http://127.0.0.1/")


@pytest.mark.parametrize("pair", ["", "127.0.0.1", ":80", "host:", "host:http", "host:0", "host:70000"])
def test_what_is_no_pair_is_named(pair: str) -> None:
    with pytest.raises(SettingsError, match="MAYFLY_WEBHOOK_ALLOW"):
        Policy(allow=[pair])


def test_the_pairs_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_WEBHOOK_ALLOW", "127.0.0.1:9000, hooks.inside:8443")
    policy = Policy.of(Settings())
    assert policy.check("https://127.0.0.1:9000/").port == 9000
    with pytest.raises(ValueError, match="must be an https URL"):
        policy.check("http://127.0.0.1:9000/")


# --- bounds


async def test_a_receiver_that_does_not_answer_is_left() -> None:
    world = World(timeout=0.05)
    world.network.hangs = True
    with pytest.raises(Undelivered, match=r"no answer within 0\.05 s"):
        await world.post("https://hooks.example.com/")
    assert world.network.closed


async def test_so_is_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(timeout=0.05)

    async def hang(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(world.courier, "_lookup", hang)
    with pytest.raises(Undelivered, match="no answer within"):
        await world.post("https://hooks.example.com/")


async def test_a_name_that_nobody_knows_is_told() -> None:
    with pytest.raises(Undelivered, match=r"hooks\.example\.com cannot be found"):
        await World([]).post("https://hooks.example.com/")


async def test_a_body_is_not_read() -> None:
    world = World()
    world.network.answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", b"x" * 1000]
    assert await world.post("https://hooks.example.com/") == Answer(200)
    assert world.network.closed


@pytest.mark.parametrize(
    "answer",
    [
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [b"+OK redis\r\n"],
        [b""],
        [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 40_000],
        [b"HTTP/1.1 200 OK\r\na: " + b"x" * 200_000],
    ],
    ids=["ssh", "redis", "nothing", "headers", "a header"],
)
async def test_what_is_no_answer_is_told_apart(answer: list[bytes]) -> None:
    world = World()
    world.network.answer = answer
    with pytest.raises(Undelivered):
        await world.post("https://hooks.example.com/")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Tue, 24 Nov 2026 12:01:00 GMT", 60.0),
        ("Tue, 24 Nov 2020 12:01:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("", None),
        ("Tue, 24 Nov 2026", None),
        ("9" * 5000, 999_999_999.0),
    ],
)
async def test_when_to_come_again(header: str, seconds: float | None) -> None:
    world = World()
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n"
    world.network.answer = [head.encode()]
    assert await world.post("https://hooks.example.com/") == Answer(503, seconds)


# --- over real sockets


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[trustme.CA, int]]:
    """A server on loopback with a certificate for hooks.example.com."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example.com").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield authority, server.sockets[0].getsockname()[1]


def real(port: int) -> Courier:
    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    return Courier(Policy(allow=[f"127.0.0.1:{port}"]), lookup=lookup, now=lambda: 0.0)


async def test_the_certificate_is_the_hosts_whatever_address_is_connected_to(
    receiver: tuple[trustme.CA, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority, port = receiver
    with pytest.raises(Undelivered, match="certificate"):
        await real(port).post(f"https://hooks.example.com:{port}/", {}, b"{}")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert await real(port).post(f"https://hooks.example.com:{port}/", {}, b"{}") == Answer(204)
    for other in ("another.example.com", "127.0.0.1"):
        with pytest.raises(Undelivered, match="certificate"):
            await real(port).post(f"https://{other}:{port}/", {}, b"{}")


async def test_the_systems_names_are_looked_up_in_threads_of_their_own() -> None:
    courier = Courier(Policy(), now=lambda: 0.0)
    with pytest.raises(Undelivered, match="not public"):
        await courier.post("https://localhost/", {}, b"{}")
    courier.close()


def test_a_url_is_taken_apart_once() -> None:
    callback = parse("HTTPS://Example.COM/A?b=C")
    assert callback == ("https", "example.com", 443, "/A?b=C")
    assert callback.authority == "example.com"
    assert parse("https://[2606:2800::1]:8443").authority == "[2606:2800::1]:8443"
    assert parse("https://a_b.example.com").target == "/"
