"""One attempt's life, top to bottom: claim, run, store, finish.

The order is what keeps the promise. The sandbox is launched while the claim is on its way, but gets
nothing of the task before the claim has counted; `Finished` is written only when what it names is stored;
the command is done only when the fold has counted `Finished`.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from dispatcher.inputs import Input, Inputs, Refused, environment_at_start
from dispatcher.invocation import Reply, invoke
from dispatcher.partition import Command, Partition, PartitionLost
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from mayfly.errors import BlobNotFound, BlobsUnavailable, LogUnavailable, MayflyError, SandboxLost
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import (
    JSON,
    MAX_LOSSES,
    NOTHING,
    BlobRef,
    Claim,
    Claimed,
    Event,
    FailureType,
    Finished,
    Log,
    Outcome,
    Result,
    encode,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
S3_AWAY: Final = "S3 is away: the attempt waits"


class EventLog(Protocol):
    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        """Raises `LogUnavailable`: the event may be there nevertheless."""


class Blobs(Protocol):
    """Both raise `BlobsUnavailable`; `get` raises `BlobNotFound`."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef: ...

    async def get(self, key: str) -> bytes: ...


class Catalog(Protocol):
    async def find(self, name: str, revision: int) -> Function | None:
        """Raises `LogUnavailable`."""


class Progress(Protocol):
    def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...


class Held(Protocol):
    """The fences that this process holds, as its heartbeat lists them."""

    held: set[tuple[int, int]]


