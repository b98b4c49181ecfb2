"""`python -m dispatcher.once`: one task in the sandbox that it would have, and nothing else of a dispatcher.

The composition root of `mayfly run`: see `mayfly.trial` for what is read and written.
"""

import asyncio
import sys
import uuid
from pathlib import Path

import msgspec

from dispatcher.inputs import Inputs, Refused, environment_at_start
from dispatcher.invocation import Streamed, invoke
from dispatcher.runtimes.base import Runtime, SandboxSpec
from dispatcher.runtimes.choice import runtime_of
from dispatcher.secrets import Secrets
from mayfly.errors import MayflyError, StackError
from mayfly.settings import Settings, operator_secrets
from mayfly.task import JSON, BlobRef, Envelope, new_task_id
from mayfly.trial import Trial, Verdict


class NoStore:
    """A trial's payload is at hand, so nothing is ever fetched for it."""

    async def fetch(self, reference: BlobRef) -> bytes:
        raise AssertionError(f"a trial has no payload in a store: {reference.key}")

    async def stream(self, reference: BlobRef) -> Streamed:
        raise AssertionError(f"a trial has no payload in a store: {reference.key}")


async def run(trial: Trial, settings: Settings) -> Verdict:
    """Raises `MayflyError` where no sandbox can be had, or the engine went away under it."""
    runtime = runtime_of(settings, f"once-{uuid.uuid4().hex[:8]}")
    try:
        await runtime.start()
        return await _attempt(trial, settings, runtime)
    except Refused as refused:
        return Verdict(failure=refused.failure)
    finally:
        await runtime.close()


async def _attempt(trial: Trial, settings: Settings, runtime: Runtime) -> Verdict:
    function = trial.function
    if function.network == "egress" and runtime.egress_refusal:
        raise StackError(runtime.egress_refusal)
    inputs = Inputs(NoStore(), secrets=Secrets(operator_secrets()), functions_dir=Path(trial.folder).parent)
    given = await inputs.of(_envelope(trial), function)
    request = given.request(
        function, new_task_id(), attempt=1, timeout=trial.timeout_seconds, settings=settings
    )
    sandbox = await runtime.launch(
        SandboxSpec(
            image=function.image,
            task_id=request.task_id,
            function=function.name,
            limits=function.limits,
            network=function.network,
            env=environment_at_start(function, request),
        )
    )
    try:
        reply = await invoke(sandbox, function.contract, request, on_progress=_show_progress)
    finally:
        await sandbox.remove()
    return Verdict(
        result=reply.result,
        content_type=reply.content_type,
        failure=reply.failure,
        log=reply.log,
        log_dropped=reply.log_dropped,
        seconds=(reply.finished_at - reply.started_at) / 1000,
    )


def _envelope(trial: Trial) -> Envelope:
    if trial.content_type == JSON:
        return Envelope(task_type=trial.function.name, payload=msgspec.Raw(trial.payload))
    encoded = msgspec.to_builtins(trial.payload)
    return Envelope(task_type=trial.function.name, payload_base64=encoded, content_type=trial.content_type)


def _show_progress(fraction: float, message: str) -> None:
    print(f"{fraction:.0%} {message}".rstrip(), file=sys.stderr, flush=True)


def main() -> None:
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    try:
        verdict = asyncio.run(run(trial, Settings()))
    except KeyboardInterrupt:
        sys.exit(130)
    except MayflyError as error:
        verdict = Verdict(trouble=str(error), mend=getattr(error, "mend", None))
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main()
