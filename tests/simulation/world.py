"""Dispatchers as they are, but for Kafka, Redis, S3 and the engine, in one process and on one clock.

Every run is told by its seed: who dies, what lands late or never, and what the functions do. While it goes
on, what each owner believes is held against what the whole log says; at the end, when nothing fails any more,
everything that was accepted must come to its end, and nothing may be left of it.
"""

import asyncio
import bisect
import json
import random
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from parts import DEFERRED, EVENTS, LETTERS, WEBHOOKS, Broker, Entry, Redis
from virtual import VirtualLoop

from dispatcher.buffers import Command
from dispatcher.chores import Chores
from dispatcher.claims import Claims
from dispatcher.errands import ErrandRunner
from dispatcher.executor import Executor
from dispatcher.invocation import Reply
from dispatcher.liveness import Liveness
from dispatcher.offsets import MAX_METADATA, MAX_PENDING, MAX_RESUMED, Checkpoint
from dispatcher.partition import Partition
from dispatcher.projector import Projector
from dispatcher.rebuild import Rebuild
from dispatcher.repeats import Repeats
from dispatcher.scheduler import Scheduler
from dispatcher.secrets import Secrets
from dispatcher.stop import Stop
from dispatcher.world import World
from mayfly.errors import ReadModelUnavailable, SandboxLost
from mayfly.events import CancelRequested, Claimed, Finished, Purpose, Reason, decode_event
from mayfly.fold import Fold, Phase, TaskState
from mayfly.function import Function
from mayfly.history import History
from mayfly.placement import limit_of
from mayfly.settings import Settings
from mayfly.task import (
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Position,
    RetryPolicy,
    Status,
    decode_envelope,
    encode,
    expires_at,
    keyed_id,
    may_come_again,
    place_id,
)
from mayfly.webhooks.notice import decode_notice, message_id

LIFE: Final = 5.0
COMMIT_SECONDS: Final = 0.5
LANES: Final = frozenset(lane.value for lane in Lane)
LATE_MS: Final = 8000
"""How late a task may be released where nobody dies: its record is written, and the one before it is gone."""
PATIENCE: Final = 900.0
"""Seconds on the simulated clock in which everything must come to its end once nothing fails any more."""


@dataclass(frozen=True)
class Chaos:
    """How bad it is."""

    kills: bool = True
    zombies: bool = True
    """Whether an owner may not know that it lost the partition."""
    redis: bool = True
    losses: bool = True
    """Whether sandboxes are lost."""
    dispatchers: int = 3
    slots: int = 3
    narrow: bool = False
    """Whether a checkpoint can name only a few."""
    mutes: bool = True
    """Whether a dispatcher may be out of sight of the others, and go on."""
    fails: float = 0.3
    """The part of the attempts that fail."""
    slow: float = 0.05
    """The part of the attempts that take long."""
    late: float = 0.03
    """The part of the messages that land when their sender has given them up."""


class Wrong(AssertionError):
    pass


@dataclass
class View:
    """What a dispatcher has read of the partition."""

    partition: Partition
    at: dict[str, int]
    commit_at: float = 0.0
    committed: Checkpoint | None = None
    checked: int = -1
    """Up to which event it was checked."""


