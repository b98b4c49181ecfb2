"""Limits of tasks at once: never exceeded in a partition, no place is lost, and who waits gets its turn."""

import pytest
from shared_log import DONE, Owner, SharedLog

from dispatcher.claims import event_of
from dispatcher.intake import MAX_CHORES
from dispatcher.limits import MAX_PARKED
from dispatcher.work import Work
from mayfly.events import Purpose, Reason
from mayfly.fold import Phase
from mayfly.task import Lane


class Limited(Owner):
    """Its function `f` may run `most` at once. What it starts, it claims with nonces that it waits for."""

    def __init__(self, log: SharedLog, most: int = 1) -> None:
        self.most: int | None = most
        self.revision = 0
        super().__init__(
            log,
            concurrency=lambda task_type: self.most if task_type == "f" else None,
            limits_revision=lambda: self.revision,
        )

    def claim(self, work: Work) -> int:
        """The claim that the work asks for; it counts, and is read."""
        nonce = f"mine{len(self.log.events)}"
        self.partition.expect_claim(nonce)
        fence = self.log.append(event_of(work, "me", nonce))
        self.read()
        return fence

    def start(self) -> Work:
        work = self.next()
        assert work is not None
        return work

    def end(self, work: Work, fence: int) -> None:
        self.log.finish(work.task_id, fence)
        self.read()
        assert work.command is not None
        self.partition.put_back(work.command)
        self.act()

    def defer_all(self) -> None:
        """See the chores through, and the records that come of them."""
        while chore := self.partition.next_chore():
            self.claim(chore)
            self.partition.chore_done(chore)
            self.act()
        self.run_errands()


@pytest.fixture
def log() -> SharedLog:
    return SharedLog()


async def test_one_waits_in_memory_until_the_other_has_ended(log: SharedLog) -> None:
    log.command("a")
    log.command("b")
    owner = Limited(log)
    owner.read()
    first = owner.start()
    assert owner.next() is None
    fence = owner.claim(first)
    assert owner.next() is None
    owner.end(first, fence)
    assert owner.start().task_id == "b"


async def test_those_of_another_function_pass(log: SharedLog) -> None:
    log.command("a")
    log.command("b")
    log.command("c", task_type="g")
    owner = Limited(log)
    owner.read()
    assert [owner.start().task_id, owner.start().task_id] == ["a", "c"]


async def test_a_key_has_a_limit_of_its_own(log: SharedLog) -> None:
    for task, key in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")]:
        log.command(task, task_type="g", concurrency_key=key)
    owner = Limited(log)
    owner.read()
    assert [owner.start().task_id, owner.start().task_id] == ["a", "c"]
    assert owner.next() is None


async def test_as_many_start_at_once_as_have_ended(log: SharedLog) -> None:
    for number in range(6):
        log.command(f"t{number}")
    owner = Limited(log, 3)
    owner.read()
    started = [owner.start() for _ in range(3)]
    assert owner.next() is None
    fences = [owner.claim(work) for work in started]
    for work, fence in zip(started, fences, strict=True):
        log.finish(work.task_id, fence)
        assert work.command is not None
    owner.read()
    assert {owner.start().task_id for _ in range(3)} == {"t3", "t4", "t5"}


async def test_a_claim_that_is_void_gives_its_place_back(log: SharedLog) -> None:
    command = log.command("a")
    log.command("b")
    owner = Limited(log)
    owner.read()
    work = owner.start()
    log.finish("a", log.claim("a", command))
    owner.claim(work)
    assert work.command is not None
    owner.partition.put_back(work.command)
    owner.act()
    assert owner.start().task_id == "b"


async def test_an_attempt_that_came_to_nothing_gives_its_place_back(log: SharedLog) -> None:
    """It was parked, since Redis could not tell whether it may be claimed."""
    log.command("a")
    log.command("b")
    owner = Limited(log)
    owner.read()
    work = owner.start()
    assert work.command is not None
    owner.partition.park(work.command)
    owner.partition.put_back(work.command)
    owner.act()
    assert owner.start().task_id == "b"


async def test_a_flood_waits_in_records_and_holds_no_lane(log: SharedLog) -> None:
    for number in range(MAX_PARKED + 10):
        log.command(f"t{number}")
    log.command("other", task_type="g")
    owner = Limited(log)
    owner.read()
    assert owner.start().task_id == "t0"
    assert owner.start().task_id == "other"
    owner.defer_all()
    assert len(owner.partition.waiting) == 9
    assert all(
        state is not None and (state.phase, state.reason) == (Phase.WAITING, Reason.LIMIT)
        for state in (owner.state(f"t{MAX_PARKED + 1 + number}") for number in range(9))
    )


async def test_no_flood_is_deferred_all_at_once(log: SharedLog) -> None:
    for number in range(MAX_PARKED + MAX_CHORES + 10):
        log.command(f"t{number}")
    owner = Limited(log)
    owner.read()
    owner.start()
    assert owner.next() is None
    chores = 0
    while owner.partition.next_chore():
        chores += 1
    assert chores == MAX_CHORES


