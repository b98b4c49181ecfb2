"""One attempt's life, top to bottom: a sandbox, claim, run, store, finish or let wait.

The order is what keeps the promise. Input and sandbox are there before the claim is made, so that no attempt
waits for them once it has begun, but the sandbox gets nothing of the task before the claim has counted;
`Finished` is written only when what it names is stored; the command is done only when the fold has counted
`Finished`, or keeps the task in a record.
"""

import asyncio
import codecs
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

import structlog

from dispatcher.aftermath import cancelled_outcome, losses_allowed, pause_after
from dispatcher.buffers import Command
from dispatcher.claims import BACKOFF_SECONDS, Claims, insist
from dispatcher.expectations import PartitionLost
from dispatcher.inputs import Input, Inputs, Refused, environment_at_start
from dispatcher.invocation import Reply, Request, invoke
from dispatcher.partition import Partition
from dispatcher.pools.pools import Pools
from dispatcher.repeats import Repeats
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from dispatcher.secrets import Secrets
from dispatcher.stop import Stop
from dispatcher.storing import Blobs, Store
from dispatcher.work import CANCELLED, Work
from mayfly.errors import (
    IsolationRefused,
    LogUnavailable,
    SandboxesUnavailable,
    SandboxLost,
    SandboxUnused,
)
from mayfly.events import Reason
from mayfly.faultpoints import FaultPoint, reached
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.steps import Claim
from mayfly.task import MAX_LOSSES, FailureType, Outcome
from mayfly.versions import chosen, pinned

log = structlog.get_logger(__name__)

NO_SANDBOX: Final = "no sandbox can be had: the attempt waits"


class Catalog(Protocol):
    async def find(self, name: str, revision: int) -> Function | None:
        """Raises `LogUnavailable`."""


class Watchers(Protocol):
    """What readers may see of an attempt while it runs."""

    def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...

    def log(self, task_id: str, fence: int, text: str) -> None: ...


class Ready(NamedTuple):
    """What an attempt that may run runs, and on what."""

    function: Function
    given: Input


