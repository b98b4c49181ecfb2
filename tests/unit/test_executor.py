"""An attempt's life where it does not go as it should: what is let go, what is never repeated, what waits."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from owner_world import Asked, Told, owner, world
from pool_world import ARMED, Entries, Scripted
from sandbox_streams import Iterated

from dispatcher import claims, executor
from dispatcher.buffers import Command
from dispatcher.claims import Claims
from dispatcher.executor import Executor
from dispatcher.frames import frame
from dispatcher.pools.pools import Pools
from dispatcher.pools.single_use import SingleUse
from dispatcher.repeats import Repeats
from dispatcher.runtimes.base import Exit, Sandbox, SandboxSpec
from dispatcher.secrets import Secrets
from mayfly import versions
from mayfly.adapters.kafka import MAX_MESSAGE_BYTES
from mayfly.errors import BlobNotFound, BlobsUnavailable, SandboxesUnavailable, SandboxLost
from mayfly.events import CancelRequested, Claimed, Deferred, Event, Finished, Reason, decode_event
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import (
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Outcome,
    Position,
    RetryPolicy,
    Status,
    encode,
)

DEADLINE_SECONDS = 30.0
FUNCTION = Function(name="f", image="i", version="v")
UNIX = Function(name="f", image="i", version="v", contract="unix", retries=RetryPolicy(max_attempts=3))


class Process:
    """A sandbox of the Unix contract: what it prints, and its exit code. It ends when `end` is set."""

    name = "process"

    def __init__(self, prints: bytes = b"", code: int = 0, *, ended: bool = True, lost: bool = False) -> None:
        self._code = code
        self._lost = lost
        self.end = asyncio.Event()
        if ended:
            self.end.set()
        self.removed = False
        self.signals: list[str] = []
        self.stdout, self.stderr = Iterated(self._at_its_end(prints)), Iterated(self._at_its_end(b""))

    async def _at_its_end(self, text: bytes) -> AsyncIterator[bytes]:
        await self.end.wait()
        if not self._lost:
            yield text

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def kill(self, signal: str = "SIGKILL") -> None:
        self.signals.append(signal)
        self.end.set()

    async def wait(self) -> Exit:
        await self.end.wait()
        if self._lost:
            raise SandboxLost("the engine is gone")
        return Exit(self._code, oom_killed=False)

    async def remove(self) -> None:
        self.removed = True


class Answering(Scripted):
    """A sandbox of the Python contract: it is armed, and answers its task with 1."""

    def __init__(self, name: str) -> None:
        super().__init__(name, SandboxSpec.of(FUNCTION))
        self.says(ARMED)

    async def write(self, data: bytes) -> None:
        await super().write(data)
        self.says(frame("R", b"{}") + frame("B", b"1")).ends()


class World:
    """The parts around an executor: a log that is read back at once, and the rest as a test wants it."""

    def __init__(self, tmp_path: Path) -> None:
        self.told, self.asked = Told(), Asked()
        self.partition = owner(
            world(self.told, self.asked, on_cancel=lambda task_id: self.executor.cancel(task_id))
        )
        self.events: list[Event] = []
        self.before: Callable[[], object] = lambda: None
        """Happens before the next event lands."""
        self.held: set[tuple[int, int]] = set()
        self.functions = {"f": FUNCTION}
        self.outcomes: list[Outcome] = []
        self.launch_with: Callable[[], Awaitable[Sandbox]] = self.no_sandbox
        self.launched: list[SandboxSpec] = []
        self.engine_is_well = True
        self.stored: dict[str, bytes] = {}
        self.get_with: Callable[[], bytes] = self.no_blob
        self.pools = Pools(
            self,  # type: ignore[arg-type]
            {"container": SingleUse},
            Entries(self.functions),
            queue="default",
            most=2,
            memory_mib=1024,
            clock=lambda: 0.0,
        )
        self.executor = Executor(
            Settings(state_dir=tmp_path),
            claims=Claims("me", self, self),
            repeats=Repeats(self, self),
            blobs=self,
            catalog=self,
            runtime=self,  # type: ignore[arg-type]
            pools=self.pools,
            secrets=Secrets({}),
            watchers=self,
            on_outcome=lambda _, outcome: self.outcomes.append(outcome),
        )

    async def run(self, envelope: Envelope, invalid: str | None = None) -> None:
        command = Command(envelope, 3, Position(Lane.NORMAL, 0), at=0, size=1, invalid=invalid)
        self.partition.take_command(command)
        work = self.partition.next(Lane.NORMAL)
        assert work is not None
        await self.executor.run(self.partition, work)

    # --- the log

    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        assert len(value) < MAX_MESSAGE_BYTES
        event = decode_event(value)
        assert event is not None
        before, self.before = self.before, lambda: None
        before()
        # A broker takes a while: what has happened is noticed meanwhile.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.land(event)

    def land(self, event: Event) -> None:
        self.events.append(event)
        self.partition.take_event(len(self.events) - 1, event, 0)

    # --- the read model

    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        return None, None

    async def written(self, partition: int) -> None: ...

    async def intact(self, partition: int) -> None: ...

    def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...

    def log(self, task_id: str, fence: int, text: str) -> None: ...

    # --- the catalog

    async def find(self, name: str, revision: int) -> Function | None:
        return self.functions.get(name)

    # --- the engine

    egress_refusal = None

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        self.launched.append(spec)
        return await self.launch_with()

    async def healthy(self) -> bool:
        return self.engine_is_well

    def runs(self, *sandboxes: Process | Scripted) -> None:
        """What is launched, one after the other."""
        left = list(sandboxes)

        async def launch() -> Any:
            return left.pop(0)

        self.launch_with = launch

    async def no_sandbox(self) -> Sandbox:
        raise SandboxLost("there is none")

    # --- the store

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        self.stored[key] = data
        return BlobRef(key, len(data), "")

    async def get(self, key: str) -> bytes:
        return self.get_with()

    def no_blob(self) -> bytes:
        raise BlobNotFound("there is none")


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> World:
    return World(tmp_path)


def envelope(**fields: Any) -> Envelope:
    return Envelope(task_type="f", task_id="a", **fields)


async def test_an_attempt_that_breaks_lets_its_fence_go(world: World) -> None:
    async def broken() -> Sandbox:
        raise RuntimeError("a bug")

    world.launch_with = broken
    with pytest.raises(RuntimeError):
        await world.run(envelope())
    assert isinstance(world.events[-1], Claimed)
    assert not world.held, "whoever asks may take the task over"


async def test_a_launch_that_never_ends_holds_up_no_task_that_is_refused(world: World) -> None:
    async def stuck() -> Sandbox:
        await asyncio.Event().wait()
        raise AssertionError

    world.launch_with = stuck
    async with asyncio.timeout(DEADLINE_SECONDS):
        await world.run(envelope(payload_base64="no base64"))
    assert [outcome.failure and outcome.failure.type for outcome in world.outcomes] == [FailureType.INVALID]


async def test_nothing_is_claimed_on_a_partition_that_was_lost(world: World) -> None:
    async def lost() -> Sandbox:
        world.partition.drop()
        raise SandboxLost("gone")

    world.launch_with = lost
    await world.run(envelope())
    assert not world.events
    assert not world.held


async def test_no_attempt_begins_before_there_is_a_sandbox_for_it(world: World) -> None:
    """One that is claimed, and then has to wait, is lost with its dispatcher, and counts as begun."""
    begun: list[int] = []

    async def late() -> Sandbox:
        await asyncio.sleep(0.01)
        begun.append(len(world.events))
        raise SandboxLost("gone")

    world.launch_with = late
    await world.run(envelope())
    assert begun[0] == 0
    assert kinds(world)[-1] == "Finished"


async def test_a_payload_that_is_gone_when_s3_is_back_stops_nothing_else(world: World) -> None:
    answers: list[Exception] = [BlobsUnavailable("down"), BlobNotFound("gone")]

    def get() -> bytes:
        raise answers.pop(0)

    world.get_with = get
    await world.run(envelope(payload_ref=BlobRef("payloads/a", 1, "")))
    assert [outcome.failure and outcome.failure.type for outcome in world.outcomes] == [FailureType.INVALID]
    assert not world.executor.storing_fails


async def test_a_payload_that_says_it_is_over_the_limit_is_not_fetched(world: World) -> None:
    await world.run(envelope(payload_ref=BlobRef("payloads/a", 6 * 1024 * 1024 + 1, "")))
    (outcome,) = world.outcomes
    assert outcome.failure == Failure(
        FailureType.INVALID, "the payload has 6291457 bytes, and may have 6291456"
    )


@pytest.mark.parametrize("text", ["é", "a", "a\n=="])
async def test_a_payload_that_is_no_base64_is_refused_at_the_first_attempt(world: World, text: str) -> None:
    await world.run(envelope(payload_base64=text))
    assert [outcome.failure and outcome.failure.type for outcome in world.outcomes] == [FailureType.INVALID]
    assert len(world.events) == 2


async def test_an_outcome_fits_the_log_however_large_what_it_quotes(world: World) -> None:
    world.functions.clear()
    await world.run(Envelope(task_type="\x7f" * 900_000, task_id="a"))
    assert [outcome.failure and outcome.failure.type for outcome in world.outcomes] == [FailureType.INVALID]
    assert isinstance(world.events[-1], Finished)


# --- trying again


@pytest.fixture
def unix(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for module in (claims, executor):
        monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0,) * 5)
    world.functions["f"] = UNIX
    return world


def kinds(world: World) -> list[str]:
    return [type(event).__name__ for event in world.events]


async def test_an_attempt_that_failed_lets_its_task_wait_for_the_next(unix: World) -> None:
    unix.runs(Process(code=1))
    await unix.run(envelope())
    claim, wait = unix.events
    assert isinstance(claim, Claimed)
    assert isinstance(wait, Deferred)
    assert (wait.reason, wait.fence, wait.attempt) == (Reason.RETRY, 0, 1)
    assert wait.outcome is not None
    assert wait.outcome.failure is not None
    assert wait.outcome.failure.type is FailureType.EXIT_CODE
    assert unix.told.changes[-1] == ("a", Status.RETRYING)
    assert not unix.held
    unix.partition.pass_over()
    assert [record.attempt for record in unix.asked.kept] == [1]


async def test_the_last_attempt_that_fails_is_the_end(unix: World) -> None:
    unix.runs(Process(code=1))
    await unix.run(envelope(retry=RetryPolicy(max_attempts=1)))
    assert kinds(unix) == ["Claimed", "Finished"]
    assert [letter.task_id for letter in unix.asked.letters] == ["a"]


async def test_a_task_says_more_of_its_retries_than_its_function(unix: World) -> None:
    unix.runs(Process(code=1))
    policy = RetryPolicy(never_on=(FailureType.EXIT_CODE,))
    await unix.run(envelope(retry=policy))
    assert kinds(unix) == ["Claimed", "Finished"]


@pytest.mark.parametrize(("code", "ends"), [(75, "Deferred"), (65, "Finished")])
async def test_a_function_says_itself_whether_to_try_again(code: int, ends: str, unix: World) -> None:
    unix.functions["f"] = msgspec.structs.replace(UNIX, retries=RetryPolicy())
    unix.runs(Process(code=code))
    await unix.run(envelope())
    assert kinds(unix) == ["Claimed", ends]


async def test_what_succeeds_is_stored_under_its_attempt_and_its_fence(unix: World) -> None:
    unix.runs(Process(b"1"))
    await unix.run(envelope())
    assert unix.stored == {"results/a/1-0": b"1"}
    end = unix.events[-1]
    assert isinstance(end, Finished)
    assert end.outcome.result is not None
    assert end.outcome.result.blob.key == "results/a/1-0"


# --- sandboxes that are lost


async def test_a_sandbox_that_was_lost_is_followed_by_another_claim_and_counts_apart(unix: World) -> None:
    unix.runs(Process(lost=True), Process(code=1))
    await unix.run(envelope(retry=RetryPolicy(max_attempts=2)))
    first, second, wait = unix.events
    assert isinstance(first, Claimed)
    assert isinstance(second, Claimed)
    assert (second.follows, second.attempt, second.losses) == (0, 2, 1)
    # One attempt of two: what was lost is none of the function's.
    assert isinstance(wait, Deferred)


async def test_a_task_is_delivered_again_three_times_and_no_more(unix: World) -> None:
    unix.runs(*(Process(lost=True) for _ in range(9)))
    await unix.run(envelope())
    assert kinds(unix) == ["Claimed"] * 5 + ["Finished"]
    end = unix.events[-1]
    assert isinstance(end, Finished)
    assert end.outcome.failure is not None
    assert end.outcome.failure.type is FailureType.LOST
    assert "the engine is gone" in end.outcome.failure.message
    assert len(unix.launched) == 4


@pytest.mark.parametrize("by", ["task", "function"])
async def test_a_task_that_is_not_to_be_delivered_again_is_not(by: str, unix: World) -> None:
    if by == "function":
        unix.functions["f"] = msgspec.structs.replace(UNIX, redeliver=False)
    unix.runs(Process(lost=True), Process(b"1"))
    await unix.run(envelope(redeliver=False) if by == "task" else envelope())
    assert len(unix.launched) == 1
    end = unix.events[-1]
    assert isinstance(end, Finished)
    assert end.outcome.failure is not None
    assert end.outcome.failure.type is FailureType.LOST


async def test_a_task_may_be_delivered_again_although_its_function_says_otherwise(unix: World) -> None:
    unix.functions["f"] = msgspec.structs.replace(UNIX, redeliver=False)
    unix.runs(Process(lost=True), Process(b"1"))
    await unix.run(envelope(redeliver=True))
    assert unix.stored == {"results/a/2-1": b"1"}


async def test_a_sandbox_is_not_launched_ahead_for_a_task_that_is_not_to_run_again(unix: World) -> None:
    unix.functions["f"] = msgspec.structs.replace(FUNCTION, redeliver=False)
    unix.runs(Process(lost=True), Process())
    await unix.run(envelope())
    assert len(unix.launched) == 1


# --- sandboxes that are there before their task


async def armed(world: World, *sandboxes: Scripted) -> None:
    """The function keeps one ready; the next ones come as they are asked for."""
    world.functions["f"] = msgspec.structs.replace(FUNCTION, warm_pool=1)
    world.runs(*sandboxes)
    world.pools.fill()
    await until(world, lambda: world.pools.armed.get("f"))


async def test_an_attempt_takes_what_is_armed_and_gives_it_nothing_before_its_claim_counts(
    unix: World,
) -> None:
    sandbox = Answering("armed")
    await armed(unix, sandbox)
    given: list[bytes] = []
    unix.before = lambda: given.append(sandbox.given)
    await unix.run(envelope())
    assert given == [b""]
    assert len(unix.launched) == 1
    assert b'"taskId":"a"' in sandbox.given
    assert unix.stored == {"results/a/1-0": b"1"}


async def test_what_was_taken_for_a_claim_that_is_void_waits_for_the_next_task(unix: World) -> None:
    sandbox = Answering("armed")
    await armed(unix, sandbox)
    unix.before = lambda: unix.land(Claimed("a", Lane.NORMAL, 0, 1, "other", "nonce"))
    await unix.run(envelope())
    assert not sandbox.given
    assert not sandbox.removed
    assert unix.pools.armed == {"f": 1}


async def test_an_armed_sandbox_that_dies_before_it_has_its_task_costs_the_task_nothing(unix: World) -> None:
    dead, alive = Answering("dead"), Answering("alive")
    await armed(unix, dead, alive)
    unix.before = lambda: dead.ends(lost=True)
    await unix.run(envelope(redeliver=False))
    assert kinds(unix) == ["Claimed", "Finished"]
    assert b"taskId" in alive.given
    assert [outcome.status for outcome in unix.outcomes] == [Status.COMPLETED]


async def test_an_armed_sandbox_that_is_lost_once_it_has_its_task_is_a_loss(unix: World) -> None:
    lost = Scripted("lost", SandboxSpec.of(FUNCTION)).says(ARMED)
    await armed(unix, lost, Answering("next"))
    running = asyncio.create_task(unix.run(envelope()))
    await until(unix, lambda: lost.given)
    lost.ends(lost=True)
    await running
    assert kinds(unix) == ["Claimed", "Claimed", "Finished"]


# --- which image


async def test_a_task_that_names_its_image_runs_on_that(unix: World) -> None:
    unix.runs(Process(b"1"))
    await unix.run(envelope(image="pinned"))
    assert [spec.image for spec in unix.launched] == ["pinned"]
    claim = unix.events[0]
    assert isinstance(claim, Claimed)
    assert claim.image == "pinned"


def in_two_versions(world: World) -> Function:
    """The function in two versions that run half of the tasks each."""
    entry = versions.deployed(None, world.functions["f"], 0)
    assert entry is not None
    entry = versions.deployed(entry, msgspec.structs.replace(entry, image="new", version="2"), 1)
    assert entry is not None
    world.functions["f"] = entry = versions.shared(entry, {"v1": 50, "v2": 50})
    return entry


async def test_a_task_runs_on_the_version_that_its_id_chooses(unix: World) -> None:
    chosen = versions.chosen(in_two_versions(unix), "a").image
    unix.runs(Process(b"1"))
    await unix.run(envelope())
    assert [spec.image for spec in unix.launched] == [chosen]
    assert [event.image for event in unix.events if isinstance(event, Claimed)] == [chosen]


@pytest.mark.parametrize("gets_tasks", [True, False])
async def test_a_further_attempt_stays_on_its_version_as_long_as_that_gets_tasks(
    unix: World, gets_tasks: bool
) -> None:
    entry = in_two_versions(unix)
    chosen = versions.chosen(entry, "a")
    own, other = versions.name_of(chosen), "v2" if chosen.number == 1 else "v1"
    unix.runs(Process(b"", lost=True), Process(b"1"))

    def shift() -> None:
        unix.functions["f"] = versions.shared(entry, {own: 1, other: 99} if gets_tasks else {other: 100})

    unix.before = shift
    await unix.run(envelope())
    first, second = (event.image for event in unix.events if isinstance(event, Claimed))
    assert first == chosen.image
    assert (second == chosen.image) == gets_tasks


# --- cancelling


async def cancel(world: World) -> None:
    """The client asks for the end, and the owner reads it."""
    await world.append_event(3, "a", encode(CancelRequested("a", Lane.NORMAL, 0)))


async def until(world: World, what: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not what():
            await asyncio.sleep(0)


async def test_a_task_that_runs_is_stopped_and_is_cancelled(unix: World) -> None:
    sandbox = Process(code=143, ended=False)
    unix.runs(sandbox)
    running = asyncio.create_task(unix.run(envelope()))
    await until(unix, lambda: unix.launched)
    await cancel(unix)
    await running
    assert sandbox.signals[0] == "SIGTERM"
    assert sandbox.removed
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]
    assert not unix.asked.letters


async def test_a_task_that_is_heard_of_by_another_way_is_stopped_too(unix: World) -> None:
    """Its partition is another's by now: no event of it is read here."""
    sandbox = Process(code=143, ended=False)
    unix.runs(sandbox)
    running = asyncio.create_task(unix.run(envelope()))
    await until(unix, lambda: unix.launched)
    unix.executor.cancel("a")
    await running
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]


