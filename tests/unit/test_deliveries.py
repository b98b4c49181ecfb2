"""How notices are delivered: when, how often, and what survives whoever delivers them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from dispatcher import claims
from dispatcher.courier import Answer, Undelivered
from dispatcher.deliveries import AT_ONCE, AT_ONCE_OF_A_HOST, GIVE_UP_MS, Deliveries
from mayfly.errors import LogUnavailable, SecretsUnavailable
from mayfly.identity.vault import Unopened
from mayfly.task import encode
from mayfly.webhooks.notice import Notice, decode_notice
from mayfly.webhooks.signing import new_secret, signatures

DEADLINE_SECONDS = 30.0
SECRETS = [new_secret(), new_secret()]
NOW = 1_795_521_600_000
Post = tuple[str, dict[str, str], bytes]


def notice(task: str = "a", url: str = "https://example.com/hook", **fields: Any) -> Notice:
    body = msgspec.Raw(b'{"taskId": "%s"}' % task.encode())
    return Notice(f"msg_{task}_7", task, fields.pop("tenant", "acme"), url, body, **fields)


class World:
    """A receiver, a topic of one partition in memory, and who delivers what is in it."""

    def __init__(self) -> None:
        self.now = NOW
        self.posts: list[Post] = []
        self.answers: list[Answer | Undelivered] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = Counter[str]()
        self.most_under_way = Counter[str]()
        self.topic: list[tuple[str, bytes | None]] = []
        self.down = 0
        self.told: list[str] = []
        self.secrets = {"acme": SECRETS}
        self.locked: Exception | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        self.posts.append((url, headers, body))
        self.under_way[url] += 1
        self.under_way["all"] += 1
        for line in (url, "all"):
            self.most_under_way[line] = max(self.most_under_way[line], self.under_way[line])
        try:
            await self.gate.wait()
        finally:
            self.under_way[url] -= 1
            self.under_way["all"] -= 1
        answer = self.answers.pop(0) if self.answers else Answer(200)
        if isinstance(answer, Undelivered):
            raise answer
        return answer

    async def secrets_of(self, tenant: str) -> list[str]:
        if self.locked is not None:
            raise self.locked
        return self.secrets.get(tenant, [])

    async def append_notice(self, task_id: str, value: bytes | None) -> None:
        if self.down:
            self.down -= 1
            raise LogUnavailable("away")
        self.topic.append((task_id, value))

    def deliverer(self, *, run: bool = True) -> Deliveries:
        made = Deliveries(
            self,
            self,
            secrets=self.secrets_of,
            now=lambda: self.now,
            told=self.told.append,
        )
        if run:
            self.tasks.append(asyncio.create_task(made.run()))
        return made

    def owner(self, *, run: bool = True) -> Deliveries:
        """One that has the partition, and has read it to its end."""
        made = self.deliverer(run=run)
        made.assigned(0)
        for key, value in self.topic:
            made.take(0, key, value)
        made.complete(0)
        return made

    @property
    def left(self) -> dict[str, Notice]:
        """What stands in the topic once it is compacted."""
        latest = {key: decode_notice(value) if value else None for key, value in self.topic}
        return {key: one for key, one in latest.items() if one is not None}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await asyncio.sleep(0)

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def pass_time(self, deliveries: Deliveries, milliseconds: int) -> None:
        self.now += milliseconds
        deliveries._wake.set()
        await self.settle()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(claims, "BACKOFF_SECONDS", (0.0,))
    # The longest pause that the dice could give.
    monkeypatch.setattr("dispatcher.deliveries.random.uniform", lambda low, high: high)
    made = World()
    yield made
    for task in made.tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_notice_is_posted_signed_and_taken_away(world: World) -> None:
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: not world.left)
    ((url, headers, body),) = world.posts
    assert (url, body) == ("https://example.com/hook", b'{"taskId": "a"}')
    at = NOW // 1000
    assert headers == {
        "content-type": "application/json",
        "user-agent": "mayfly-webhooks",
        "webhook-id": "msg_a_7",
        "webhook-timestamp": str(at),
        "webhook-signature": signatures(SECRETS, "msg_a_7", at, body),
    }
    assert world.topic[1:] == [("a", None)]
    assert (world.told, len(deliveries)) == (["delivered"], 0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_delivery(world: World, status: int) -> None:
    world.answers = [Answer(status)]
    world.topic = [("a", encode(notice()))]
    world.owner()
    await world.until(lambda: not world.left)
    assert len(world.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [*(Answer(status) for status in (199, 301, 302, 307, 400, 401, 404, 429, 500, 503)), Undelivered("no")],
)
async def test_whatever_else_is_tried_again_later(world: World, answer: Answer | Undelivered) -> None:
    world.answers = [answer]
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    kept = world.left["a"]
    told = str(answer.status) if isinstance(answer, Answer) else "no"
    assert (kept.attempts, kept.first_at, kept.next_at, kept.last) == (1, NOW, NOW + 2000, told)
    await world.pass_time(deliveries, 1999)
    assert len(world.posts) == 1
    await world.pass_time(deliveries, 1)
    await world.until(lambda: not world.left)
    assert len(world.posts) == 2
    assert world.told == ["failed", "delivered"]
    first, second = (headers for _, headers, _ in world.posts)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 2
    assert first["webhook-signature"] != second["webhook-signature"]


async def test_410_ends_it(world: World) -> None:
    world.answers = [Answer(410)]
    world.topic = [("a", encode(notice()))]
    world.owner()
    await world.until(lambda: not world.left)
    assert (len(world.posts), world.told) == (1, ["given up"])


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(429, 120.0), 120),
        (Answer(503, 120.0), 120),
        (Answer(503, 0.0), 2),
        (Answer(503, 1e9), 3600),
        (Answer(500, 120.0), 2),
    ],
)
async def test_a_receiver_may_say_when_to_come_again_up_to_an_hour(
    world: World, answer: Answer, seconds: int
) -> None:
    world.answers = [answer]
    world.topic = [("a", encode(notice()))]
    world.owner()
    await world.until(lambda: len(world.topic) == 2)
    assert world.left["a"].next_at == NOW + seconds * 1000


async def test_the_pauses_double_up_to_an_hour_and_end_after_a_day(world: World) -> None:
    world.answers = [Answer(500)] * 100
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    pauses = []
    while world.left:
        pause, written = world.left["a"].next_at - world.now, len(world.topic)
        pauses.append(pause // 1000)
        await world.pass_time(deliveries, pause)
        await world.until(lambda written=written: len(world.topic) > written)
    assert pauses[:12] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]
    assert set(pauses[12:]) == {3600}
    assert GIVE_UP_MS / 1000 - 3600 < sum(pauses) <= GIVE_UP_MS / 1000
    assert world.told == ["failed"] * len(pauses) + ["given up"]
    assert not world.left


async def test_a_tenant_without_a_secret_gets_nothing_that_is_not_signed(world: World) -> None:
    world.secrets = {}
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    assert world.posts == []
    world.secrets = {"acme": SECRETS}
    await world.pass_time(deliveries, 2000)
    assert len(world.posts) == 1


@pytest.mark.parametrize("error", [Unopened("the key is not set"), SecretsUnavailable("KMS is away")])
async def test_what_cannot_be_signed_now_is_tried_again_and_the_notice_says_why(
    world: World, error: Exception
) -> None:
    world.locked = error
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    assert (world.posts, world.told) == ([], ["failed"])
    assert world.left["a"].last == f"the tenant's secret cannot be opened: {error}"
    world.locked = None
    await world.pass_time(deliveries, 2000)
    await world.until(lambda: not world.left)
    assert len(world.posts) == 1


# --- who delivers


async def test_what_was_tried_is_tried_by_the_next_owner_when_it_is_due(world: World) -> None:
    world.answers = [Answer(500), Answer(500)]
    world.topic = [("a", encode(notice()))]
    first = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    first.revoked(0)
    second = world.owner()
    await world.pass_time(second, 1999)
    assert len(world.posts) == 1
    await world.pass_time(second, 1)
    await world.until(lambda: len(world.topic) == 3)
    assert (world.left["a"].attempts, world.left["a"].first_at) == (2, NOW)
    assert len(world.posts) == 2, "the first owner has it no more"


async def test_one_that_lost_the_partition_writes_nothing_of_what_was_under_way(world: World) -> None:
    world.gate.clear()
    world.topic = [("a", encode(notice()))]
    first = world.owner()
    await world.until(lambda: world.posts)
    first.revoked(0)
    world.gate.set()
    await world.settle()
    assert len(world.topic) == 1
    world.owner()
    await world.until(lambda: not world.left)
    assert len(world.posts) == 2, "at least once"


async def test_nothing_is_sent_before_the_partition_was_read_to_its_end(world: World) -> None:
    """What stands at its beginning may be gone by then."""
    deliveries = world.deliverer()
    deliveries.assigned(0)
    deliveries.take(0, "a", encode(notice()))
    deliveries.take(0, "b", encode(notice("b")))
    await world.settle()
    assert world.posts == []
    deliveries.take(0, "a", None)
    deliveries.complete(0)
    await world.settle()
    assert [headers["webhook-id"] for _, headers, _ in world.posts] == ["msg_b_7"]


async def test_what_comes_while_it_is_followed_is_sent_at_once(world: World) -> None:
    deliveries = world.owner()
    await world.settle()
    deliveries.take(0, "a", encode(notice()))
    await world.until(lambda: world.posts)


async def test_its_own_records_come_back_and_change_nothing(world: World) -> None:
    world.answers = [Answer(500)]
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    await world.pass_time(deliveries, 2000)
    await world.until(lambda: not world.left)
    for key, value in world.topic[1:]:
        deliveries.take(0, key, value)
        await world.settle()
    assert len(world.posts) == 2
    assert not deliveries._partitions[0].over


async def test_a_copy_of_one_that_waits_is_no_second_one(world: World) -> None:
    """An owner of the task's partition that takes over from another writes it again."""
    world.answers = [Answer(500)]
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: len(world.topic) == 2)
    deliveries.take(0, "a", encode(notice()))
    await world.settle()
    assert len(world.posts) == 1
    await world.pass_time(deliveries, 2000)
    assert len(world.posts) == 2


