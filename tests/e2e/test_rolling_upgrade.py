"""Every process replaced in turn, under load: no task lost, no long one that runs twice, and no request that
fails for who asks again."""

import signal
import threading
import time
from collections.abc import Callable, Iterable

import httpx
import pytest

from mayfly.audit.__main__ import audit
from mayfly.client import Client, ClientError
from mayfly.function import Function
from mayfly.task import Status
from tests.e2e.conftest import Fleet, Service, eventually
from tests.web import WEB

CLIENTS = 3
LONG_SECONDS = 12
"""More than whoever stops keeps its partitions for."""


class Either(httpx.BaseTransport):
    """One service at several addresses: what the one refuses to connect the next one gets."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = [httpx.URL(url) for url in urls]
        self._http = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for url in self._urls:
            request.url = request.url.copy_with(scheme=url.scheme, host=url.host, port=url.port)
            try:
                return self._http.handle_request(request)
            except httpx.ConnectError:
                continue
        raise httpx.ConnectError("nobody is there", request=request)

    def close(self) -> None:
        self._http.close()


class Load:
    """Clients that have short tasks run, one after the other, until they are told to end."""

    def __init__(self, clients: list[Client]) -> None:
        self.ids: list[str] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[client]) for client in clients]
        for thread in self._threads:
            thread.start()

    def _run(self, client: Client) -> None:
        while not self._over.is_set():
            try:
                task = client.submit("sleeper", {"index": 1, "seconds": 0.1})
                self.ids.append(task.task_id)
                ended = client.wait(task.task_id, timeout=120)
            except ClientError as error:
                self.failures.append(repr(error))
            else:
                if ended.status is not Status.COMPLETED:
                    self.failures.append(f"{ended.task_id}: {ended.error}")

    def goes_on(self) -> None:
        before = len(self.ids)
        eventually(lambda: len(self.ids) >= before + 2 * CLIENTS, "tasks go on")

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def replaced(old: Service, start: Callable[[], Service]) -> Service:
    old.signal(signal.SIGTERM)
    assert old.exit_code() == 0, old.log.read_text()[-2000:]
    return start().until_up()


@pytest.mark.timeout(900)
async def test_each_process_is_replaced_in_turn_and_nothing_is_lost_or_fails(
    fleet: Fleet, light_sleeper: Function
) -> None:
    gateways = [fleet.start("gateway"), fleet.start("gateway")]
    dispatchers = fleet.dispatchers(2, MAYFLY_SLOTS="16")
    for gateway in gateways:
        gateway.until_up()
    ports = [str(httpx.URL(gateway.url).port) for gateway in gateways]
    urls = [gateway.url for gateway in gateways]
    eventually(lambda: all(_ready(url) for url in urls), "the gateways are ready")
    transports = [Either(urls[number % 2 :] + urls[: number % 2]) for number in range(CLIENTS + 1)]
    *clients, slow = fleet.clients = [Client(urls[0], transport=transport) for transport in transports]
    load = Load(clients)
    try:
        load.goes_on()
        for number, port in enumerate(ports):
            gateways[number] = replaced(
                gateways[number], lambda port=port: fleet.start("gateway", MAYFLY_PORT=port)
            )
            load.goes_on()
        long = [slow.submit("sleeper", {"index": 2, "seconds": LONG_SECONDS}).task_id for _ in range(8)]
        eventually(lambda: all(fleet.attempts().claims[one] for one in long), "the long ones run")
        began = time.monotonic()
        dispatchers[0].signal(signal.SIGTERM)
        eventually(lambda: dispatchers[1].partitions == fleet.settings.partitions, "they are handed over")
        assert dispatchers[0].process.poll() is None, "it still lets the long ones finish"
        load.goes_on()
        dispatchers[0] = replaced(dispatchers[0], lambda: fleet.start("dispatcher", MAYFLY_SLOTS="16"))
        assert time.monotonic() - began > 5
        load.goes_on()
        dispatchers[1] = replaced(dispatchers[1], lambda: fleet.start("dispatcher", MAYFLY_SLOTS="16"))
        load.goes_on()
    finally:
        load.end()
    assert not load.failures
    for one in long:
        assert slow.wait(one, timeout=120).status is Status.COMPLETED
    attempts = fleet.attempts()
    ids = [*load.ids, *long]
    assert {one: len(attempts.outcomes[one]) for one in ids} == dict.fromkeys(ids, 1)
    # Of the short ones a claim may have been on its way when its partition moved: that is made again.
    assert {one: len(attempts.claims[one]) for one in long} == dict.fromkeys(long, 1), "none ran twice"
    report = await audit(fleet.settings, only=fleet.settings.queue, settle=30)
    assert report.clean, report


def _ready(url: str) -> bool:
    try:
        return WEB.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False