async def test_a_task_is_cancelled_while_its_sandbox_is_being_launched(unix: World) -> None:
    """However long that takes: the engine may be away for hours."""
    unix.engine_is_well = False
    running = asyncio.create_task(unix.run(envelope()))
    await until(unix, lambda: len(unix.launched) > 2)
    await cancel(unix)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await running
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]
    assert not unix.held


async def test_a_task_of_another_machine_is_launched_once_it_is_claimed_and_by_its_fence(
    world: World,
) -> None:
    """It may take as long as a cloud has no room: a task that is claimed can be cancelled meanwhile."""
    world.functions["f"] = msgspec.structs.replace(FUNCTION, runtime="ecs")
    claimed: list[int] = []

    async def launch() -> Sandbox:
        claimed.append(len(world.events))
        raise SandboxesUnavailable("Capacity is unavailable at this time")

    world.launch_with = launch
    running = asyncio.create_task(world.run(envelope()))
    await until(world, lambda: len(world.launched) > 1)
    await cancel(world)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await running
    assert [outcome.status for outcome in world.outcomes] == [Status.CANCELLED]
    assert claimed[0] == 1
    assert {(spec.runtime, spec.fence) for spec in world.launched} == {("ecs", 0)}


async def test_a_task_is_cancelled_while_its_input_is_fetched(unix: World) -> None:
    fetching = asyncio.Event()

    async def get(key: str) -> bytes:
        fetching.set()
        await cancel(unix)
        return b"1"

    unix.get = get  # type: ignore[method-assign]
    digest = hashlib.sha256(b"1").hexdigest()
    await unix.run(envelope(payload_ref=BlobRef("payloads/a", 1, digest)))
    assert fetching.is_set()
    assert not unix.launched
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]


