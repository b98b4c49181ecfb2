"""Functions: what is deployed, and whether a task is one that they take."""

import difflib
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import Problem
from gateway.parameters import parameters
from gateway.ports import Catalog
from gateway.responses import json_response
from gateway.submissions import Submission
from gateway.views import function_view
from mayfly.function import Function
from mayfly.payload import InvalidSchema, PayloadSchemas
from mayfly.versions import chosen, queues

DEFAULT_QUEUE: Final = "default"


class Functions:
    """The handlers of /functions, and the check of each task. `is_read` says whether the catalog is there."""

    def __init__(self, catalog: Catalog, is_read: Callable[[], bool]) -> None:
        self._catalog = catalog
        self._is_read = is_read
        self._schemas = PayloadSchemas()

    @property
    def revision(self) -> int:
        return self._catalog.revision

    def deployed(self) -> list[Function]:
        """By name, without those whose folder is gone."""
        return [function for function in self._catalog.all() if not function.retired]

    def accepting(self, submission: Submission, task_id: str = "") -> Function:
        """The version that a task of that id runs on, if it takes that payload, in a queue that there is.

        Raises `Problem`.
        """
        entry = self._find(submission.task_type)
        if entry is None:
            raise Problem("unknown_task_type", self._unknown(submission.task_type), field="taskType")
        function = chosen(entry, task_id)
        if submission.queue is not None:
            self._check_queue(submission.queue)
        if submission.image is not None:
            # A re-run on the image of then: today's schema says nothing about it.
            return function
        if submission.upload is not None:
            if not function.accepts_bytes:
                detail = f"{function.name} takes JSON only: give it a payload, not an upload."
                raise Problem("unsupported_media_type", detail, field="upload")
        elif submission.is_json:
            self._check(function, submission)
        elif not function.accepts_bytes:
            detail = f"{function.name} takes JSON only: send application/json."
            raise Problem("unsupported_media_type", detail, field="Content-Type")
        return function

    async def list(self, request: Request) -> Response:
        parameters(request)
        self.require_catalog()
        return json_response({"functions": [function_view(function) for function in self.deployed()]})

    async def get(self, request: Request) -> Response:
        parameters(request)
        return json_response(function_view(self.known(request.path_params["name"])))

    def known(self, name: str) -> Function:
        """The entry of that name. Raises `Problem`."""
        function = self._find(name)
        if function is None:
            raise Problem("unknown_function", self._unknown(name))
        return function

    def _find(self, name: str) -> Function | None:
        function = self._catalog.get(name)
        if function is not None and not function.retired:
            return function
        # Only the whole catalog can tell that a function is not there.
        self.require_catalog()
        return None

    def require_catalog(self) -> None:
        """Raises `Problem`."""
        if not self._is_read():
            raise Problem("catalog_unavailable", "The catalog is still being read; try again in a moment.")

    def _check_queue(self, queue: str) -> None:
        """A queue that no function names has no dispatcher, and a task in it would wait for ever."""
        there = sorted({DEFAULT_QUEUE, *queues(self.deployed())})
        if queue not in there:
            self.require_catalog()
            detail = f'There is no queue "{queue}"; there are {", ".join(there)}.'
            raise Problem("unknown_queue", detail, field="queue", queues=there)

    def _unknown(self, name: str) -> str:
        shown = f'"{name[:64]}"'
        if (function := self._catalog.get(name)) and function.retired:
            return f"The function {shown} was taken away."
        close = difflib.get_close_matches(name[:64], [function.name for function in self.deployed()], n=1)
        hint = f'Did you mean "{close[0]}"?' if close else "GET /functions lists those that there are."
        return f"There is no function {shown}. {hint}"

    def _check(self, function: Function, submission: Submission) -> None:
        try:
            fault = self._schemas.fault(function, submission.value)
        except InvalidSchema as error:
            raise Problem("broken_function", f"The schema of {function.name} is none: {error}") from error
        if fault is not None:
            raise Problem("invalid_payload", f"{fault.field}: {fault.message}", field=fault.field)
