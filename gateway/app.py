"""The composition root: the one place of the gateway that names an adapter.

A request's life: `Observer` counts it, `Guard` refuses what a web page could have sent, the route's handler
answers or raises `Problem`, and `Observer` has the handlers of `gateway.errors` make that problem the answer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from gateway import audit, aws_errors
from gateway.acceptance import Acceptance
from gateway.access import Access, Guarded, GuardedSocket, Handler, for_operators
from gateway.audit import AuditLog, AuditTopic
from gateway.aws_lambda import PATH as LAMBDA_PATH
from gateway.aws_lambda import Lambda
from gateway.batches import Batches
from gateway.calls import Calls
from gateway.completeness import Completeness
from gateway.deployments import Deployments
from gateway.docs import Docs
from gateway.errors import UNAVAILABLE, Problem, on_http
from gateway.feed import Feeds
from gateway.functions import Functions
from gateway.health import Check, Health
from gateway.keys import Keys
from gateway.letters import Letters
from gateway.limits.limits import Counts, Limits
from gateway.login import Login
from gateway.logs import Logs
from gateway.observation import Handler as Handles
from gateway.observation import Metrics, Observer
from gateway.openapi import OpenApi
from gateway.ports import Blobs, Catalog, Commands, Control, ReadModel
from gateway.rebuilds import Rebuilds
from gateway.reruns import Originals, Reruns
from gateway.routing import App
from gateway.secrets import Secrets
from gateway.security import Guard
from gateway.signatures import Signatures
from gateway.sockets import Sockets, elsewhere
from gateway.streams import Streams
from gateway.tasks import Tasks
from gateway.tenants import Tenants
from gateway.uploads import Uploads
from gateway.users import Users
from gateway.uses import Uses
from gateway.waiting import Waiters
from gateway.webhooks import Webhooks
from gateway.workers import Workers
from mayfly.adapters import kafka, kafka_catalog, kafka_control, redis, redis_limits, s3
from mayfly.adapters.kafka_commands import CommandReader
from mayfly.adapters.kafka_trail import TrailTopic
from mayfly.adapters.kms import vault_of
from mayfly.errors import BlobsUnavailable, LogUnavailable, SettingsError
from mayfly.identity.keys import Credential, parse
from mayfly.identity.principal import Scope
from mayfly.identity.tokens import Tokens
from mayfly.settings import Settings
from mayfly.task import Lane
from mayfly.versions import queues
from mayfly.webhooks.callback import Policy

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Parts:
    """What the handlers work on. `catalog_is_read` says whether the catalog has been read to its end, and
    `control_is_read` the same of the keys and users. Without `counts` limits hold for this gateway alone."""

    commands: Commands
    read_model: ReadModel
    blobs: Blobs
    catalog: Catalog
    catalog_is_read: Callable[[], bool]
    completeness: Completeness
    control: Control
    control_is_read: Callable[[], bool]
    audit: AuditTopic
    counts: Counts | None = None


class Gateway:
    """The handlers over their parts, and the routes to them."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self.waiters = Waiters(parts.read_model)
        self._parts = parts
        self.metrics = Metrics()
        tokens = _tokens(settings)
        admin_key = _admin_key(settings)
        self.access = Access(
            required=settings.auth,
            book=parts.control.book,
            is_read=parts.control_is_read,
            tokens=tokens,
            admin_key=admin_key,
            on_refused=audit.refused,
        )
        self.limits = Limits(
            settings, parts.control.book, parts.counts, exempt=admin_key.id if admin_key else None
        )
        self._uses = Uses(self.access.used, parts.read_model)
        self._keys = Keys(parts.control, self._uses)
        self._users = Users(parts.control, parts.control_is_read)
        self._audit = AuditLog(parts.audit)
        vault = vault_of(settings)
        self._secrets = Secrets(parts.control, vault)
        self._tenants = Tenants(parts.control, self.limits.defaults)
        self._login = Login(parts.control.book, tokens, seconds=settings.login_seconds)
        self._functions = Functions(parts.catalog, parts.catalog_is_read)
        self._deployments = Deployments(parts.catalog, self._functions, settings.functions_repository)
        self._workers = Workers(parts.read_model)
        self._rebuilds = Rebuilds(parts.completeness)
        self._webhooks = Webhooks(parts.control, parts.control_is_read, Policy.of(settings), vault)
        acceptance = Acceptance(
            settings,
            self._functions,
            self._webhooks,
            parts.commands,
            parts.read_model,
            parts.blobs,
            self.metrics,
            self.limits.load,
        )
        originals = Originals(parts.commands, parts.blobs)
        self._tasks = Tasks(settings, acceptance, parts.commands, parts.read_model, parts.blobs, self.waiters)
        self._uploads = Uploads(settings, parts.blobs)
        self._batches = Batches(settings, acceptance, parts.read_model)
        self._calls = Calls(settings, acceptance, parts.read_model, parts.blobs, self.waiters)
        self._lambda = Lambda(settings, acceptance, self._calls, parts.blobs)
        self._logs = Logs(parts.read_model, parts.blobs)
        self._streams = Streams(parts.read_model, self.waiters)
        self._feeds = Feeds(parts.read_model, self.waiters)
        self._sockets = Sockets(parts.read_model, self.waiters)
        self._reruns = Reruns(acceptance, originals, parts.read_model)
        self._letters = Letters(acceptance, originals, parts.commands, parts.read_model)
        self._health = Health(
            {
                "log": parts.commands.ready,
                "readModel": parts.read_model.ping,
                "blobs": parts.blobs.ping,
                "catalog": self._catalog_ready,
            }
        )

    def routes(self) -> list[BaseRoute]:
        """Each with the scope that it needs, or None where it is open; what concerns every tenant is an
        operator's."""
        docs, operator = Docs(), for_operators
        submit, read, cancel, admin = Scope.SUBMIT, Scope.READ, Scope.CANCEL, Scope.ADMIN
        table: list[tuple[str, str, Handler, Scope | None]] = [
            ("POST", "/tasks", self._tasks.submit, submit),
            ("POST", "/tasks/batch", self._batches.submit, submit),
            ("GET", "/batches/{batch_id}", self._batches.get, read),
            ("GET", "/tasks", self._tasks.list, read),
            ("GET", "/tasks/{task_id}", self._tasks.get, read),
            ("GET", "/tasks/{task_id}/result", self._tasks.result, read),
            ("GET", "/tasks/{task_id}/result/url", self._tasks.result_url, read),
            ("POST", "/uploads", self._uploads.create, submit),
            ("GET", "/tasks/{task_id}/logs", self._logs.get, read),
            ("GET", "/tasks/{task_id}/events", self._streams.get, read),
            ("GET", "/events", self._feeds.get, read),
            ("POST", "/tasks/{task_id}/cancel", self._tasks.cancel, cancel),
            ("POST", "/tasks/{task_id}/rerun", self._reruns.submit, submit),
            ("GET", "/dead-letters", self._letters.list, read),
            ("POST", "/dead-letters/redrive", self._letters.redrive, submit),
            ("POST", "/dead-letters/purge", self._letters.purge, cancel),
            ("GET", "/functions", self._functions.list, read),
            ("GET", "/functions/{name}", self._functions.get, read),
            ("PUT", "/functions/{name}", operator(self._deployments.put), admin),
            ("DELETE", "/functions/{name}", operator(self._deployments.retire), admin),
            ("GET", "/functions/{name}/traffic", self._deployments.traffic, read),
            ("PUT", "/functions/{name}/traffic", operator(self._deployments.share), admin),
            ("GET", "/catalog", operator(self._deployments.list), admin),
            ("POST", "/functions/{name}/invoke", self._calls.post, submit),
            ("POST", LAMBDA_PATH, self._lambda.invoke, submit),
            ("GET", "/workers", operator(self._workers.list), admin),
            ("POST", "/rebuild", operator(self._rebuilds.start), admin),
            ("GET", "/rebuild", operator(self._rebuilds.get), admin),
            ("GET", "/metrics", operator(self.metrics.get), admin),
            ("POST", "/keys", self._keys.create, admin),
            ("GET", "/keys", self._keys.list, admin),
            ("DELETE", "/keys/{key_id}", self._keys.revoke, admin),
            ("POST", "/users", self._users.create, admin),
            ("GET", "/users", self._users.list, admin),
            ("DELETE", "/users/{name}", self._users.disable, admin),
            ("PUT", "/users/{name}/password", self._users.set_password, admin),
            ("GET", "/secrets", self._secrets.list, admin),
            ("PUT", "/secrets/{name}", self._secrets.set, admin),
            ("DELETE", "/secrets/{name}", self._secrets.remove, admin),
            ("POST", "/secrets/rotate", operator(self._secrets.rotate), admin),
            ("GET", "/audit", self._audit.list, admin),
            ("PUT", "/webhooks/secret", self._webhooks.renew, admin),
            ("GET", "/tenants", operator(self._tenants.list), admin),
            ("PUT", "/tenants/{tenant}", operator(self._tenants.put), admin),
            ("POST", "/login", self._login.post, None),
            ("GET", "/healthz", self._health.alive, None),
            ("GET", "/readyz", self._health.ready, None),
            ("GET", "/docs", docs.page, None),
            ("GET", "/docs/{asset}", docs.asset, None),
        ]
        openapi = OpenApi(self._functions, {(method, path): needs for method, path, _, needs in table})
        table.append(("GET", "/openapi.json", openapi.get, None))
        by_path = {LAMBDA_PATH: Signatures(self.access)}
        return [
            *(
                Guarded(path, handler, method, needs, by_path.get(path, self.access), self.limits)
                for method, path, handler, needs in table
            ),
            GuardedSocket("/events", self._sockets.serve, read, self.access, self.limits),
        ]

    def app(self, start: Callable[[], Coroutine[Any, Any, None]], stop: Check) -> Starlette:
        """The ASGI application; `start` runs beside it, `stop` when it has ended."""

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            work = (start(), self.waiters.follow(), self._uses.run(), self.limits.follow())
            running = [_in_background(one) for one in work]
            try:
                yield
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                await self._uses.close()
                await self._audit.close()
                await stop()

        handlers: dict[type[Exception], Handles] = {
            Problem: aws_errors.on_problem,
            HTTPException: on_http,
            **dict.fromkeys(UNAVAILABLE, aws_errors.on_unavailable),
        }
        layers: list[Callable[[ASGIApp], ASGIApp]] = [
            lambda app: Observer(app, self.metrics, handlers),
            # Where everybody says who they are, a page of another site has nothing to say.
            *([] if self.access.required else [Guard]),
        ]
        app = App(self.routes(), layers, lifespan, elsewhere)
        app.state.audit = self._audit
        return app

    async def _catalog_ready(self) -> None:
        if not self._parts.catalog_is_read():
            raise LogUnavailable("the functions have not been read from the log yet")


