"""A partition's part in the limits of tasks at once: who starts, and who waits in memory for a turn.

Pure. Who runs is counted by the fold, who waits in a record by the waiting room.
"""

from collections import Counter, deque
from typing import Final

from dispatcher.buffers import Command
from mayfly.task import Position

MAX_PARKED: Final = 64
"""Commands of a partition that wait in memory; beyond, they wait in records, so that they hold no lane."""


class Turns:
    def __init__(self) -> None:
        self._starting: dict[Position, str] = {}
        self._of_group: Counter[str] = Counter()
        self._parked: dict[str, deque[Command]] = {}
        self._group_of: dict[Position, str] = {}

    def starting(self, group: str) -> int:
        """How many of the group are on their way to an attempt, and not counted by the fold."""
        return self._of_group[group]

    def start(self, position: Position, group: str) -> None:
        if position not in self._starting:
            self._starting[position] = group
            self._of_group[group] += 1

    def starts(self, position: Position) -> bool:
        return position in self._starting

    def started(self, position: Position) -> str | None:
        """It is on its way no more: its group, if it was."""
        group = self._starting.pop(position, None)
        if group is not None:
            self._of_group[group] -= 1
            if not self._of_group[group]:
                del self._of_group[group]
        return group

    def park(self, command: Command, group: str, *, first: bool) -> bool:
        """Let it wait in memory, if there is room: behind the others, or before them."""
        if len(self._group_of) >= MAX_PARKED:
            return False
        queue = self._parked.setdefault(group, deque())
        if first:
            queue.appendleft(command)
        else:
            queue.append(command)
        self._group_of[command.position] = group
        return True

    @property
    def groups(self) -> list[str]:
        """Those of which some wait in memory."""
        return list(self._parked)

    def first(self, group: str) -> Command | None:
        return self._parked[group][0] if group in self._parked else None

    def unpark(self, group: str) -> Command:
        queue = self._parked[group]
        command = queue.popleft()
        del self._group_of[command.position]
        if not queue:
            del self._parked[group]
        return command

    def take_out(self, command: Command) -> bool:
        """Whether it waited, and does no more."""
        group = self._group_of.pop(command.position, None)
        if group is None:
            return False
        self._parked[group].remove(command)
        if not self._parked[group]:
            del self._parked[group]
        return True