class Executor:
    def __init__(
        self,
        dispatcher_id: str,
        settings: Settings,
        *,
        events: EventLog,
        blobs: Blobs,
        catalog: Catalog,
        runtime: Runtime,
        secrets: Mapping[str, str],
        progress: Progress,
        held: Held,
        on_outcome: Callable[[str, Outcome], None],
    ) -> None:
        self._id = dispatcher_id
        self._settings = settings
        self._events = events
        self._blobs = blobs
        self._catalog = catalog
        self._runtime = runtime
        self._inputs = Inputs(self, secrets=secrets, functions_dir=settings.functions_dir)
        self._progress = progress
        self._held = held
        self._on_outcome = on_outcome
        self.storing_fails = False
        """S3 does not take what attempts give: better to start no more of them."""

    async def run(self, partition: Partition, command: Command, claim: Claim) -> None:
        """See a command through: an attempt, and another when its sandbox was lost."""
        with structlog.contextvars.bound_contextvars(
            task_id=command.task_id, function=command.envelope.task_type, partition=partition.number
        ):
            again: Claim | None = claim
            lost: SandboxLost | None = None
            try:
                while again:
                    again, lost = await self._attempt(partition, command, again, lost)
            except PartitionLost:
                log.info("the partition was lost before the claim counted")
            finally:
                partition.put_back(command)

    async def _attempt(
        self, partition: Partition, command: Command, claim: Claim, before: SandboxLost | None
    ) -> tuple[Claim | None, SandboxLost | None]:
        """One attempt; `before` is why the one before it failed, if it did here.

        Returns the claim to go on with, and why, if infrastructure failed under this one.
        """
        function = await self._function(command)
        launching = self._launch_ahead(command, claim, function)
        fence: int | None = None
        try:
            fence = await self._claim(partition, command, claim, function)
            if fence is None:
                return None, None
            # From here on the heartbeat names the fence, and nobody takes the task over.
            self._held.held.add((partition.number, fence))
            try:
                outcome = await self._outcome(command, claim, fence, function, launching, before)
            except SandboxLost as lost:
                log.warning("the sandbox was lost", reason=str(lost), attempt=claim.attempt)
                await asyncio.sleep(BACKOFF_SECONDS[min(claim.losses, MAX_LOSSES)])
                return Claim(follows=fence, attempt=claim.attempt + 1, losses=claim.losses + 1), lost
            await self._finish(partition, command, claim, fence, outcome)
            return None, None
        finally:
            # First of all: a fence that the heartbeat went on to name would hold its task for ever.
            if fence is not None:
                self._held.held.discard((partition.number, fence))
            if launching is not None:
                await _discard(launching)

    async def _function(self, command: Command) -> Function | None:
        """None where there is none, or the command cannot be run whatever the function."""
        envelope = command.envelope
        if command.invalid:
            return None
        return await _insist(
            lambda: self._catalog.find(envelope.task_type, envelope.catalog_revision),
            LogUnavailable,
            "Kafka is away: the attempt waits",
        )

    # --- claim

    def _launch_ahead(
        self, command: Command, claim: Claim, function: Function | None
    ) -> "asyncio.Task[Sandbox] | None":
        """Start the sandbox while the claim is on its way, where nothing of the task goes into its start."""
        if command.invalid or function is None or claim.losses > MAX_LOSSES or function.contract != "python":
            return None
        return asyncio.create_task(self._launch(self._spec(command, function, function.env)))

    async def _claim(
        self, partition: Partition, command: Command, claim: Claim, function: Function | None
    ) -> int | None:
        """The fence, or None if another claim came first. Raises `PartitionLost`."""
        event = Claimed(
            task_id=command.task_id,
            lane=command.position.lane,
            offset=command.position.offset,
            attempt=claim.attempt,
            dispatcher=self._id,
            nonce=uuid.uuid4().hex,
            follows=claim.follows,
            image=function.image if function else None,
        )
        counted = partition.expect_claim(event.nonce)
        await self._append(partition, event, until=counted.done)
        return await counted

    # --- run

    async def _outcome(
        self,
        command: Command,
        claim: Claim,
        fence: int,
        function: Function | None,
        launching: "asyncio.Task[Sandbox] | None",
        before: SandboxLost | None,
    ) -> Outcome:
        """Raises `SandboxLost`."""
        began = _now()
        try:
            function, given = await self._input(command, claim, function, before)
        except Refused as refused:
            return Outcome(started_at=began, finished_at=_now(), failure=refused.failure)
        request = given.request(
            function,
            command.task_id,
            attempt=claim.attempt,
            timeout=command.envelope.timeout_seconds,
            settings=self._settings,
        )
        spec = self._spec(command, function, environment_at_start(function, request))
        sandbox = await (launching or self._launch(spec))
        try:

            def progressed(fraction: float, message: str) -> None:
                self._progress.progress(command.task_id, fence, fraction, message)

            reply = await invoke(sandbox, function.contract, request, on_progress=progressed)
        finally:
            await sandbox.remove()
        return await self._store(command, claim, fence, reply)

    async def _input(
        self, command: Command, claim: Claim, function: Function | None, before: SandboxLost | None
    ) -> tuple[Function, Input]:
        """Raises `Refused`."""
        if command.invalid:
            raise Refused(FailureType.INVALID, command.invalid)
        if claim.losses > MAX_LOSSES:
            message = f"infrastructure failed under {claim.losses} attempts"
            raise Refused(FailureType.LOST, f"{message}, last: {before}" if before else message)
        if function is None:
            name = command.envelope.task_type
            message = f"there is no function {name!r}: deploy its folder, then submit the task again"
            raise Refused(FailureType.INVALID, message)
        if function.network == "egress" and self._runtime.egress_refusal:
            raise Refused(FailureType.ERROR, self._runtime.egress_refusal)
        return function, await self._inputs.of(command.envelope, function)

    async def fetch(self, reference: BlobRef) -> bytes:
        """A payload from S3. Raises `Refused` when it is gone, or larger than payloads may be."""
        if reference.size > self._settings.payload_bytes:
            most = self._settings.payload_bytes
            raise Refused(FailureType.INVALID, f"the payload has {reference.size} bytes, and may have {most}")
        try:
            return await _insist(lambda: self._blobs.get(reference.key), BlobsUnavailable, S3_AWAY)
        except BlobNotFound as error:
            raise Refused(FailureType.INVALID, f"the payload is gone: {error}") from error

    def _spec(self, command: Command, function: Function, environment: dict[str, str]) -> SandboxSpec:
        return SandboxSpec(
            image=function.image,
            task_id=command.task_id,
            function=function.name,
            env=environment,
            limits=function.limits,
            network=function.network,
        )

    async def _launch(self, spec: SandboxSpec) -> Sandbox:
        """Raises `SandboxLost` when an engine that is well does not do it.

        One that is down or stuck is waited for: the function was given nothing yet, so nothing is lost.
        """
        delays = _backoff()
        while True:
            try:
                return await self._runtime.launch(spec)
            except SandboxLost as error:
                if await self._runtime.healthy():
                    raise
                log.warning("the engine is away: the attempt waits", reason=str(error))
                await asyncio.sleep(next(delays))

    # --- store

    async def _store(self, command: Command, claim: Claim, fence: int, reply: Reply) -> Outcome:
        """Put result and log where `Finished` will say that they are. Holds the slot while S3 is away."""
        place = f"{command.task_id}/{claim.attempt}-{fence}"
        result: Result | None = None
        kept: Log | None = None
        if reply.result is not None:
            data = reply.result
            blob = await self._put(f"results/{place}", data, reply.content_type)
            small = reply.content_type == JSON and len(data) <= self._settings.result_inline_bytes
            result = Result(blob, reply.content_type, inline=msgspec.Raw(data) if small else NOTHING)
        if reply.log:
            blob = await self._put(f"logs/{place}", reply.log, "text/plain; charset=utf-8")
            kept = Log(blob, reply.log_dropped)
        return Outcome(reply.started_at, reply.finished_at, result, reply.failure, kept)

    async def _put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        async def put() -> BlobRef:
            try:
                blob = await self._blobs.put(key, data, content_type)
            except BlobsUnavailable:
                self.storing_fails = True
                raise
            self.storing_fails = False
            return blob

        return await _insist(put, BlobsUnavailable, S3_AWAY)

    # --- finish

    async def _finish(
        self, partition: Partition, command: Command, claim: Claim, fence: int, outcome: Outcome
    ) -> None:
        event = Finished(command.task_id, fence, claim.attempt, outcome)
        counted = partition.expect_finish(command.task_id, fence)
        # A partition that was lost takes the event all the same: the fence is still ours.
        await self._append(partition, event, until=lambda: counted.done() and not counted.exception())
        try:
            if await counted:
                self._on_outcome(command.envelope.task_type, outcome)
                log.info("finished", status=outcome.status.value, attempt=claim.attempt)
            else:
                log.warning("the outcome is void: the task was taken over", attempt=claim.attempt)
        except PartitionLost:
            # The event is in the log; the new owner's fold decides.
            log.info("finished, and the partition has another owner", attempt=claim.attempt)

    async def _append(self, partition: Partition, event: Event, until: Callable[[], bool]) -> None:
        """Append until it is acknowledged, or until that has no more use. A second copy is void."""
        value = encode(event)
        for delay in _backoff():
            if until():
                return
            try:
                await self._events.append_event(partition.number, event.task_id, value)
            except LogUnavailable as error:
                log.warning("Kafka is away: the event waits", reason=str(error))
                await asyncio.sleep(delay)
            else:
                return


async def _insist(call: Callable[[], Awaitable[T]], away: type[MayflyError], told: str) -> T:
    """Call until it does not raise `away`; each time it does, the log is told."""
    delays = _backoff()
    while True:
        try:
            return await call()
        except away as error:
            log.warning(told, reason=str(error))
            await asyncio.sleep(next(delays))


def _backoff() -> Iterator[float]:
    yield from BACKOFF_SECONDS
    while True:
        yield BACKOFF_SECONDS[-1]


async def _discard(launching: "asyncio.Task[Sandbox]") -> None:
    """Remove a sandbox that was launched ahead, however far its launch has come."""
    launching.cancel()
    await asyncio.wait({launching})
    if not launching.cancelled() and launching.exception() is None:
        await launching.result().remove()


def _now() -> int:
    return time.time_ns() // 1_000_000
