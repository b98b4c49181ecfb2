"""The two clients: they do the I/O of `mayfly.client.calls`."""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import httpx

from mayfly import __version__
from mayfly.client import calls
from mayfly.client.calls import Answer, Bytes, Call, Filters, Pause, Request, TaskOptions
from mayfly.client.errors import ClientError, Unreachable
from mayfly.client.models import FunctionInfo, Page, Task, Worker

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8080"
CONNECT_SECONDS: Final = 5.0


def _base_url(url: str | None) -> httpx.URL:
    text = url or os.environ.get("MAYFLY_URL") or DEFAULT_URL
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ClientError(f"{text!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientError(f"{text!r} is no gateway's URL; one looks like {DEFAULT_URL}")
    return parsed


def _options(url: httpx.URL) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"user-agent": f"mayfly/{__version__}"},
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": url.host not in ("127.0.0.1", "::1", "localhost"),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.params),
        "headers": dict(request.headers),
        "content": request.content or None,
        "timeout": httpx.Timeout(request.timeout, connect=CONNECT_SECONDS),
    }


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def _unreachable(url: httpx.URL, error: httpx.RequestError) -> Unreachable:
    reasons: dict[type[httpx.RequestError], str] = {
        httpx.ConnectError: "nothing listens there, or its name is unknown",
        httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "no answer in time",
    }
    return Unreachable(str(url), reasons.get(type(error)) or str(error) or type(error).__name__)


class Client:
    """Talks to a gateway; any number of threads may share one. Use it as a context manager, or `close` it.

    Every method can raise `Unreachable`, `UnexpectedAnswer` and `ApiError`.
    """

    def __init__(self, url: str | None = None, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = _base_url(url)
        self._http = httpx.Client(transport=transport, **_options(self._url))

    @property
    def url(self) -> str:
        return str(self._url)

    def submit(self, task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Task:
        """Submit a task with a JSON `payload`, or with the option `data`; returns once it is durable.

        It is never tried again by itself: when the answer is lost, the task may have been accepted.
        A 503 names it in `ApiError.task_id`.
        """
        return self._drive(calls.submit(task_type, payload, **options))

    def get(self, task_id: str) -> Task:
        return self._drive(calls.get(task_id))

    def wait(self, task_id: str, timeout: float | None = None) -> Task:
        """The task once it has ended, however it ended. Raises `WaitTimeout` after `timeout` seconds."""
        return self._drive(calls.wait(task_id, timeout))

    def result(self, task_id: str, timeout: float | None = None) -> Any:
        """The result, waited for: the value of JSON, the bytes of any other content type.

        Raises `TaskFailed` with the function's own error, and `WaitTimeout` after `timeout` seconds.
        """
        return self._drive(calls.result(task_id, timeout))

    def result_bytes(self, task_id: str) -> Bytes:
        """The stored result of a completed task, as it is, with its content type."""
        return self._drive(calls.result_bytes(task_id))

    def logs(self, task_id: str) -> str:
        """What the last attempt that ended wrote to its log."""
        return self._drive(calls.logs(task_id))

    def map(self, task_type: str, payloads: Iterable[Any], *, concurrency: int = 16) -> Iterator[Any]:
        """A task for each payload; yields the results in the payloads' order.

        At most `concurrency` tasks are under way, and no more payloads are taken than that. The first task
        that failed raises `TaskFailed` in its turn, after which nothing more is submitted.
        """
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="mayfly-map")
        waiting: deque[Future[Any]] = deque()
        try:
            for payload in payloads:
                if len(waiting) == concurrency:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(self._drive, calls.run(task_type, payload)))
            while waiting:
                yield waiting.popleft().result()
        finally:
            # A caller that leaves early, or meets a failure, does not wait for what is still under way.
            pool.shutdown(wait=False, cancel_futures=True)

    def list(self, **filters: Unpack[Filters]) -> Iterator[Task]:
        """Tasks, newest first, page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = self.page(cursor=cursor, **filters)
            yield from page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return

    def page(self, *, cursor: str | None = None, **filters: Unpack[Filters]) -> Page:
        """One page of tasks, newest first, from the place that a page's `next_cursor` names."""
        return self._drive(calls.page(cursor=cursor, **filters))

    def functions(self) -> tuple[FunctionInfo, ...]:
        return self._drive(calls.functions())

    def function(self, name: str) -> FunctionInfo:
        return self._drive(calls.function(name))

    def workers(self) -> tuple[Worker, ...]:
        return self._drive(calls.workers())

    def readiness(self) -> dict[str, str]:
        """What the gateway needs, by name: `ready`, or why it is not."""
        return self._drive(calls.readiness())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = call.send(None)
                    continue
                try:
                    answer = _answer(self._http.request(**_arguments(step)))
                except httpx.RequestError as error:
                    step = call.throw(_unreachable(self._url, error))
                else:
                    step = call.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited. Use it with `async with`, or `await close()`."""

    def __init__(self, url: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = _base_url(url)
        self._http = httpx.AsyncClient(transport=transport, **_options(self._url))

    @property
    def url(self) -> str:
        return str(self._url)

    async def submit(self, task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Task:
        """See `Client.submit`."""
        return await self._drive(calls.submit(task_type, payload, **options))

    async def get(self, task_id: str) -> Task:
        return await self._drive(calls.get(task_id))

    async def wait(self, task_id: str, timeout: float | None = None) -> Task:  # noqa: ASYNC109
        """See `Client.wait`."""
        return await self._drive(calls.wait(task_id, timeout))

    async def result(self, task_id: str, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """See `Client.result`."""
        return await self._drive(calls.result(task_id, timeout))

    async def result_bytes(self, task_id: str) -> Bytes:
        """See `Client.result_bytes`."""
        return await self._drive(calls.result_bytes(task_id))

    async def logs(self, task_id: str) -> str:
        """See `Client.logs`."""
        return await self._drive(calls.logs(task_id))

    async def map(
        self, task_type: str, payloads: Iterable[Any], *, concurrency: int = 16
    ) -> AsyncIterator[Any]:
        """See `Client.map`."""
        waiting: deque[asyncio.Task[Any]] = deque()
        try:
            for payload in payloads:
                if len(waiting) == concurrency:
                    yield await waiting.popleft()
                waiting.append(asyncio.ensure_future(self._drive(calls.run(task_type, payload))))
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def list(self, **filters: Unpack[Filters]) -> AsyncIterator[Task]:
        """See `Client.list`."""
        cursor: str | None = None
        while True:
            page = await self.page(cursor=cursor, **filters)
            for task in page.tasks:
                yield task
            cursor = page.next_cursor
            if cursor is None:
                return

    async def page(self, *, cursor: str | None = None, **filters: Unpack[Filters]) -> Page:
        """See `Client.page`."""
        return await self._drive(calls.page(cursor=cursor, **filters))

    async def functions(self) -> tuple[FunctionInfo, ...]:
        return await self._drive(calls.functions())

    async def function(self, name: str) -> FunctionInfo:
        return await self._drive(calls.function(name))

    async def workers(self) -> tuple[Worker, ...]:
        return await self._drive(calls.workers())

    async def readiness(self) -> dict[str, str]:
        """See `Client.readiness`."""
        return await self._drive(calls.readiness())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _drive(self, call: Call[T]) -> T:
        try:
            step = next(call)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = call.send(None)
                    continue
                try:
                    answer = _answer(await self._http.request(**_arguments(step)))
                except httpx.RequestError as error:
                    step = call.throw(_unreachable(self._url, error))
                else:
                    step = call.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value
