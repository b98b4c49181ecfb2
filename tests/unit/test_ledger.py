"""The audit: a log, a read model and a store that agree are clean, and each damage is found as what it is."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from mayfly.audit import checks
from mayfly.audit.audit import Audit
from mayfly.audit.checks import Hash, judge
from mayfly.audit.ledger import Ledger, Place
from mayfly.audit.report import Finding, Kind, Report, tally
from mayfly.events import (
    CancelRequested,
    Claimed,
    Deferred,
    DeferredRecord,
    Event,
    Finished,
    Purpose,
    Reason,
)
from mayfly.retention import Retention
from mayfly.task import (
    NO_FENCE,
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Outcome,
    Result,
    Status,
    encode,
    new_task_id,
)
from mayfly.view import Change, claimed, deferred, finished, queued

QUEUE, AT, DAY = "default", 1_795_524_976_123, 86_400_000
PLACE = Place(QUEUE, 3)
ELSEWHERE = Place(QUEUE, 4)
KEPT = Retention(days=7, dead_letter_days=30)
TOPIC = f"mayfly.{QUEUE}.normal"
BYTES = BlobRef("results/x", 2, "ab" * 32)
DONE = Outcome(AT, AT + 5, Result(BYTES))
FAILED = Outcome(AT, AT + 5, failure=Failure(FailureType.ERROR, "no"))


@dataclass
class World:
    """A log, and the Redis and S3 that come of it. A test then breaks one of them."""

    ledger: Ledger = field(default_factory=Ledger)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    objects: dict[str, BlobRef] = field(default_factory=dict)
    offset: int = 10

    def accept(self, place: Place = PLACE, task_id: str | None = None, *, at: int = AT, **more: Any) -> str:
        envelope = Envelope("echo", task_id or new_task_id(), **more)
        offset = self._next()
        self.ledger.command(place, encode(envelope), topic=TOPIC, offset=offset, at=at)
        view = queued(
            envelope, queue=place.queue, lane=Lane.NORMAL, partition=place.partition, offset=offset, at=at
        )
        self.hashes.setdefault(envelope.task_id, {"status": view.status.value}).update(view.fields())
        return envelope.task_id

    def append(self, event: Event, place: Place = PLACE, *, at: int = AT) -> int:
        """To the log alone."""
        offset = self._next()
        self.ledger.event(place, offset, event, at)
        return offset

    def claim(self, task_id: str, *, follows: int = NO_FENCE, attempt: int = 1, **more: Any) -> int:
        event = Claimed(task_id, Lane.NORMAL, 0, attempt, "d", "n", follows, **more)
        offset = self.append(event)
        self._write(claimed(event, partition=3, offset=offset, at=AT))
        return offset

    def wait(self, task_id: str, fence: int, reason: Reason) -> int:
        event = Deferred(task_id, fence, 1, reason, due=AT + DAY)
        offset = self.append(event)
        self._write(deferred(event, partition=3, offset=offset))
        return offset

    def finish(
        self, task_id: str, fence: int, outcome: Outcome = DONE, attempt: int = 1, place: Place = PLACE
    ) -> int:
        event = Finished(task_id, fence, attempt, outcome)
        offset = self.append(event, place, at=outcome.finished_at)
        self._write(finished(event, partition=place.partition, offset=offset))
        if outcome.result:
            self.objects[outcome.result.blob.key] = outcome.result.blob
        if outcome.status is Status.FAILED:
            self.ledger.dead_letter(task_id, live=True)
        return offset

    def complete(self, outcome: Outcome = DONE) -> str:
        task_id = self.accept()
        self.finish(task_id, self.claim(task_id), outcome)
        return task_id

    def look(self, task_id: str) -> Kind | None:
        fields = self.hashes.get(task_id)
        finding = judge(self.ledger, task_id, Hash.of(fields) if fields else None)
        return finding.kind if finding else None

    def kinds(self) -> list[Kind]:
        """All that is off."""
        ids = {*self.ledger.accepted, *self.hashes}
        found = [kind for task_id in sorted(ids) if (kind := self.look(task_id))]
        found += [finding.kind for finding in self.ledger.findings()]
        found += [finding.kind for finding in checks.dead_letters(self.ledger, AT)]
        for task_id, ended in checks.results(self.ledger):
            stored = self.objects.get(ended.result.key) if ended.result else None
            if finding := checks.judge_result(task_id, ended, stored):
                found.append(finding.kind)
        return found

    def _write(self, change: Change) -> None:
        fields = self.hashes[change.task_id]
        for name in change.removed:
            fields.pop(name, None)
        fields.update(change.fields, position=f"{change.partition}:{change.offset}")
        if change.status:
            fields["status"] = change.status.value

    def _next(self) -> int:
        self.offset += 1
        return self.offset


@pytest.fixture
def world() -> World:
    return World()


# --- what is as it should be


def test_every_course_that_a_task_can_take_is_clean(world: World) -> None:
    world.accept()
    world.accept(delay_seconds=60)
    world.claim(world.accept())
    world.complete()
    world.complete(FAILED)
    world.complete(Outcome(AT, AT, failure=Failure(FailureType.CANCELLED, "asked for")))
    for reason in Reason:
        task_id = world.accept()
        world.wait(task_id, world.claim(task_id), reason)
    again = world.accept()
    wait = world.wait(again, world.claim(again), Reason.RETRY)
    world.finish(again, world.claim(again, follows=wait, attempt=2), attempt=2)
    assert world.kinds() == []
    counts = world.ledger.counts(QUEUE)
    assert counts.adds_up
    assert (counts.accepted, counts.waiting, counts.running) == (10, 5, 1)
    assert (counts.completed, counts.failed, counts.cancelled) == (2, 1, 1)
    assert counts.attempts == 9


def test_copies_and_releases_of_one_id_are_one_task(world: World) -> None:
    task_id = world.accept()
    world.accept(task_id=task_id)
    world.accept(task_id=task_id, releases=12)
    assert world.ledger.counts(QUEUE).accepted == 1


def test_a_command_that_is_no_envelope_is_a_task_with_the_id_of_its_place(world: World) -> None:
    task_id = world.ledger.command(PLACE, b"{", topic=TOPIC, offset=7, at=AT)
    assert task_id in world.ledger.accepted


def test_what_follows_the_end_of_a_task_is_void_whatever_it_is(world: World) -> None:
    task_id = world.accept()
    fence = world.claim(task_id)
    taken = world.claim(task_id, follows=fence, attempt=2)
    world.finish(task_id, taken, attempt=2)
    world.append(Finished(task_id, fence, 1, FAILED))
    world.append(Claimed(task_id, Lane.NORMAL, 0, 1, "d", "n"))
    world.append(CancelRequested(task_id, Lane.NORMAL, 0))
    world.append(Finished(task_id, taken, 2, DONE))
    assert world.kinds() == []
    assert world.ledger.counts(QUEUE).void == 4
    assert world.ledger.ended[task_id].attempts == 2


def test_a_claim_that_is_for_no_attempt_shows_nowhere(world: World) -> None:
    task_id = world.accept()
    world.append(Claimed(task_id, Lane.NORMAL, 0, 0, "d", "n", purpose=Purpose.END))
    assert world.kinds() == []
    assert world.ledger.counts(QUEUE).attempts == 0


def test_a_dead_letter_that_was_purged_is_not_missed(world: World) -> None:
    world.ledger.dead_letter(world.complete(FAILED), live=False)
    assert world.kinds() == []


def test_a_dead_letter_whose_trace_compaction_may_have_taken_is_not_missed(world: World) -> None:
    task_id = world.complete(FAILED)
    world.ledger.dead_letters.discard(task_id)
    world.ledger.dead_letters_compacted = True
    assert list(checks.dead_letters(world.ledger, AT + 2 * DAY)) == []
    assert [one.kind for one in checks.dead_letters(world.ledger, AT)] == [Kind.NO_DEAD_LETTER]


def test_what_may_have_been_swept_is_not_missed(world: World) -> None:
    task_id = world.complete()
    gone = Finding(Kind.RESULT_GONE, task_id, QUEUE, "")
    assert not checks.may_be_swept(gone, world.ledger, AT + 800 * DAY)
    world.ledger.retention = KEPT
    assert not checks.may_be_swept(gone, world.ledger, AT + 6 * DAY)
    assert checks.may_be_swept(gone, world.ledger, AT + 8 * DAY)
    assert not checks.may_be_swept(gone._replace(kind=Kind.DIFFERENT), world.ledger, AT + 8 * DAY)
    dead = Finding(Kind.MISSING, world.complete(FAILED), QUEUE, "")
    assert not checks.may_be_swept(dead, world.ledger, AT + 8 * DAY)
    assert checks.may_be_swept(dead, world.ledger, AT + 31 * DAY)


# --- an id that is used anew


def use_anew(world: World, task_id: str, place: Place = PLACE) -> int:
    """Its task was swept, and there is another one; the fence of that one's claim."""
    del world.hashes[task_id]
    world.accept(place, task_id, at=AT + 8 * DAY)
    assert world.look(task_id) is None, "it is accepted, and no event of it is there yet"
    return world.append(Claimed(task_id, Lane.NORMAL, 9, 1, "d", "n"), place, at=AT + 9 * DAY)


