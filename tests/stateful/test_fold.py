"""The fold: whatever lands in the log, and however often its owner dies, one outcome of each task counts."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import rule

from mayfly.events import (
    Attempt,
    CancelRequested,
    Claimed,
    Deferred,
    DeferredRecord,
    Event,
    Finished,
    Purpose,
    Reason,
)
from mayfly.fold import Fold, Phase, Resumed, TaskState, needs_record
from mayfly.history import History
from mayfly.task import NO_FENCE, Envelope, Failure, FailureType, Lane, Outcome, Position
from tests.stateful.bounds import Machine, explore, patient

FAILURE = Failure(FailureType.ERROR, "no")
OPEN = 2
"""Tasks that are not over, at any time."""

places = st.sampled_from([0, 0, 0, 1, 1, 1, OPEN, OPEN + 1])
"""Of an open task, or of one that was over last."""
lags = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, 2, 3])
"""How many moves of the task somebody has not read yet."""
raced = st.sampled_from([False] * 7 + [True])
"""Whether the task's end is asked for just before an event of it lands."""


def command_of(task: str) -> Position:
    return Position(Lane.NORMAL, int(task))


def group_of(task: str) -> str | None:
    return ("f", None)[int(task) % 2]


class Truth(NamedTuple):
    """What the whole log says of a task, by the table in `docs/protocol.md` and nothing else."""

    phase: Phase = Phase.ASKED
    fence: int = NO_FENCE
    attempt: int = 0
    losses: int = 0
    cancelled: bool = False
    holder: str = ""
    """Of one that is claimed."""
    runs: bool = False
    due: int = 0
    """Of one that waits."""
    over: tuple[tuple[int, int, FailureType | None], ...] = ()
    """The attempts that are over: number, fence, why they failed."""

    def after(self, outcome: Outcome | None) -> "Truth":
        over = self.over
        if self.runs and outcome is not None:
            over += ((self.attempt, self.fence, outcome.failure and outcome.failure.type),)
        return self._replace(over=over, runs=False, holder="")

    @property
    def history(self) -> tuple[Attempt, ...]:
        return tuple(
            Attempt(attempt, fence, "d", 0, 1, failure=type_ and Failure(type_, "no"))
            for attempt, fence, type_ in self.over
        )


def becomes(before: Truth | None, offset: int, event: Event) -> Truth | None:
    """What an event makes of a task; None if it is void."""
    now = before or Truth()
    if now.phase is Phase.TERMINAL:
        return None
    match event:
        case Claimed() if event.follows == now.fence:
            lost = ((now.attempt, now.fence, FailureType.LOST),) if now.runs else ()
            waits = event.purpose is Purpose.DEFER
            return Truth(
                Phase.WAITING if waits else Phase.CLAIMED,
                offset,
                event.attempt,
                event.losses,
                now.cancelled or event.cancelled,
                "" if waits else event.dispatcher,
                event.purpose is Purpose.RUN,
                event.due,
                now.over + lost,
            )
        case CancelRequested() if not now.cancelled:
            return now._replace(cancelled=True)
        case Deferred() if now.phase is Phase.CLAIMED and event.fence == now.fence:
            return now.after(event.outcome)._replace(phase=Phase.WAITING, fence=offset, due=event.due)
        case Finished() if now.phase is Phase.CLAIMED and event.fence == now.fence:
            return now.after(event.outcome)._replace(phase=Phase.TERMINAL)
        case _:
            return None


def told(state: TaskState | None) -> Truth | None:
    """What a fold says, in the same words."""
    if state is None:
        return None
    over = tuple((one.attempt, one.fence, one.failure and one.failure.type) for one in state.history)
    return Truth(
        state.phase,
        state.fence,
        state.attempt,
        state.losses,
        state.cancelled,
        state.holder if state.phase is Phase.CLAIMED else "",
        state.runs,
        state.due if state.phase is Phase.WAITING else 0,
        over,
    )


class Commit(NamedTuple):
    """A checkpoint, as far as a fold needs it."""

    start: int = 0
    done: frozenset[Position] = frozenset()
    deferred: int = 0
    resumed: tuple[Resumed, ...] = ()


