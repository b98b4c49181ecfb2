"""An attempt's life where it does not go as it should: what is let go, what is never repeated, what waits."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from owner_world import Told, owner, world

from dispatcher.buffers import Command
from dispatcher.claims import Claims
from dispatcher.executor import Executor
from dispatcher.repeats import Repeats
from dispatcher.runtimes.base import Sandbox, SandboxSpec
from mayfly.adapters.kafka import MAX_MESSAGE_BYTES
from mayfly.errors import BlobNotFound, BlobsUnavailable, SandboxLost
from mayfly.events import Claimed, Event, Finished, decode_event
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import BlobRef, Envelope, Failure, FailureType, Lane, Outcome, Position

DEADLINE_SECONDS = 30.0
FUNCTION = Function(name="f", image="i", version="v")


class World:
    """The parts around an executor: a log that is read back at once, and the rest as a test wants it."""

    def __init__(self, tmp_path: Path) -> None:
        self.told = Told()
        self.partition = owner(world(self.told))
        self.events: list[Event] = []
        self.held: set[tuple[int, int]] = set()
        self.functions = {"f": FUNCTION}
        self.outcomes: list[Outcome] = []
        self.launch_with: Callable[[], Awaitable[Sandbox]] = self.no_sandbox
        self.get_with: Callable[[], bytes] = self.no_blob
        claims = Claims("me", self, self)
        self.executor = Executor(
            Settings(state_dir=tmp_path),
            claims=claims,
            repeats=Repeats(self, self),
            blobs=self,
            catalog=self,
            runtime=self,  # type: ignore[arg-type]
            secrets={},
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
        return await self.launch_with()

    async def healthy(self) -> bool:
        return True

    async def no_sandbox(self) -> Sandbox:
        raise SandboxLost("there is none")

    # --- the store

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        raise AssertionError("nothing to store")

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
        # By now the claim may or may not have counted; what follows must not be claimed here.
        while not world.events:
            await asyncio.sleep(0)
        world.partition.drop()
        raise SandboxLost("gone")

    world.launch_with = lost
    await world.run(envelope())
    assert len(world.events) == 1
    assert not world.held


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
