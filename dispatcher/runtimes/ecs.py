"""The runtime `ecs`: a sandbox is a task of AWS ECS on Fargate, in a machine of its own, far from this one.

Nothing holds its streams: objects of the store carry them (`carried.py`), by presigned URLs, so that it has
no credential of anything. One poller asks ECS what became of all of them.

There is no host whose lock would tell a dead dispatcher's tasks. An attempt stops what runs of an earlier one
of its task (`fargate.py`), and what nobody looks after any more ends by itself (`mayfly_remote.py`).
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import structlog

from dispatcher.runtimes.base import Exit, SandboxSpec, Use
from dispatcher.runtimes.carried import Carried, Objects
from dispatcher.runtimes.fargate import BATCH, Fargate, State
from dispatcher.runtimes.streams import Readable
from mayfly.errors import BlobsUnavailable, IsolationRefused, SandboxesUnavailable, SandboxLost
from mayfly.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

POLL_SECONDS: Final = 2.0
"""Between two questions what became of the tasks."""
START_SECONDS: Final = 600.0
"""What starts no sooner is given up, and another is asked for."""
UNKNOWN_SECONDS: Final = 60.0
"""ECS may know nothing of a task for a while after it took it; later, the task is gone."""
RETRY_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 30.0
THREADS: Final = 16
"""Requests to ECS at once."""
STOPPED: Final = 143
"""The code of a process that was ended by SIGTERM, where nobody could tell the code."""


class EcsSandbox:
    """One task of ECS, used once."""

    def __init__(self, engine: "EcsRuntime", arn: str, carried: Carried) -> None:
        self.arn = arn
        self.name = arn.rsplit("/", 1)[-1]
        self._engine = engine
        self._carried = carried
        self._state: State | None = None
        self._news = asyncio.Event()
        self._told_to_stop = False
        self._exit: Exit | None = None
        self._lost: SandboxLost | None = None
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = [asyncio.create_task(carried.renew())]

    @property
    def stdout(self) -> Readable:
        return self._carried.streams.stdout

    @property
    def stderr(self) -> Readable:
        return self._carried.streams.stderr

    async def write(self, data: bytes) -> None:
        await self._carried.write(data)

    async def close_stdin(self) -> None:
        await self._carried.close_stdin()

    async def kill(self, signal: str = "SIGKILL") -> None:
        """ECS has one way to stop a task: SIGTERM, and SIGKILL in its own time."""
        if not self._told_to_stop:
            self._told_to_stop = True
            self._news.set()
            self._carried.hurry()
            # Who asks has a grace to keep: an answer of ECS is not waited for.
            self._engine.stop(self.arn, "the attempt is over, or its time is")

    async def wait(self) -> Exit:
        await self._over.wait()
        if self._exit is None:
            raise self._lost or SandboxLost("the ECS task was removed")
        return self._exit

    async def remove(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._end()
        self._engine.discard(self.arn, self._carried, over=self._state is not None and self._state.is_over)

    def tell(self, state: State) -> None:
        """What ECS says of it now."""
        self._state = state
        self._news.set()

    async def started(self) -> None:
        """Wait until it runs, and listen from then on. Raises `SandboxLost`, and `SandboxesUnavailable` where
        there is no room."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while self._state is None or not self._state.has_started:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise SandboxesUnavailable(f"ECS started no task in {START_SECONDS:g} s") from error
        if self._state.found_no_room:
            raise SandboxesUnavailable(f"ECS started no task: {self._state.reason}")
        if self._state.never_ran:
            raise SandboxLost(f"the ECS task did not start: {self._state.reason}")
        self._tasks.append(asyncio.create_task(self._follow()))

    async def _follow(self) -> None:
        """Until it is known how it ended: from itself, or, where it could not tell, from ECS."""
        following = asyncio.create_task(self._carried.follow())
        try:
            while not self._is_decided(following):
                self._news.clear()
                changed = asyncio.create_task(self._news.wait())
                await asyncio.wait(
                    {changed} if following.done() else {changed, following},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                changed.cancel()
            if not following.done():
                # It has said its last before it ended.
                await self._read_to_the_end()
            elif error := following.exception():
                log.error("listening to a remote sandbox broke", sandbox=self.name, exc_info=error)
        finally:
            following.cancel()
        self._decide()
        self._end()

    def _is_decided(self, following: "asyncio.Task[None]") -> bool:
        if self._state is not None and self._state.is_over:
            return True
        end = self._carried.end
        if not following.done():
            return False
        if end is None or self._told_to_stop:
            return True
        # What was ended there because its time is up is so by this machine's clock too, in a moment; and who
        # has sent a SIGKILL, for want of memory, ECS may know better.
        return not (end.late or end.told or (end.code == 137 and not end.oom))

    async def _read_to_the_end(self) -> None:
        while True:
            try:
                await self._carried.read()
            except BlobsUnavailable as error:
                log.warning("S3 is away: what a remote sandbox said last waits", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _decide(self) -> None:
        end, state = self._carried.end, self._state
        oom = state is not None and state.oom_killed
        if self._carried.broken is not None:
            self._lost = SandboxLost(f"the ECS task was lost: {self._carried.broken}")
        elif end is not None and not (end.told and not self._told_to_stop):
            self._exit = Exit(end.code, end.oom or oom)
        elif oom:
            self._exit = Exit(137, oom_killed=True)
        elif self._told_to_stop:
            self._exit = Exit(STOPPED, oom_killed=False)
        else:
            reason = state.reason if state is not None else ""
            self._lost = SandboxLost(f"the ECS task was lost: {reason or 'ECS does not say why'}")

    def _end(self) -> None:
        self._carried.streams.end()
        self._over.set()


class EcsRuntime:
    """`objects` is the store that carries the sandboxes' streams."""

    egress_refusal: str | None = None
    """What its tasks reach is the security groups' to say."""

    def __init__(self, settings: Settings, objects: Objects) -> None:
        self._settings = settings
        self._objects = objects
        self._fargate = Fargate(settings)
        self._threads = ThreadPoolExecutor(THREADS, "ecs")
        self._running: dict[str, EcsSandbox] = {}
        self._since: dict[str, float] = {}
        self._some = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._in_thread(self._fargate.start)
        self._poller = asyncio.create_task(self._poll())

    async def healthy(self) -> bool:
        """What it raises says whether it was ECS: it is not asked for that."""
        return True

    async def launch(self, spec: SandboxSpec) -> EcsSandbox:
        if spec.use is not Use.ONCE or spec.command is not None:
            raise IsolationRefused('runtime = "ecs" has isolation = "container" only')
        token = uuid.uuid4().hex
        carried = Carried(
            self._objects,
            token,
            env=spec.env,
            max_result=self._settings.result_bytes,
            max_log=self._settings.log_bytes,
        )
        try:
            orders = await carried.open()
        except BlobsUnavailable as error:
            raise SandboxesUnavailable(f"no task can be sent to ECS: {error}") from error
        made = asyncio.ensure_future(self._in_thread(lambda: self._fargate.run(spec, orders, token)))
        try:
            # A thread cannot be stopped: what a cancelled launch still starts has to be stopped.
            arn = await asyncio.shield(made)
        except asyncio.CancelledError:
            self._in_background(self._abandon(made, carried))
            raise
        except SandboxLost:
            self._in_background(self._remove(carried))
            raise
        sandbox = EcsSandbox(self, arn, carried)
        self._watch(sandbox)
        try:
            await sandbox.started()
        except BaseException:
            await sandbox.remove()
            raise
        return sandbox

    def stop(self, arn: str, reason: str) -> None:
        self._in_background(self._stop(arn, reason))

    def discard(self, arn: str, carried: Carried, *, over: bool) -> None:
        """Stop it, if it is not over, and remove its objects, for as long as that takes."""
        self._running.pop(arn, None)
        self._since.pop(arn, None)
        if not over:
            self.stop(arn, "its attempt is over")
        self._in_background(self._remove(carried))

    async def remove_orphans(self) -> int:
        """None: whose they are, no machine can tell. Each attempt looks for those of its own task."""
        return 0

    async def close(self) -> None:
        for sandbox in list(self._running.values()):
            await sandbox.remove()
        if self._poller is not None:
            self._poller.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        for task in self._background:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- what became of them

    def _watch(self, sandbox: EcsSandbox) -> None:
        self._running[sandbox.arn] = sandbox
        self._since[sandbox.arn] = asyncio.get_running_loop().time()
        self._some.set()

    async def _poll(self) -> None:
        while True:
            if not self._running:
                self._some.clear()
                await self._some.wait()
            arns = list(self._running)
            for at in range(0, len(arns), BATCH):
                await self._ask(arns[at : at + BATCH])
            await asyncio.sleep(POLL_SECONDS)

    async def _ask(self, arns: list[str]) -> None:
        try:
            told = await self._in_thread(lambda: self._fargate.describe(arns))
        except SandboxLost as error:
            log.warning("ECS does not say what became of its tasks", reason=str(error))
            return
        states = {state.arn: state for state in told}
        now = asyncio.get_running_loop().time()
        for arn in arns:
            sandbox = self._running.get(arn)
            state = states.get(arn)
            if state is None and now - self._since.get(arn, now) > UNKNOWN_SECONDS:
                state = State(arn, "STOPPED", "ECS does not know it any more")
            if sandbox is not None and state is not None:
                sandbox.tell(state)

    # --- what is left to do behind a task

    async def _abandon(self, made: "asyncio.Future[str]", carried: Carried) -> None:
        with contextlib.suppress(SandboxLost):
            await self._stop(await made, "its launch was given up")
        await self._remove(carried)

    async def _stop(self, arn: str, reason: str) -> None:
        while True:
            try:
                return await self._in_thread(lambda: self._fargate.stop(arn, reason))
            except SandboxesUnavailable as error:
                log.warning("ECS does not stop a task", arn=arn, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except SandboxLost:
                return None  # it is gone

    async def _remove(self, carried: Carried) -> None:
        while True:
            try:
                return await carried.remove()
            except BlobsUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _in_thread(self, request: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, request)
