"""What the owner of a partition does with a command, by what the fold says of its task. Pure."""

from typing import NamedTuple

from mayfly.fold import Phase, TaskState, needs_record
from mayfly.task import NO_FENCE


class Done(NamedTuple):
    """The command has its successor: mark it done."""


class Claim(NamedTuple):
    """Claim the task, naming the fence that the claim follows. `attempt` and `losses` are those of a claim
    that is to run it, and what they are without it is in `state`."""

    follows: int
    attempt: int
    losses: int
    state: TaskState | None = None

    @property
    def cancelled(self) -> bool:
        return self.state is not None and self.state.cancelled

    @property
    def begun(self) -> int:
        """Attempts begun before."""
        return self.attempt - 1

    @property
    def ran_on(self) -> str | None:
        """The image of the last attempt that was begun, if there was one."""
        if self.state is None:
            return None
        if self.state.image is not None:
            return self.state.image
        return next((one.image for one in reversed(self.state.history) if one.image), None)


class Held(NamedTuple):
    """Somebody has a claim. Park the command; if the holder is gone, `takeover` is what to do."""

    holder: str
    fence: int
    takeover: Claim


class Behind(NamedTuple):
    """The command is ahead of what the fold knows of its task, or of its record: park it."""


class Keep(NamedTuple):
    """The task waits without a record: write one from the command, which is done when it is read back."""

    state: TaskState


Step = Done | Claim | Held | Behind | Keep


def next_step(state: TaskState | None, releases: int = NO_FENCE, end: int = 0) -> Step:
    """What the owner of a partition, its fold at the log's end, does with a command that is not done.

    `releases` is the fence under which the command's task waited, `end` how far the fold has come: a task
    that it does not know, although it has read that fence, went on and is forgotten.
    """
    if state is None:
        if releases == NO_FENCE:
            return Claim(follows=NO_FENCE, attempt=1, losses=0)
        return Done() if end > releases else Behind()
    match state.phase:
        case Phase.TERMINAL:
            return Done()
        case Phase.ASKED:
            return Claim(NO_FENCE, 1, 0, state)
        case Phase.CLAIMED:
            return Held(state.holder, state.fence, takeover(state))
        case Phase.WAITING:
            if needs_record(state) and releases < state.fence:
                return Keep(state)
            if releases == state.fence:
                return resumption(state)
            return Done() if releases < state.fence and state.record is not None else Behind()


def takeover(state: TaskState) -> Claim:
    """The claim that follows one whose holder is gone. Only an attempt can have been lost."""
    lost = int(state.runs)
    return Claim(state.fence, state.attempt + 1, state.losses + lost, state)


def resumption(state: TaskState) -> Claim:
    """The claim that follows the fence under which a task waits."""
    return Claim(state.fence, state.attempt + 1, state.losses, state)