async def test_another_end_of_a_task_whose_id_was_used_anew_is_told_as_well(world: World) -> None:
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: not world.left)
    deliveries.take(0, "a", None)
    deliveries.take(0, "a", encode(msgspec.structs.replace(notice(), id="msg_a_99")))
    await world.until(lambda: len(world.posts) == 2)


async def test_what_is_no_notice_is_passed_over(world: World) -> None:
    world.topic = [("x", b"{"), ("y", b'{"id": 5}'), ("a", encode(notice()))]
    world.owner()
    await world.until(lambda: world.posts)
    assert len(world.posts) == 1


async def test_a_tombstone_is_tried_until_it_is_acknowledged(world: World) -> None:
    world.down = 3
    world.topic = [("a", encode(notice()))]
    world.owner()
    await world.until(lambda: not world.left)
    assert len(world.posts) == 1


# --- how many at once


async def test_a_receiver_that_hangs_holds_up_nobody_else(world: World) -> None:
    world.gate.clear()
    slow = [notice(f"s{number}", "https://slow.example.com/") for number in range(20)]
    world.topic = [(one.task_id, encode(one)) for one in (*slow, notice("quick"))]
    world.owner()
    await world.until(lambda: world.under_way["all"] == AT_ONCE_OF_A_HOST + 1)
    assert world.most_under_way["https://slow.example.com/"] == AT_ONCE_OF_A_HOST
    assert world.under_way["https://example.com/hook"] == 1
    world.gate.set()
    await world.until(lambda: not world.left)
    assert len(world.posts) == 21
    assert world.most_under_way["https://slow.example.com/"] == AT_ONCE_OF_A_HOST