class Process:
    """One dispatcher."""

    def __init__(self, simulation: "Simulation", name: str) -> None:
        self.simulation = simulation
        self.id = name
        self.alive = True
        self.view: View | None = None
        self._committing = asyncio.Lock()
        loop, redis = simulation.loop, simulation.redis
        self.rebuild = Rebuild(
            simulation.broker.replay,
            redis,
            queue="q",
            lane_topics={lane: lane.value for lane in Lane},
            events_topic=EVENTS,
            dead_letter_topic=LETTERS,
        )
        self.projector = Projector(
            redis, queue="q", rebuild=lambda one: self.rebuild.partition(one.number), clock=loop.time
        )
        self.muted_until = 0.0
        self.liveness = Liveness(name, self, describe=dict, interval=0.5, life=LIFE, clock=loop.time)
        claims = Claims(name, self, self.liveness)
        repeats = Repeats(redis, self.projector)
        self.errands = ErrandRunner(self)
        self.executor = Executor(
            simulation.settings,
            claims=claims,
            repeats=repeats,
            blobs=simulation,
            catalog=simulation,
            runtime=simulation,  # type: ignore[arg-type]
            pools=simulation,  # type: ignore[arg-type]
            secrets=Secrets({}),
            watchers=self.projector,
            on_outcome=lambda _, outcome: None,
        )
        self.scheduler = Scheduler(
            simulation.chaos.slots,
            executor=self.executor,
            chores=Chores(claims, repeats),
            liveness=self.liveness,
            interval=0.5,
            clock=loop.time,
        )
        self.world = World(
            queue="q",
            projection=self.projector,
            errands=self.errands,
            limit_of=simulation.limit_of,
            limits_revision=lambda: simulation.revision,
            share=lambda limit, _: limit.most,
            now=loop.milliseconds,
            on_cancel=self.executor.cancel,
        )

    def start(self) -> None:
        for coro in (self._live(), self.projector.run(), self.scheduler.run(), self._consume()):
            self.simulation.loop.start(self, self._guarded(coro))

    async def _guarded(self, coro: Any) -> None:
        try:
            await coro
        except Exception as error:
            self.simulation.broke.append(error)
            raise

    async def _live(self) -> None:
        await self.liveness.run()

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
        if self.muted_until < self.simulation.loop.time():
            await self.simulation.redis.beat(dispatcher_id, heartbeat, life_seconds)

    async def dispatchers(self) -> list[dict[str, Any]]:
        return await self.simulation.redis.dispatchers()

    # --- what it appends

    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        await self.simulation.broker.append(self, EVENTS, task_id, value)

    async def append_command(self, partition: int, lane: Lane, task_id: str, value: bytes) -> None:
        await self.simulation.broker.append(self, lane.value, task_id, value)

    async def append_record(self, partition: int, key: str, value: bytes | None) -> None:
        await self.simulation.broker.append(self, DEFERRED, key, value)

    async def append_dead_letter(self, task_id: str, value: bytes) -> None:
        await self.simulation.broker.append(self, LETTERS, task_id, value)

    async def append_notice(self, task_id: str, value: bytes | None) -> None:
        await self.simulation.broker.append(self, WEBHOOKS, task_id, value)

    # --- what it reads, and commits: `dispatcher.consumer` without Kafka

    async def _consume(self) -> None:
        simulation = self.simulation
        while True:
            await asyncio.sleep(simulation.dice.uniform(0.002, 0.05) if self.view else 0.1)
            view = self.view
            if view is None:
                if simulation.owner is self:
                    await self._open()
                continue
            if self._read(view):
                self.scheduler.wake()
            if simulation.loop.time() >= view.commit_at:
                view.commit_at = simulation.loop.time() + COMMIT_SECONDS
                await self._commit(view)

    async def _open(self) -> None:
        simulation = self.simulation
        try:
            mark = (await simulation.redis.marks("q")).get(0, "")
        except ReadModelUnavailable:
            mark = "?"
        if simulation.owner is not self:
            return
        checkpoint = Checkpoint.decode(simulation.committed)
        end = simulation.broker.end(EVENTS)
        partition = Partition(0, checkpoint=checkpoint, events_end=end, world=self.world)
        starts = {lane.value: checkpoint.of(lane).start for lane in Lane}
        self.view = View(partition, {**starts, EVENTS: checkpoint.start, DEFERRED: 0}, simulation.loop.time())
        self.projector.assigned(partition, mark)
        self.scheduler.partitions[0] = partition

    def drop(self) -> None:
        """It is told that the partition is another's."""
        if view := self.view:
            self.view = None
            view.partition.drop()
            self.projector.revoked(0)
            self.scheduler.partitions.pop(0, None)

    def _read(self, view: View) -> bool:
        broker, dice = self.simulation.broker, self.simulation.dice
        topics = [DEFERRED, EVENTS, *(lane.value for lane in Lane)]
        dice.shuffle(topics)
        some = False
        for topic in topics:
            if dice.random() < 0.3:
                continue
            start = view.at[topic]
            entries = broker.read(topic, start, dice.randint(1, 40))
            for entry in entries:
                self._take(view, entry)
            if entries:
                some = True
                view.at[topic] = entries[-1].offset + 1
            if not broker.read(topic, view.at[topic], 1):
                view.at[topic] = max(view.at[topic], broker.end(topic))
                if topic == EVENTS:
                    view.partition.take_events_end(broker.end(topic))
                elif topic == DEFERRED:
                    view.partition.take_records_end(broker.end(topic))
        self.simulation.check(self, view)
        return some

    def _take(self, view: View, entry: Entry) -> None:
        partition = view.partition
        if entry.topic == EVENTS:
            partition.take_event(entry.offset, decode_event(entry.value), entry.timestamp)
        elif entry.topic == DEFERRED:
            partition.take_record(entry.offset, entry.key, entry.value)
        else:
            envelope = decode_envelope(entry.value, topic=entry.topic, partition=0, offset=entry.offset)
            own = place_id(entry.topic, 0, entry.offset)
            partition.take_command(
                Command(
                    envelope,
                    0,
                    Position(Lane(entry.topic), entry.offset),
                    entry.timestamp,
                    len(entry.value or b""),
                    repeatable=may_come_again(envelope.task_id) and envelope.task_id != own,
                )
            )

    async def _commit(self, view: View) -> None:
        # One after the other, as the thread that polls makes them.
        async with self._committing:
            await self._commit_now(view)

    async def _commit_now(self, view: View) -> None:
        partition = view.partition
        checkpoint = self.projector.checkpoint(partition) if partition.caught_up else None
        if checkpoint is None or (checkpoint == view.committed and not partition.wants_commit):
            return
        partition.before_commit()
        await asyncio.sleep(self.simulation.dice.expovariate(100))
        # No commit is in flight when a partition is dropped.
        taken = self.view is view and self.simulation.commit(self, checkpoint)
        await asyncio.sleep(self.simulation.dice.expovariate(100))
        if taken and self.view is view:
            view.committed = checkpoint
            partition.committed(checkpoint)

    async def leave(self) -> None:
        """Stop, as on SIGTERM."""
        await self.scheduler.stop(self.simulation.dice.uniform(0, 3))
        with suppress(ReadModelUnavailable):
            await self.projector.settle()
        if self.view:
            await self._commit(self.view)
        await self.errands.close()


