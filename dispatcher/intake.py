"""Which of a partition's commands is taken up, and what for: to run it, to let it wait, or to end it."""

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from dispatcher.buffers import Command
from dispatcher.endings import Endings
from dispatcher.holdings import Holdings
from dispatcher.keeping import Keeping
from dispatcher.offsets import MAX_RESUMED
from dispatcher.waiting import ENDS, Share, Waiting
from dispatcher.work import CANCELLED, EXPIRED, Work
from mayfly.events import Purpose, Reason
from mayfly.fold import Phase
from mayfly.placement import Limit
from mayfly.steps import Behind, Claim, Done, Held, Keep, resumption
from mayfly.task import NO_FENCE, Lane, Position

MAX_CHORES: Final = 400
"""Claims of a partition that are on their way without an attempt: tasks that are let wait, or ended."""

MAX_LOOKS: Final = 20
"""How often a command that is tried for many is looked for, before the others are tried as well."""

SHARES: Final[tuple[Share, ...]] = (*Lane, ENDS)


class Intake:
    def __init__(self, known: Holdings, endings: Endings, keeping: Keeping) -> None:
        self._known = known
        self._commands = known.commands
        self._endings = endings
        self._keeping = keeping
        self._limits = known.world.limits_revision()
        self._chores: deque[Work] = deque()
        self._running_chores: set[Position | str] = set()
        self._broken_endings: list[tuple[str, Position]] = []
        # Claims on their way that take a task out of its record, and commands that wait for room for theirs.
        self._resuming: set[Position | str] = set()
        self._gated: deque[Command] = deque()
        self._own = {share: _own(share) for share in SHARES}
        self._common = MAX_RESUMED - sum(self._own.values())
        self._tried: Command | None = None
        self._looks = 0

    # --- taking up

    def has_work(self, lane: Lane) -> bool:
        # Asked of every lane and partition for each task: most have nothing.
        if self._commands.idle(lane) or self._blocked:
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
        if all(map(self._commands.idle, Lane)) or self._blocked:
            return
        self._hand_back()
        for lane in Lane:
            while not self._blocked and (first := self._commands.first_read(lane)):
                if self._is_to_run(first):
                    break
                self._see_to(self._commands.take_read(lane))

    def _hand_back(self) -> None:
        """Of those that were put back, the ones that need no slot are not to wait for one."""
        for command in self._commands.hand_back():
            if self._is_to_run(command):
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
        lost, chores = self._known.partition.lost, len(self._running_chores)
        return lost or not self._known.caught_up or chores >= MAX_CHORES

    def _is_to_run(self, command: Command) -> bool:
        if self._known.is_done(command.position):
            return False
        step = self._known.step(command)
        if not isinstance(step, Claim) or self._comes_second(command, step) or self._is_gated(step):
            return False
        return self.would_run(command, step)

    def would_run(self, command: Command, claim: Claim) -> bool:
        """Whether the claim would be for an attempt."""
        return self._plan(command, claim).purpose is Purpose.RUN

    def _consider(self, command: Command) -> Work | None:
        work = None
        held = self._known.turns.starts(command.position)
        if not self._known.is_done(command.position):
            match self._known.step(command):
                case Done():
                    self._endings.done(command)
                case Held() | Behind():
                    self._commands.park(command)
                case Keep(state):
                    self._keeping.keep(command, state)
                case Claim() as claim if self._comes_second(command, claim):
                    self._commands.park(command)
                case Claim() as claim if self._is_gated(claim):
                    self._gated.append(command)
                case Claim() as claim:
                    work = self.begin(command, claim)
        if held and work is None:
            # Its turn had come, and there is nothing to run.
            self._known.not_starting(command.position)
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
        return self._known.fold.resumed_count + len(self._resuming)

    # --- planning

    def begin(self, command: Command, claim: Claim) -> Work | None:
        """What to claim the task for. An attempt is returned; all else goes to the chores or is put aside."""
        work = self._plan(command, claim)
        state = claim.state
        if work.purpose is Purpose.RUN:
            if work.group is not None:
                self._known.turns.start(command.position, work.group)
            if state is not None and state.record is not None:
                self._resuming.add(work.key)
            return work
        held = state is not None and state.phase is Phase.CLAIMED
        in_turn = work.reason is Reason.LIMIT and not held and command.expires_at is None
        if not (in_turn and work.group is not None and self._park_for_turn(command, work.group)):
            self._add_chore(work)
        return None

    def _plan(self, command: Command, claim: Claim) -> Work:
        work = Work(command.task_id, command.position, claim, Purpose.RUN, command)
        if claim.cancelled:
            return work._replace(purpose=Purpose.END, failure=CANCELLED)
        if claim.begun == 0:
            now = self._known.world.now()
            if (expires := command.expires_at) is not None and expires <= now:
                return work._replace(purpose=Purpose.END, failure=EXPIRED)
            if command.due_at > now:
                return work._replace(purpose=Purpose.DEFER, due=command.due_at)
        limit = None if command.invalid else self._known.world.limit_of(command.envelope)
        if limit is None:
            return work
        # Whoever takes an attempt over takes its place, and one whose turn has come has it.
        own = int(claim.state is not None and claim.state.runs) + self._known.turns.starts(command.position)
        if self._room(limit, released=command.releases != NO_FENCE) + own <= 0:
            return work._replace(purpose=Purpose.DEFER, reason=Reason.LIMIT, group=limit.group)
        return work._replace(group=limit.group)

    def _room(self, limit: Limit, released: bool = False) -> int:
        """How many more of the limit's tasks may start. Those that were released have their place already."""
        taken = self._known.fold.running[limit.group] + self._known.turns.starting(limit.group)
        before = 0 if released else self._known.waiting.released_of(limit.group)
        return self._known.world.share(limit, self._known.partition.number) - taken - before

    def _park_for_turn(self, command: Command, group: str) -> bool:
        # What was released holds its place already, so it goes before those that do not.
        released = command.releases != NO_FENCE
        if not released and self._known.waiting.waits(group):
            return False
        return self._known.turns.park(command, group, first=released)

    def _waits_for_turn(self, command: Command) -> bool:
        step = self._known.step(command)
        if self._known.is_done(command.position) or not isinstance(step, Claim):
            return False
        return self._plan(command, step).reason is Reason.LIMIT

    # --- chores

    def next_chore(self) -> Work | None:
        """A claim to make now that needs no slot: to let a task wait, or to end it."""
        return self._chores.popleft() if self._chores and not self._known.partition.lost else None

    def chore_done(self, work: Work, *, broke: bool = False) -> None:
        """It is over. If the fold did not count what came of it, it is looked at again: at once, or, where it
        broke, in a while."""
        self._running_chores.discard(work.key)
        if work.command is None:
            self._resuming.discard(work.key)
            (self._broken_endings if broke else self._endings.due).append((work.task_id, work.position))
            return
        if broke:
            self.park(work.command)
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
        known = self._known
        if not (self._endings.due or self._gated or known.waiting or known.turns.groups):
            return
        if known.partition.lost or not known.caught_up:
            return
        while self._endings.due and not self._blocked and self._resumed < MAX_RESUMED:
            self._end(*self._endings.due.popleft())
        for _ in range(min(len(self._gated), MAX_RESUMED - self._resumed)):
            self._commands.put_back(self._gated.popleft())
        if (limits := known.world.limits_revision()) != self._limits:
            self._limits = limits
            known.waiting.all_may_be_ready()
        for group in known.turns.groups:
            self._take_turns(group)
        for one in known.waiting.due(known.world.now(), self._to_release):
            self._release(one)
        for one in known.waiting.turns(self._room_for, self._to_release):
            self._release(one)

    def _to_release(self, share: Share) -> int:
        """How many more may be released that count against the share. Each has a part of its own, so that
        those whose lane has a long backlog do not hold back the others; what is left is for whoever comes."""
        beyond = sum(max(0, self._used(one) - own) for one, own in self._own.items() if one != share)
        return self._own[share] + self._common - beyond - self._used(share)

    def _used(self, share: Share) -> int:
        resumed = self._known.fold.resumed_in[share] if isinstance(share, Lane) else 0
        return self._known.waiting.released_in[share] + resumed

    @property
    def next_time(self) -> int | None:
        """When there is something to release although nothing happens, milliseconds since 1970."""
        known = self._known
        return known.waiting.next_time(self._to_release) if known.waiting and known.caught_up else None

    def _release(self, waiting: Waiting) -> None:
        envelope = waiting.record.envelope
        assert envelope.origin is not None
        back = msgspec.structs.replace(envelope, releases=waiting.fence)
        self._known.world.errands.release(self._known.partition, envelope.origin.lane, back)

    def _end(self, task_id: str, position: Position) -> None:
        """End a task that nobody holds, without an attempt. Somebody may hold it by now, or it is over."""
        state = self._known.fold.get(task_id)
        asked = state is not None and state.phase is Phase.ASKED
        # One that has come to wait meanwhile is ended by its release, whatever became of that command.
        if state is None or (asked and self._known.is_done(position)):
            return
        if asked:
            claim = Claim(NO_FENCE, 1, 0, state)
            position = self._commands.earliest(task_id) or position
        elif state.cancelled and (release := self._commands.release_of(task_id, state.fence)):
            claim, position = resumption(state), release.position
        else:
            return
        self._add_chore(Work(task_id, position, claim, Purpose.END, failure=CANCELLED))

    def _room_for(self, waiting: Waiting) -> int:
        """For how many of its group; its limit may have changed since it came to wait."""
        limit = self._known.world.limit_of(waiting.record.envelope)
        return MAX_RESUMED if limit is None else self._room(limit)

    def _take_turns(self, group: str) -> None:
        """Those that wait in memory have been there for longer than those in records."""
        turns = self._known.turns
        while (first := turns.first(group)) is not None and not self._waits_for_turn(first):
            runs = self._is_to_run(first)
            self._commands.put_back(turns.unpark(group))
            if runs:
                turns.start(first.position, group)

    # --- what was put aside

    def claim_read(self, task_id: str, position: Position) -> None:
        """A claim of ours was read back: it is on its way no more."""
        self._resuming -= {position, task_id}
        self._known.not_starting(position)

    def put_back(self, command: Command) -> None:
        """An attempt at the command is over. If the fold did not count its outcome, look at it again."""
        self._resuming.discard(command.position)
        self._known.not_starting(command.position)
        if self._is_ours(command) and command.position not in self._commands.parked:
            self._commands.put_back(command)

    def park(self, command: Command) -> None:
        """Look at the command again in a while."""
        if self._is_ours(command):
            self._commands.park(command)

    def forgotten(self, command: Command) -> None:
        """The task is over, and forgotten: the command is done."""
        if self._is_ours(command):
            self._endings.mark_done(command.task_id, command.position)

    def _is_ours(self, command: Command) -> bool:
        return not self._known.partition.lost and self._commands.is_started(command)

    def held(self) -> Iterator[tuple[Command, Held]]:
        """The parked commands, one of each task, each with who holds it. Those that nobody holds any more
        move on."""
        seen = set()
        endings, self._broken_endings = self._broken_endings, []
        self._endings.due += endings
        waiting = []
        for command in list(self._commands.parked.values()):
            step = self._known.step(command)
            if isinstance(step, Held):
                if command.task_id not in seen:
                    seen.add(command.task_id)
                    yield command, step
            elif isinstance(step, Claim):
                if not self._comes_second(command, step):
                    waiting.append(command)
            elif not isinstance(step, Behind):
                self._commands.put_back(command)
        self._try_again(waiting)

    def _try_again(self, waiting: list[Command]) -> None:
        """These could not be claimed: Redis was away, or something broke. While it is, hundreds may wait, so
        one of them is tried, each time another; once one moves on, or is long in coming back, all are."""
        tried, self._tried = self._tried, None
        self._looks = 0 if tried is None else self._looks + 1
        if tried is not None and (self._has_moved(tried) or self._looks >= MAX_LOOKS):
            for command in waiting:
                self._commands.put_back(command)
        elif tried is not None and tried.position not in self._commands.parked:
            self._tried = tried
        elif waiting:
            self._tried, self._looks = waiting[0], 0
            self._commands.put_back(waiting[0])

    def _has_moved(self, command: Command) -> bool:
        return self._known.is_done(command.position) or self._known.fold.get(command.task_id) is not None

    def look_again(self, task_id: str) -> None:
        """The fold has moved the task on: so may what was put aside until then."""
        for command in self._commands.started(task_id):
            step = self._known.step(command)
            if command.position in self._commands.parked:
                if not isinstance(step, Held | Behind):
                    self._commands.put_back(command)
            elif not isinstance(step, Claim) and self._known.turns.take_out(command):
                # It was claimed while it waited for its turn, by an owner before whose claim landed late. If
                # nobody holds it, somebody has to see: it has the place that the others wait for.
                self._commands.put_back(command)


def _own(share: Share) -> int:
    """How many of the tasks that may be on their way out of their records are of that share alone: half of
    them by the lanes' weights, and a tenth for those that are to end."""
    weight = share.weight if isinstance(share, Lane) else 20
    return max(1, MAX_RESUMED * weight // 200)