class Executor:
    def __init__(
        self,
        settings: Settings,
        *,
        claims: Claims,
        repeats: Repeats,
        blobs: Blobs,
        catalog: Catalog,
        runtime: Runtime,
        pools: Pools,
        secrets: Secrets,
        watchers: Watchers,
        on_outcome: Callable[[str, Outcome], None],
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._repeats = repeats
        self._store = Store(blobs, settings)
        self._catalog = catalog
        self._runtime = runtime
        self._pools = pools
        self._inputs = Inputs(self._store, secrets=secrets, functions_dir=settings.functions_dir)
        self._watchers = watchers
        self._on_outcome = on_outcome
        self._stops: dict[str, Stop] = {}

    @property
    def storing_fails(self) -> bool:
        """S3 does not take what attempts give: better to start no more of them."""
        return self._store.fails

    def cancel(self, task_id: str) -> None:
        """Stop the task's attempt, if it runs here."""
        if stop := self._stops.get(task_id):
            stop.set()

    async def run(self, partition: Partition, work: Work) -> None:
        """See a command through: an attempt, and another when its sandbox was lost."""
        command = work.command
        assert command is not None
        with structlog.contextvars.bound_contextvars(
            task_id=command.task_id, function=command.envelope.task_type, partition=partition.number
        ):
            again: Work | None = work
            lost: SandboxLost | None = None
            try:
                while again:
                    again, lost = await self._attempt(partition, command, again, lost)
            except PartitionLost:
                log.info("the partition was lost before the claim counted")
            except Exception:
                # Not at once, or what breaks every time would be tried without end.
                partition.park(command)
                raise
            finally:
                partition.put_back(command)

    async def _attempt(
        self, partition: Partition, command: Command, work: Work, before: SandboxLost | None
    ) -> tuple[Work | None, SandboxLost | None]:
        """One attempt; `before` is why the one before it failed, if it did here.

        Returns the claim to go on with, and why, if infrastructure failed under this one.
        """
        claim = work.claim
        function = await self._function(command, claim)
        launching = self._launch_ahead(command, claim, function)
        try:
            ready = await self._ready(command, claim, function, before)
            if launching is not None and not launching.done() and not isinstance(ready, Refused):
                # However it ends: what it raises is the attempt's to tell.
                await asyncio.wait({launching})
            # Right before the claim, for it says what was known at that moment.
            if before is None and not await self._repeats.may_claim(partition, work):
                return None, None
            fence = await self._claims.claim(partition, work, function.image if function else None)
            if fence is None:
                return None, None
            # From here on the task's end may be asked for, whatever is waited for.
            with self._claims.holding(partition, fence), self._stoppable(command.task_id) as stop:
                try:
                    outcome = await self._outcome(partition, command, claim, fence, ready, launching, stop)
                except SandboxLost as lost:
                    log.warning("the sandbox was lost", reason=str(lost), attempt=claim.attempt)
                    await asyncio.sleep(BACKOFF_SECONDS[min(claim.losses, MAX_LOSSES)])
                    state = partition.state(command.task_id)
                    next_claim = Claim(fence, claim.attempt + 1, claim.losses + 1, state)
                    return work._replace(claim=next_claim), lost
                await self._let_go(partition, command, claim, fence, function, outcome)
            return None, None
        finally:
            if launching is not None:
                await _discard(launching)

    async def _function(self, command: Command, claim: Claim) -> Function | None:
        """The version that the task runs on; None where there is none, or the command cannot be run
        whatever the function."""
        envelope = command.envelope
        if command.invalid:
            return None
        entry = await insist(
            lambda: self._catalog.find(envelope.task_type, envelope.catalog_revision),
            LogUnavailable,
            "Kafka is away: the attempt waits",
        )
        if entry is None:
            return None
        if envelope.image is not None:
            return pinned(entry, envelope.image)
        return chosen(entry, command.task_id, claim.ran_on)

    def _launch_ahead(
        self, command: Command, claim: Claim, function: Function | None
    ) -> "asyncio.Future[Sandbox] | None":
        """Take a sandbox before the claim, where nothing of the task goes into its start."""
        if command.invalid or function is None or function.contract != "python":
            return None
        if function.runtime is not None:
            # It takes a minute, or as long as a cloud has no room: time in which the task can be cancelled.
            return None
        if claim.losses > losses_allowed(command, function):
            return None
        spec = SandboxSpec.of(function, command.task_id, tenant=command.envelope.tenant)
        if (sandbox := self._pools.at_hand(function, spec)) is None:
            return asyncio.create_task(self._take(function, spec))
        taken: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        taken.set_result(sandbox)
        return taken

    # --- run

    async def _outcome(
        self,
        partition: Partition,
        command: Command,
        claim: Claim,
        fence: int,
        ready: Ready | Refused,
        launching: "asyncio.Future[Sandbox] | None",
        stop: Stop,
    ) -> Outcome:
        """Raises `SandboxLost`."""
        began = _now()
        try:
            if _cancelled(partition, command.task_id):
                raise Refused.by(CANCELLED)
            if isinstance(ready, Refused):
                raise ready
            reply = await self._reply(command, claim, fence, ready, launching, stop)
        except Refused as refused:
            return Outcome(began, _now(), failure=refused.failure)
        reached(FaultPoint.RAN)
        outcome = await self._store.outcome(f"{command.task_id}/{claim.attempt}-{fence}", reply)
        reached(FaultPoint.STORED)
        return outcome

    async def _reply(
        self,
        command: Command,
        claim: Claim,
        fence: int,
        ready: Ready,
        launching: "asyncio.Future[Sandbox] | None",
        stop: Stop,
    ) -> Reply:
        """Raises `Refused`, and `SandboxLost`."""
        function, given = ready
        request = given.request(
            function,
            command.task_id,
            attempt=claim.attempt,
            timeout=command.envelope.timeout_seconds,
            settings=self._settings,
        )
        while not stop.is_set():
            if launching is None:
                env = environment_at_start(function, request)
                spec = SandboxSpec.of(
                    function, command.task_id, env, tenant=command.envelope.tenant, fence=fence
                )
                launching = asyncio.create_task(self._take(function, spec))
            sandbox = await self._taken(launching, stop)
            log.info("runs", sandbox=sandbox.name, attempt=claim.attempt)
            try:
                return await self._invoke(sandbox, function, request, fence, stop)
            except SandboxUnused:
                launching = None  # it was given nothing: the task takes another
            finally:
                await sandbox.remove()
        raise Refused.by(CANCELLED)

    @contextmanager
    def _stoppable(self, task_id: str) -> Iterator[Stop]:
        stop = self._stops[task_id] = Stop()
        try:
            yield stop
        finally:
            if self._stops.get(task_id) is stop:
                del self._stops[task_id]

    async def _invoke(
        self, sandbox: Sandbox, function: Function, request: Request, fence: int, stop: Stop
    ) -> Reply:
        """Raises `SandboxLost`."""
        task_id, watchers = request.task_id, self._watchers
        lines = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return await invoke(
            sandbox,
            function.contract,
            request,
            stop=stop,
            on_progress=lambda fraction, message: watchers.progress(task_id, fence, fraction, message),
            on_log=lambda chunk: watchers.log(task_id, fence, lines.decode(chunk)),
        )

    async def _taken(self, launching: "asyncio.Future[Sandbox]", stop: Stop) -> Sandbox:
        """Raises `Refused` if the stop comes first, and what `_take` raises."""
        if launching.done():
            return launching.result()
        try:
            async with stop.within(None):
                await asyncio.wait({launching})
        finally:
            if not (taken := launching.done()):
                await _discard(launching)
        if not taken:
            raise Refused.by(CANCELLED)
        return launching.result()

    async def _ready(
        self, command: Command, claim: Claim, function: Function | None, before: SandboxLost | None
    ) -> Ready | Refused:
        try:
            return await self._input(command, claim, function, before)
        except Refused as refused:
            return refused

    async def _input(
        self, command: Command, claim: Claim, function: Function | None, before: SandboxLost | None
    ) -> Ready:
        """Raises `Refused`."""
        if command.invalid:
            raise Refused(FailureType.INVALID, command.invalid)
        if claim.losses > losses_allowed(command, function):
            message = f"infrastructure failed under {claim.losses} attempts"
            raise Refused(FailureType.LOST, f"{message}, last: {before}" if before else message)
        if function is None:
            name = command.envelope.task_type
            message = f"there is no function {name!r}: deploy its folder, then submit the task again"
            raise Refused(FailureType.INVALID, message)
        if function.network == "egress" and function.runtime is None and self._runtime.egress_refusal:
            raise Refused(FailureType.ERROR, self._runtime.egress_refusal)
        return Ready(function, await self._inputs.of(command.envelope, function))

    async def _take(self, function: Function, spec: SandboxSpec) -> Sandbox:
        """Waits while none can be had: the function was given nothing yet, so nothing is lost.

        Raises `SandboxLost` when an engine that is well does not give one, `Refused` when it never will.
        """
        try:
            return await insist(lambda: self._pools.take(function, spec), SandboxesUnavailable, NO_SANDBOX)
        except IsolationRefused as error:
            raise Refused(FailureType.ERROR, str(error)) from error

    # --- finish, or let wait

    async def _let_go(
        self,
        partition: Partition,
        command: Command,
        claim: Claim,
        fence: int,
        function: Function | None,
        outcome: Outcome,
    ) -> None:
        outcome = cancelled_outcome(outcome) if _cancelled(partition, command.task_id) else outcome
        pause = pause_after(command, claim, function, outcome)
        task_id, attempt = command.task_id, claim.attempt
        try:
            if pause is None:
                counts = await self._claims.finish(partition, task_id, fence, attempt, outcome)
            else:
                due = _now() + int(pause * 1000)
                counts = await self._claims.defer(
                    partition, task_id, fence, attempt, reason=Reason.RETRY, due=due, outcome=outcome
                )
        except PartitionLost:
            # The event is in the log; the new owner's fold decides.
            log.info("finished, and the partition has another owner", attempt=attempt)
            return
        if not counts:
            log.warning("the outcome is void: the task was taken over", attempt=attempt)
            return
        self._on_outcome(command.envelope.task_type, outcome)
        if pause is None:
            log.info("finished", status=outcome.status.value, attempt=attempt)
        else:
            log.info("failed, to be tried again", attempt=attempt, seconds=round(pause, 3))


def _cancelled(partition: Partition, task_id: str) -> bool:
    state = partition.state(task_id)
    return state is not None and state.cancelled


async def _discard(launching: "asyncio.Future[Sandbox]") -> None:
    """Give back a sandbox that was taken ahead, or leave none of it, however far its launch has come."""
    if not launching.done():
        launching.cancel()
        await asyncio.wait({launching})
    if not launching.cancelled() and launching.exception() is None:
        await launching.result().remove()


def _now() -> int:
    return time.time_ns() // 1_000_000