@pytest.mark.parametrize("place", [PLACE, ELSEWHERE])
@pytest.mark.parametrize("first", [DONE, FAILED])
def test_a_task_whose_id_was_used_anew_is_judged_without_the_one_before(place: Place, first: Outcome) -> None:
    world = World(Ledger(KEPT))
    task_id = world.complete(first)
    world.objects.clear()
    world.ledger.dead_letter(task_id, live=False)
    fence = use_anew(world, task_id, place)
    counts = world.ledger.counts(QUEUE)
    assert (counts.accepted, counts.running, counts.attempts) == (1, 1, 2)
    world.finish(task_id, fence, Outcome(AT + 9 * DAY, AT + 9 * DAY + 5, Result(BYTES)), place=place)
    world.hashes[task_id]["attempt"] = "1"
    assert world.kinds() == []
    assert world.ledger.ended[task_id].fence == fence
    assert world.ledger.counts(QUEUE).completed == 1


def test_of_two_lives_of_an_id_the_later_one_counts_in_whatever_order_they_are_read() -> None:
    world = World(Ledger(KEPT))
    task_id = new_task_id()
    at = AT + 9 * DAY
    fence = world.append(Claimed(task_id, Lane.NORMAL, 9, 1, "d", "n"), ELSEWHERE, at=at)
    world.append(Finished(task_id, fence, 1, Outcome(at, at)), ELSEWHERE, at=at)
    world.accept(ELSEWHERE, task_id, at=at)
    world.accept(PLACE, task_id)
    first = world.append(Claimed(task_id, Lane.NORMAL, 0, 1, "d", "n"))
    world.append(Finished(task_id, first, 1, DONE))
    assert world.ledger.ended[task_id].place == ELSEWHERE
    assert list(world.ledger.findings()) == []


