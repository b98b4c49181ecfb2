"""Batches: many tasks in one request, each accepted or refused for itself, and how many of them have come to
what."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.acceptance import Acceptance, Accepted
from gateway.access import principal_of
from gateway.errors import CODES, UNAVAILABLE, Problem
from gateway.items import Item, items
from gateway.models import STATUSES
from gateway.parameters import idempotency_key, parameters
from gateway.ports import ReadModel
from gateway.responses import json_response
from gateway.submissions import task_in
from mayfly.errors import MayflyError
from mayfly.settings import MIB, Settings
from mayfly.task import TERMINAL, is_task_id, new_task_id, part_id

AT_ONCE: Final = 100
"""Tasks of one batch that are on their way into the log at once."""
BYTES_AT_ONCE: Final = 8 * MIB
"""What those may have together; one alone may have more."""
Answer = dict[str, Any]


class Batches:
    """The handlers of /tasks/batch and /batches."""

    def __init__(self, settings: Settings, acceptance: Acceptance, read_model: ReadModel) -> None:
        self._settings = settings
        self._acceptance = acceptance
        self._read_model = read_model

    async def submit(self, request: Request) -> Response:
        """What was accepted before the body turned out to be unreadable stays accepted, and is answered."""
        parameters(request)
        sending = _Sending(
            self._settings, self._acceptance, principal_of(request).tenant, idempotency_key(request)
        )
        stopped: Problem | None = None
        async with asyncio.TaskGroup() as group:
            try:
                async for item in items(request, self._settings):
                    await sending.take(item, group)
            except Problem as problem:
                stopped = problem
            except ClientDisconnect:
                # Nobody hears the answer; what is under way comes to its end.
                stopped = Problem("invalid_request", "The body broke off.")
        if not sending.answers and stopped is None:
            stopped = Problem("invalid_body", "The batch has no task in it.")
        refusal = stopped or sending.away
        if refusal is not None and not sending.may_have_made:
            raise refusal
        return _answer(sending, stopped)

    async def get(self, request: Request) -> Response:
        wanted = parameters(request, "status").get("status")
        if wanted is not None and wanted not in STATUSES:
            raise Problem("invalid_parameter", f"status is one of {', '.join(STATUSES)}.", field="status")
        batch_id: str = request.path_params["batch_id"]
        tasks: dict[str, str] = {}
        if is_task_id(batch_id):
            tasks = await self._read_model.batch(principal_of(request).tenant, batch_id)
        if not tasks:
            raise Problem("unknown_batch", f"There is no batch {batch_id[:64]!r} with a task in it.")
        counts = Counter(tasks.values())
        view: dict[str, Any] = {
            "batchId": batch_id,
            "tasks": len(tasks),
            "ended": sum(counts[status] for status in TERMINAL),
            "statuses": {status: counts[status] for status in STATUSES},
        }
        if wanted is not None:
            view["taskIds"] = [task_id for task_id, status in tasks.items() if status == wanted]
        return json_response(view)


class _Sending:
    """A batch on its way into the log. `answers` has one for each item, in the items' order."""

    def __init__(self, settings: Settings, acceptance: Acceptance, tenant: str, key: str | None) -> None:
        self.batch_id = new_task_id() if key is None else part_id(tenant, key, "batch")
        self.answers: list[Answer] = []
        self.away: Problem | None = None
        """Set when what every task needs is not there: no further one is tried then."""
        self._settings = settings
        self._acceptance = acceptance
        self._tenant = tenant
        self._key = key
        self._window = Window(AT_ONCE, BYTES_AT_ONCE)

    @property
    def may_have_made(self) -> bool:
        """Whether a task was accepted, or may have been."""
        return any("task" in answer or "taskId" in answer["problem"] for answer in self.answers)

    async def take(self, item: Item, group: asyncio.TaskGroup) -> None:
        """Returns when there is room for the next one."""
        index = len(self.answers)
        self.answers.append({})
        if isinstance(item, Problem):
            self.answers[index] = _refused(item)
            return
        await self._window.enter(len(item))
        group.create_task(self._accept(index, item))

    async def _accept(self, index: int, body: bytes) -> None:
        try:
            if self.away is not None:
                detail = "Not tried, since a task before it could not be accepted."
                self.answers[index] = _refused(Problem(self.away.code, detail))
            else:
                self.answers[index] = _accepted(await self._submit(index, body))
        except Problem as problem:
            if problem.code in UNAVAILABLE.values():
                self.away = Problem(problem.code, problem.detail)
            self.answers[index] = _refused(problem)
        except tuple(UNAVAILABLE) as error:
            self.answers[index] = _refused(self._unavailable(error))
        finally:
            self._window.leave(len(body))

    async def _submit(self, index: int, body: bytes) -> Accepted:
        submission = await task_in(body, self._tenant, self._settings)
        submission = submission.in_batch(self.batch_id)
        if self._key is None:
            return await self._acceptance.accept(submission)
        task_id = part_id(self._tenant, self._key, str(index))
        return await self._acceptance.accept_once(submission, task_id)

    def _unavailable(self, error: MayflyError) -> Problem:
        code = UNAVAILABLE[type(error)]
        self.away = Problem(code, f"{CODES[code].title}; try again in a moment.")
        return self.away


class Window:
    """So many at once, of so many bytes together; one alone may have more. One coroutine enters."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._count = self._bytes = 0
        self._changed = asyncio.Event()

    async def enter(self, size: int) -> None:
        while self._count and (self._count >= self._most or self._bytes + size > self._most_bytes):
            self._changed.clear()
            await self._changed.wait()
        self._count += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._changed.set()


def _answer(sending: _Sending, stopped: Problem | None) -> Response:
    accepted = _count(sending.answers)
    body: Answer = {
        "batchId": sending.batch_id if accepted else None,
        "accepted": accepted,
        "refused": len(sending.answers) - accepted,
        "items": sending.answers,
    }
    headers = {}
    if stopped is not None:
        body["stopped"] = {"status": stopped.status, "code": stopped.code, "detail": stopped.detail}
        # The rest of the body is not waited for, so the connection is of no further use.
        headers["connection"] = "close"
    return json_response(body, 200, headers)


def _count(answers: Sequence[Answer]) -> int:
    return sum("task" in answer for answer in answers)


def _accepted(accepted: Accepted) -> Answer:
    return {"status": 202, "task": {"taskId": accepted.task_id, "status": accepted.status}}


def _refused(problem: Problem) -> Answer:
    said = {"code": problem.code, "detail": problem.detail}
    if problem.field is not None:
        said["field"] = problem.field
    return {"status": problem.status, "problem": said | problem.members}
