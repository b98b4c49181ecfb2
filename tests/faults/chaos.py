"""One run: tasks and faults at once, then quiet, then the checks."""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from mayfly.audit.__main__ import audit
from mayfly.audit.ledger import Ledger
from mayfly.audit.log import LogReader
from mayfly.settings import Settings
from tests.faults.actors import Saboteur, Submitter, Watcher
from tests.faults.checks import Bounds, Evidence, Verdict, verdicts
from tests.faults.history import History
from tests.faults.schedule import Target, schedule
from tests.faults.stage import Stage

SETTLE_SECONDS: Final = 60.0
PROGRESS_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Plan:
    """What a run is: at least so many `tasks`, for at least so many `seconds`, at most so many open at once.

    Faults come for as long as tasks are submitted, but for `fault_seconds` at most. `patience` is how long,
    in seconds, the end of every task is waited for: longer than what is promised, so that a slow machine is
    told from a lost task.
    """

    seed: int
    tasks: int = 2000
    seconds: float = 600.0
    targets: Collection[Target] = tuple(Target)
    pauses: bool = True
    most_open: int = 200
    fault_seconds: float = 3600.0
    patience: float = 600.0
    bounds: Bounds = field(default_factory=Bounds)


class Chaos:
    def __init__(self, plan: Plan, stage: Stage, say: Callable[[str], None] = print) -> None:
        self.history = History(plan.seed)
        self._plan = plan
        self._stage = stage
        self._say = say
        self._watcher = Watcher(self.history, stage.url)

    async def run(self) -> list[Verdict]:
        """On a stage that is up; the stack is down afterwards."""
        await self._act()
        evidence = await self._evidence()
        return list(verdicts(evidence, self._plan.bounds))

    async def _act(self) -> None:
        plan, history = self._plan, self.history
        submitter = Submitter(
            history,
            self._stage.url,
            self._watcher,
            count=plan.tasks,
            seconds=plan.seconds,
            most=plan.most_open,
        )
        faults = itertools.takewhile(
            lambda fault: fault.at < plan.fault_seconds,
            schedule(plan.seed, plan.targets, pauses=plan.pauses),
        )
        saboteur = Saboteur(history, self._stage, faults, self._say)
        background = [
            asyncio.create_task(self._watcher.run()),
            asyncio.create_task(self._stage.keep_engine()),
            asyncio.create_task(self._tell_progress()),
        ]
        sabotage = asyncio.create_task(saboteur.run())
        try:
            await submitter.run()
            sabotage.cancel()
            await asyncio.gather(sabotage, return_exceptions=True)
            self._say(f"every task is submitted, no further fault; {self._watcher.open} are open")
            await self._until_quiet(background)
        finally:
            for one in (sabotage, *background):
                one.cancel()
            await asyncio.gather(sabotage, *background, return_exceptions=True)

    async def _until_quiet(self, background: list["asyncio.Task[None]"]) -> None:
        deadline = time.monotonic() + self._plan.patience
        while self._watcher.open and time.monotonic() < deadline:
            for one in background:
                if one.done():
                    # Raises what ended it.
                    one.result()
            await asyncio.sleep(0.1)
        if not self._watcher.open:
            self.history.quiet = time.monotonic()

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            accepted, ended = len(self.history.accepted), len(self.history.accepted) - self._watcher.open
            self._say(f"          {accepted} accepted, {ended} ended")

    async def _evidence(self) -> Evidence:
        settings = self._stage.settings
        ledger = await self._read_log(settings)
        report = await audit(settings, settle=SETTLE_SECONDS)
        stored = await self._stage.stored()
        # In order: a dispatcher that lives removes its own sandboxes, and what is left is nobody's.
        await asyncio.to_thread(self._stage.stop_stack)
        left = await asyncio.to_thread(self._stage.containers)
        return Evidence(self.history, ledger, report, stored, left)

    async def _read_log(self, settings: Settings) -> Ledger:
        """When nothing runs any more: also of the tasks of which no client was told that they were taken."""
        ledger, log = Ledger(), LogReader(settings)
        deadline = time.monotonic() + self._plan.patience
        while True:
            await asyncio.to_thread(log.read, ledger)
            if len(ledger.ended) >= len(ledger.accepted) or time.monotonic() > deadline:
                return ledger
            await asyncio.sleep(0.5)