@dataclass
class Posted:
    envelope: Envelope
    lane: Lane
    positions: list[int] = field(default_factory=list)
    at: int = 0


class Simulation:
    """`step` does one thing to it. Also its catalog, its store and its engine."""

    egress_refusal = None

    def __init__(self, loop: VirtualLoop, seed: int, chaos: Chaos) -> None:
        self.loop = loop
        self.dice = random.Random(seed)
        self.chaos = chaos
        self.most_pending = 12 if chaos.narrow else MAX_PENDING
        self.most_resumed = 4 if chaos.narrow else MAX_RESUMED
        self.settings = Settings()
        self.broker = Broker(loop, self.dice)
        self.broker.late = chaos.late
        self.broker.on_landed = self._landed
        self.redis = Redis(loop, self.dice)
        self.backup: tuple[Any, ...] | None = None
        self.committed = ""
        self.owner: Process | None = None
        self.processes: list[Process] = []
        self.broke: list[BaseException] = []
        self.calm = False
        self.names = 0
        self.revision = 1
        self.functions: dict[str, Function] = {}
        self._deploy()
        self.posted: dict[str, Posted] = {}
        self.truth = Fold(lambda _: False)
        self.history = History(0)
        self.states: dict[str, list[tuple[int, TaskState]]] = {}
        self.moves: list[tuple[int, str]] = []
        self._began: dict[str, int] = {}
        self._cancelled: dict[str, int] = {}
        self._releases: set[tuple[str, int]] = set()
        self.outcomes: dict[str, Status] = {}
        self.notices: dict[str, str] = {}
        """Of each task that has ended, the id of the notice that there may be of it."""
        self.runs: Counter[str] = Counter()

    # --- what happens

    async def step(self) -> None:
        """One thing, after a while."""
        self._staff()
        await asyncio.sleep(self.dice.expovariate(8))
        happens = [
            (60, self._post),
            (6, self._copy),
            (8, self._cancel),
            (2, self._deploy),
            (1, self._compact),
            (3, self._move),
            (1, self._stop),
        ]
        if self.chaos.kills:
            happens += [(3, self._kill), (1, self._kafka_away)]
        if self.chaos.mutes:
            happens += [(3, self._mute)]
        if self.chaos.redis:
            happens += [(1, self._redis_away), (1, self._redis_flushed), (1, self._redis_older)]
        weights, things = zip(*happens, strict=True)
        self.dice.choices(things, weights)[0]()
        self._staff()

    def _staff(self) -> None:
        """As many dispatchers as there should be, one of which has the partition."""
        self.processes = [one for one in self.processes if one.alive]
        while len(self.processes) < self.chaos.dispatchers:
            self.names += 1
            self.processes.append(Process(self, f"d{self.names}"))
            self.processes[-1].start()
        if self.owner is None or not self.owner.alive:
            self.owner = self.dice.choice(self.processes)
            # If it had the partition before, it is told that it lost it before it is told that it has it.
            self.owner.drop()

    def _post(self) -> None:
        dice = self.dice
        name = dice.choice(["plain", "plain", "plain", "one", "three", "fragile", "none"])
        repeatable = dice.random() < 0.4
        envelope = Envelope(
            task_type=name,
            task_id=keyed_id("t", str(len(self.posted))) if repeatable else self._new_id(),
            delay_seconds=dice.choice([None, None, None, 0.5, 3.0, 20.0]),
            ttl_seconds=dice.choice([None, None, None, None, 0.5, 5.0]),
            concurrency_key=dice.choice(["k1", "k2"]) if dice.random() < 0.1 else None,
            redeliver=dice.choice([None, None, None, False]),
            callback_url="https://example.com/" if len(self.posted) % 3 == 0 else None,
        )
        self._append(envelope, dice.choices(list(Lane), [6, 3, 1])[0])

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self.dice.getrandbits(128) & ~(0xF << 76) | 7 << 76))

    def _append(self, envelope: Envelope, lane: Lane) -> None:
        entry = self.broker.land(lane.value, envelope.task_id, encode(envelope))
        posted = self.posted.setdefault(envelope.task_id, Posted(envelope, lane, at=entry.timestamp))
        posted.positions.append(entry.offset)

    def _copy(self) -> None:
        """A client sends its command again."""
        some = [one for one in self._recent() if may_come_again(one.envelope.task_id)]
        if some:
            one = self.dice.choice(some)
            self._append(one.envelope, one.lane)

    def _recent(self) -> list[Posted]:
        return list(self.posted.values())[-30:]

    def _cancel(self) -> None:
        if some := self._recent():
            one = self.dice.choice(some)
            task_id = one.envelope.task_id
            event = CancelRequested(task_id, one.lane, one.positions[0])
            self.broker.land(EVENTS, task_id, encode(event))
            if self.dice.random() < 0.7:
                for process in self.processes:
                    process.executor.cancel(task_id)

    def _deploy(self) -> None:
        self.revision += 1
        retries = RetryPolicy(max_attempts=3, initial_delay=1.0, max_delay=4.0)
        limits = {"one": 1, "three": self.dice.choice([1, 3, 4]), "plain": None, "fragile": None}
        self.functions = {
            name: Function(name, "image", str(self.revision), retries=retries, concurrency=most)
            for name, most in limits.items()
        }

    def _compact(self) -> None:
        self.broker.compact(DEFERRED)

    def _move(self) -> None:
        """The partition goes to another. Its owner is told before, or it is late, or it comes back."""
        before = self.owner
        if before is not None and before.alive and before.view:
            if self.chaos.zombies and self.dice.random() < 0.6:
                view = before.view
                self.loop.call_later(self.dice.uniform(0, 8), self._tell, before, view)
            else:
                before.drop()
        others = [one for one in self.processes if one.alive and one.view is None]
        if others:
            self.owner = self.dice.choice(others)

    def _tell(self, process: Process, view: View) -> None:
        if process.view is view and process.alive and self.owner is not process:
            process.drop()

    def _kill(self) -> None:
        process = self.dice.choice(self.processes)
        process.alive = False
        process.drop()
        self.loop.end(process)

    def _mute(self) -> None:
        self.dice.choice(self.processes).muted_until = self.loop.time() + self.dice.uniform(5, 15)

    def _stop(self) -> None:
        process = self.dice.choice(self.processes)

        async def stop() -> None:
            await process.leave()
            process.alive = False
            process.drop()
            self.loop.end(process)

        self.loop.start(None, stop())

    def _kafka_away(self) -> None:
        self.broker.down_until = self.loop.time() + self.dice.uniform(0, 6)

    def _redis_away(self) -> None:
        self.redis.away_until = self.loop.time() + self.dice.uniform(0, 8)

    def _redis_flushed(self) -> None:
        self.redis.flush()

    def _redis_older(self) -> None:
        redis = self.redis
        if self.backup is not None and self.dice.random() < 0.5:
            tasks, there, tokens = self.backup
            if (there, tokens) == (redis.there, redis.tokens):
                # What was lost since the last mark, less than half a second ago, would not show.
                return
            redis.flush()
            redis.tasks = {task_id: dict(fields) for task_id, fields in tasks.items()}
            redis.there, redis.tokens = dict(there), dict(tokens)
        else:
            tasks = {task_id: dict(fields) for task_id, fields in redis.tasks.items()}
            self.backup = tasks, dict(redis.there), dict(redis.tokens)

    # --- catalog, store, engine

    def get(self, name: str) -> Any:
        return self.functions.get(name)

    async def find(self, name: str, revision: int) -> Function | None:
        await asyncio.sleep(0)
        return self.functions.get(name)

    def limit_of(self, envelope: Envelope) -> Any:
        function = self.functions.get(envelope.task_type)
        most = function.concurrency if function else None
        return limit_of(envelope.task_type, most, envelope.concurrency_key)

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        return BlobRef(key, len(data), "")

    def at_hand(self, function: Function, spec: Any) -> Any:
        return _Sandbox(spec.task_id, spec.function) if self.dice.random() < 0.5 else None

    async def take(self, function: Function, spec: Any) -> Any:
        await asyncio.sleep(self.dice.uniform(0, 0.1))
        return _Sandbox(spec.task_id, spec.function)

    async def invoke(self, sandbox: "_Sandbox", *_: Any, stop: Stop, **__: Any) -> Reply:
        began = self.loop.milliseconds()
        # Some take so long that they are taken over where their dispatcher is out of sight.
        slow = self.dice.random() < self.chaos.slow
        seconds = self.dice.uniform(4, 12) if slow else self.dice.expovariate(2)
        self.runs[sandbox.task_id] += 1
        async with stop.within(seconds):
            await asyncio.Event().wait()
        ended = self.loop.milliseconds()
        if stop.is_set():
            return Reply(None, "", Failure(FailureType.CANCELLED, "stopped"), b"", 0, began, ended)
        fate = self.dice.random()
        if self.chaos.losses and fate < (0.3 if sandbox.function == "fragile" else 0.05):
            raise SandboxLost("gone")
        if fate > 1 - self.chaos.fails:
            failure = Failure(FailureType.ERROR, "it failed")
            return Reply(None, "", failure, b"", 0, began, ended)
        return Reply(b"1", "application/json", None, b"", 0, began, ended)

    # --- what must hold

    def commit(self, process: Process, checkpoint: Checkpoint) -> bool:
        """Whether the broker takes it: from the owner alone."""
        if self.owner is not process or not process.alive:
            return False
        text = checkpoint.encode()
        before = Checkpoint.decode(self.committed)
        self._hold(len(text) <= MAX_METADATA, "a checkpoint is too long")
        self._hold(Checkpoint.decode(text) == checkpoint, "a checkpoint is not what it was")
        pending = sum(len(offsets) for _, offsets in checkpoint.lanes.values())
        # As many again may have been another owner's, if it left without committing them.
        self._hold(pending <= 2 * self.most_pending, f"{pending} pending")
        resumed = len(checkpoint.resumed)
        # Claims of an owner before, that land late, come on top.
        on_top = self.chaos.slots if self.chaos.kills else 0
        self._hold(resumed <= self.most_resumed + on_top, f"{resumed} resumed")
        older = checkpoint.is_older(before) or checkpoint.deferred < before.deferred
        self._hold(not older, f"an older checkpoint: {before} -> {checkpoint}")
        self.committed = text
        return True

    def _landed(self, entry: Entry) -> None:
        if entry.topic in LANES and entry.value:
            self._released(decode_envelope(entry.value, topic=entry.topic, partition=0, offset=entry.offset))
        if entry.topic == WEBHOOKS:
            self._notified(entry)
        if entry.topic != EVENTS or (event := decode_event(entry.value)) is None:
            return
        task_id = event.task_id
        before = self.truth.get(task_id)
        counts = self.truth.apply(entry.offset, event, entry.timestamp)
        told = self.history.apply(entry.offset, event, entry.timestamp)
        after = self.truth.get(task_id)
        self._hold(counts == (told is not None), "the history tells something else")
        if not counts or after is None:
            return
        self.states.setdefault(task_id, []).append((entry.offset, after))
        self.moves.append((entry.offset, task_id))
        self._began[task_id] = entry.timestamp
        if isinstance(event, CancelRequested) and (before is None or before.phase is Phase.WAITING):
            self._cancelled[task_id] = entry.timestamp
        if isinstance(event, Finished):
            late = entry.timestamp - self._cancelled.get(task_id, entry.timestamp)
            # Who claimed it to end it may have lost the partition then: it is taken over.
            most = LATE_MS + 2000 * LIFE
            self._hold(late <= most or self.chaos.kills, f"cancelled {late} ms ago")
            self._hold(task_id not in self.outcomes, "two outcomes")
            self.outcomes[task_id] = event.outcome.status
            self.notices[task_id] = message_id(task_id, event.fence)
        if isinstance(event, Claimed) and event.purpose is Purpose.RUN:
            posted = self.posted[task_id]
            delay = int((posted.envelope.delay_seconds or 0) * 1000)
            self._hold(entry.timestamp >= posted.at + delay, "it runs before its time")
            waited = before is not None and before.phase is Phase.WAITING
            self._hold(not (waited and before.due > entry.timestamp), "it is tried again before its time")
        if not self.chaos.zombies and not self.chaos.kills:
            for group, running in self.truth.running.items():
                # A key has as many as its function; one whose function is not limited has one.
                most = 4 if group.partition("/")[0] == "three" else 1
                self._hold(running <= most, f"{running} of {group}")

    def _notified(self, entry: Entry) -> None:
        """Nobody is told of an end before it counts, or of one that does not."""
        notice = decode_notice(entry.value or b"")
        self._hold(notice is not None and notice.id == self.notices.get(entry.key), "a notice of no outcome")
        self._hold(self.posted[entry.key].envelope.callback_url is not None, "a notice for nobody")
        assert notice is not None
        status = json.loads(bytes(notice.body))["status"]
        self._hold(status == self.outcomes[entry.key].value, f"a notice says {status}")

    def _hold(self, true: bool, what: str) -> None:
        if not true:
            # Kept as well: whoever is called by the loop raises to nobody.
            self.broke.append(Wrong(f"{what} (at {self.loop.time():.3f})"))
            raise self.broke[-1]

    def _released(self, envelope: Envelope) -> None:
        """A task goes back to its lane when it is due: not before, and not long after."""
        state = self.truth.get(envelope.task_id)
        if state is None or state.phase is not Phase.WAITING or state.fence != envelope.releases:
            return
        now, began = self.loop.milliseconds(), self._began[envelope.task_id]
        if state.reason is Reason.LIMIT or state.cancelled:
            return
        expires = expires_at(envelope, 0) if state.attempt == 0 else None
        due = state.due if expires is None else min(state.due, expires)
        self._hold(now >= due, f"released {due - now} ms too early")
        again = (envelope.task_id, state.fence) in self._releases
        self._releases.add((envelope.task_id, state.fence))
        if not (again or self.chaos.kills):
            self._hold(now <= max(due, began) + LATE_MS, f"released {now - due} ms too late")

    def _true_state(self, task_id: str, end: int) -> TaskState | None:
        states = self.states.get(task_id, [])
        return next((state for offset, state in reversed(states) if offset < end), None)

    def moves_since(self, offset: int) -> list[tuple[int, str]]:
        return self.moves[bisect.bisect_left(self.moves, (offset, "")) :]

    def check(self, process: Process, view: View) -> None:
        """What the dispatcher believes, against what is true as far as it has read."""
        partition = view.partition
        end = partition.end
        if not partition.caught_up or end == view.checked:
            return
        tasks = (
            set(self.states)
            if view.checked < 0
            else {task_id for _, task_id in self.moves_since(view.checked)}
        )
        view.checked = end
        fold = partition._known.fold
        self._hold(sum(fold.resumed_in.values()) == fold.resumed_count, "the claims are counted wrong")
        for task_id in tasks:
            true, believed = self._true_state(task_id, end), partition.state(task_id)
            if not _agree(true, believed):
                raise Wrong(f"{task_id} at {end}, for {process.id}: {believed} is {true}")

    async def come_to_an_end(self) -> None:
        """Nothing fails any more: everything must come to its end."""
        self.calm = self.broker.calm = self.redis.calm = True
        self.broker.down_until = self.redis.away_until = 0.0
        self._staff()
        until = self.loop.time() + PATIENCE
        while self._left() and self.loop.time() < until:
            await asyncio.sleep(1.0)
            self._staff()
            if self.broke:
                raise self.broke[0]
        self._hold(not self._left(), "\n".join(["left:", *self._left()[:5]]))

    def _left(self) -> list[str]:
        """What has not come to its end."""
        left = [
            f"{task_id} {posted.lane.value}{posted.positions}: {self._true_state(task_id, 1 << 60)}"
            for task_id, posted in self.posted.items()
            if task_id not in self.outcomes
        ]
        view = self.owner.view if self.owner else None
        if left or view is None:
            return left or ["no owner"]
        failed = {task_id for task_id, status in self.outcomes.items() if status is Status.FAILED}
        letters = {entry.key for entry in self.broker.topics.get(LETTERS, []) if entry.value}
        left += [f"no letter: {task_id}" for task_id in failed - letters]
        told = {entry.key for entry in self.broker.topics.get(WEBHOOKS, [])}
        wanted = {task_id for task_id, one in self.posted.items() if one.envelope.callback_url}
        left += [f"no notice: {task_id}" for task_id in wanted - told]
        records = {entry.key: entry.value for entry in self.broker.topics.get(DEFERRED, [])}
        left += [f"record {key}" for key, value in records.items() if value]
        checkpoint = Checkpoint.decode(self.committed)
        for lane in Lane:
            entries = self.broker.topics.get(lane.value, [])
            lane_offsets = checkpoint.of(lane)
            left += [
                f"{lane.value}:{entry.offset} not done"
                for entry in entries
                if not lane_offsets.is_done(entry.offset)
            ]
        if checkpoint.resumed:
            left.append(f"resumed {checkpoint.resumed}")
        left += [
            f"redis: {task_id} is {self.redis.tasks.get(task_id)}, not {status}"
            for task_id, status in self.outcomes.items()
            if self.redis.tasks.get(task_id, {}).get("status") != status.value
        ]
        left += _rest(view.partition)
        return left


