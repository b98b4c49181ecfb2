"""The protocol of one task, as a model that is checked in every state it can reach.

One task, one partition, two dispatchers. One of them owns the partition; the other may be a *zombie*: it
lost the partition and does not know, so it reads and writes as an owner does, and only its commits fail.
Everything that a dispatcher does is one step, and between any two steps anything may happen: it dies, it
loses the partition, it forgets its claim, a client cancels or sends its command again, or a message that was
given up long ago still lands.

Four things are shared, and outlive every dispatcher:

- the *log*: the events `Claimed`, `Deferred`, `Finished`, `CancelRequested`
- the *lane*: the commands, that is the first one, its copies, and releases of a wait
- the *records*: the deferred topic, where the envelope of a task that waits is kept
- the *checkpoint*: what the owner committed last, all in one commit

A wait is named by the offset of its `Deferred`, a claim by the offset of its `Claimed`; either is the task's
*fence* while it lasts, and an event or a command that names another one is void. `Rule` says what else must
hold, `Protocol.fold` what counts, `Protocol.verdict` what is done with a command. `check` walks through every
state; with a rule broken it finds the shortest way to a task that is lost, has two outcomes, or is stuck.

    python -m tests.model.protocol --events 6 --faults 2
    python -m tests.model.protocol --break one-commit
"""

import argparse
import enum
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Final, NamedTuple


class Rule(enum.StrEnum):
    """What the protocol rests on. Any of them can be broken, to see what it is for."""

    COUNTED = "counted"
    """A command is done when the fold has counted what became of it, not when that was acknowledged."""
    OWN_FENCE = "own-fence"
    """`Deferred` gives the task a new fence, its own offset: a claim that takes over a claim cannot resume
    the wait that came of it in the meantime."""
    RELEASE_NAMES_WAIT = "release-names-wait"
    """A release names the wait that it ends."""
    BEHIND_PARKS = "behind-parks"
    """A release of a wait that the view has not come to is parked: the view is behind."""
    DONE_IS_VOID = "done-is-void"
    """The first claim of a task that the fold does not know counts only if its command is not done."""
    FORGET_WHEN_DONE = "forget-when-done"
    """The fold's start passes a task that has ended only if its commands are done."""
    IN_ORDER = "in-order"
    """A copy is parked while the command that came first, or an earlier copy, is not done."""
    GUARD = "guard"
    """Before a task that the fold does not know is claimed, the read model is asked whether it has ended."""
    FLAG = "flag"
    """`CancelRequested` sets a flag; whoever holds the claim ends the task."""
    CANCEL_RELEASES = "cancel-releases"
    """A wait that is to be cancelled is released at once; no other command claims it."""
    FLAG_HOLDS_LOG = "flag-holds-log"
    """A wait that is to be cancelled holds the log from the `CancelRequested` on: its record, written before,
    does not tell of it."""
    FLAG_LISTED = "flag-listed"
    """A resumed claim is listed together with whether the task was to be cancelled."""
    FLAG_RECORDED = "flag-recorded"
    """A record tells whether the task was to be cancelled when it was written: its writer may know that from
    such a list alone."""
    COVERED = "covered"
    """What led to a wait is done, and the wait is released, once the deferred position is past its record."""
    DONE_WHEN_COVERED = "done-when-covered"
    """When the deferred position passes a wait's record, the commands that led to the wait are done at once:
    a late claim for one of them must be void even when the record is gone and the log forgotten."""
    TRUST = "trust"
    """A record from the deferred position on is believed only if the fold then says that the task waits."""
    READ_BEFORE_JUDGED = "read-before-judged"
    """A record is found stale only once the fold has read its `Deferred`."""
    FRESH_KEY = "fresh-key"
    """Every record has a key of its own: a tombstone wipes the record that it was meant for and no other."""
    COMMIT_BEFORE_STALE = "commit-before-stale"
    """A stale record is wiped only after a commit that came after it was found so: who cannot commit is
    behind, and may have found stale what its successor rests on."""
    COMMIT_BEFORE_RESUMED = "commit-before-resumed"
    """A resumed wait's record is wiped only after a commit that lists the claim that resumed it."""
    WIPED_BEFORE_PASS = "wiped-before-pass"
    """The fold's start passes a claim that resumed a wait only after the tombstone of the wait's record is
    acknowledged."""
    OLDER_HOLDS_LOG = "older-holds-log"
    """A new owner that finds two records of the task before the deferred position holds the log where it is
    until the older one is wiped: it would be the state, were the newer one wiped first."""
    LEASE = "lease"
    """A heartbeat lists the fences that its process holds, not only that the process lives."""
    ONE_COMMIT = "one-commit"
    """Where the fold starts and which commands are done are committed together."""


