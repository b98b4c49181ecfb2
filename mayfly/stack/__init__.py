"""The local stack: `Stack` starts and keeps it, `running` and `down` are for other processes."""

from mayfly.stack.part import PartState
from mayfly.stack.record import Running, environment, running
from mayfly.stack.stack import Stack

__all__ = ["PartState", "Running", "Stack", "environment", "running"]