def _rest(partition: Partition) -> list[str]:
    """What the partition still keeps of tasks that are over."""
    known, intake, endings = partition._known, partition._intake, partition._endings
    kept = {
        "fold": len(known.fold),
        "running": dict(known.fold.running),
        "waiting": len(partition.waiting),
        "released": partition.waiting.released,
        "released in": any(partition.waiting.released_in.values()),
        "resumed in": any(known.fold.resumed_in.values()),
        "turns": known.turns._of_group or known.turns._parked,
        "chores": intake._running_chores,
        "resuming": intake._resuming,
        "gated": intake._gated,
        "kept": partition._keeping._kept,
        "left": endings.left,
        "stale": partition._keeping._stale,
        "asked": endings._asked,
        "open": known.commands._open,
        "started": known.commands._started,
        "parked": partition.parked,
        "inherited": known.commands._inherited,
        "letters": endings._letters._on_their_way or endings._letters._acknowledged,
        "notices": endings._notices._on_their_way or endings._notices._over or endings._notices._ends,
        "unsettled": known.records._unsettled,
    }
    return [f"{name}: {what}" for name, what in kept.items() if what]


def _agree(true: TaskState | None, believed: TaskState | None) -> bool:
    if true is None or believed is None:
        return believed is None and (true is None or true.terminal)
    if true.terminal:
        # A request to cancel a copy of what is over and forgotten.
        return believed.phase is Phase.ASKED or _told(believed) == _told(true)
    return _told(believed) == _told(true)


def _told(state: TaskState) -> tuple[Any, ...]:
    return (
        state.phase,
        state.fence,
        state.attempt,
        state.losses,
        state.cancelled,
        state.reason if state.phase is Phase.WAITING else None,
        [(one.attempt, one.fence, one.failure and one.failure.type) for one in state.history],
    )


class _Sandbox:
    name = "sandbox"

    def __init__(self, task_id: str, function: str) -> None:
        self.task_id = task_id
        self.function = function

    async def remove(self) -> None: ...
