"""The client for threads: it does the I/O of `mayfly.client.calls`."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

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
from mayfly.client.calls import Bytes, Filters
from mayfly.client.dead_letters import DeadLetterFilters, Selection
from mayfly.client.deployments import Catalog, Deployed, Traffic
from mayfly.client.errors import WaitTimeout
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

CONCURRENCY: Final = 200
"""Tasks of one `map` that are under way."""
WATCHERS: Final = 16
"""Of those, the ones that are waited for at once: the oldest."""
LOOK_SECONDS: Final = 2.0
"""How long one of them is waited for before it is asked whether anybody still wants it."""


class Client:
    """Talks to a gateway; any number of threads may share one. Use it as a context manager, or `close` it.

    The gateway is at `url`; `api_key` or `token` says who asks; `profile` names both in the file of profiles
    (`mayfly.client.profiles`). What is not given is looked for as `mayfly.client.target` says. A credential
    is sent over https, or to this machine; over plain http to another only if `MAYFLY_ALLOW_HTTP` is true.
    `timeout` is how many seconds an answer may take, beyond what a call itself waits for.

    Every method can raise `Unreachable`, `UnexpectedAnswer` and `ApiError`, which has subclasses for those
    refusals that programs tell apart. Making a client can raise `ClientError`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        profile: str | None = None,
        timeout: float = ANSWER_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        found = target(url, api_key=api_key, token=token, profile=profile)
        self._url = found.url
        self._timeout = timeout
        self._http = httpx.Client(transport=transport, **options(found, timeout))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        return str(self._url)

    def submit(self, task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Task:
        """Submit a task with a JSON `payload`, or with the option `data`; returns once it is durable.

        Where the answer is lost, or is a 503, it is tried again up to two times, under an Idempotency-Key,
        so that the task runs once: the caller's `idempotency_key`, or one that is made for this submission.
        `idempotent=False` makes none, and tries nothing again. While the gateway has no Redis it cannot
        honour a key: one that was made here is then let go of, provided that no try so far may have been
        accepted, and the task is submitted without. An error that leaves the task in doubt has the key in
        `idempotency_key`: submitting the same again with that is safe.
        """
        return self._drive(submission.submit(task_type, payload, **options))

    def upload(self, file: FileLike, content_type: str | None = None) -> str:
        """Send a file to the store, by its path or open, and get the id that a task gives as `upload`.

        It may be as large as the gateway allows, 5 GiB, and is nowhere whole in memory. The type is guessed
        from the name unless given. Raises `OSError` where it cannot be read.
        """
        with uploads.source(file, content_type) as source:
            upload = self._drive(uploads.create(source, source.sha256()))
            with httpx.Client(**uploads.store_options(upload)) as store:
                try:
                    answered = store.request(**uploads.store_request(upload, source), content=source.chunks())
                except httpx.RequestError as error:
                    raise unreachable(httpx.URL(upload.url).copy_with(query=None), error) from error
        uploads.check(answered)
        return upload.upload_id

    def result_url(self, task_id: str) -> ResultUrl:
        """Where whoever has the URL gets the result, from the store itself, for a quarter of an hour."""
        return self._drive(uploads.result_url(task_id))

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

    def logs(self, task_id: str, attempt: int | None = None) -> str:
        """What the last attempt, or the one with this number, wrote to its log so far."""
        return self._drive(calls.logs(task_id, attempt))

    def events(self, task_id: str) -> Iterator[Event]:
        """What happens to a task, from its status now to its end, as it happens.

        A stream that breaks is asked for again, and goes on where it broke.
        """
        return self._follow(EventStream(task_id))

    def stream(
        self,
        *,
        task_type: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        last_event_id: str | None = None,
    ) -> Iterator[Change]:
        """What happens to all tasks, or to those that pass the filters, from now on and without an end.

        With `last_event_id`, the `id` of an event, it goes on behind that one. A stream that breaks is asked
        for again, and goes on where it broke; a `ResetEvent` says that changes may have been missed.
        """
        return self._follow(ChangeStream(task_type, status, tag, last_event_id))

    def _follow(self, stream: Resumed[T]) -> Iterator[T]:
        while True:
            try:
                with self._http.stream(**arguments(stream.request(), self._timeout)) as response:
                    if stream.opens(response.status_code, response.headers):
                        for chunk in response.iter_bytes():
                            yield from stream.feed(chunk)
                            if stream.ended:
                                return
                        pause = stream.broken(cut_short(self._url))
                    else:
                        response.read()
                        pause = stream.refused(answer(response))
            except httpx.RequestError as error:
                silent = isinstance(error, httpx.ReadTimeout)
                pause = stream.broken(unreachable(self._url, error), silent=silent)
            time.sleep(pause.seconds)

    def cancel(self, task_id: str) -> Task:
        """Ask for a task's end: the task as it is then, which need not have ended yet.

        Raises `ApiError` with the code `task_finished` where it has ended otherwise.
        """
        return self._drive(calls.cancel(task_id))

    def rerun(self, task_id: str, *, latest: bool = False) -> Task:
        """Submit a task's input once more: the new task, whose `rerun_of` names the old one.

        It runs on the image that the old one ran on, or with `latest` on the function's newest. Raises
        `ApiError` with the code `input_gone` where the input is not kept any more.
        """
        return self._drive(calls.rerun(task_id, latest=latest))

    def submit_many(
        self,
        task_type: str,
        payloads: Iterable[Any],
        *,
        chunk: int = batches.CHUNK,
        **options: Unpack[TaskOptions],
    ) -> Iterator[Submitted]:
        """A task for each payload, all with these options, in batches of at most `chunk`; yields what became
        of each, in order: a task, or the error that it was refused with, which keeps no other one back.

        With an `idempotency_key` the same payloads in chunks of the same size are the same tasks.
        """
        gathered = Payloads(task_type, payloads, options)
        while lines := gathered.take(chunk):
            yield from self._drive(gathered.submit(lines))

    def batch(self, batch_id: str, status: Status | None = None) -> Batch:
        """How many tasks of a batch have come to what; with a status, also which have that."""
        return self._drive(batches.get(batch_id, status))

    def invoke(
        self, function: str, payload: Any = None, *, wait: float | None = None, **options: Unpack[TaskOptions]
    ) -> Any:
        """Call a function: its result, the value of JSON or the bytes of anything else.

        In one request where it ends within 30 s. Raises `TaskFailed` with the function's own error, and
        `WaitTimeout` after `wait` seconds; the task goes on then.
        """
        return calls.value_of(self.invoke_bytes(function, payload, wait=wait, **options))

    def invoke_bytes(
        self, function: str, payload: Any = None, *, wait: float | None = None, **options: Unpack[TaskOptions]
    ) -> Bytes:
        """The same: the result as it is, with its content type."""
        return self._drive(invocation.invoke(function, payload, wait=wait, **options))

    def map(
        self, task_type: str, payloads: Iterable[Any], *, concurrency: int = CONCURRENCY
    ) -> Iterator[Any]:
        """A task for each payload; yields the results in the payloads' order.

        At most `concurrency` tasks are under way, and no more payloads are taken than that; they are
        submitted in batches. The first task that failed raises `TaskFailed` in its turn, and one that was
        refused `ApiError`, after which nothing more is submitted.
        """
        gathered = Payloads(task_type, payloads, {})
        pool = ThreadPoolExecutor(min(concurrency, WATCHERS), thread_name_prefix="mayfly-map")
        waiting: deque[Future[Any]] = deque()
        left = threading.Event()
        more = True
        try:
            while True:
                room = concurrency - len(waiting)
                if more and room >= max(1, concurrency // 2):
                    lines = gathered.take(min(room, batches.CHUNK), batches.PATIENCE_SECONDS)
                    more = bool(lines)
                    if lines:
                        for one in self._drive(gathered.submit(lines)):
                            waiting.append(pool.submit(self._result, one, left))
                        continue
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            # A caller that leaves early, or meets a failure, does not wait for what is still under way; nor
            # does its process at its end, which waits for these threads.
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, submitted: Submitted, left: threading.Event) -> Any:
        task_id = submitted.accepted().task_id
        while not left.is_set():
            with contextlib.suppress(WaitTimeout):
                return self._drive(calls.result(task_id, LOOK_SECONDS))
        raise CancelledError

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

    def dead_letters(
        self, *, limit: int | None = None, **filters: Unpack[DeadLetterFilters]
    ) -> Iterator[Task]:
        """Tasks that failed for good, page by page as they are taken; `limit` is a page's."""
        cursor: str | None = None
        while True:
            page = self._drive(dead_letters.page(cursor=cursor, limit=limit, **filters))
            yield from page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return

    def redrive(self, **selection: Unpack[Selection]) -> Redrive:
        """Submit dead letters once more: those with `task_ids`, those that pass filters, or `all`.

        However many there are. What fails again meanwhile is not taken up a second time.
        """
        return self._drive(dead_letters.redrive(**selection))

    def purge(self, **selection: Unpack[Selection]) -> Purge:
        """Forget dead letters for good: those with `task_ids`, those that pass filters, or `all`."""
        return self._drive(dead_letters.purge(**selection))

    def functions(self) -> tuple[FunctionInfo, ...]:
        return self._drive(calls.functions())

    def function(self, name: str) -> FunctionInfo:
        return self._drive(calls.function(name))

    def catalog(self) -> Catalog:
        """What is deployed, whole; for operators, as are `deploy`, `retire` and `set_traffic`."""
        return self._drive(deployments.catalog())

    def deploy(self, function: Function, *, traffic: bool = True) -> Deployed:
        """Deploy a function whose image dispatchers can get. What differs from its newest version is another
        version, which gets every task, or, without `traffic`, none for now."""
        return self._drive(deployments.deploy(function, traffic=traffic))

    def retire(self, name: str) -> Traffic:
        """Take a function away: no new task is taken, those that wait still run."""
        return self._drive(deployments.retire(name))

    def traffic(self, name: str) -> Traffic:
        """A function's versions, and how many of its tasks run on each."""
        return self._drive(deployments.traffic(name))

    def set_traffic(self, name: str, shares: Mapping[str, int]) -> Traffic:
        """Have that many of a hundred tasks run on each version, such as `{"v2": 10}`. What the shares leave
        stays with those others that get tasks now."""
        return self._drive(deployments.set_traffic(name, shares))

    def workers(self) -> tuple[Worker, ...]:
        return self._drive(calls.workers())

    def readiness(self) -> dict[str, str]:
        """What the gateway needs, by name: `ready`, or why it is not."""
        return self._drive(calls.readiness())

    def login(self, username: str, password: str) -> Token:
        """A token for a name and a password; another client takes it as its `token`."""
        require_private(self._url)
        return self._drive(identity.login(username, password))

    def create_key(
        self,
        scopes: Sequence[str],
        *,
        name: str | None = None,
        expires_at: datetime | None = None,
        tenant: str | None = None,
    ) -> NewKey:
        """A key with these scopes (submit, read, cancel, admin); `tenant` is for operators to name."""
        call = identity.create_key(scopes, name=name, expires_at=expires_at, tenant=tenant)
        return self._drive(call)

    def keys(self) -> tuple[Key, ...]:
        return self._drive(identity.keys())

    def revoke_key(self, key_id: str) -> Key:
        return self._drive(identity.revoke_key(key_id))

    def create_user(
        self, name: str, password: str, scopes: Sequence[str], *, tenant: str | None = None
    ) -> User:
        """A user who can `login`, with these scopes. The name must be nobody's."""
        return self._drive(identity.create_user(name, password, scopes, tenant=tenant))

    def users(self) -> tuple[User, ...]:
        return self._drive(identity.users())

    def disable_user(self, name: str) -> User:
        """The user, who cannot log in any more, and whose tokens are refused from now on."""
        return self._drive(identity.disable_user(name))

    def set_password(self, name: str, password: str) -> User:
        """The user, whose tokens are refused that were given for the password before."""
        return self._drive(identity.set_password(name, password))

    def rebuild(self) -> Rebuild:
        """Have what is known of tasks written anew from the log; until it is done, reading tasks is a 503."""
        return self._drive(calls.rebuild())

    def rebuild_state(self) -> Rebuild:
        """Whether what is known of tasks is complete."""
        return self._drive(calls.rebuild_state())

    def secrets(self) -> tuple[Secret, ...]:
        """The tenant's secrets, by name, without their values."""
        return self._drive(secrets.listed())

    def set_secret(self, name: str, value: str | bytes) -> Secret:
        """Set a secret, text of at most 64 KiB; tasks that are given theirs later have the new value."""
        return self._drive(secrets.put(name, value))

    def remove_secret(self, name: str) -> Secret:
        return self._drive(secrets.remove(name))

    def rotate_secrets(self) -> Rotation:
        """Have every secret encrypted anew that is not under the gateway's present key."""
        return self._drive(secrets.rotate())

    def renew_webhook_secret(self) -> WebhookSecret:
        """A new secret to sign webhooks with, shown this once; the one before signs for a day more."""
        return self._drive(secrets.renew_webhook_secret())

    def tenants(self) -> Tenants:
        """What tenants may ask for; for operators, as is `set_tenant`."""
        return self._drive(identity.tenants())

    def set_tenant(self, tenant: str, **limits: Unpack[Limits]) -> Tenant:
        """In place of what was set before: of what is not given, that holds which holds for all."""
        return self._drive(identity.set_tenant(tenant, **limits))

    def audit_log(self, **filters: Unpack[AuditFilters]) -> Iterator[AuditRecord]:
        """Who did what to what, newest first, page by page as they are taken."""
        cursor: str | None = None
        while True:
            page = self._drive(audit_log.page(cursor=cursor, **filters))
            yield from page.records
            cursor = page.next_cursor
            if cursor is None:
                return

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
                    heard = answer(self._http.request(**arguments(step, self._timeout)))
                except httpx.RequestError as error:
                    step = call.throw(unreachable(self._url, error))
                else:
                    step = call.send(heard)
        except StopIteration as stop:
            value: T = stop.value
            return value