def _tokens(settings: Settings) -> Tokens | None:
    """Raises `SettingsError`."""
    if settings.jwt_secret is None and settings.jwt_jwks_url is None:
        return None
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
    public = None
    if settings.jwt_jwks_url:
        # Its HTTP client takes a third of a second to import: only for who needs it.
        from gateway.jwks import Jwks

        public = Jwks(settings.jwt_jwks_url)
    try:
        return Tokens(
            issuer=settings.jwt_issuer, audience=settings.jwt_audience, secret=secret, public=public
        )
    except ValueError as error:
        raise SettingsError(f"MAYFLY_JWT_SECRET: {error}") from None


def _admin_key(settings: Settings) -> Credential | None:
    """Raises `SettingsError`."""
    if settings.admin_key is None:
        return None
    credential = parse(settings.admin_key.get_secret_value())
    if credential is None:
        raise SettingsError("MAYFLY_ADMIN_KEY is no key: `mayfly keys generate` prints one")
    return credential


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_failure)
    return task


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("work in the background has ended", exc_info=error)


# --- on the real parts --------------------------------------------------------------------------------------


class _LogCommands:
    """The topics of every queue, over the log."""

    def __init__(self, settings: Settings, log: kafka.Log, reader: CommandReader) -> None:
        self._settings = settings
        self._log = log
        self._queues = {settings.queue}
        self._making: dict[str, asyncio.Task[None]] = {}
        self.ready = log.ready
        self.read = reader.read_command

    async def append(
        self, queue: str, lane: Lane, partition: int | None, task_id: str, value: bytes
    ) -> kafka.Appended:
        if queue not in self._queues:
            await self._ensure(queue)
        return await self._log.append(kafka.lane_topic(queue, lane), value, key=task_id, partition=partition)

    async def append_event(self, queue: str, partition: int, task_id: str, value: bytes) -> None:
        await self._log.append(kafka.events_topic(queue), value, key=task_id, partition=partition)

    async def purge(self, task_id: str) -> None:
        await self._log.append(kafka.DEAD_LETTER_TOPIC, None, key=task_id)

    async def _ensure(self, queue: str) -> None:
        """A queue's first task may come before its first dispatcher, which would make the topics as well."""
        making = self._making.get(queue)
        if making is None:
            # Once for all tasks of a batch. That it failed is no news where nobody waits for it any more.
            making = self._making[queue] = asyncio.create_task(self._make(queue))
            making.add_done_callback(lambda made: made.cancelled() or made.exception())
        await asyncio.shield(making)

    async def _make(self, queue: str) -> None:
        try:
            await kafka.ensure_topics(self._settings.model_copy(update={"queue": queue}))
            self._queues.add(queue)
        except SettingsError as error:
            raise LogUnavailable(str(error)) from error
        finally:
            del self._making[queue]


