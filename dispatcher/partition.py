"""One partition that this dispatcher owns: its fold, its lanes, its records, and who waits for an event.

Lives on the event loop. It is made when the partition is assigned and dropped, whole, when it is revoked.
Nothing here appends to Kafka: what is to be appended goes to `Errands`, and counts when it is read back.
`docs/protocol.md` has the rules, and why each of them is there.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from dispatcher.buffers import Command
from dispatcher.commands import Commands
from dispatcher.expectations import Expectations
from dispatcher.letters import Letters
from dispatcher.limits import Turns
from dispatcher.offsets import MAX_RESUMED, Checkpoint
from dispatcher.records import Records, Restored, Verdict, task_of
from dispatcher.waiting import Waiting, WaitingRoom
from dispatcher.work import CANCELLED, EXPIRED, Work
from mayfly import view
from mayfly.events import (
    CancelRequested,
    Claimed,
    DeadLetter,
    Deferred,
    DeferredRecord,
    Event,
    Finished,
    Purpose,
    Reason,
)
from mayfly.fold import (
    Behind,
    Claim,
    Done,
    Fold,
    Held,
    Keep,
    Phase,
    Step,
    TaskState,
    needs_record,
    next_step,
    resumption,
)
from mayfly.history import change_of
from mayfly.placement import Limit
from mayfly.task import NO_FENCE, Envelope, Lane, Origin, Position, expires_at

MAX_CHORES: Final = 400
"""Claims of a partition that are on their way without an attempt: tasks that are let wait, or ended."""


class Errands(Protocol):
    """What a partition has appended for it: tried until it is acknowledged or the partition is lost."""

    def keep(self, partition: "Partition", record: DeferredRecord) -> None:
        """Append the record under a key that was never used."""

    def tombstone(self, partition: "Partition", key: str, task_id: str) -> None:
        """Tells the partition when it is acknowledged: `tombstoned`."""

    def release(self, partition: "Partition", lane: Lane, envelope: Envelope) -> None: ...

    def bury(self, partition: "Partition", letter: DeadLetter) -> None:
        """Append the dead letter. Tells the partition when it is acknowledged: `buried`."""


class Projection(Protocol):
    """Where a partition tells what its readers should see."""

    def command(self, partition: int, task: view.QueuedTask) -> None: ...

    def change(self, change: view.Change) -> None: ...


@dataclass(frozen=True)
class World:
    """What a partition needs of its dispatcher."""

    queue: str
    projection: Projection
    errands: Errands
    limit_of: Callable[[Envelope], Limit | None]
    limits_revision: Callable[[], int]
    """Another number whenever limits may have changed."""
    share: Callable[[Limit, int], int]
    """How many of a limit's tasks may run in a partition at once."""
    now: Callable[[], int]
    """Milliseconds since 1970."""
    on_cancel: Callable[[str], None]
    """Told of a task whose end is asked for while somebody holds it."""