async def test_a_task_that_is_cancelled_before_its_claim_counts_gets_no_sandbox(unix: World) -> None:
    unix.before = lambda: unix.land(CancelRequested("a", Lane.NORMAL, 0))
    await unix.run(envelope())
    assert not unix.launched
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]


async def test_a_result_that_was_there_before_the_end_was_asked_for_stands(unix: World) -> None:
    unix.runs(Process(b"1"))

    async def put(key: str, data: bytes, content_type: str) -> BlobRef:
        await cancel(unix)
        return BlobRef(key, len(data), "")

    unix.put = put  # type: ignore[method-assign]
    await unix.run(envelope())
    assert [outcome.status for outcome in unix.outcomes] == [Status.COMPLETED]


async def test_a_task_that_fails_after_its_end_was_asked_for_is_not_tried_again(unix: World) -> None:
    sandbox = Process(code=1, ended=False)
    unix.runs(sandbox)
    running = asyncio.create_task(unix.run(envelope()))
    await until(unix, lambda: unix.launched)
    # It is not heard here, and only the fold tells.
    unix.executor.cancel = lambda _: None  # type: ignore[method-assign]
    await cancel(unix)
    sandbox.end.set()
    await running
    assert kinds(unix) == ["Claimed", "CancelRequested", "Finished"]
    assert [outcome.status for outcome in unix.outcomes] == [Status.CANCELLED]


# --- what breaks


async def test_an_attempt_that_breaks_before_its_claim_is_not_tried_again_at_once(unix: World) -> None:
    async def find(name: str, revision: int) -> Function | None:
        raise RuntimeError("a bug")

    unix.find = find  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await unix.run(envelope())
    assert unix.partition.next(Lane.NORMAL) is None
    assert list(unix.partition.held()) == []
    assert unix.partition.next(Lane.NORMAL) is not None


async def test_a_dispatcher_that_is_stopped_leaves_no_sandbox_that_is_being_launched(unix: World) -> None:
    launching = asyncio.Event()

    async def slow() -> Sandbox:
        launching.set()
        await asyncio.Event().wait()
        raise AssertionError

    unix.launch_with = slow
    before = asyncio.all_tasks()
    running = asyncio.create_task(unix.run(envelope()))
    await launching.wait()
    running.cancel()
    await asyncio.wait({running})
    assert asyncio.all_tasks() == before
