"""The local stack: `Stack` and `serve` start and keep it; the rest is for other processes."""

from mayfly.stack.part import PartState
from mayfly.stack.record import Running, environment, running
from mayfly.stack.serve import down, serve
from mayfly.stack.stack import Stack
from mayfly.stack.status import states

__all__ = ["PartState", "Running", "Stack", "down", "environment", "running", "serve", "states"]