class Partition:
    """The owner's view. Before it has read the records and the events to the ends that they had when it was
    assigned, it knows too little to act."""

    def __init__(self, number: int, *, checkpoint: Checkpoint, events_end: int, world: World) -> None:
        self.number = number
        self.origin = checkpoint
        self.waiting = WaitingRoom()
        self.lost = False
        self._world = world
        self._commands = Commands(checkpoint)
        self.buffers = self._commands.buffers
        self.parked = self._commands.parked
        self._fold = Fold(self._commands.offsets.is_done, checkpoint.resumed)
        self._records = Records(checkpoint.deferred)
        self._letters = Letters(world.queue)
        self._end = checkpoint.start
        self._events_end = events_end
        # Events that came before the records were read: what a record vouches for must be known by then.
        self._early: list[tuple[int, Event | None, int]] = []
        self._begun = False
        self._turns = Turns()
        self._limits = world.limits_revision()
        self._chores: deque[Work] = deque()
        self._running_chores: set[Position | str] = set()
        # Tasks to end that nobody holds, each with the command to claim it by.
        self._endings: deque[tuple[str, Position]] = deque()
        self._broken_endings: list[tuple[str, Position]] = []
        # Claims on their way that take a task out of its record, and commands that wait for room for theirs.
        self._resuming: set[Position | str] = set()
        self._gated: deque[Command] = deque()
        # Of tasks that wait: the fences of the records that are on their way.
        self._kept: dict[str, int] = {}
        # Of tasks that came out of their records: the records, until the log does without them.
        self._left: dict[str, Waiting] = {}
        self._stale: dict[str, str] = {}
        self._asked: dict[str, Position] = {}
        self._expected = Expectations()

    # --- reading

    def take_command(self, command: Command) -> None:
        if not self._commands.read(command):
            return
        position = command.position
        if command.releases == NO_FENCE:
            task = view.queued(
                command.envelope,
                queue=self._world.queue,
                lane=position.lane,
                partition=self.number,
                offset=position.offset,
                at=command.at,
            )
            self._world.projection.command(self.number, task)
        elif (state := self._fold.get(command.task_id)) and state.cancelled:
            # It is not to wait for its turn in the lane.
            self._endings.append((command.task_id, position))
        self._judge()
        self._keep_waiting(command.task_id)

    def take_record(self, offset: int, key: str, value: bytes | None) -> None:
        """A record of the deferred topic; without a value, a tombstone."""
        if restored := self._records.read(offset, key, value):
            self._restore(restored)
        if value is None and self._records.loaded:
            # Whoever wrote it. A task's next record may follow at once, and is not to be found stale.
            self.tombstoned(key, task_of(key))
        self._judge()

    def take_records_end(self, offset: int) -> None:
        """The deferred topic was read to its end."""
        self._records.reached(offset)
        if self._records.loaded:
            return
        self._records.load()
        early, self._early = self._early, []
        for event in early:
            self.take_event(*event)
        self._judge()

    def _restore(self, restored: Restored) -> None:
        self.waiting.remove(restored.task_id)
        if restored.waiting is None:
            self._fold.unrestore(restored.task_id)
        else:
            record = restored.waiting.record
            self._fold.restore(restored.waiting.key, record)
            self._admit(restored.waiting, record)

    def take_event(self, offset: int, event: Event | None, at: int) -> None:
        """Fold an event, or pass over what is none; `at` is its append time in milliseconds."""
        if not self._records.loaded:
            self._early.append((offset, event, at))
            return
        if offset < self._end:
            return
        self._end = offset + 1
        if event is not None:
            self._fold_event(offset, event, at)
        self._judge()

    def take_events_end(self, offset: int) -> None:
        """The events were read to their end, whatever it is that stands just before it."""
        if offset > self._end:
            self.take_event(offset - 1, None, 0)

    def _fold_event(self, offset: int, event: Event, at: int) -> None:
        before = self._fold.get(event.task_id)
        counts = self._fold.apply(offset, event, at)
        after = self._fold.get(event.task_id)
        if counts and after is not None:
            change = change_of(event, after, self.number, offset, at)
            if change is not None:
                self._world.projection.change(change)
        match event:
            case Claimed():
                self._claim_read(event, offset if counts else None, after)
            case CancelRequested() if counts and after is not None:
                self._cancel(event, after)
            case Finished() if counts and after is not None:
                self._finished(event.task_id, after)
        if isinstance(event, Finished | Deferred):
            self._expected.resolve((event.task_id, event.fence), counts)
        if counts:
            if before is not None and before.runs and before.group:
                self.waiting.freed(before.group)
            self._keep_waiting(event.task_id)
            self._look_again(event.task_id)

    def _claim_read(self, event: Claimed, fence: int | None, after: TaskState | None) -> None:
        if fence is not None and after is not None:
            if left := self.waiting.remove(event.task_id):
                self._left[event.task_id] = left
                if left.limit is not None:
                    self.waiting.freed(left.limit.group)
            if after.stale is not None:
                self._stale[event.task_id] = after.stale
        if self._expected.resolve(event.nonce, fence):
            position = Position(event.lane, event.offset)
            self._resuming -= {position, event.task_id}
            self._not_starting(position)

    def _cancel(self, event: CancelRequested, after: TaskState) -> None:
        task_id, position = event.task_id, Position(event.lane, event.offset)
        if after.phase is Phase.CLAIMED:
            self._world.on_cancel(task_id)
        elif after.phase is Phase.ASKED:
            self._asked[task_id] = position
            self._endings.append((task_id, position))
        else:
            self._end_wait(task_id, after)

    def _end_wait(self, task_id: str, state: TaskState) -> None:
        """The task waits, and is to end: that it is claimed by its release, as any other that waits."""
        if release := self._commands.release_of(task_id, state.fence):
            self._endings.append((task_id, release.position))
        else:
            self.waiting.hurry(task_id)

    def _finished(self, task_id: str, after: TaskState) -> None:
        if self._needs_letter(task_id, after):
            self._bury(task_id, after)
        else:
            self._settle(task_id)

    @property
    def caught_up(self) -> bool:
        return self._records.loaded and self._end >= self._events_end

    # --- the checkpoint

    def checkpoint(self) -> Checkpoint:
        """What may be committed now: fold, lanes and records of one and the same moment."""
        first = self._fold.first
        start = self._end if first is None else first
        return self._commands.offsets.checkpoint(start, self._records.settled, self._fold.resumed)

    @property
    def wants_commit(self) -> bool:
        """Whether a commit is of use even if it says what the last one said."""
        return self._records.some_stale

    def before_commit(self) -> None:
        """A checkpoint of ours is about to be committed."""
        self._records.before_commit()

    def committed(self, checkpoint: Checkpoint) -> None:
        """It was: the records that it does without may go."""
        for stale in self._records.after_commit():
            self._world.errands.tombstone(self, stale.key, stale.task_id)
        listed = set(checkpoint.resumed)
        for task_id, key in list(self._stale.items()):
            state = self._fold.get(task_id)
            if state is None or (state.resumed in listed and not self._needs_letter(task_id, state)):
                del self._stale[task_id]
                self._world.errands.tombstone(self, key, task_id)

    # --- records

    def _judge(self) -> None:
        """Look at the records that nobody has vouched for, as far as the fold has come."""
        if self.caught_up:
            self._records.judge(self._end, self._would_back)
            self._records.settle(self._back)
            if not self._begun:
                self._begun = True
                for task_id in self._fold.in_the_log:
                    self._keep_waiting(task_id)

    def _would_back(self, waiting: Waiting) -> bool:
        state = self._fold.get(waiting.task_id)
        return state is not None and needs_record(state) and state.fence == waiting.fence

    def _back(self, waiting: Waiting) -> Verdict:
        """The record is the task's state from here on, if it can be: the commands before it are done."""
        task_id, fence = waiting.task_id, waiting.fence
        state = self._fold.get(task_id)
        if state is None or not self._would_back(waiting):
            return Verdict.STALE
        claimed = state.command if state.resumed is None else None
        if claimed is not None and not self._commands.was_read(task_id, claimed):
            # It cannot be marked done yet. To call the record stale for that would be wrong: another owner
            # may find it good, and vouch for it, before the tombstone lands.
            self._commands.need(claimed)
            return Verdict.WAITS
        self._fold.back(task_id, fence, waiting.key)
        self._kept.pop(task_id, None)
        self._left.pop(task_id, None)
        self._admit(waiting, waiting.record)
        if state.command is not None:
            # All at once, also what was not taken up yet: a late claim for one of them would count where
            # nothing is left of the task but this record, and then not even that.
            for command in self._commands.named(task_id, state.command, fence):
                self._mark_done(task_id, command.position)
        return Verdict.BACKS

    def _admit(self, waiting: Waiting, record: DeferredRecord) -> None:
        """The record backs its task, which waits."""
        waiting = waiting.limited(self._world.limit_of(record.envelope))
        self.waiting.add(waiting, record, expires_at(record.envelope, 0))
        state = self._fold.get(waiting.task_id)
        if state is not None and state.cancelled:
            self._end_wait(waiting.task_id, state)

    def _keep_waiting(self, task_id: str) -> None:
        """The task may wait without a record: write one, however far its command is from its turn."""
        state = self._fold.get(task_id)
        if state is not None and needs_record(state) and self.caught_up:
            command = self._commands.before(task_id, state.fence)
            claimed = state.command if state.resumed is None else None
            at_hand = claimed is None or self._commands.was_read(task_id, claimed)
            if command is not None and at_hand:
                self._keep(command, state)

    def _keep(self, command: Command, state: TaskState) -> None:
        """Write the record of a task that waits, unless that is under way, or there is one already."""
        task_id, fence = command.task_id, state.fence
        if self._kept.get(task_id) == fence or self._records.is_to_back(task_id, fence):
            return
        self._kept[command.task_id] = state.fence
        origin = Origin(command.position.lane, command.position.offset, command.at)
        envelope = msgspec.structs.replace(
            command.envelope, releases=NO_FENCE, origin=command.envelope.origin or origin
        )
        record = DeferredRecord(
            envelope,
            state.fence,
            state.attempt,
            state.reason or Reason.SCHEDULE,
            due=state.due,
            losses=state.losses,
            group=state.group,
            history=state.history,
        )
        self._world.errands.keep(self, record)

    def tombstoned(self, key: str, task_id: str) -> None:
        """The record is gone for good."""
        if self.lost:
            return
        self._records.gone(key)
        self._fold.unbacked(task_id, key)
        state = self._fold.get(task_id)
        if state is not None and state.resumed is not None:
            self._forget(task_id)
        self._judge()
        # What had to wait for this: its next record.
        self._keep_waiting(task_id)
        self._look_again(task_id)

    # --- dead letters

    def _needs_letter(self, task_id: str, state: TaskState) -> bool:
        """Whether it failed, and its dead letter is not acknowledged. Its command is done only then."""
        done = state.command is not None and self._commands.offsets.is_done(state.command)
        return self._letters.is_due(task_id, state) and not done

    def _bury(self, task_id: str, state: TaskState) -> None:
        """Have the dead letter written, if what it is to hold is at hand. If not, the command comes yet."""
        envelope = next((command.envelope for command in self._commands.started(task_id)), None)
        if envelope is None and (left := self._left.get(task_id)):
            envelope = left.record.envelope
        if letter := self._letters.write(task_id, state, envelope):
            self._world.errands.bury(self, letter)

    def buried(self, task_id: str) -> None:
        """The dead letter is acknowledged: the task's commands are done."""
        if not self.lost:
            self._letters.acknowledged(task_id)
            self._settle(task_id)

    # --- taking up

    def has_work(self, lane: Lane) -> bool:
        if self._blocked:
            return False
        self._hand_back()
        return self._commands.first(lane) is not None

    def next(self, lane: Lane) -> Work | None:
        """An attempt of the lane to make now. What needs no slot on the way is seen to."""
        while self.has_work(lane):
            if work := self._consider(self._commands.take(lane)):
                return work
        return None

    def pass_over(self) -> None:
        """See to the commands that need no slot and have none to run before them in their lane."""
        if self._blocked:
            return
        self._hand_back()
        for lane in Lane:
            while not self._blocked and (first := self._commands.first_read(lane)):
                if self._would_run(first):
                    break
                self._see_to(self._commands.take_read(lane))

    def _hand_back(self) -> None:
        """Of those that were put back, the ones that need no slot are not to wait for one."""
        for command in self._commands.hand_back():
            if self._would_run(command):
                self._commands.wait(command)
            else:
                self._see_to(command)

    def _see_to(self, command: Command) -> None:
        if work := self._consider(command):
            # Its time has come just now: it needs a slot after all.
            self._resuming.discard(work.key)
            self._commands.wait(command)

    @property
    def _blocked(self) -> bool:
        return self.lost or not self.caught_up or len(self._running_chores) >= MAX_CHORES

    def _would_run(self, command: Command) -> bool:
        if self._commands.offsets.is_done(command.position):
            return False
        step = self.step(command)
        if not isinstance(step, Claim) or self._comes_second(command, step) or self._is_gated(step):
            return False
        return self.would_run(command, step)

    def would_run(self, command: Command, claim: Claim) -> bool:
        """Whether the claim would be for an attempt."""
        return self._plan(command, claim).purpose is Purpose.RUN

    def _consider(self, command: Command) -> Work | None:
        work = None
        held = self._turns.starts(command.position)
        if not self._commands.offsets.is_done(command.position):
            match self.step(command):
                case Done():
                    self._done(command)
                case Held() | Behind():
                    self._commands.park(command)
                case Keep(state):
                    self._keep(command, state)
                case Claim() as claim if self._comes_second(command, claim):
                    self._commands.park(command)
                case Claim() as claim if self._is_gated(claim):
                    self._gated.append(command)
                case Claim() as claim:
                    work = self.begin(command, claim)
        if held and work is None:
            # Its turn had come, and there is nothing to run.
            self._not_starting(command.position)
        return work

    def _comes_second(self, command: Command, claim: Claim) -> bool:
        """Whether another command of the task goes first."""
        first = claim.state is None or claim.state.phase is Phase.ASKED
        return first and self._commands.comes_second(command)

    def _is_gated(self, claim: Claim) -> bool:
        """Whether a checkpoint may not be able to list the claim."""
        return claim.state is not None and claim.state.record is not None and self._resumed >= MAX_RESUMED

    @property
    def _resumed(self) -> int:
        """How many claims a checkpoint would have to list, with those that are on their way."""
        return self._fold.resumed_count + len(self._resuming)

    def _done(self, command: Command) -> None:
        state = self._fold.get(command.task_id)
        if state is not None and self._needs_letter(command.task_id, state):
            self._bury(command.task_id, state)
        else:
            self._mark_done(command.task_id, command.position)

    def begin(self, command: Command, claim: Claim) -> Work | None:
        """What to claim the task for. An attempt is returned; all else goes to the chores or is put aside."""
        work = self._plan(command, claim)
        state = claim.state
        if work.purpose is Purpose.RUN:
            if work.group is not None:
                self._turns.start(command.position, work.group)
            if state is not None and state.record is not None:
                self._resuming.add(work.key)
            return work
        held = state is not None and state.phase is Phase.CLAIMED
        in_turn = work.reason is Reason.LIMIT and not held and command.expires_at is None
        if not (in_turn and work.group is not None and self._park_for_turn(command, work.group)):
            self._add_chore(work)
        return None

    def _park_for_turn(self, command: Command, group: str) -> bool:
        # What was released holds its place already, so it goes before those that do not.
        released = command.releases != NO_FENCE
        if not released and self.waiting.waits(group):
            return False
        return self._turns.park(command, group, first=released)

    def _plan(self, command: Command, claim: Claim) -> Work:
        work = Work(command.task_id, command.position, claim, Purpose.RUN, command)
        if claim.cancelled:
            return work._replace(purpose=Purpose.END, failure=CANCELLED)
        if claim.begun == 0:
            now = self._world.now()
            if (expires := command.expires_at) is not None and expires <= now:
                return work._replace(purpose=Purpose.END, failure=EXPIRED)
            if command.due_at > now:
                return work._replace(purpose=Purpose.DEFER, due=command.due_at)
        limit = None if command.invalid else self._world.limit_of(command.envelope)
        if limit is None:
            return work
        # Whoever takes an attempt over takes its place, and one whose turn has come has it.
        own = int(claim.state is not None and claim.state.runs) + int(self._turns.starts(command.position))
        if self._room(limit, released=command.releases != NO_FENCE) + own <= 0:
            return work._replace(purpose=Purpose.DEFER, reason=Reason.LIMIT, group=limit.group)
        return work._replace(group=limit.group)

    def _room(self, limit: Limit, released: bool = False) -> int:
        """How many more of the limit's tasks may start. Those that were released have their place already."""
        taken = self._fold.running[limit.group] + self._turns.starting(limit.group)
        before = 0 if released else self.waiting.released_of(limit.group)
        return self._world.share(limit, self.number) - taken - before

    def _not_starting(self, position: Position) -> None:
        if group := self._turns.started(position):
            self.waiting.freed(group)

    # --- chores

    def next_chore(self) -> Work | None:
        """A claim to make now that needs no slot: to let a task wait, or to end it."""
        return self._chores.popleft() if self._chores and not self.lost else None

    def chore_done(self, work: Work, *, broke: bool = False) -> None:
        """It is over. If the fold did not count what came of it, it is looked at again: at once, or, where it
        broke, in a while."""
        self._running_chores.discard(work.key)
        if work.command is None:
            self._resuming.discard(work.key)
            (self._broken_endings if broke else self._endings).append((work.task_id, work.position))
        elif broke:
            self.park(work.command)
            self.put_back(work.command)
        else:
            self.put_back(work.command)

    def _add_chore(self, work: Work) -> None:
        if work.key not in self._running_chores:
            state = work.claim.state
            if state is not None and state.record is not None:
                self._resuming.add(work.key)
            self._running_chores.add(work.key)
            self._chores.append(work)

    # --- releasing

    def release(self) -> None:
        """Send those back to their lanes whose time or turn has come, and end those that are to end."""
        if self.lost or not self.caught_up:
            return
        while self._endings and not self._blocked and self._resumed < MAX_RESUMED:
            self._end_task(*self._endings.popleft())
        for _ in range(min(len(self._gated), MAX_RESUMED - self._resumed)):
            self._commands.put_back(self._gated.popleft())
        if (limits := self._world.limits_revision()) != self._limits:
            self._limits = limits
            self.waiting.all_may_be_ready()
        for group in self._turns.groups:
            self._take_turns(group)
        for one in self.waiting.due(self._world.now(), self._to_release):
            self._release(one)
        for one in self.waiting.turns(self._room_for, self._to_release):
            self._release(one)

    @property
    def _to_release(self) -> int:
        return MAX_RESUMED - self._fold.resumed_count - self.waiting.released

    @property
    def next_time(self) -> int | None:
        """When there is something to release although nothing happens, milliseconds since 1970."""
        return self.waiting.next_time if self._to_release > 0 and self.caught_up else None

    def _release(self, waiting: Waiting) -> None:
        envelope = waiting.record.envelope
        assert envelope.origin is not None
        back = msgspec.structs.replace(envelope, releases=waiting.fence)
        self._world.errands.release(self, envelope.origin.lane, back)

    def _end_task(self, task_id: str, position: Position) -> None:
        """End a task that nobody holds, without an attempt. Somebody may hold it by now, or it is over."""
        state = self._fold.get(task_id)
        if state is None or self._commands.offsets.is_done(position):
            return
        if state.phase is Phase.ASKED:
            claim = Claim(NO_FENCE, 1, 0, state)
            position = self._commands.earliest(task_id) or position
        elif state.cancelled and (release := self._commands.release_of(task_id, state.fence)):
            claim, position = resumption(state), release.position
        else:
            return
        self._add_chore(Work(task_id, position, claim, Purpose.END, failure=CANCELLED))

    def _room_for(self, waiting: Waiting) -> int:
        """For how many of its group; its limit may have changed since it came to wait."""
        limit = self._world.limit_of(waiting.record.envelope)
        return MAX_RESUMED if limit is None else self._room(limit)

    def _take_turns(self, group: str) -> None:
        """Those that wait in memory have been there for longer than those in records."""
        while (first := self._turns.first(group)) is not None:
            if self._waits_for_turn(first):
                return
            runs = self._would_run(first)
            self._commands.put_back(self._turns.unpark(group))
            if runs:
                self._turns.start(first.position, group)

    def _waits_for_turn(self, command: Command) -> bool:
        step = self.step(command)
        if self._commands.offsets.is_done(command.position) or not isinstance(step, Claim):
            return False
        return self._plan(command, step).reason is Reason.LIMIT

    # --- what was put aside

    def step(self, command: Command) -> Step:
        return next_step(self._fold.get(command.task_id), command.releases, self._end)

    def state(self, task_id: str) -> TaskState | None:
        """What the fold says of the task."""
        return self._fold.get(task_id)

    def put_back(self, command: Command) -> None:
        """An attempt at the command is over. If the fold did not count its outcome, look at it again."""
        self._resuming.discard(command.position)
        self._not_starting(command.position)
        if not self.lost and self._commands.is_started(command) and command.position not in self.parked:
            self._commands.put_back(command)

    def park(self, command: Command) -> None:
        """Look at the command again in a while."""
        if not self.lost and self._commands.is_started(command):
            self._commands.park(command)

    def has_forgotten(self, task_id: str, fence: int) -> bool:
        """Whether a task that was claimed under that fence went on to its end: the fold has read that claim,
        and does not know of the task."""
        state = self._fold.get(task_id)
        return fence < self._end and (state is None or state.phase is Phase.ASKED)

    def forgotten(self, command: Command) -> None:
        """The task is over, and forgotten: the command is done."""
        if not self.lost and self._commands.is_started(command):
            self._mark_done(command.task_id, command.position)

    def held(self) -> Iterator[tuple[Command, Held]]:
        """The parked commands, one of each task, each with who holds it. Those that nobody holds any more
        move on."""
        seen = set()
        endings, self._broken_endings = self._broken_endings, []
        self._endings += endings
        for command in list(self.parked.values()):
            step = self.step(command)
            if isinstance(step, Held):
                if command.task_id not in seen:
                    seen.add(command.task_id)
                    yield command, step
            elif not isinstance(step, Behind):
                self._commands.put_back(command)

    def _look_again(self, task_id: str) -> None:
        """The fold has moved the task on: so may what was put aside until then."""
        for command in self._commands.started(task_id):
            if command.position in self.parked and not isinstance(self.step(command), Held | Behind):
                self._commands.put_back(command)

    def unpark(self, command: Command) -> None:
        self._commands.unpark(command)

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

    # --- what is over

    def _settle(self, task_id: str) -> None:
        """The task is terminal: its commands that were taken up are done. One that is still in a buffer is
        seen to when its turn comes, so that the pending list stays short."""
        for command in self._commands.started(task_id):
            self._mark_done(task_id, command.position)
        state = self._fold.get(task_id)
        if state is not None and state.resumed is not None:
            # Its release may not be read yet: of a task that is forgotten it is done all the same.
            self._forget(task_id)

    def _mark_done(self, task_id: str, position: Position) -> None:
        self._commands.done(task_id, position)
        self._not_starting(position)
        asked = self._asked.get(task_id)
        if asked is None or self._commands.offsets.is_done(asked):
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        """Forget the task if it is over, in every respect, and its commands are done. A release that is not
        is no hindrance: it names a wait that is over."""
        state = self._fold.get(task_id)
        if state is None or self._commands.asked(task_id) or self._needs_letter(task_id, state):
            return
        if self._fold.forget(task_id):
            self._asked.pop(task_id, None)
            self._left.pop(task_id, None)
            self._kept.pop(task_id, None)
            self._letters.forget(task_id)
