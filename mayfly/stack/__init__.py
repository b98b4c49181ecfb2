"""The local stack. What other processes ask of it is here; what starts and keeps it takes seconds to import:
`stack`, `serve`, `status`."""

from mayfly.stack.part import PartState
from mayfly.stack.record import Running, environment, running

__all__ = ["PartState", "Running", "environment", "running"]
