"""What a function gets: its payload, checked, and the environment that only its input may carry."""

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from dotenv import dotenv_values

from dispatcher.invocation import Request, Streamed
from dispatcher.messages import MESSAGE_CHARS
from dispatcher.secrets import Secrets
from mayfly import strictjson
from mayfly.function import Function
from mayfly.identity.vault import Unopened
from mayfly.payload import InvalidSchema, PayloadSchemas
from mayfly.settings import Settings
from mayfly.task import JSON, BlobRef, Envelope, Failure, FailureType


class Input(NamedTuple):
    payload: bytes | Streamed
    content_type: str
    environment: dict[str, str]
    """The folder's `.env` and the secrets: for the function's eyes only."""
    secrets: tuple[str, ...] = ()
    """The secrets' values, which nobody is to see in what the task says."""

    def request(
        self,
        function: Function,
        task_id: str,
        *,
        attempt: int,
        timeout: float | None,
        settings: Settings,
    ) -> Request:
        """What to ask of a sandbox; `timeout` in seconds is the task's own, over the function's."""
        return Request(
            task_id=task_id,
            task_type=function.name,
            attempt=attempt,
            deadline_seconds=timeout or function.limits.timeout_seconds,
            payload=self.payload,
            content_type=self.content_type,
            version=function.version,
            memory_mib=function.limits.memory_mib,
            max_result=settings.result_bytes,
            max_log=settings.log_bytes,
            env=self.environment,
            secrets=self.secrets,
        )


def environment_at_start(function: Function, request: Request) -> dict[str, str]:
    """What the sandbox's process starts with.

    A Python function gets all that belongs to its task in its input. A process by the Unix contract has
    nowhere to get it from but its start.
    """
    if function.contract == "python":
        return function.env
    return {
        **function.env,
        **request.env,
        "MAYFLY_TASK_ID": request.task_id,
        "MAYFLY_TASK_TYPE": function.name,
        "MAYFLY_ATTEMPT": str(request.attempt),
        "MAYFLY_DEADLINE": f"{time.time() + request.deadline_seconds:.3f}",
        "MAYFLY_CONTENT_TYPE": request.content_type,
    }


class Refused(Exception):
    """The task cannot be run, whatever is tried: its outcome, without a sandbox."""

    def __init__(self, type: FailureType, message: str) -> None:
        super().__init__(message)
        # A message may quote a command that is nearly as large as a record can be.
        self.failure = Failure(type, message[:MESSAGE_CHARS])

    @classmethod
    def by(cls, failure: Failure) -> "Refused":
        return cls(failure.type, failure.message)


class Payloads(Protocol):
    async def fetch(self, reference: BlobRef) -> bytes:
        """Raises `Refused` when the object is gone; waits while S3 is away."""

    async def stream(self, reference: BlobRef) -> Streamed:
        """The same, of what is too large to be in memory. So may its chunks raise, and wait."""


class Inputs:
    """`functions_dir` is where the functions' `.env` files are."""

    def __init__(self, payloads: Payloads, *, secrets: Secrets, functions_dir: Path | None) -> None:
        self._payloads = payloads
        self._secrets = secrets
        self._functions_dir = functions_dir
        self._schemas = PayloadSchemas()
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, str]]] = {}
        """What each `.env` held, by what it looked like from outside: it may be written at any time."""

    async def of(self, envelope: Envelope, function: Function) -> Input:
        """Raises `Refused`."""
        payload = await self._payload(envelope)
        if isinstance(payload, bytes) and envelope.content_type == JSON:
            self._check(payload, function)
        elif not function.accepts_bytes:
            message = f"{function.name} takes JSON, and this payload is {envelope.content_type}"
            raise Refused(FailureType.INVALID, message)
        local = self._local(function.name)
        secrets = await self._named(envelope.tenant, function, local)
        return Input(payload, envelope.content_type, local | secrets, tuple(secrets.values()))

    async def _payload(self, envelope: Envelope) -> bytes | Streamed:
        if envelope.payload_base64 is not None:
            try:
                return base64.b64decode(envelope.payload_base64, validate=True)
            except ValueError as error:
                raise Refused(FailureType.INVALID, f"payloadBase64: {error}") from error
        if envelope.payload_ref is None:
            return bytes(envelope.payload) or b"null"
        if envelope.upload is not None:
            return await self._payloads.stream(envelope.payload_ref)
        payload = await self._payloads.fetch(envelope.payload_ref)
        if hashlib.sha256(payload).hexdigest() != envelope.payload_ref.sha256:
            message = f"{envelope.payload_ref.key} does not have the hash that the command names"
            raise Refused(FailureType.INVALID, message)
        return payload

    def _check(self, payload: bytes, function: Function) -> None:
        """The gateway checked what came through it; a command may have come by another way."""
        try:
            fault = self._schemas.fault(function, strictjson.loads(payload))
        except (strictjson.StrictJSONError, InvalidSchema) as error:
            raise Refused(FailureType.INVALID, f"payload: {error}") from error
        if fault:
            raise Refused(FailureType.INVALID, f"{fault.field}: {fault.message}")

    async def _named(self, tenant: str, function: Function, local: dict[str, str]) -> dict[str, str]:
        """The secrets that the function names; what is stored nowhere else may stand in its `.env`."""
        found = {}
        for name in function.secrets:
            try:
                value = await self._secrets.find(tenant, name, otherwise=local.get(name))
            except Unopened as error:
                raise Refused(FailureType.ERROR, f"secret {name} cannot be opened: {error}") from error
            if value is None:
                raise Refused(FailureType.ERROR, self._secrets.missing(tenant, name))
            found[name] = value
        return found

    def _local(self, function: str) -> dict[str, str]:
        if self._functions_dir is None:
            return {}
        # By its text: a `Path` is made in more time than the kernel takes to answer.
        path = f"{self._functions_dir}/{function}/.env"
        try:
            stat = os.stat(path)  # noqa: PTH116
        except OSError:
            return {}
        stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
        if function not in self._read or self._read[function][0] != stamp:
            values = dotenv_values(path)
            found = {name: value for name, value in values.items() if value is not None}
            self._read[function] = stamp, found
        return self._read[function][1]