class Record(NamedTuple):
    key: str
    task: str
    record: DeferredRecord


class World:
    """What outlives every owner: the log, the deferred topic, the last checkpoint."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.says: list[dict[str, Truth]] = [{}]
        """What the log says of each task, after so many events."""
        self.counts: list[bool] = []
        self.moves: dict[str, list[Truth]] = {}
        self.open: list[str] = []
        self.over: list[str] = []
        self.records: list[Record] = []
        self.gone: set[str] = set()
        self.tombstones: list[Record] = []
        """On their way."""
        self.committed = Commit()
        for place in range(OPEN):
            self.open.append("")
            self._post(place)

    def _post(self, place: int) -> None:
        self.open[place] = task = str(len(self.moves))
        self.moves[task] = [Truth()]

    def task(self, place: int) -> str:
        if place < OPEN or not self.over:
            return self.open[place % OPEN]
        return self.over[-min(place - OPEN + 1, len(self.over))]

    def view(self, task: str, lag: int) -> Truth:
        moves = self.moves[task]
        return moves[max(0, len(moves) - 1 - lag)]

    def append(self, event: Event) -> bool:
        """Whether it counts."""
        offset, task, now = len(self.log), event.task_id, self.says[-1]
        after = becomes(now.get(task), offset, event)
        self.log.append(event)
        self.counts.append(after is not None)
        self.says.append(now if after is None else {**now, task: after})
        if after is None:
            return False
        self.moves[task].append(after)
        if after.phase is Phase.TERMINAL:
            self.over.append(task)
            self._post(self.open.index(task))
        return True

    def keep(self, task: str, truth: Truth) -> None:
        """Append a record of that wait, under a key of its own."""
        record = DeferredRecord(
            Envelope("f", task),
            truth.fence,
            truth.attempt,
            Reason.RETRY,
            truth.due,
            truth.losses,
            history=truth.history,
            cancelled=truth.cancelled,
        )
        self.records.append(Record(f"{task}/{len(self.records)}", task, record))


class Owner:
    """Acts on a fold as the partition's owner does: `docs/protocol.md` has a record's life step by step."""

    def __init__(self, world: World) -> None:
        self._world = world
        start, done, deferred, resumed = world.committed
        self.done = set(done)
        self.fold = Fold(self.done.__contains__, resumed)
        self.end = start
        self._events_end = len(world.log)
        self._settled = deferred
        self._stale: list[Record] = []
        there = [one for one in world.records[:deferred] if one.key not in world.gone]
        assert len(there) == len({one.task for one in there}), "a task has two records that count"
        for one in there:
            self.fold.restore(one.key, one.record)

    @property
    def caught_up(self) -> bool:
        return self.end >= self._events_end

    def read(self, most: int) -> None:
        world = self._world
        for offset in range(self.end, min(len(world.log), self.end + most)):
            counts = self.fold.apply(offset, world.log[offset])
            assert world.counts[offset] or not counts, f"{offset} counts for the owner alone"
            if offset >= self._events_end:
                assert counts == world.counts[offset], f"{offset} is void for the owner alone"
            self.end = offset + 1

    def act(self) -> Iterator[None]:
        """One step after the other."""
        yield self.judge()
        yield self.settle()
        for task in self._world.open:
            yield self.keep(task)
        yield self.judge()
        yield self.commit()

    def settle(self) -> None:
        """What is over is done, and forgotten."""
        for task in self._world.over:
            state = self.fold.get(task)
            if state is not None and state.terminal:
                self.done.add(command_of(task))
            if command_of(task) in self.done:
                self.fold.forget(task)

    def keep(self, task: str) -> None:
        state = self.fold.get(task)
        if state is not None and needs_record(state):
            truth = told(state)
            assert truth is not None
            self._world.keep(task, truth)

    def judge(self) -> None:
        """Go through the records that nobody has vouched for, up to the first that is not settled."""
        for one in self._world.records[self._settled :]:
            if one.key not in self._world.gone:
                state, fence = self.fold.get(one.task), one.record.fence
                waits = state is not None and state.phase is Phase.WAITING and state.record is None
                if state is None or not waits or state.fence != fence:
                    if fence < self.end and one not in self._stale:
                        self._stale.append(one)
                    return
                backs = self.fold.back(one.task, fence, one.key)
                assert backs == (state.stale is None)
                if not backs:
                    return
                self.done.add(command_of(one.task))
            self._settled += 1

    def commit(self) -> None:
        fold, before, flight = self.fold, self._world.committed, self._world.tombstones
        start = self.end if fold.first is None else fold.first
        after = Commit(start, frozenset(self.done), self._settled, tuple(fold.resumed))
        assert before.start <= after.start <= self.end, "the start goes back"
        assert before.done <= after.done
        assert before.deferred <= after.deferred
        self._world.committed = after
        listed = [
            one
            for one in self._world.records
            if (state := fold.get(one.task)) and state.stale == one.key and state.resumed in after.resumed
        ]
        flight += (one for one in (*self._stale, *listed) if one not in flight)
        self._stale.clear()


class FoldMachine(Machine):
    """Anybody appends what he may have reason to, by a view that lags; the owner reads, acts and dies."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.owner = Owner(self.world)
        self.fold = Fold(lambda _: False)
        self.history = History(0)
        self.outcomes = Counter[str]()

    def append(self, event: Event, raced: bool = False) -> None:
        """It lands; whoever reads all of the log says of it what the table says."""
        if raced:
            self.append(CancelRequested(event.task_id, *command_of(event.task_id)))
        offset = len(self.world.log)
        counts = self.world.append(event)
        assert self.fold.apply(offset, event) == counts
        seen = told(self.history.apply(offset, event, 0))
        assert seen == (self.world.says[-1][event.task_id] if counts else None)
        self.outcomes[event.task_id] += counts and isinstance(event, Finished)

    # --- what lands in the log

    @rule(
        place=places,
        lag=lags,
        how=st.sampled_from(["defer", "defer", "defer", "finish", "fail", "claim", "cancel"]),
        raced=raced,
    )
    def move(self, place: int, lag: int, how: str, raced: bool) -> None:
        """Whoever has the task goes on with it, as far as he knows."""
        task = self.world.task(place)
        view = self.world.view(task, lag)
        outcome = Outcome(0, 1, failure=None if how == "finish" else FAILURE)
        if how == "cancel":
            self.append(CancelRequested(task, *command_of(task)))
        elif how == "claim" or view.phase is not Phase.CLAIMED:
            self.claim(place, lag, "x", Purpose.RUN, raced)
        elif how == "defer":
            self.append(Deferred(task, view.fence, view.attempt, Reason.RETRY, 9, outcome), raced)
        else:
            self.append(Finished(task, view.fence, view.attempt, outcome), raced)

    @rule(place=places, lag=lags, by=st.sampled_from("xy"), purpose=st.sampled_from(Purpose), raced=raced)
    def claim(self, place: int, lag: int, by: str, purpose: Purpose, raced: bool) -> None:
        task = self.world.task(place)
        view = self.world.view(task, lag)
        waits, runs, defers = view.phase is Phase.WAITING, purpose is Purpose.RUN, purpose is Purpose.DEFER
        command = Position(Lane.LOW, view.fence) if waits else command_of(task)
        claimed = Claimed(
            task,
            *command,
            view.attempt + runs,
            by,
            "n",
            view.fence,
            purpose=purpose,
            losses=view.losses + view.runs,
            cancelled=view.cancelled,
            group=group_of(task) if runs else None,
            history=view.history if waits else (),
            reason=Reason.LIMIT if defers else None,
            due=5 if defers else 0,
        )
        self.append(claimed, raced)

    @rule(place=places, lag=lags, what=st.sampled_from(["let go", "keep", "keep", "copy", "read again"]))
    def stray(self, place: int, lag: int, what: str) -> None:
        """What should not come, and may: from one that holds nothing, from an owner before, or once more."""
        task, offset = self.world.task(place), len(self.world.log) - 1 - 2 * lag
        view = self.world.view(task, lag)
        if what == "let go":
            self.append(Deferred(task, view.fence, view.attempt, Reason.LIMIT))
        elif what == "keep" and view.phase is Phase.WAITING:
            self.world.keep(task, view)
        elif what == "copy" and offset >= 0:
            self.append(self.world.log[offset])
            assert not self.world.counts[-1], "a copy counts"
        elif what == "read again" and offset >= 0:
            assert not self.fold.apply(offset, self.world.log[offset])

    # --- the owner

    @rule(
        what=st.sampled_from(["", "", "", "lands", "lands", "new", "new and lost"]),
        most=st.sampled_from([1, 3, 9, 99, 99, 99]),
        steps=st.sampled_from([0, 1, 3, 4, 5, 6, 7, 8, 9, 9, 9]),
    )
    def act(self, what: str, most: int, steps: int) -> None:
        """It reads so much, and does so much about it. It may be a new one; of the one before all may be lost
        that is on its way."""
        if what == "lands" and self.world.tombstones:
            self.tombstone()
        if what == "new and lost":
            self.world.tombstones.clear()
        if "new" in what:
            self.owner = Owner(self.world)
        self.owner.read(most)
        if self.owner.caught_up:
            for _ in zip(range(steps), self._acts(), strict=False):
                self.knows_what_the_log_says(self.owner)
        self.the_next_one_would_know()

    def _acts(self) -> Iterator[None]:
        yield from self.owner.act()
        while self.world.tombstones:
            yield self.tombstone()

    def tombstone(self) -> None:
        one = self.world.tombstones.pop(0)
        self.world.gone.add(one.key)
        self.owner.fold.unbacked(one.task, one.key)

    # --- what must hold

    def check(self) -> None:
        self.one_outcome_counts()
        self.knows_what_the_log_says(self.owner)

    def the_next_one_would_know(self) -> None:
        """Whatever was committed last, and with what has landed since."""
        successor = Owner(self.world)
        successor.read(len(self.world.log))
        self.knows_what_the_log_says(successor)

    def one_outcome_counts(self) -> None:
        says = self.world.says[-1]
        for task in self.world.moves:
            truth = says.get(task)
            assert self.outcomes[task] == (truth is not None and truth.phase is Phase.TERMINAL)
            assert told(self.fold.get(task)) == truth

    def knows_what_the_log_says(self, owner: Owner) -> None:
        fold = owner.fold
        if not owner.caught_up:
            return
        says = self.world.says[owner.end]
        firsts = []
        for task in self.world.moves:
            truth, state = says.get(task), fold.get(task)
            over = truth is not None and truth.phase is Phase.TERMINAL
            forgotten = over and state is None and command_of(task) in owner.done
            assert forgotten or told(state) == truth
            if state is not None and state.first is not None:
                firsts.append(state.first)
        assert fold.first == min(firsts, default=None)
        running = Counter(group_of(task) for task, truth in says.items() if truth.runs)
        del running[None]
        assert fold.running == running

    def come_to_an_end(self) -> None:
        """Everything ends, and lands: then nothing is left of it."""
        fold = Fold(lambda _: False)
        assert [fold.apply(*entry) for entry in enumerate(self.world.log)] == self.world.counts
        for place in range(OPEN):
            self.claim(place, 0, "z", Purpose.RUN, raced=False)
            self.move(place, 0, "finish", raced=False)
        self.owner.read(len(self.world.log))
        for _ in range(len(self.world.records) + 2):
            self.owner.judge()
            self.owner.settle()
            self.owner.commit()
            while self.world.tombstones:
                self.tombstone()
        fold = self.owner.fold
        assert (len(fold), fold.resumed, fold.resumed_count, fold.first) == (0, [], 0, None)
        done = {command_of(task) for task in self.world.over}
        assert self.world.committed == (len(self.world.log), done, len(self.world.records), ())
        assert all(one.key in self.world.gone for one in self.world.records)


@patient
def test_one_outcome_of_each_task_counts_and_every_owner_comes_to_the_same() -> None:
    explore(FoldMachine, part=0.3, steps_of_one=60)
