"""What pools are made of."""

from typing import Protocol

from dispatcher.runtimes.base import Sandbox


class Supply(Protocol):
    """Makes the sandboxes of one version of one function: containers of their own, forks of one container, or
    turns of a process that serves many.

    Each `Sandbox` is for one task, whatever it is underneath: its `stdout` and `stderr` end when the task is
    over, `wait` says how, and `remove` gives it back.
    """

    @property
    def memory_mib(self) -> int:
        """What one more sandbox that waits for a task is counted as, in MiB."""
        ...

    def at_hand(self) -> Sandbox | None:
        """One that nothing has to be waited for."""
        ...

    async def make(self) -> Sandbox:
        """A sandbox whose process has been started, as `Runtime.launch` gives one.

        Raises `SandboxLost`, and `IsolationRefused` where it never can be had on this machine.
        """
        ...

    async def rest(self) -> None:
        """Remove what waits for tasks in it, unseen by its pool: nobody needs that now."""
        ...

    def shed(self, seconds: float) -> None:
        """Remove what has waited in it for so long."""
        ...

    async def close(self) -> None:
        """Remove all that it has made, and what they stand on."""
        ...