def test_what_comes_late_of_a_life_that_is_over_is_void_although_its_id_was_used_anew() -> None:
    world = World(Ledger(KEPT))
    task_id = world.accept()
    world.accept(ELSEWHERE, task_id, at=AT + 8 * DAY)
    fence = world.append(Claimed(task_id, Lane.NORMAL, 0, 1, "d", "n"))
    for _ in range(2):
        world.append(Finished(task_id, fence, 1, DONE))
    world.append(Claimed(task_id, Lane.NORMAL, 0, 1, "d", "late"))
    assert world.ledger.counts(QUEUE).void == 2
    assert list(world.ledger.findings()) == []
    assert world.ledger.status(task_id) is Status.QUEUED


def test_an_outcome_in_another_partition_that_came_too_soon_is_a_second_one() -> None:
    world = World(Ledger(KEPT))
    forge_an_outcome_in_another_partition(world, world.complete())
    assert Kind.TWO_OUTCOMES in world.kinds()


# --- damage


def set_status(status: Status) -> Callable[[World, str], None]:
    return lambda world, task_id: world.hashes[task_id].update(status=status.value)


def forge_a_second_outcome(world: World, task_id: str) -> None:
    world.append(Finished(task_id, world.ledger.ended[task_id].fence, 1, FAILED))


def forge_an_outcome_of_nobody(world: World, task_id: str) -> None:
    world.append(Finished(task_id, 5, 1, DONE))


def forge_an_outcome_in_another_partition(world: World, task_id: str) -> None:
    fence = world.append(Claimed(task_id, Lane.NORMAL, 0, 1, "d", "n"), ELSEWHERE)
    world.append(Finished(task_id, fence, 1, DONE), ELSEWHERE)


def forge_a_task(world: World, _task_id: str) -> None:
    world.append(Claimed(new_task_id(), Lane.NORMAL, 0, 1, "d", "n"))


