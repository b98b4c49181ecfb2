"""A dispatcher's partitions and slots without a broker: what it wants appended lands when a test says so."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dispatcher.buffers import Command
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from dispatcher.records import key_of
from dispatcher.scheduler import Scheduler
from dispatcher.work import Work
from dispatcher.world import Asking, World
from mayfly import view
from mayfly.events import DeadLetter, DeferredRecord, Event, Purpose
from mayfly.task import NO_FENCE, Envelope, Lane, Position, encode
from mayfly.webhooks.notice import Notice

Landing = Callable[[], None]


class Topics:
    """One partition's, and the owner that reads them. `flight` is what the owner wants appended."""

    def __init__(self, number: int, world: World) -> None:
        self.commands: dict[Lane, list[tuple[Envelope, int]]] = {lane: [] for lane in Lane}
        self.read: dict[Lane, int] = dict.fromkeys(Lane, 0)
        self.events = 0
        self.records = 0
        self.there: set[str] = set()
        """Keys of the records that are not tombstoned."""
        self.flight: list[Landing] = []
        self.owner = Partition(number, checkpoint=Checkpoint(), events_end=0, world=world)
        self.owner.take_records_end(0)
        self._world = world
        self._committed = Checkpoint()

    def post(self, lane: Lane, envelope: Envelope, at: int) -> Position:
        self.commands[lane].append((envelope, at))
        return Position(lane, len(self.commands[lane]) - 1)

    def poll(self) -> bool:
        """Read as much as the lanes' buffers take; whether that was anything."""
        some = False
        for lane, buffer in self.owner.buffers.items():
            buffer.paused = buffer.should_pause if not buffer.paused else not buffer.should_resume
            while self.read[lane] < len(self.commands[lane]) and not buffer.paused:
                offset = self.read[lane]
                self.read[lane], some = offset + 1, True
                envelope, at = self.commands[lane][offset]
                self.owner.take_command(
                    Command(envelope, self.owner.number, Position(lane, offset), at, size=1)
                )
                buffer.paused = buffer.should_pause
        return some

    @property
    def is_read(self) -> bool:
        return all(self.read[lane] == len(self.commands[lane]) for lane in Lane)

    def append(self, event: Event) -> int:
        self.events += 1
        self.owner.take_event(self.events - 1, event, self._world.now())
        return self.events - 1

    def append_record(self, key: str, value: bytes | None) -> None:
        self.records += 1
        (self.there.discard if value is None else self.there.add)(key)
        self.owner.take_record(self.records - 1, key, value)

    def commit(self) -> bool:
        """Whether it was of use."""
        before, self._committed = self._committed, self.owner.checkpoint()
        wanted = self.owner.wants_commit
        self.owner.before_commit()
        self.owner.committed(self._committed)
        return wanted or before != self._committed

    def head(self, lane: Lane) -> Command | None:
        """The next to be taken up, if one may be."""
        return self.owner._known.commands.first(lane) if self.owner.has_work(lane) else None

    def is_empty(self) -> None:
        """Nothing is left of any task."""
        known = self.owner._known
        assert not len(known.fold)
        assert not known.fold.running
        assert not len(known.waiting)
        assert known.waiting.released == 0
        assert not self.there
        assert not self.owner.parked
        for lane, (base, pending) in self._committed.lanes.items():
            assert (base, pending) == (len(self.commands[lane]), ())


class Wishes:
    """Implements `Errands` and `Projection`."""

    def __init__(self, topics: list[Topics]) -> None:
        self._topics = topics

    def keep(self, partition: Asking, record: DeferredRecord) -> None:
        topics, value = self._topics[partition.number], encode(record)

        def land() -> None:
            topics.append_record(key_of(record.envelope.task_id, record.fence, str(topics.records)), value)

        topics.flight.append(land)

    def tombstone(self, partition: Asking, key: str, task_id: str) -> None:
        topics = self._topics[partition.number]

        def land() -> None:
            topics.append_record(key, None)
            partition.tombstoned(key, task_id)

        topics.flight.append(land)

    def release(self, partition: Asking, lane: Lane, envelope: Envelope) -> None:
        topics = self._topics[partition.number]
        topics.flight.append(lambda: void(topics.post(lane, envelope, 0)))

    def bury(self, partition: Asking, letter: DeadLetter) -> None:
        self._topics[partition.number].flight.append(lambda: partition.buried(letter.task_id))

    def notify(self, partition: Asking, notice: Notice) -> None:
        self._topics[partition.number].flight.append(lambda: partition.notified(notice.task_id))

    def command(self, partition: int, task: view.QueuedTask) -> None: ...

    def change(self, change: view.Change) -> None: ...


def void(_: object) -> None: ...


@dataclass(eq=False)
class Job:
    """A claim, and what it is for. It is appended, then let go of, then over."""

    partition: Partition
    work: Work
    fence: int | None = None
    ended: bool = False
    """Its last event was read, or its claim is void."""

    @property
    def runs(self) -> bool:
        return self.work.purpose is Purpose.RUN

    @property
    def may_run(self) -> bool:
        """Whether it is an attempt that runs, or whose claim may yet count."""
        state = self.partition.state(self.work.task_id)
        if not self.runs or self.ended or self.fence is not None:
            return self.runs and not self.ended
        return self.work.claim.follows == (NO_FENCE if state is None else state.fence)


class Slots(Scheduler):
    """Fills its slots as ever; whom it starts, it tells `on_start`, and each choice before it is made."""

    def __init__(self, slots: int, on_choice: Callable[[], None], on_start: Callable[[Job], None]) -> None:
        nobody: Any = SimpleNamespace(storing_fails=False, is_gone=lambda held, number: False)
        self.ticks = 0.0
        super().__init__(
            slots, executor=nobody, chores=nobody, liveness=nobody, interval=1.0, clock=lambda: self.ticks
        )
        self._on_choice, self._on_start = on_choice, on_start

    def fill(self, *, later: bool = False) -> None:
        """What it does whenever it is woken; `later`, after its interval."""
        self.ticks += later
        self._fill()

    def _next(self, lane: Lane) -> tuple[Partition, Work] | None:
        self._on_choice()
        return super()._next(lane)

    def _start(self, partition: Partition, work: Work) -> None:
        job = Job(partition, work)
        running: Any = self.running
        running[job] = work
        self._on_start(job)

    def _start_chore(self, partition: Partition, work: Work) -> None:
        job = Job(partition, work)
        chores: Any = self.chores
        chores.add(job)
        self._on_start(job)

    def over(self, job: Job) -> None:
        running: Any = self.running
        running.pop(job, None)
        chores: Any = self.chores
        chores.discard(job)
