"""Dead letters: the tasks that failed for good, listed, run again, or purged."""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, get_args

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.acceptance import Acceptance
from gateway.access import principal_of
from gateway.errors import UNAVAILABLE, Problem
from gateway.limits.limits import claim_tasks
from gateway.models import FailureName, LetterSelection
from gateway.parameters import page_limit, parameters
from gateway.ports import Commands, ReadModel
from gateway.records import of_tenant
from gateway.reruns import Originals
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from gateway.times import milliseconds, time_parameter
from gateway.views import task_view
from mayfly.errors import BlobsUnavailable, LogUnavailable, MayflyError, ReadModelUnavailable
from mayfly.task import REDRIVE, Status, keyed_id

MOST: Final = 1000
"""Dead letters that one call takes on."""
SECONDS: Final = 20.0
"""After which a call takes on no further one: an answer that comes late may find nobody."""
Ids = list[str]
_LATER: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
"""What the next letter would meet as well."""
_ERROR_TYPES: Final[tuple[str, ...]] = get_args(FailureName)


class Batch(NamedTuple):
    """What a call came to: what was done, by letter, what failed, and how many letters are left."""

    done: list[tuple[str, str]]
    failed: list[dict[str, str]]
    remaining: int


class Letters:
    """The handlers of /dead-letters. The topic has them; the read model says which ones there are."""

    def __init__(
        self, acceptance: Acceptance, originals: Originals, commands: Commands, read_model: ReadModel
    ) -> None:
        self._acceptance = acceptance
        self._originals = originals
        self._commands = commands
        self._read_model = read_model

    async def list(self, request: Request) -> Response:
        given = parameters(request, "taskType", "errorType", "since", "until", "cursor", "limit")
        error_type = given.get("errorType")
        if error_type is not None and error_type not in _ERROR_TYPES:
            detail = f"errorType is one of {', '.join(_ERROR_TYPES)}."
            raise Problem("invalid_parameter", detail, field="errorType")
        since = time_parameter("since", given.get("since"))
        until = time_parameter("until", given.get("until"))
        limit = page_limit(given.get("limit"))
        try:
            records, cursor = await self._read_model.dead_letters(
                tenant=principal_of(request).tenant,
                task_type=given.get("taskType"),
                error_type=error_type,
                since=since,
                until=until,
                cursor=given.get("cursor"),
                limit=limit,
            )
        except ValueError as error:
            detail = "cursor is not one that a list gave as nextCursor."
            raise Problem("invalid_parameter", detail, field="cursor") from error
        return json_response({"tasks": [task_view(record) for record in records], "nextCursor": cursor})

    async def redrive(self, request: Request) -> Response:
        """A new task for each, on today's function; then its letter is purged."""
        batch = await self._each(request, "dead-letter.redrive", self._redrive, brings=True)
        redriven = [{"taskId": task_id, "newTaskId": new_id} for task_id, new_id in batch.done]
        return json_response({"redriven": redriven, "failed": batch.failed, "remaining": batch.remaining})

    async def purge(self, request: Request) -> Response:
        batch = await self._each(request, "dead-letter.purge", self._purge)
        purged = [task_id for task_id, _ in batch.done]
        return json_response({"purged": purged, "failed": batch.failed, "remaining": batch.remaining})

    async def _redrive(self, task_id: str, tenant: str) -> str:
        new_id = keyed_id(REDRIVE, task_id)
        record = await of_tenant(self._read_model, task_id, tenant)
        if not await self._read_model.has_dead_letter(task_id):
            if record is not None and await self._read_model.get(new_id) is not None:
                # It was redriven before, and whoever asked did not get the answer.
                return new_id
            raise _no_letter(task_id)
        if record is None:
            raise _no_letter(task_id)
        submission = await self._originals.submission(record, latest=True)
        await self._acceptance.accept_once(submission, new_id)
        # Only now: a letter is redriven again rather than lost.
        await self._forget(task_id)
        return new_id

    async def _purge(self, task_id: str, tenant: str) -> str:
        record = await of_tenant(self._read_model, task_id, tenant)
        if record is not None and await self._read_model.has_dead_letter(task_id):
            await self._forget(task_id)
            return task_id
        if record is None or record["status"] != Status.FAILED:
            raise _no_letter(task_id)
        # It had one, and whoever asked did not get the answer.
        return task_id

    async def _forget(self, task_id: str) -> None:
        # The topic first: what is only gone from the read model would come back with it.
        await self._commands.purge(task_id)
        await self._read_model.forget_dead_letter(task_id)

    async def _each(
        self,
        request: Request,
        action: str,
        do: Callable[[str, str], Awaitable[str]],
        *,
        brings: bool = False,
    ) -> Batch:
        """`brings`: each is a task more. Raises `Problem`, and where nothing was done yet, what broke."""
        parameters(request)
        tenant = principal_of(request).tenant
        chosen = await self._chosen(_selection(await json_body(request)), tenant)
        if chosen:
            await audit.record(request, action, targets=chosen[:MOST])
        done: list[tuple[str, str]] = []
        failed: list[dict[str, str]] = []
        until = time.monotonic() + SECONDS
        for task_id in chosen[:MOST]:
            if time.monotonic() > until:
                break
            try:
                if brings:
                    claim_tasks(request, len(done) + 1)
                done.append((task_id, await do(task_id, tenant)))
            except Problem as problem:
                if problem.status in _LATER and not (done or failed):
                    raise
                failed.append({"taskId": task_id, "code": problem.code, "detail": problem.detail})
                if problem.status in _LATER:
                    break
            except (LogUnavailable, ReadModelUnavailable, BlobsUnavailable) as error:
                if not (done or failed):
                    raise
                failed.append(_broken(task_id, error))
                break
        return Batch(done, failed, len(chosen) - len(done) - len(failed))

    async def _chosen(self, selection: LetterSelection, tenant: str) -> Ids:
        if selection.task_ids is not None:
            return [*dict.fromkeys(selection.task_ids)]
        return await self._read_model.dead_letter_ids(
            tenant=tenant,
            task_type=selection.task_type,
            error_type=selection.error_type,
            since=milliseconds(selection.since) if selection.since else None,
            until=milliseconds(selection.until) if selection.until else None,
        )


def _selection(body: Any) -> LetterSelection:
    selection = checked(LetterSelection, body, "invalid_body")
    criteria = (selection.task_type, selection.error_type, selection.since, selection.until)
    ways = (selection.task_ids is not None, any(one is not None for one in criteria), selection.all)
    if sum(ways) != 1:
        detail = (
            "Say which: taskIds; or some of taskType, errorType, since and until; or all, which is true. "
            "One of the three."
        )
        raise Problem("invalid_body", detail)
    return selection


def _no_letter(task_id: str) -> Problem:
    return Problem("unknown_dead_letter", f"There is no dead letter of {task_id[:64]!r}.")


def _broken(task_id: str, error: MayflyError) -> dict[str, str]:
    code = UNAVAILABLE[type(error)]
    return {"taskId": task_id, "code": code, "detail": "A part did not answer; ask again in a moment."}