def leave_a_record(world: World, task_id: str) -> None:
    world.ledger.record(PLACE, "k", DeferredRecord(Envelope("echo", task_id), 3, 1, Reason.RETRY))


def leave_a_record_of_nobody(world: World, _task_id: str) -> None:
    leave_a_record(world, new_task_id())


def put_other_bytes(world: World, _task_id: str) -> None:
    world.objects[BYTES.key] = msgspec.structs.replace(BYTES, sha256="cd" * 32)


def make_up_a_task_in_redis(world: World, task_id: str) -> None:
    world.hashes[new_task_id()] = dict(world.hashes[task_id])


def drop_half_of_the_hash(world: World, task_id: str) -> None:
    del world.hashes[task_id]["taskType"]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda world, task_id: world.hashes.pop(task_id), Kind.MISSING),
        (drop_half_of_the_hash, Kind.MISSING),
        (set_status(Status.FAILED), Kind.DIFFERENT),
        (set_status(Status.IN_PROGRESS), Kind.BEHIND),
        (lambda world, task_id: world.hashes[task_id].update(resultSha256="0"), Kind.DIFFERENT),
        (lambda world, task_id: world.hashes[task_id].update(attempt="2"), Kind.DIFFERENT),
        (make_up_a_task_in_redis, Kind.UNKNOWN),
        (forge_a_second_outcome, Kind.CONTRADICTED),
        (forge_an_outcome_of_nobody, Kind.UNCLAIMED),
        (forge_an_outcome_in_another_partition, Kind.TWO_OUTCOMES),
        (forge_a_task, Kind.UNACCEPTED),
        (leave_a_record, Kind.LEFT_RECORD),
        (leave_a_record_of_nobody, Kind.UNACCEPTED),
        (lambda world, task_id: world.ledger.accepted.pop(task_id), Kind.UNACCEPTED),
        (lambda world, task_id: world.ledger.dead_letter(task_id, live=True), Kind.STRAY_DEAD_LETTER),
        (lambda world, task_id: world.objects.clear(), Kind.RESULT_GONE),
        (put_other_bytes, Kind.RESULT_DIFFERENT),
    ],
)
def test_damage_to_a_completed_task_is_found(
    world: World, damage: Callable[[World, str], object], kind: Kind
) -> None:
    task_id = world.complete()
    damage(world, task_id)
    assert kind in world.kinds()


def test_a_failed_task_without_a_dead_letter_is_found(world: World) -> None:
    world.ledger.dead_letters.discard(world.complete(FAILED))
    assert world.kinds() == [Kind.NO_DEAD_LETTER]


@pytest.mark.parametrize("tenant", ["default", "acme"])
@pytest.mark.parametrize("course", ["waits", "runs", "ended"])
def test_a_task_that_stands_under_another_tenant_is_found_wherever_it_is_in_its_course(
    world: World, tenant: str, course: str
) -> None:
    task_id = world.accept(tenant=tenant)
    if course != "waits":
        fence = world.claim(task_id)
    if course == "ended":
        world.finish(task_id, fence)
    assert world.kinds() == []
    world.hashes[task_id]["tenant"] = "zeta"
    assert world.kinds() == [Kind.DIFFERENT]
    del world.hashes[task_id]["tenant"]
    assert world.kinds() == ([] if tenant == "default" else [Kind.DIFFERENT])


def test_an_outcome_that_completes_without_a_result_is_found(world: World) -> None:
    world.complete(Outcome(AT, AT))
    assert world.kinds() == [Kind.NO_RESULT]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"status": "QUEUED", "position": ""}, Kind.BEHIND),
        ({"status": "RETRYING"}, Kind.DIFFERENT),
        ({"status": "COMPLETED"}, Kind.DIFFERENT),
        ({"position": "3:5000"}, Kind.AHEAD),
    ],
)
def test_a_running_task_that_redis_shows_otherwise_is_found(
    world: World, fields: dict[str, str], kind: Kind
) -> None:
    task_id = world.accept()
    world.claim(task_id)
    world.hashes[task_id].update(fields)
    assert world.kinds() == [kind]


def test_a_waiting_task_that_redis_moved_on_by_an_event_that_does_not_count_is_found(world: World) -> None:
    task_id = world.accept()
    void = world.append(Finished(task_id, 3, 1, DONE))
    world.hashes[task_id].update(status="IN_PROGRESS", position=f"3:{void}")
    assert sorted(world.kinds()) == [Kind.DIFFERENT, Kind.UNCLAIMED]


