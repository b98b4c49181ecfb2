"""What the dispatcher launches sandboxes with.

A runtime only launches a sandbox and hands back its streams, `kill` and `wait`. It knows nothing of tasks'
contracts; what speaks them is `dispatcher.invocation`.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from dispatcher.runtimes.streams import Readable
from mayfly.function import Function, Limits
from mayfly.task import DEFAULT_TENANT

FULL: Final = ("no space left on device", "disk quota exceeded")
"""What whoever has no room for a container says: these are the kernel's words."""


class Use(enum.Enum):
    """What a container is launched for."""

    ONCE = "once"
    """One task."""
    FORKS = "forks"
    """It forks a sandbox for each task, inside itself."""
    SERVES = "serves"
    """Tasks, one after another."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What to launch. Nothing in it but `env` reaches the function, and no secret may be in the rest."""

    image: str
    task_id: str
    """Empty where it is launched before its task is known."""
    function: str
    use: Use = Use.ONCE
    limits: Limits = field(default_factory=Limits)
    network: str = "none"
    """`none`, or `egress`: public addresses only."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment that Mayfly adds to the image's own."""
    command: tuple[str, ...] | None = None
    """Arguments in place of the image's CMD."""
    tenant: str = DEFAULT_TENANT
    """Whose tasks it may have: no process ever has two tenants'."""
    runtime: str | None = None
    """The one that the function names; None: the dispatcher's."""
    fence: int = -1
    """Of the claim that it is launched under; -1 where there is none yet."""

    @classmethod
    def of(
        cls,
        function: Function,
        task_id: str = "",
        env: Mapping[str, str] | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
        fence: int = -1,
    ) -> "SandboxSpec":
        """What the function asks for; `env` is in place of its own."""
        return cls(
            image=function.image,
            task_id=task_id,
            function=function.name,
            limits=function.limits,
            network=function.network,
            env=function.env if env is None else env,
            tenant=tenant,
            runtime=function.runtime,
            fence=fence,
        )


class Exit(NamedTuple):
    """How the sandbox's main process ended. A signal's code is 128 and its number, as in a shell."""

    code: int
    oom_killed: bool
    """Whether the kernel killed a process of the sandbox, main or child, for the memory limit."""


class Sandbox(Protocol):
    """One running sandbox. Every method but `remove` raises `SandboxLost` where the infrastructure failed."""

    @property
    def name(self) -> str:
        """What whoever looks for it finds it by: the container's name, and within it what tells it apart."""
        ...

    @property
    def stdout(self) -> Readable:
        """Chunks as they come; ends when the main process is gone. To be read by one reader, together with
        `stderr`: what is not read stops the function once a bounded buffer is full, of both streams."""
        ...

    @property
    def stderr(self) -> Readable: ...

    async def write(self, data: bytes) -> None:
        """Write to stdin; waits while the function does not read. What a gone process left unread is no
        error: how it ended is `wait`'s to tell."""
        ...

    async def close_stdin(self) -> None:
        """The function reads an end of file once it has read what was written."""
        ...

    async def kill(self, signal: str = "SIGKILL") -> None:
        """Signal the main process. A process that is already gone is no error."""
        ...

    async def wait(self) -> Exit:
        """Wait for the main process to end. Its children die with it."""
        ...

    async def remove(self) -> None:
        """Kill what still runs and give everything back. Idempotent, never raises; may return before the
        runtime is done with it, which `Runtime.close` waits for."""
        ...


class Runtime(Protocol):
    """Launches sandboxes."""

    @property
    def egress_refusal(self) -> str | None:
        """Why sandboxes with `network = "egress"` are refused here, or None if they are not."""
        ...

    async def start(self) -> None:
        """Connect, and check that sandboxes can be had. Raises `StackError`."""
        ...

    async def healthy(self) -> bool:
        """Whether the engine answers."""
        ...

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox whose main process has been started. If cancelled, leaves none.

        Raises `SandboxLost`; `SandboxesUnavailable` where no other sandbox could be had either.
        """
        ...

    async def remove_orphans(self) -> int:
        """Remove the sandboxes of this machine's dead dispatchers, and say how many. Raises `SandboxLost`."""
        ...

    async def close(self) -> None:
        """Remove every sandbox of this runtime."""
        ...


def is_full(reason: str) -> bool:
    """Whether a disk that is full is why something failed."""
    return any(full in reason.lower() for full in FULL)