class Startup:
    """Brings the parts up, each as soon as what it needs is there; the gateway serves meanwhile.

    `failed` is told of what no waiting mends: a setting that does not fit what is there.
    """

    def __init__(self, settings: Settings, failed: Callable[[SettingsError], None]) -> None:
        self._settings = settings
        self._failed = failed
        self._log = kafka.Log(settings)
        self._reader = CommandReader(settings)
        self._catalog = kafka_catalog.WritableCatalog(settings, self._log)
        self._read_model = redis.ReadModel(settings)
        self._completeness = Completeness(
            self._read_model,
            partitions=settings.partitions,
            queues=self._queues,
            was_served=lambda queue: kafka.was_served(settings, queue),
        )
        self._read_model.guard(self._completeness.require)
        self._blobs = s3.Blobs(settings)
        self._control = kafka_control.Control(settings, self._log)
        self._trail = TrailTopic(settings, self._log)
        self._counts = redis_limits.Counts(settings)
        self._catalog_read = self._control_read = False

    def _queues(self) -> set[str]:
        return {self._settings.queue, *queues(self._catalog.all())}

    def parts(self) -> Parts:
        return Parts(
            commands=_LogCommands(self._settings, self._log, self._reader),
            read_model=self._read_model,
            blobs=self._blobs,
            catalog=self._catalog,
            catalog_is_read=lambda: self._catalog_read,
            completeness=self._completeness,
            control=self._control,
            control_is_read=lambda: self._control_read,
            audit=self._trail,
            counts=self._counts,
        )

    async def run(self) -> None:
        await self._log.start()
        try:
            await asyncio.gather(self._log_side(), _until_done(self._blobs.ensure_bucket))
        except SettingsError as error:
            self._failed(error)

    async def _log_side(self) -> None:
        # The catalog's topic is among those that are made first.
        await _until_done(lambda: kafka.ensure_topics(self._settings))
        await _until_done(self._catalog.start)
        self._catalog_read = True
        await _until_done(self._control.start)
        self._control_read = True

    async def stop(self) -> None:
        await self._catalog.close()
        await self._control.close()
        await self._trail.close()
        await self._reader.close()
        await self._log.close()
        await self._counts.close()
        await self._read_model.close()


async def _until_done(step: Check) -> None:
    """Try until it works, saying once for each reason why it did not."""
    said = ""
    while True:
        try:
            return await step()
        except (LogUnavailable, BlobsUnavailable) as error:
            if str(error) != said:
                said = str(error)
                log.warning("a part is not there yet", extra={"reason": said})
        await asyncio.sleep(RETRY_SECONDS)