async def test_everybody_gets_a_turn_in_the_order_of_the_lane(log: SharedLog) -> None:
    """In memory, in records, or in the lane when others wait already."""
    tasks = [f"t{number:03d}" for number in range(MAX_PARKED + 20)]
    for task in tasks:
        log.command(task)
    owner = Limited(log)
    owner.read()
    ran = []
    for turn in range(len(tasks) + 5):
        if turn == 3:
            tasks += [f"u{number}" for number in range(5)]
            for task in tasks[-5:]:
                log.command(task)
            owner.read()
        work = owner.start()
        assert owner.next() is None
        owner.defer_all()
        ran.append(work.task_id)
        owner.end(work, owner.claim(work))
        owner.commit()
        owner.run_errands()
    assert ran == tasks
    assert owner.next() is None


async def test_one_that_was_released_has_its_place_before_those_that_come(log: SharedLog) -> None:
    command = log.command("a")
    fence = log.claim("a", command, purpose=Purpose.DEFER, reason=Reason.LIMIT, attempt=0)
    owner = Limited(log)
    owner.read()
    owner.run_errands()
    log.command("b", Lane.HIGH)
    owner.read()
    assert owner.next(Lane.HIGH) is None
    work = owner.start()
    assert (work.task_id, work.claim.follows) == ("a", fence)


async def test_one_that_was_released_and_finds_no_place_does_not_wait_behind_who_waits_for_it(
    log: SharedLog,
) -> None:
    """It holds the place that the others wait for: behind them it would wait for ever."""
    runs, waits = log.command("runs"), log.command("waits")
    fence = log.defer("waits", log.claim("waits", waits), due=0)
    log.claim("runs", runs, group="f")
    owner = Limited(log)
    owner.read()
    log.command("new")
    owner.read()
    owner.run_errands()
    assert owner.next() is None
    log.finish("runs", fence + 1)
    owner.read()
    assert owner.start().task_id == "waits"


async def test_a_takeover_takes_the_place_of_what_it_takes_over(log: SharedLog) -> None:
    command = log.command("a")
    log.claim("a", command, group="f")
    owner = Limited(log)
    owner.read()
    ((parked, held),) = owner.partition.held()
    owner.partition.unpark(parked)
    work = owner.partition.begin(parked, held.takeover)
    assert work is not None
    assert work.purpose is Purpose.RUN


async def test_a_takeover_waits_where_the_place_went_to_another(log: SharedLog) -> None:
    """A zombie's claim landed after another had started in its place: then both would run."""
    first, second = log.command("a"), log.command("b")
    log.claim("a", first, group="f")
    log.claim("b", second, group="f", by="zombie")
    owner = Limited(log)
    owner.read()
    (_, (parked, held)) = owner.partition.held()
    owner.partition.unpark(parked)
    assert owner.partition.begin(parked, held.takeover) is None
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.task_id, chore.purpose, chore.reason) == ("b", Purpose.DEFER, Reason.LIMIT)


async def test_a_limit_that_was_raised_or_lifted_lets_those_go_that_wait(log: SharedLog) -> None:
    commands = [log.command(f"t{number}") for number in range(4)]
    log.claim("t0", commands[0], group="f")
    for number in (1, 2, 3):
        log.claim(f"t{number}", commands[number], purpose=Purpose.DEFER, reason=Reason.LIMIT, attempt=0)
    owner = Limited(log)
    owner.read()
    owner.run_errands()
    assert owner.next() is None
    owner.most, owner.revision = 2, 1
    owner.act()
    assert [envelope.task_id for _, envelope in owner.asked.releases] == ["t1"]
    owner.most, owner.revision = None, 2
    owner.act()
    assert [envelope.task_id for _, envelope in owner.asked.releases] == ["t1", "t2", "t3"]


async def test_one_that_may_expire_does_not_wait_in_memory(log: SharedLog) -> None:
    """Nobody would look at it before its turn."""
    log.command("a")
    log.command("b", ttl_seconds=10.0)
    owner = Limited(log)
    owner.clock.now = 1000
    owner.read()
    owner.start()
    assert owner.next() is None
    owner.defer_all()
    assert owner.partition.next_time == 10_000
    owner.clock.now = 10_000
    owner.act()
    owner.run_errands()
    chore = owner.partition.next_chore()
    assert chore is not None
    assert (chore.task_id, chore.purpose) == ("b", Purpose.END)


async def test_one_that_ended_while_it_waited_in_memory_holds_up_nobody(log: SharedLog) -> None:
    log.command("a")
    second = log.command("b")
    log.command("c")
    owner = Limited(log)
    owner.read()
    work = owner.start()
    assert owner.next() is None
    fence = owner.claim(work)
    log.cancel("b", second)
    owner.read()
    chore = owner.partition.next_chore()
    assert chore is not None
    log.finish("b", owner.claim(chore), DONE)
    owner.read()
    owner.partition.chore_done(chore)
    owner.end(work, fence)
    assert owner.start().task_id == "c"


async def test_one_that_is_claimed_by_another_while_it_waits_in_memory_is_watched(log: SharedLog) -> None:
    """The claim of an owner before landed late. It has the place that the others wait for, and nobody who
    runs it: they would wait for ever."""
    log.command("a")
    second = log.command("b")
    log.command("c")
    owner = Limited(log)
    owner.read()
    work = owner.start()
    assert owner.next() is None
    fence = owner.claim(work)
    log.claim("b", second, by="gone", group="f")
    owner.end(work, fence)
    assert owner.next() is None
    ((parked, held),) = owner.partition.held()
    assert (parked.task_id, held.holder) == ("b", "gone")
    owner.partition.unpark(parked)
    again = owner.partition.begin(parked, held.takeover)
    assert again is not None
    owner.end(again, owner.claim(again))
    assert owner.start().task_id == "c"