async def test_so_many_are_sent_at_once_and_each_host_has_its_turn(world: World) -> None:
    world.gate.clear()
    world.topic = [
        (f"{host}-{number}", encode(notice(f"{host}-{number}", f"https://h{host}.example.com/")))
        for host in range(10)
        for number in range(10)
    ]
    world.owner()
    await world.until(lambda: world.under_way["all"] == AT_ONCE)
    await world.settle()
    world.gate.set()
    await world.until(lambda: not world.left)
    assert world.most_under_way["all"] == AT_ONCE
    assert len(world.posts) == 100


async def test_at_the_end_what_is_under_way_is_let_finish_and_nothing_is_begun(world: World) -> None:
    world.gate.clear()
    world.topic = [(f"a{number}", encode(notice(f"a{number}"))) for number in range(20)]
    deliveries = world.owner()
    await world.until(lambda: len(world.posts) == AT_ONCE_OF_A_HOST)
    closing = asyncio.create_task(deliveries.close())
    await world.settle()
    world.gate.set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await closing
    assert len(world.posts) == AT_ONCE_OF_A_HOST
    assert len(world.left) == 20 - AT_ONCE_OF_A_HOST


async def test_what_hangs_at_the_end_is_given_up_to_the_next_owner(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.deliveries.GRACE_SECONDS", 0.01)
    world.gate.clear()
    world.topic = [("a", encode(notice()))]
    deliveries = world.owner()
    await world.until(lambda: world.posts)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await deliveries.close()
    assert list(world.left) == ["a"]
