"""Which command is taken up next: by weight, in turn, within the limits, and none is left behind.

Everything that a dispatcher does by itself happens at once, whatever it waits for in any order. Nothing fails
here but Redis, which may not be there when a task is to be claimed: for all else there is the simulation.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

import dispatcher.buffers
import dispatcher.commands
import dispatcher.intake
import dispatcher.limits
from dispatcher.claims import event_of
from dispatcher.world import World
from mayfly.events import CancelRequested, Deferred, Finished, Purpose, Reason
from mayfly.fold import Phase
from mayfly.placement import Limit
from mayfly.task import Envelope, Failure, FailureType, Lane, Outcome, Position
from tests.stateful.bounds import Machine, explore, patient
from tests.stateful.slots import Job, Slots, Topics, Wishes

FAILED = Outcome(0, 1, failure=Failure(FailureType.ERROR, "no"))
CANCELLED = Outcome(0, 1, failure=Failure(FailureType.CANCELLED, "no"))
DONE = Outcome(0, 1)
ALL = "all"
KINDS = ("plain", "one", "two", "key/x", "key/y")
NARROW = {
    (dispatcher.limits, "MAX_PARKED"): 2,
    (dispatcher.commands, "MAX_PENDING"): 10,
    (dispatcher.intake, "MAX_CHORES"): 3,
    (dispatcher.intake, "MAX_RESUMED"): 7,
    (dispatcher.buffers, "MAX_BUFFERED"): 5,
    (dispatcher.buffers, "MIN_BUFFERED"): 2,
}
"""Bounds that are met in a few steps."""


@dataclass(eq=False)
class Task:
    """A task as its client sees it."""

    id: str
    partition: int
    position: Position
    kind: str
    due: int
    expires: int | None
    cancelled: bool = False
    plain: bool = True
    """Whether nothing stands in the way of its first attempt: it starts in the order of its lane."""
    begun: int = 0
    ended: bool = False


class LanesMachine(Machine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bounds = [patch.object(dispatcher.intake, "MAX_LOOKS", 2)]
        self.now = 1000
        self.limits = {"one": 1, "two": 2, "key/x": 1, "key/y": 1}
        self.revision = 0
        self.tasks: dict[str, Task] = {}
        self.jobs: list[Job] = []
        self.topics: list[Topics] = []
        # How often somebody else was preferred, of those for whom a task could have run at once; and who was
        # while all of the lanes could.
        self.lanes_passed = Counter[Lane]()
        self.started_of = Counter[Lane]()
        self.partitions_passed = Counter[tuple[int, Lane]]()
        self.ready: set[tuple[int, Lane]] = set()

    @initialize(partitions=st.integers(1, 3), slots=st.integers(1, 4), narrow=st.booleans())
    def begin(self, partitions: int, slots: int, narrow: bool) -> None:
        self.bounds += [patch.object(*where, value) for where, value in NARROW.items() if narrow]
        for one in self.bounds:
            one.start()
        wishes = Wishes(self.topics)
        world = World(
            queue="q",
            projection=wishes,
            errands=wishes,
            limit_of=self.limit_of,
            limits_revision=lambda: self.revision,
            share=lambda limit, _: limit.most,
            now=lambda: self.now,
            on_cancel=lambda _: None,
        )
        self.slots = Slots(slots, self.before_a_choice, self.started)
        for number in range(partitions):
            self.topics.append(Topics(number, world))
            self.slots.partitions[number] = self.topics[number].owner

    def close(self) -> None:
        self.loop.close()
        if self.topics:
            for one in self.bounds:
                one.stop()

    def limit_of(self, envelope: Envelope) -> Limit | None:
        most = self.limits.get(envelope.task_type)
        return None if most is None else Limit(envelope.task_type, most)

    # --- what comes

    @rule(
        partition=st.sampled_from([0, 1, 2, ALL]),
        lane=st.sampled_from([*Lane, ALL]),
        kind=st.sampled_from(["plain", *KINDS]),
        delay=st.sampled_from([0, 0, 0, 0, 20]),
        ttl=st.sampled_from([None, None, None, 30]),
        count=st.sampled_from([1, 2, 4, 8]),
    )
    def post(
        self, partition: int | str, lane: str, kind: str, delay: int, ttl: int | None, count: int
    ) -> None:
        for number, topics in enumerate(self.topics):
            if partition in (ALL, number):
                for of in Lane if lane == ALL else [Lane(lane)]:
                    for _ in range(count):
                        self._post(topics, of, kind, delay, ttl)
        self.wake()

    def _post(self, topics: Topics, lane: Lane, kind: str, delay: int, ttl: int | None) -> None:
        task_id, due = f"t{len(self.tasks)}", self.now + delay
        envelope = Envelope(kind, task_id, delay_seconds=delay / 1000 or None, ttl_seconds=ttl and ttl / 1000)
        position = topics.post(lane, envelope, self.now)
        expires = None if ttl is None else due + ttl
        plain = kind == "plain" and delay == 0
        number = topics.owner.number
        self.tasks[task_id] = Task(task_id, number, position, kind, due, expires, plain=plain)

    @rule(number=st.integers(0, 40))
    def cancel(self, number: int) -> None:
        some = [task for task in self.tasks.values() if not task.ended]
        if some:
            task = some[number % len(some)]
            task.cancelled, task.plain = True, False
            self.topics[task.partition].append(CancelRequested(task.id, *task.position))
            self.wake()

    @rule(one=st.integers(1, 3), two=st.sampled_from([0, 1, 2, 4]), later=st.sampled_from([0, 1, 20, 40]))
    def change(self, one: int, two: int, later: int) -> None:
        """Time passes, and functions are deployed with other limits; 0 is none."""
        self.now += later
        self.limits["one"] = one
        self.limits.pop("two", None)
        if two:
            self.limits["two"] = two
        self.revision += 1
        self.wake()

    def wake(self) -> None:
        for topics in self.topics:
            topics.poll()
        self.slots.fill()

    # --- what is started

    def before_a_choice(self) -> None:
        """Take note of where a task could run at once."""
        self.ready = {
            (number, lane)
            for number, topics in enumerate(self.topics)
            for lane in Lane
            if (head := topics.head(lane)) and self._could_run(self.tasks[head.task_id])
        }

    def _could_run(self, task: Task) -> bool:
        expired = task.expires is not None and task.expires <= self.now
        return task.plain and task.begun == 0 and not expired

    def started(self, job: Job) -> None:
        work, owner = job.work, job.partition
        task = self.tasks[work.task_id]
        assert not task.ended or not job.runs
        if job.runs:
            self._may_run(task, job)
            self._is_its_turn(work.position.lane, owner.number)
            task.begun += 1
        self.jobs.append(job)

    def _may_run(self, task: Task, job: Job) -> None:
        assert len(self.slots.running) <= self.slots.slots
        assert self.now >= task.due, "it is too early"
        assert task.begun or task.expires is None or task.expires > self.now, "it is too late"
        attempts = [one for one in self.jobs if one.may_run]
        assert all(one.work.task_id != task.id for one in attempts), "it is taken twice"
        limit = self.limits.get(task.kind)
        assert limit is None or self._running(task) < limit, "too many of its kind"
        before = (
            one
            for one in self.tasks.values()
            if one.partition == task.partition
            and self._could_run(one)
            and one.position.lane is task.position.lane
            and one.position < task.position
        )
        assert not (self._could_run(task) and any(before)), "it is not its turn in the lane"

    def _running(self, task: Task) -> int:
        """How many of its kind run beside it, or are about to."""
        others = [self.tasks[job.work.task_id] for job in self.jobs if job.may_run]
        mine = task.partition, task.kind
        return sum((one.partition, one.kind) == mine and not one.ended for one in others)

    def _is_its_turn(self, lane: Lane, number: int) -> None:
        """Lanes that all have work share the slots by weight, none waits for longer than its weight allows,
        and no partition for more than the others once."""
        ready = {of for _, of in self.ready}
        self.started_of = self.started_of + Counter([lane]) if ready == set(Lane) else Counter[Lane]()
        for of in Lane:
            share = self.started_of.total() * of.weight / 100
            assert abs(self.started_of[of] - share) < 3, f"{of} has not its share"
        lanes = ready - {lane}
        self.lanes_passed = Counter({of: self.lanes_passed[of] + 1 for of in lanes})
        for of, times in self.lanes_passed.items():
            assert times <= 2 * 100 / of.weight + 1, f"{of} starves"
        mine = {of for of, its in self.ready if its is lane and of != number}
        for of in range(len(self.topics)):
            times = self.partitions_passed[of, lane] + 1 if of in mine else 0
            assert times < len(self.topics), f"partition {of} starves"
            self.partitions_passed[of, lane] = times

    # --- what lands, in any order

    @rule(
        numbers=st.lists(st.integers(0, 30), min_size=1, max_size=5),
        how=st.sampled_from(["done", "done", "fail", "retry", "nothing"]),
    )
    def go_on(self, numbers: list[int], how: str) -> None:
        for number in numbers:
            landings = [(topics, land) for topics in self.topics for land in topics.flight]
            place = number % (len(landings) + len(self.jobs) + len(self.topics))
            if place < len(landings):
                topics, land = landings[place]
                topics.flight.remove(land)
                land()
            elif (place := place - len(landings)) < len(self.jobs):
                self._go_on(self.jobs[place], how)
            else:
                self.topics[place - len(self.jobs)].commit()
        self.wake()

    def _go_on(self, job: Job, how: str) -> None:
        """The next thing that becomes of it."""
        if job.ended:
            self.jobs.remove(job)
            self.slots.over(job)
            if job.runs:
                assert job.work.command is not None
                job.partition.put_back(job.work.command)
            else:
                job.partition.chore_done(job.work)
        elif job.fence is not None:
            self._end(job, how)
        elif how == "nothing":
            self._come_to_nothing(job)
        else:
            self.loop.run_until_complete(self._claim(job))

    async def _claim(self, job: Job) -> None:
        nonce = f"n{id(job)}"
        claimed = job.partition.expect_claim(nonce)
        self.topics[job.partition.number].append(event_of(job.work, "me", nonce))
        job.fence = claimed.result()
        job.ended = job.fence is None or job.work.purpose is Purpose.DEFER

    def _end(self, job: Job, how: str) -> None:
        task, work, state = self.tasks[job.work.task_id], job.work, job.partition.state(job.work.task_id)
        assert job.fence is not None
        assert state is not None
        assert state.phase is Phase.CLAIMED
        outcome = FAILED if how == "fail" else DONE
        if not job.runs:
            outcome = Outcome(0, 1, failure=work.failure)
        elif state.cancelled:
            outcome = CANCELLED
        elif how == "retry":
            task.due = self.now + 20
            self.topics[task.partition].append(
                Deferred(task.id, job.fence, work.claim.attempt, Reason.RETRY, task.due, FAILED)
            )
            job.ended = True
            return
        job.ended = task.ended = True
        self.topics[task.partition].append(Finished(task.id, job.fence, work.claim.attempt, outcome))

    def _come_to_nothing(self, job: Job) -> None:
        """Redis could not tell whether it may be claimed."""
        self.tasks[job.work.task_id].plain = False
        self.jobs.remove(job)
        self.slots.over(job)
        if job.runs:
            assert job.work.command is not None
            job.partition.park(job.work.command)
            job.partition.put_back(job.work.command)
        else:
            job.partition.chore_done(job.work, broke=True)

    # --- what must hold

    @rule()
    def come_to_rest(self) -> None:
        """All lands that is on its way. Then whatever could run does, as far as there are slots."""
        rest = 0
        for _ in range(200):
            rest = 0 if self._move_on() else rest + 1
            if rest > 4:
                break
        else:
            raise AssertionError("it never comes to rest")
        running = {job.work.task_id for job in self.jobs}
        for task in self.tasks.values():
            if not task.ended and task.id not in running:
                # Its release may stand behind more than is read.
                ends = task.cancelled and self.topics[task.partition].is_read
                assert not ends, "it is cancelled, and does not end"
                if len(self.slots.running) < self.slots.slots:
                    limit = self.limits.get(task.kind)
                    full = limit is not None and self._running(task) >= limit
                    assert full or task.due > self.now, "it is left behind"

    def _move_on(self) -> bool:
        """Whether anything happened."""
        some = False
        for topics in self.topics:
            some |= topics.poll()
        self.slots.fill(later=True)
        for topics in self.topics:
            flight, topics.flight = topics.flight, []
            for land in flight:
                land()
            some |= bool(flight)
        for job in list(self.jobs):
            if job.ended or job.fence is None or not job.runs:
                self._go_on(job, "done")
                some = True
        for topics in self.topics:
            some |= topics.commit()
        return some

    def check(self) -> None:
        for topics in self.topics:
            checkpoint = topics.owner.checkpoint()
            pending = sum(len(offsets) for _, offsets in checkpoint.lanes.values())
            assert pending <= dispatcher.commands.MAX_PENDING
            assert len(checkpoint.resumed) <= dispatcher.intake.MAX_RESUMED

    def come_to_an_end(self) -> None:
        """Everything ends, and nothing is left of it: no place in a limit, no record, no command."""
        if not self.topics:
            return
        for _ in range(10 * len(self.tasks) + 10):
            self.come_to_rest()
            if all(task.ended for task in self.tasks.values()):
                break
            for job in [job for job in self.jobs if job.runs]:
                self._go_on(job, "done")
            self.now += 50
        else:
            raise AssertionError("some have not ended")
        assert not self.jobs
        for topics in self.topics:
            topics.is_empty()


@patient
def test_every_command_has_its_turn_and_no_limit_is_exceeded() -> None:
    explore(LanesMachine, part=0.1, steps_of_one=30)
