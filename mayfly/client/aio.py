"""The client for asyncio: it does the I/O of `mayfly.client.calls`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from mayfly.client import (
    audit_log,
    batches,
    calls,
    dead_letters,
    deployments,
    identity,
    invocation,
    secrets,
    submission,
    uploads,
)
from mayfly.client.audit_log import AuditFilters, AuditRecord
from mayfly.client.batches import Batch, Payloads, Submitted
from mayfly.client.blocking import CONCURRENCY, WATCHERS
from mayfly.client.calls import Bytes, Filters
from mayfly.client.dead_letters import DeadLetterFilters, Selection
from mayfly.client.deployments import Catalog, Deployed, Traffic
from mayfly.client.events import Change, ChangeStream, Event, EventStream, Resumed
from mayfly.client.identity import Key, Limits, NewKey, Tenant, Tenants, Token, User
from mayfly.client.models import FunctionInfo, Page, Purge, Rebuild, Redrive, Task, Worker
from mayfly.client.secrets import Rotation, Secret, WebhookSecret
from mayfly.client.submission import TaskOptions
from mayfly.client.target import require_private, target
from mayfly.client.transport import answer, arguments, cut_short, options, unreachable
from mayfly.client.uploads import FileLike, ResultUrl
from mayfly.client.wire import ANSWER_SECONDS, Call, Pause
from mayfly.function import Function
from mayfly.task import Status

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited. Use it with `async with`, or `await close()`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        profile: str | None = None,
        timeout: float = ANSWER_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        found = target(url, api_key=api_key, token=token, profile=profile)
        self._url = found.url
        self._timeout = timeout
        self._http = httpx.AsyncClient(transport=transport, **options(found, timeout))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        return str(self._url)

    async def submit(self, task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Task:
        """See `Client.submit`."""
        return await self._drive(submission.submit(task_type, payload, **options))

    async def upload(self, file: FileLike, content_type: str | None = None) -> str:
        """See `Client.upload`."""
        with uploads.source(file, content_type) as source:
            sha256 = await asyncio.to_thread(source.sha256)
            upload = await self._drive(uploads.create(source, sha256))
            async with httpx.AsyncClient(**uploads.store_options(upload)) as store:
                request = uploads.store_request(upload, source)
                try:
                    answered = await store.request(**request, content=source.chunks_async())
                except httpx.RequestError as error:
                    raise unreachable(httpx.URL(upload.url).copy_with(query=None), error) from error
        uploads.check(answered)
        return upload.upload_id

    async def result_url(self, task_id: str) -> ResultUrl:
        """See `Client.result_url`."""
        return await self._drive(uploads.result_url(task_id))

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

    async def logs(self, task_id: str, attempt: int | None = None) -> str:
        """See `Client.logs`."""
        return await self._drive(calls.logs(task_id, attempt))

    def events(self, task_id: str) -> AsyncIterator[Event]:
        """See `Client.events`."""
        return self._follow(EventStream(task_id))

    def stream(
        self,
        *,
        task_type: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        last_event_id: str | None = None,
    ) -> AsyncIterator[Change]:
        """See `Client.stream`."""
        return self._follow(ChangeStream(task_type, status, tag, last_event_id))

    async def _follow(self, stream: Resumed[T]) -> AsyncIterator[T]:
        while True:
            try:
                async with self._http.stream(**arguments(stream.request(), self._timeout)) as response:
                    if stream.opens(response.status_code, response.headers):
                        async for chunk in response.aiter_bytes():
                            for event in stream.feed(chunk):
                                yield event
                            if stream.ended:
                                return
                        pause = stream.broken(cut_short(self._url))
                    else:
                        await response.aread()
                        pause = stream.refused(answer(response))
            except httpx.RequestError as error:
                silent = isinstance(error, httpx.ReadTimeout)
                pause = stream.broken(unreachable(self._url, error), silent=silent)
            await asyncio.sleep(pause.seconds)

    async def cancel(self, task_id: str) -> Task:
        """See `Client.cancel`."""
        return await self._drive(calls.cancel(task_id))

    async def rerun(self, task_id: str, *, latest: bool = False) -> Task:
        """See `Client.rerun`."""
        return await self._drive(calls.rerun(task_id, latest=latest))

    async def submit_many(
        self,
        task_type: str,
        payloads: Iterable[Any],
        *,
        chunk: int = batches.CHUNK,
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[Submitted]:
        """See `Client.submit_many`."""
        gathered = Payloads(task_type, payloads, options)
        while lines := gathered.take(chunk):
            for one in await self._drive(gathered.submit(lines)):
                yield one

    async def batch(self, batch_id: str, status: Status | None = None) -> Batch:
        """See `Client.batch`."""
        return await self._drive(batches.get(batch_id, status))

    async def invoke(
        self, function: str, payload: Any = None, *, wait: float | None = None, **options: Unpack[TaskOptions]
    ) -> Any:
        """See `Client.invoke`."""
        return calls.value_of(await self.invoke_bytes(function, payload, wait=wait, **options))

    async def invoke_bytes(
        self, function: str, payload: Any = None, *, wait: float | None = None, **options: Unpack[TaskOptions]
    ) -> Bytes:
        """See `Client.invoke_bytes`."""
        return await self._drive(invocation.invoke(function, payload, wait=wait, **options))

    async def map(
        self, task_type: str, payloads: Iterable[Any], *, concurrency: int = CONCURRENCY
    ) -> AsyncIterator[Any]:
        """See `Client.map`."""
        gathered = Payloads(task_type, payloads, {})
        watchers = asyncio.Semaphore(WATCHERS)
        waiting: deque[asyncio.Task[Any]] = deque()
        more = True
        try:
            while True:
                room = concurrency - len(waiting)
                if more and room >= max(1, concurrency // 2):
                    lines = gathered.take(min(room, batches.CHUNK), batches.PATIENCE_SECONDS)
                    more = bool(lines)
                    if lines:
                        for one in await self._drive(gathered.submit(lines)):
                            waiting.append(asyncio.ensure_future(self._result(one, watchers)))
                        continue
                if not waiting:
                    return
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _result(self, submitted: Submitted, watchers: asyncio.Semaphore) -> Any:
        task = submitted.accepted()
        async with watchers:
            return await self._drive(calls.result(task.task_id))

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

    async def dead_letters(
        self, *, limit: int | None = None, **filters: Unpack[DeadLetterFilters]
    ) -> AsyncIterator[Task]:
        """See `Client.dead_letters`."""
        cursor: str | None = None
        while True:
            page = await self._drive(dead_letters.page(cursor=cursor, limit=limit, **filters))
            for task in page.tasks:
                yield task
            cursor = page.next_cursor
            if cursor is None:
                return

    async def redrive(self, **selection: Unpack[Selection]) -> Redrive:
        """See `Client.redrive`."""
        return await self._drive(dead_letters.redrive(**selection))

    async def purge(self, **selection: Unpack[Selection]) -> Purge:
        """See `Client.purge`."""
        return await self._drive(dead_letters.purge(**selection))

    async def functions(self) -> tuple[FunctionInfo, ...]:
        return await self._drive(calls.functions())

    async def function(self, name: str) -> FunctionInfo:
        return await self._drive(calls.function(name))

    async def catalog(self) -> Catalog:
        """See `Client.catalog`."""
        return await self._drive(deployments.catalog())

    async def deploy(self, function: Function, *, traffic: bool = True) -> Deployed:
        """See `Client.deploy`."""
        return await self._drive(deployments.deploy(function, traffic=traffic))

    async def retire(self, name: str) -> Traffic:
        """See `Client.retire`."""
        return await self._drive(deployments.retire(name))

    async def traffic(self, name: str) -> Traffic:
        """See `Client.traffic`."""
        return await self._drive(deployments.traffic(name))

    async def set_traffic(self, name: str, shares: Mapping[str, int]) -> Traffic:
        """See `Client.set_traffic`."""
        return await self._drive(deployments.set_traffic(name, shares))

    async def workers(self) -> tuple[Worker, ...]:
        return await self._drive(calls.workers())

    async def readiness(self) -> dict[str, str]:
        """See `Client.readiness`."""
        return await self._drive(calls.readiness())

    async def login(self, username: str, password: str) -> Token:
        """See `Client.login`."""
        require_private(self._url)
        return await self._drive(identity.login(username, password))

    async def create_key(
        self,
        scopes: Sequence[str],
        *,
        name: str | None = None,
        expires_at: datetime | None = None,
        tenant: str | None = None,
    ) -> NewKey:
        """See `Client.create_key`."""
        call = identity.create_key(scopes, name=name, expires_at=expires_at, tenant=tenant)
        return await self._drive(call)

    async def keys(self) -> tuple[Key, ...]:
        return await self._drive(identity.keys())

    async def revoke_key(self, key_id: str) -> Key:
        return await self._drive(identity.revoke_key(key_id))

    async def create_user(
        self, name: str, password: str, scopes: Sequence[str], *, tenant: str | None = None
    ) -> User:
        """See `Client.create_user`."""
        return await self._drive(identity.create_user(name, password, scopes, tenant=tenant))

    async def users(self) -> tuple[User, ...]:
        return await self._drive(identity.users())

    async def disable_user(self, name: str) -> User:
        """See `Client.disable_user`."""
        return await self._drive(identity.disable_user(name))

    async def set_password(self, name: str, password: str) -> User:
        """See `Client.set_password`."""
        return await self._drive(identity.set_password(name, password))

    async def rebuild(self) -> Rebuild:
        """See `Client.rebuild`."""
        return await self._drive(calls.rebuild())

    async def rebuild_state(self) -> Rebuild:
        """See `Client.rebuild_state`."""
        return await self._drive(calls.rebuild_state())

    async def secrets(self) -> tuple[Secret, ...]:
        """See `Client.secrets`."""
        return await self._drive(secrets.listed())

    async def set_secret(self, name: str, value: str | bytes) -> Secret:
        """See `Client.set_secret`."""
        return await self._drive(secrets.put(name, value))

    async def remove_secret(self, name: str) -> Secret:
        return await self._drive(secrets.remove(name))

    async def rotate_secrets(self) -> Rotation:
        """See `Client.rotate_secrets`."""
        return await self._drive(secrets.rotate())

    async def renew_webhook_secret(self) -> WebhookSecret:
        """See `Client.renew_webhook_secret`."""
        return await self._drive(secrets.renew_webhook_secret())

    async def tenants(self) -> Tenants:
        """See `Client.tenants`."""
        return await self._drive(identity.tenants())

    async def set_tenant(self, tenant: str, **limits: Unpack[Limits]) -> Tenant:
        """See `Client.set_tenant`."""
        return await self._drive(identity.set_tenant(tenant, **limits))

    async def audit_log(self, **filters: Unpack[AuditFilters]) -> AsyncIterator[AuditRecord]:
        """See `Client.audit_log`."""
        cursor: str | None = None
        while True:
            page = await self._drive(audit_log.page(cursor=cursor, **filters))
            for record in page.records:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

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
                    heard = answer(await self._http.request(**arguments(step, self._timeout)))
                except httpx.RequestError as error:
                    step = call.throw(unreachable(self._url, error))
                else:
                    step = call.send(heard)
        except StopIteration as stop:
            value: T = stop.value
            return value
