"""One partition that this dispatcher owns: its fold, its lanes, its records, and who waits for an event.

Lives on the event loop. It is made when the partition is assigned and dropped, whole, when it is revoked.
Nothing here appends to Kafka: what is to be appended goes to the world's errands, and counts when it is read
back. `docs/protocol.md` has the rules, and why each of them is there.
"""

import asyncio
from collections.abc import Iterator

from dispatcher.buffers import Command
from dispatcher.endings import Endings
from dispatcher.expectations import Expectations
from dispatcher.holdings import Holdings
from dispatcher.intake import Intake
from dispatcher.keeping import Keeping
from dispatcher.offsets import Checkpoint
from dispatcher.work import Work
from dispatcher.world import World
from mayfly import view
from mayfly.events import CancelRequested, Claimed, Deferred, Event, Finished
from mayfly.fold import Phase, TaskState
from mayfly.history import change_of
from mayfly.steps import Claim, Held, Step
from mayfly.task import NO_FENCE, Lane, Position


class Partition:
    """The owner's view. Before it has read the records and the events to the ends that they had when it was
    assigned, it knows too little to act."""

    def __init__(self, number: int, *, checkpoint: Checkpoint, events_end: int, world: World) -> None:
        self.number = number
        self.origin = checkpoint
        self.lost = False
        self._world = world
        self._known = known = Holdings(self, checkpoint, events_end, world)
        self.buffers = known.commands.buffers
        self.parked = known.commands.parked
        self.waiting = known.waiting
        self._endings = Endings(known)
        self._keeping = Keeping(known, self._endings)
        self._intake = Intake(known, self._endings, self._keeping)
        # Events that came before the records were read: what a record vouches for must be known by then.
        self._early: list[tuple[int, Event | None, int]] = []
        self._expected = Expectations()

    @property
    def end(self) -> int:
        """How far the events were read."""
        return self._known.end

    @property
    def caught_up(self) -> bool:
        return self._known.caught_up

    # --- reading

    def take_command(self, command: Command) -> None:
        if not self._known.commands.read(command):
            return
        if command.releases == NO_FENCE:
            position = command.position
            task = view.queued(
                command.envelope,
                queue=self._world.queue,
                lane=position.lane,
                partition=self.number,
                offset=position.offset,
                at=command.at,
            )
            self._world.projection.command(self.number, task)
        else:
            self._endings.release_read(command)
        self._keeping.judge()
        self._keeping.keep_waiting(command.task_id)

    def take_record(self, offset: int, key: str, value: bytes | None) -> None:
        """A record of the deferred topic; without a value, a tombstone."""
        self._keeping.take(offset, key, value)

    def take_records_end(self, offset: int) -> None:
        """The deferred topic was read to its end."""
        self._known.records.reached(offset)
        if self._known.records.loaded:
            return
        self._known.records.load()
        early, self._early = self._early, []
        for event in early:
            self.take_event(*event)
        self._keeping.judge()

    def knows_records_to(self, offset: int) -> bool:
        return self._known.records.loaded and self._known.records.end >= offset

    def take_event(self, offset: int, event: Event | None, at: int) -> None:
        """Fold an event, or pass over what is none; `at` is its append time in milliseconds."""
        if not self._known.records.loaded:
            self._early.append((offset, event, at))
            return
        if offset < self._known.end:
            return
        self._known.end = offset + 1
        if event is not None:
            self._fold_event(offset, event, at)
        self._keeping.judge()

    def take_events_end(self, offset: int) -> None:
        """The events were read to their end, whatever it is that stands just before it."""
        if offset > self._known.end:
            self.take_event(offset - 1, None, 0)

    def knows_events_to(self, offset: int) -> bool:
        return self._known.end >= offset

    def _fold_event(self, offset: int, event: Event, at: int) -> None:
        task_id, fold = event.task_id, self._known.fold
        before = fold.get(task_id)
        counts = fold.apply(offset, event, at)
        after = fold.get(task_id)
        if counts and after is not None:
            change = change_of(event, after, self.number, offset, at)
            if change is not None:
                self._world.projection.change(change)
        match event:
            case Claimed():
                if counts and after is not None:
                    self._keeping.claimed(task_id, after)
                if self._expected.resolve(event.nonce, offset if counts else None):
                    self._intake.claim_read(task_id, Position(event.lane, event.offset))
            case CancelRequested() if counts and after is not None:
                self._endings.cancel(event, after)
            case Finished() if counts and after is not None:
                self._endings.finished(event, after)
        if isinstance(event, Finished | Deferred):
            self._expected.resolve((task_id, event.fence), counts)
        if counts:
            if before is not None and before.runs and before.group:
                self._known.waiting.freed(before.group)
            self._keeping.keep_waiting(task_id)
            self._intake.look_again(task_id)

    # --- the checkpoint

    def checkpoint(self) -> Checkpoint:
        """What may be committed now: fold, lanes and records of one and the same moment."""
        known = self._known
        start = known.end if known.fold.first is None else known.fold.first
        return known.commands.offsets.checkpoint(start, known.records.settled, known.fold.resumed)

    @property
    def wants_commit(self) -> bool:
        """Whether a commit is of use even if it says what the last one said."""
        return self._known.records.some_stale

    def before_commit(self) -> None:
        """A checkpoint of ours is about to be committed."""
        self._known.records.before_commit()

    def committed(self, checkpoint: Checkpoint) -> None:
        """It was: the records that it does without may go."""
        self._keeping.committed(checkpoint)

    def tombstoned(self, key: str, task_id: str) -> None:
        """The tombstone is acknowledged: the record is gone for good."""
        if not self.lost:
            self._keeping.tombstoned(key, task_id)
            self._intake.look_again(task_id)

    def buried(self, task_id: str) -> None:
        """The dead letter is acknowledged: the task's commands are done."""
        if not self.lost:
            self._endings.buried(task_id)

    def notified(self, task_id: str) -> None:
        """The notice of the task's end is acknowledged: the task's commands are done."""
        if not self.lost:
            self._endings.notified(task_id)

    # --- acting: `dispatcher.intake` says how

    def has_work(self, lane: Lane) -> bool:
        return self._intake.has_work(lane)

    def next(self, lane: Lane) -> Work | None:
        """An attempt of the lane to make now. What needs no slot on the way is seen to."""
        return self._intake.next(lane)

    def pass_over(self) -> None:
        """See to the commands that need no slot and have none to run before them in their lane."""
        self._intake.pass_over()

    def release(self) -> None:
        """Send those back to their lanes whose time or turn has come, and end those that are to end."""
        self._intake.release()

    @property
    def next_time(self) -> int | None:
        """When there is something to release although nothing happens, milliseconds since 1970."""
        return self._intake.next_time

    def would_run(self, command: Command, claim: Claim) -> bool:
        """Whether the claim would be for an attempt."""
        return self._intake.would_run(command, claim)

    def begin(self, command: Command, claim: Claim) -> Work | None:
        """What to claim the task for. An attempt is returned; all else goes to the chores or is put aside."""
        return self._intake.begin(command, claim)

    def next_chore(self) -> Work | None:
        """A claim to make now that needs no slot: to let a task wait, or to end it."""
        return self._intake.next_chore()

    def chore_done(self, work: Work, *, broke: bool = False) -> None:
        """It is over. If the fold did not count what came of it, it is looked at again: at once, or, where it
        broke, in a while."""
        self._intake.chore_done(work, broke=broke)

    def put_back(self, command: Command) -> None:
        """An attempt at the command is over. If the fold did not count its outcome, look at it again."""
        self._intake.put_back(command)

    def park(self, command: Command) -> None:
        """Look at the command again in a while."""
        self._intake.park(command)

    def unpark(self, command: Command) -> None:
        self._known.commands.unpark(command)

    def held(self) -> Iterator[tuple[Command, Held]]:
        """The parked commands, one of each task, each with who holds it. Those that nobody holds any more
        move on."""
        return self._intake.held()

    # --- what the fold says

    def step(self, command: Command) -> Step:
        return self._known.step(command)

    def state(self, task_id: str) -> TaskState | None:
        """What the fold says of the task."""
        return self._known.fold.get(task_id)

    def has_forgotten(self, task_id: str, fence: int) -> bool:
        """Whether a task that was claimed under that fence went on to its end: the fold has read that claim,
        and does not know of the task."""
        state = self.state(task_id)
        return fence < self._known.end and (state is None or state.phase is Phase.ASKED)

    def forgotten(self, command: Command) -> None:
        """The task is over, and forgotten: the command is done."""
        self._intake.forgotten(command)

    # --- waiting for events

    def expect_claim(self, nonce: str) -> "asyncio.Future[int | None]":
        """Resolves when the `Claimed` with that nonce is read: to its fence, or None if it is void.

        Raises `PartitionLost` when the partition goes before that.
        """
        return self._expected.expect(nonce)

    def expect_end(self, task_id: str, fence: int) -> "asyncio.Future[bool]":
        """Resolves when the `Finished` or `Deferred` with that fence is read: whether it counts.

        Raises `PartitionLost`.
        """
        return self._expected.expect((task_id, fence))

    def drop(self) -> None:
        """The partition is no longer ours. What runs goes on, but nothing here may act any more."""
        self.lost = True
        self._expected.drop()