class Failure(enum.StrEnum):
    """What must never be."""

    LOST = "lost"
    """The task has not ended, and a new owner, from what was committed, would find nothing to do."""
    OUTCOME = "outcome"
    """A dispatcher's view tells another outcome than the log does, or goes on with a task that has ended."""
    VIEW = "view"
    """A dispatcher's view tells something else than the log does of a task that has not ended."""
    CANCEL = "cancel"
    """A cancellation that counted is forgotten."""
    STUCK = "stuck"
    """Even if nothing goes wrong any more, the task does not end, or a command or a record stays for ever."""


class Broken(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class Bounds:
    """How far the model goes."""

    events: int = 4
    """Events in the log."""
    commands: int = 3
    """Commands in the lane."""
    records: int = 2
    """Deferred records, tombstones not counted."""
    defers: int = 1
    """How often the task waits."""
    postpones: int = 0
    """How often it waits without an attempt: its claim is for that."""
    faults: int = 1
    """How often a dispatcher dies, loses the partition or forgets its claim."""
    zombies: int = 1
    """Whether a dispatcher may lose the partition and not know it."""
    late: int = 0
    """How many messages are given up by their sender, and may land at any time after, or never."""
    late_kind: str = ""
    """If set, only such messages are given up: event, command, record or tombstone."""
    copies: int = 0
    """How often a client sends its command again."""
    cancels: int = 0
    """Whether a client cancels."""
    others: int = 0
    """Whether there are other tasks: they may hold the fold's start back, and a record of theirs the deferred
    position."""


# --- what is shared -----------------------------------------------------------------------------------------

NO_FENCE: Final = -1
FIRST: Final = -1
"""What a first command releases."""
FOREIGN: Final = -2
"""The wait of another task."""


class Kind(enum.StrEnum):
    CLAIMED = "Claimed"
    POSTPONED = "Claimed, to wait"
    DEFERRED = "Deferred"
    FINISHED = "Finished"
    CANCEL = "CancelRequested"


CLAIMS = (Kind.CLAIMED, Kind.POSTPONED)


class Event(NamedTuple):
    kind: str
    fence: int = NO_FENCE
    """What a claim follows; the claim that a `Deferred` or a `Finished` ends."""
    command: int = 0
    """The command that is claimed."""
    process: int = 0
    """Who claims. Only where heartbeats tell no more than who lives."""


class Record(NamedTuple):
    """A task's envelope, in the deferred topic. Its key is its place there."""

    wait: int
    cancelled: bool = False
    wiped: bool = False


Resumed = tuple[tuple[int, bool], ...]
"""The claims that resumed a wait which only its record told of, each with whether the task was to be
cancelled."""


class Checkpoint(NamedTuple):
    start: int = 0
    """Where the fold starts."""
    done: frozenset[int] = frozenset()
    """The commands that are done."""
    covered: int = 0
    """The deferred position: a record before it is the task's state, or gone."""
    resumed: Resumed = ()

    def __str__(self) -> str:
        resumed = [claim for claim, _ in self.resumed]
        return f"start {self.start}, done {sorted(self.done)}, covered {self.covered}, resumed {resumed}"


# --- what a dispatcher knows --------------------------------------------------------------------------------

UNKNOWN, CLAIMED, WAITING, ENDED = "unknown", "claimed", "waiting", "ended"


class Task(NamedTuple):
    """What the fold says of the task."""

    state: str = UNKNOWN
    fence: int = NO_FENCE
    cancelled: bool = False
    outcome: int = -1
    """Offset of the `Finished` that counted."""
    first: int = -1
    """The first event that the state needs; -1 if it needs none."""


NEW, BACKS, OVER, WIPE, GONE = "new", "backs", "over", "wipe", "gone"
"""What an owner thinks of a record: not judged yet; it backs the wait; it is stale, or its wait was resumed;
the same, and a commit has come after; its tombstone is acknowledged."""


class View(NamedTuple):
    """What a dispatcher that has, or had, the partition knows of it."""

    seen: int
    """The events that it has read."""
    task: Task
    records: tuple[str, ...]
    """What it thinks of the records that it has read."""
    start: int
    done: frozenset[int]
    covered: int
    resumed: Resumed
    wrote: int = NO_FENCE
    """The wait that it has written a record of."""
    released: int = NO_FENCE
    """The wait that it has released."""


class Process(NamedTuple):
    view: View | None = None
    job: int = NO_FENCE
    """The fence of the claim that it holds."""
    number: int = 0


class State(NamedTuple):
    log: tuple[Event, ...]
    lane: tuple[int, ...]
    """What each command releases."""
    records: tuple[Record, ...]
    committed: Checkpoint
    processes: tuple[Process, Process]
    """The owner is the first."""
    flight: tuple[tuple[str, object], ...] = ()
    """Messages that were given up and may yet land."""
    faults: int = 0
    late: int = 0


Step = tuple[str, State]
Send = tuple[str, tuple[str, object], Process, Process]
"""A message, what its sender is if it lands at once, and what it is if it is given up and may land later."""


def _put(items: tuple, index: int, item: object) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


# --- the protocol -------------------------------------------------------------------------------------------


class Protocol:
    def __init__(self, bounds: Bounds, broken: Collection[Rule] = ()) -> None:
        self.bounds = bounds
        self.broken = frozenset(broken)
        self._truths: dict[tuple[Event, ...], Task] = {(): Task()}
        self._readings: dict[tuple, tuple[Process, ...]] = {}
        self._sends: dict[tuple, tuple[Send, ...]] = {}
        self._checked: set[tuple] = set()

    def initial(self) -> State:
        numbers = (1, 2) if Rule.LEASE in self.broken else (0, 0)
        records = (Record(FOREIGN),) * self.bounds.others
        empty = State(
            (), (FIRST,), records, Checkpoint(), (Process(number=numbers[0]), Process(number=numbers[1]))
        )
        return self._assign(empty, *empty.processes)

    # --- what counts

    def fold(
        self, task: Task, offset: int, event: Event, done: Collection[int] = (), resumed: Resumed = ()
    ) -> Task:
        """The task after one more event. A void event changes nothing.

        `done` and `resumed` are the checkpoint's, or what has come to them: they matter only for a task that
        the fold does not know.
        """
        if task.state == ENDED:
            return task
        first = offset if task.first < 0 else task.first
        cancelled = task.cancelled
        match event.kind:
            case Kind.CLAIMED | Kind.POSTPONED:
                if task.state != UNKNOWN:
                    counts = event.fence == task.fence
                elif event.fence == NO_FENCE:
                    counts = event.command not in done or Rule.DONE_IS_VOID in self.broken
                else:
                    flags = [flag for claim, flag in resumed if claim == offset]
                    counts = bool(flags)
                    cancelled |= any(flags) and Rule.FLAG_LISTED not in self.broken
                becomes = CLAIMED if event.kind == Kind.CLAIMED else WAITING
                return Task(becomes, offset, cancelled, -1, first) if counts else task
            case Kind.CANCEL:
                if cancelled or (task.state == UNKNOWN and event.command in done):
                    return task
                if task.state != CLAIMED and Rule.FLAG in self.broken:
                    return Task(ENDED, task.fence, True, offset, first)
                return Task(task.state, task.fence, True, -1, first)
        if task.state != CLAIMED or event.fence != task.fence:
            return task
        if event.kind == Kind.FINISHED:
            return Task(ENDED, task.fence, cancelled, offset, first)
        return Task(WAITING, task.fence if Rule.OWN_FENCE in self.broken else offset, cancelled, -1, first)

    def truth(self, log: tuple[Event, ...]) -> Task:
        """What the whole log says."""
        task = self._truths.get(log)
        if task is None:
            task = self.fold(self.truth(log[:-1]), len(log) - 1, log[-1])
            self._truths[log] = task
        return task

    # --- what an owner knows

    def load(self, state: State) -> View:
        """What a new owner knows once it has read the checkpoint, the records and the events to their ends.

        A record before the deferred position is the task's state, whatever the log still tells of it.
        """
        start, done, covered, resumed = state.committed
        opinions = [GONE if record.wiped else NEW for record in state.records]
        trust_all = Rule.TRUST in self.broken
        trusted = [n for n, opinion in enumerate(opinions) if opinion == NEW and (n < covered or trust_all)]
        task = Task()
        if trusted:
            latest = max(trusted, key=lambda n: state.records[n].wait)
            for n in trusted:
                opinions[n] = BACKS if n == latest else OVER
            alone = len(trusted) == 1 or Rule.OLDER_HOLDS_LOG in self.broken
            record = state.records[latest]
            cancelled = record.cancelled and Rule.FLAG_RECORDED not in self.broken
            task = Task(WAITING, record.wait, cancelled, first=-1 if alone else start)
        view = View(start, task, tuple(opinions), start, done, covered, resumed)
        while view.seen < len(state.log):
            view = self._take_event(view, state)
        return self._judge(view, state)

    def _take_event(self, view: View, state: State) -> View:
        was = view.task
        task = self.fold(was, view.seen, state.log[view.seen], view.done, view.resumed)
        records, resumed = view.records, view.resumed
        if was.state == WAITING and task[:2] != was[:2] and BACKS in records:
            # The wait is over. If a checkpoint may rest on its record alone, then the claim must be known
            # for what it is when the record is gone.
            n = records.index(BACKS)
            records = _put(records, n, OVER)
            if n < view.covered and all(claim != task.fence for claim, _ in resumed):
                resumed = (*resumed, (task.fence, task.cancelled))
        return view._replace(seen=view.seen + 1, task=task, records=records, resumed=resumed)

    def _take_record(self, view: View, state: State) -> View:
        return view._replace(records=(*view.records, NEW))

    def _judge(self, view: View, state: State) -> View:
        """Make up one's mind about the records, and let the deferred position pass those that are settled."""
        task, opinions, covered = view.task, list(view.records), view.covered
        for n, opinion in enumerate(opinions):
            record = state.records[n]
            if record.wiped and opinion != BACKS:
                opinions[n] = GONE
            elif opinion == NEW and (record.wait < view.seen or Rule.READ_BEFORE_JUDGED in self.broken):
                backs = task.state == WAITING and task.fence == record.wait and BACKS not in opinions
                opinions[n] = BACKS if backs else OVER
        done = view.done
        while covered < len(opinions) and opinions[covered] in (BACKS, GONE):
            if opinions[covered] == BACKS and Rule.DONE_WHEN_COVERED not in self.broken:
                done = done.union(self._named(state, task.fence))
            covered += 1
        view = view._replace(records=tuple(opinions), done=done, covered=covered)
        lifted = self._is_covered(view) and self._is_clean(view)
        if lifted and (not task.cancelled or Rule.FLAG_HOLDS_LOG in self.broken):
            view = view._replace(task=task._replace(first=-1))
        return view

    def _named(self, state: State, end: int) -> range:
        """The commands that claims name, up to an event.

        An owner may not have read the whole lane yet. It has read what its log names, and what comes before.
        """
        claims = (event.command for event in state.log[:end] if event.kind in CLAIMS)
        return range(max(claims, default=0) + 1)

    def _is_covered(self, view: View) -> bool:
        """Whether the task waits, and a new owner would know it by its record."""
        if view.task.state != WAITING or BACKS not in view.records:
            return False
        return view.records.index(BACKS) < view.covered or Rule.COVERED in self.broken

    def _is_clean(self, view: View) -> bool:
        """Whether no record is left that a new owner would take for the state of a task that went on."""
        settled = (BACKS, GONE, WIPE) if Rule.WIPED_BEFORE_PASS in self.broken else (BACKS, GONE)
        return all(opinion in settled for opinion in view.records[: view.covered])

    # --- what an owner does with a command

    def verdict(self, state: State, view: View, command: int) -> str:
        task, releases = view.task, state.lane[command]
        if task.state == ENDED:
            return "done"
        if task.state == UNKNOWN:
            if releases != FIRST and Rule.RELEASE_NAMES_WAIT not in self.broken:
                # The task went on and is forgotten, or the view has not come to the wait yet.
                return "done" if view.start > releases or Rule.BEHIND_PARKS in self.broken else "park"
            guarded = self.bounds.copies > 0 and Rule.GUARD not in self.broken
            if guarded and self.truth(state.log[: view.seen]).state == ENDED:
                return "done"
            earlier = any(state.lane[n] == FIRST and n not in view.done for n in range(command))
            return "park" if earlier and Rule.IN_ORDER not in self.broken else "claim"
        if task.state == CLAIMED:
            return "park" if self._is_held(state, task) else "claim"
        if task.cancelled and Rule.CANCEL_RELEASES in self.broken:
            return "claim"
        if not self._is_covered(view):
            return "park"
        if Rule.RELEASE_NAMES_WAIT in self.broken:
            return "done" if releases == FIRST else "claim"
        if releases > task.fence:
            return "done" if Rule.BEHIND_PARKS in self.broken else "park"
        return "claim" if releases == task.fence else "done"

    def _is_held(self, state: State, task: Task) -> bool:
        """Whether a heartbeat lists the claim."""
        if Rule.LEASE in self.broken:
            return any(process.number == state.log[task.fence].process for process in state.processes)
        return any(process.job == task.fence for process in state.processes)

    # --- what may happen

    def steps(self, state: State) -> Iterator[Step]:
        yield from self._clients(state)
        for n, message in enumerate(state.flight):
            if landed := self._land(state, message):
                yield f"it lands late: {_text(message)}", landed._replace(flight=_put(state.flight, n, None))
        yield from self._faults(state)
        for me, process in enumerate(state.processes):
            for reader in self.read_on(process, state):
                yield from self.acts(state, me, reader)

    def _clients(self, state: State) -> Iterator[Step]:
        cancels = sum(event.kind == Kind.CANCEL for event in state.log)
        firsts = sum(releases == FIRST for releases in state.lane)
        cancelled = self._land(state, ("event", Event(Kind.CANCEL)))
        if cancelled and cancels < self.bounds.cancels:
            yield "the client cancels", cancelled
        copied = self._land(state, ("command", FIRST))
        if copied and firsts <= self.bounds.copies:
            yield "the client sends a copy", copied

    def _faults(self, state: State) -> Iterator[Step]:
        if state.faults >= self.bounds.faults:
            return
        state = state._replace(faults=state.faults + 1)
        owner, other = state.processes
        number = max(owner.number, other.number) + 1 if Rule.LEASE in self.broken else 0
        reborn = Process(number=number)
        yield "the owner dies, the other takes over", self._assign(state, other, reborn)
        yield "the owner dies and comes back", self._assign(state, reborn, other)
        if self.bounds.zombies:
            yield "the owner loses the partition, and does not know", self._assign(state, other, owner)
        if other.view or other.job != NO_FENCE:
            yield "the other dies", state._replace(processes=(owner, reborn))
        for me, process in enumerate(state.processes):
            if process.job != NO_FENCE:
                careless = process._replace(job=NO_FENCE)
                yield f"{_who(me)} forgets its claim {process.job}", _with_process(state, me, careless)

    def _assign(self, state: State, owner: Process, other: Process) -> State:
        view = self.load(state)
        holds = view.task.state == CLAIMED and view.task.fence == owner.job
        owner = owner._replace(view=view, job=owner.job if holds else NO_FENCE)
        return state._replace(processes=(owner, other))

    def read_on(self, process: Process, state: State) -> tuple[Process, ...]:
        """The process as it is, and as it may be when it has read on, in any order.

        Nobody else can tell what a process has read, so reading is no step of its own.
        """
        if process.view is None:
            return ()
        key = (process, state.log, state.records)
        known = self._readings.get(key)
        if known is None:
            found, todo = {process: None}, [process]
            while todo:
                reader = todo.pop()
                view, job = reader.view, reader.job
                assert view is not None
                views = []
                if view.seen < len(state.log):
                    views.append(self._take_event(view, state))
                if len(view.records) < len(state.records):
                    views.append(self._take_record(view, state))
                for view in views:
                    view = self._judge(view, state)
                    self._check_view(view, state)
                    # A claim that turns out void, or was taken over, is dropped.
                    void = job < view.seen and (view.task.state, view.task.fence) != (CLAIMED, job)
                    reader = Process(view, NO_FENCE if void else job, process.number)
                    if reader not in found:
                        found[reader] = None
                        todo.append(reader)
            known = self._readings[key] = tuple(found)
        return known

    def acts(self, state: State, me: int, process: Process) -> Iterator[Step]:
        """What a process that believes that it owns the partition may do next, what ends the task first."""
        if me == 0:
            yield from self._commits(state, process)
        task = process.view.task
        held = task.state == CLAIMED and self._is_held(state, task)
        key = (process, state.log, state.lane, state.records, held)
        sends = self._sends.get(key)
        if sends is None:
            sends = self._sends[key] = tuple(self._wants_to_send(state, process))
        for label, message, now, later in sends:
            if landed := self._land(state, message):
                yield f"{_who(me)} {label}", _with_process(landed, me, now)
            may_be_late = self.bounds.late_kind in ("", message[0])
            if may_be_late and state.late < self.bounds.late:
                flight = tuple(sorted((*state.flight, message)))
                given_up = _with_process(state, me, later)._replace(flight=flight, late=state.late + 1)
                yield f"{_who(me)} {label}, and gives up on it", given_up

    def _wants_to_send(self, state: State, process: Process) -> Iterator[Send]:
        view, job = process.view, process.job
        task = view.task
        if NO_FENCE < job < view.seen:
            # Only now that its claim has counted does it run. What it appends then, it appends once.
            idle = process._replace(job=NO_FENCE)
            if Rule.COUNTED in self.broken:
                idle = idle._replace(view=view._replace(done=view.done | {state.log[job].command}))
            yield f"finishes {job}", ("event", Event(Kind.FINISHED, job)), idle, idle
            deferred = sum(event.kind == Kind.DEFERRED for event in state.log)
            if deferred < self.bounds.defers and not task.cancelled:
                yield f"defers {job}", ("event", Event(Kind.DEFERRED, job)), idle, idle
        for n in range(len(view.records)):
            if self._may_wipe(view, state, n):
                gone = self._judge(view._replace(records=_put(view.records, n, GONE)), state)
                yield f"wipes record {n}", ("tombstone", n), process._replace(view=gone), process
        if task.state == WAITING and BACKS not in view.records and view.wrote != task.fence:
            now = process._replace(view=view._replace(wrote=task.fence))
            yield f"records {task.fence}", ("record", (task.fence, task.cancelled)), now, process
        if job == NO_FENCE:
            for command in range(len(state.lane)):
                if command not in view.done and self.verdict(state, view, command) == "claim":
                    claim = Event(Kind.CLAIMED, task.fence, command, process.number)
                    label = f"claims for {command} after {task.fence}"
                    yield label, ("event", claim), process._replace(job=len(state.log)), process
                    postponed = sum(event.kind == Kind.POSTPONED for event in state.log)
                    if postponed < self.bounds.postpones and not task.cancelled:
                        wait = claim._replace(kind=Kind.POSTPONED)
                        yield f"{label}, to wait", ("event", wait), process, process
        if self._is_covered(view) and view.released != task.fence:
            # It is due, by the clock or because it is to be cancelled.
            now = process._replace(view=view._replace(released=task.fence))
            yield f"releases {task.fence}", ("command", task.fence), now, process

    def _may_wipe(self, view: View, state: State, n: int) -> bool:
        if view.records[n] != OVER:
            return view.records[n] == WIPE
        resumed = n < view.covered
        return (Rule.COMMIT_BEFORE_RESUMED if resumed else Rule.COMMIT_BEFORE_STALE) in self.broken

    def _commits(self, state: State, process: Process) -> Iterator[Step]:
        view = self._judge(process.view, state)
        for after in self._settle(state, view):
            task = after.task
            furthest = task.first
            if furthest < 0:
                furthest = after.seen if self._is_clean(after) else after.start
            earliest = after.start if self.bounds.others else furthest
            for start in range(furthest, earliest - 1, -1):
                resumed = tuple(entry for entry in after.resumed if entry[0] >= start)
                whole = Checkpoint(start, after.done, after.covered, resumed)
                commits = [whole]
                if Rule.ONE_COMMIT in self.broken:
                    before = state.committed
                    commits = [before._replace(done=whole.done), whole._replace(done=before.done)]
                for commit in commits:
                    if commit == state.committed and OVER not in after.records:
                        continue
                    opinions = tuple(WIPE if opinion == OVER else opinion for opinion in after.records)
                    kept = after._replace(start=commit.start, resumed=resumed, records=opinions)
                    processes = (process._replace(view=kept), state.processes[1])
                    yield (
                        f"the owner commits {commit}",
                        state._replace(committed=commit, processes=processes),
                    )

    def _settle(self, state: State, view: View) -> Iterator[View]:
        """The view with the commands marked that are done: all that it can, first."""
        task, lane = view.task, range(len(state.lane))
        if task.state != ENDED:
            done = view.done.union(n for n in lane if self.verdict(state, view, n) == "done")
            yield view._replace(done=done)
            return
        if self._is_clean(view):
            for read in range(len(lane), len(self._named(state, view.seen)) - 1, -1):
                yield view._replace(done=view.done.union(range(read)), task=Task())
        yield view
        for n in lane:
            yield view._replace(done=view.done | {n})
        if Rule.FORGET_WHEN_DONE in self.broken:
            yield view._replace(task=Task())

    def _land(self, state: State, message: tuple[str, object]) -> State | None:
        """The state with the message appended, or None beyond the bounds."""
        what, value = message
        bounds = self.bounds
        log, lane, records, *rest = state
        match what:
            case "event":
                return State((*log, value), lane, records, *rest) if len(log) < bounds.events else None
            case "command":
                return State(log, (*lane, value), records, *rest) if len(lane) < bounds.commands else None
            case "record":
                fits = len(records) < bounds.records
                return State(log, lane, (*records, Record(*value)), *rest) if fits else None
        wiped = list(records)
        for n, record in enumerate(wiped):
            if n == value or Rule.FRESH_KEY in self.broken:
                wiped[n] = record._replace(wiped=True)
        return State(log, lane, tuple(wiped), *rest)

    # --- what must hold

    def check(self, state: State) -> None:
        """Raises `Broken`."""
        for process in state.processes:
            if process.view:
                self._check_view(process.view, state)
        # Nor may an owner that came now, and heard nothing more from anyone, be wrong, or find nothing to do.
        key = state[:4]
        if key not in self._checked:
            view = self.load(state)
            if self.truth(state.log).state != ENDED and not self._has_work(state, view):
                raise Broken(Failure.LOST)
            self._check_view(view, state)
            self._checked.add(key)

    def _check_view(self, view: View, state: State) -> None:
        truth, task = self.truth(state.log[: view.seen]), view.task
        if truth.state == ENDED:
            # A view may have forgotten a task that has ended, and only that.
            if task.state in (CLAIMED, WAITING) or (task.state == ENDED and task.outcome != truth.outcome):
                raise Broken(Failure.OUTCOME)
            return
        if task.state == ENDED:
            raise Broken(Failure.OUTCOME)
        if (task.state, task.fence) != (truth.state, truth.fence):
            raise Broken(Failure.VIEW)
        if task.cancelled != truth.cancelled:
            raise Broken(Failure.CANCEL)

    def _has_work(self, state: State, view: View) -> bool:
        """Whether there is a wait to be released, or a command to be seen to."""
        todo = (n for n in range(len(state.lane)) if n not in view.done)
        waits = view.task.state == WAITING and BACKS in view.records
        return waits or any(self.verdict(state, view, n) != "done" for n in todo)

    def is_settled(self, state: State) -> bool:
        """Whether the task has ended and nothing is left of it."""
        ended = self.truth(state.log).state == ENDED
        all_done = len(state.committed.done) == len(state.lane)
        return ended and all_done and all(record.wiped for record in state.records)

    def tidy(self, state: State) -> State:
        """The state without what makes no difference any more."""
        owner, other = state.processes
        view, zombie = owner.view, other.view
        fence = view.task.fence
        if max(view.wrote, view.released) != NO_FENCE and not view.wrote == view.released == fence:
            view = view._replace(
                wrote=fence if view.wrote == fence else NO_FENCE,
                released=fence if view.released == fence else NO_FENCE,
            )
            owner = owner._replace(view=view)
        if zombie:
            task = zombie.task
            if task.state == ENDED and WIPE not in zombie.records:
                other = Process(number=other.number)
            elif task.state != UNKNOWN:
                # It cannot commit, and will not come to know less than it does.
                other = other._replace(
                    view=zombie._replace(
                        task=task._replace(first=0),
                        start=0,
                        resumed=(),
                        covered=len(zombie.records) if self._is_covered(zombie) else 0,
                        wrote=task.fence if zombie.wrote == task.fence else NO_FENCE,
                        released=task.fence if zombie.released == task.fence else NO_FENCE,
                    )
                )
        flight = tuple(message for message in state.flight if message)
        return State(*state[:4], (owner, other), flight, state.faults, state.late)


def _with_process(state: State, me: int, process: Process) -> State:
    owner, other = state.processes
    processes = (process, other) if me == 0 else (owner, process)
    return State(*state[:4], processes, *state[5:])


def _who(me: int) -> str:
    return ("the owner", "the other")[me]


def _text(value: object) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


# --- the search ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    states: int
    """How many were looked at."""
    failure: Failure | None = None
    trace: tuple[str, ...] = ()
    """The shortest way to it."""


def check(bounds: Bounds, broken: Collection[Rule] = ()) -> Verdict:
    """Walk through every state within the bounds, breadth first, up to the first failure."""
    protocol = Protocol(bounds, broken)
    initial = protocol.tidy(protocol.initial())
    parents: dict[State, tuple[str, State] | None] = {initial: None}
    todo = deque([initial])
    recovery = Recovery(broken, copies=bounds.copies)
    while todo:
        state = todo.popleft()
        try:
            protocol.check(state)
            for label, after in protocol.steps(state):
                after = protocol.tidy(after)
                if after not in parents:
                    parents[after] = (label, state)
                    todo.append(after)
        except Broken as broke:
            return Verdict(len(parents), broke.failure, _trace(parents, state))
        if failure := recovery.fails(state):
            return Verdict(len(parents), failure, (*_trace(parents, state), *recovery.tail))
    return Verdict(len(parents))


def _trace(parents: dict[State, tuple[str, State] | None], state: State) -> tuple[str, ...]:
    labels = []
    while (parent := parents[state]) is not None:
        label, state = parent
        labels.append(label)
    return tuple(reversed(labels))


class Recovery:
    """What becomes of a state when nothing goes wrong any more, without bounds.

    It is enough that one way leads to the end. So whoever holds the claim finishes, the other is silent, what
    is in flight never lands, and the owner reads everything and does the first thing that there is to do.
    """

    LONGEST: Final = 40

    def __init__(self, broken: Collection[Rule], copies: int) -> None:
        plenty = 99
        bounds = Bounds(plenty, plenty, plenty, defers=0, faults=0, copies=copies)
        self._protocol = Protocol(bounds, broken)
        self._good: set[State] = set()
        self.tail: tuple[str, ...] = ()

    def fails(self, state: State) -> Failure | None:
        """What goes wrong on the way from the state to the end."""
        state = self._calm(state)
        passed: dict[State, str] = {}
        failure = None
        while state not in self._good and not self._protocol.is_settled(state):
            try:
                step = self._next(state)
            except Broken as broke:
                failure = broke.failure
                break
            if step is None or state in passed or len(passed) > self.LONGEST:
                failure = Failure.STUCK
                break
            passed[state], state = step
        if failure:
            self.tail = ("and if nothing more goes wrong:", *passed.values())
            return failure
        self._good.update(passed)
        return None

    def _calm(self, state: State) -> State:
        owner, other = state.processes
        claim = self._protocol.truth(state.log)
        log = state.log
        if claim.state == CLAIMED and other.job == claim.fence:
            log = (*log, Event(Kind.FINISHED, claim.fence))
        # A process that lives, holds nothing and says nothing.
        silent = Process(number=other.number)
        return State(log, state.lane, state.records, state.committed, (owner, silent))

    def _next(self, state: State) -> Step | None:
        readers = self._protocol.read_on(state.processes[0], state)
        owner = max(readers, key=lambda reader: (reader.view.seen, len(reader.view.records)))
        step = next(self._protocol.acts(state, 0, owner), None)
        return step and (step[0], self._protocol.tidy(step[1]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check the protocol of one task in every state within bounds."
    )
    for bound in fields(Bounds):
        option = f"--{bound.name.replace('_', '-')}"
        parser.add_argument(option, type=type(bound.default), default=bound.default)
    parser.add_argument(
        "--break", dest="broken", type=Rule, action="append", default=[], help=", ".join(Rule)
    )
    arguments = vars(parser.parse_args())
    broken = arguments.pop("broken")
    started = time.process_time()
    verdict = check(Bounds(**arguments), broken)
    for line in verdict.trace:
        print(f"  {line}")
    print(f"{verdict.failure or 'holds'}: {verdict.states} states, {time.process_time() - started:.1f} s")
    return 1 if verdict.failure else 0


if __name__ == "__main__":
    sys.exit(main())