def test_what_a_trimmed_log_no_longer_says_is_not_called_damage(world: World) -> None:
    world.ledger.trimmed.add(QUEUE)
    task_id = world.complete()
    make_up_a_task_in_redis(world, task_id)
    forge_a_task(world, task_id)
    forge_an_outcome_of_nobody(world, task_id)
    assert world.kinds() == []


def test_a_report_counts_everything_and_shows_the_first_hundred() -> None:
    counted, shown = tally(Finding(Kind.MISSING, str(number), QUEUE, "no hash") for number in range(250))
    assert counted == {"missing": 250}
    assert len(shown) == 100
    assert shown[0].meaning == Kind.MISSING.meaning
    assert not Report(found=counted, findings=shown).clean
    assert Report().clean


# --- looking again


@dataclass
class Growing:
    """A log and a Redis, of which the latter follows: `steps` are what happens between two readings."""

    world: World
    steps: list[Callable[[], object]]
    queues: set[str] = field(default_factory=lambda: {QUEUE})
    readings: int = 0

    def read(self, ledger: Ledger) -> set[str]:
        self.readings += 1
        before = set(self.world.ledger.ended)
        if self.steps:
            self.steps.pop(0)()
        return set(self.world.ledger.ended) - before

    async def all(self) -> AsyncIterator[list[tuple[str, Hash | None]]]:
        yield await self.of(list(self.world.hashes))

    async def of(self, ids: Sequence[str]) -> list[tuple[str, Hash | None]]:
        hashes = self.world.hashes
        return [(one, Hash.of(hashes[one]) if one in hashes else None) for one in ids]

    def audit(self) -> Audit:
        # Time goes on by a second a look: the pauses in between are none.
        ticks = iter(range(1000))
        audit = Audit(self, self, Stored(self.world), clock=lambda: float(next(ticks)))
        audit._ledger = self.world.ledger
        return audit


@dataclass
class Stored:
    world: World

    async def of(self, keys: Iterable[str]) -> dict[str, BlobRef | None]:
        return {key: self.world.objects.get(key) for key in keys}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mayfly.audit.audit.PAUSE_SECONDS", 0.0)


async def test_what_lags_behind_is_looked_at_again_until_it_has_come(world: World) -> None:
    task_id = world.accept()
    fence = world.claim(task_id)
    before = dict(world.hashes[task_id])
    world.finish(task_id, fence)
    after, world.hashes[task_id] = world.hashes[task_id], before
    steps = [
        lambda: None,
        lambda: None,
        lambda: None,
        lambda: world.hashes.update({task_id: after}),
    ]
    report = await Growing(world, steps).audit().run(settle=100)
    assert report.clean, report
    assert (report.hashes, report.results, report.result_bytes) == (1, 1, 2)


async def test_without_time_to_settle_what_lags_behind_is_off(world: World) -> None:
    world.accept()
    world.hashes.clear()
    report = await Growing(world, []).audit().run()
    assert report.found == {"missing": 1}


async def test_what_no_time_mends_is_not_waited_for(world: World) -> None:
    world.complete()
    world.objects.clear()
    growing = Growing(world, [])
    report = await growing.audit().run(settle=1000)
    assert report.found == {"result-gone": 1}
    assert growing.readings == 1


async def test_a_redis_that_is_ahead_of_what_was_read_is_held_against_the_log_as_it_is_then(
    world: World,
) -> None:
    task_id = world.accept()
    world.claim(task_id)
    later = world.offset + 1
    world.hashes[task_id].update(status="RETRYING", position=f"3:{later}")
    fence = world.ledger.last(task_id)
    growing = Growing(world, [lambda: None, lambda: world.wait(task_id, fence, Reason.RETRY)])
    report = await growing.audit().run()
    assert report.clean, report


async def test_a_result_that_comes_while_others_settle_is_checked_as_well(world: World) -> None:
    task_id = world.accept()
    fence = world.claim(task_id)
    lagging = world.accept()
    missing = world.hashes.pop(lagging)

    def end_and_lose() -> None:
        world.finish(task_id, fence)
        world.objects.clear()
        world.hashes[lagging] = missing

    report = await Growing(world, [lambda: None, lambda: None, end_and_lose]).audit().run(settle=100)
    assert report.found == {"result-gone": 1}
