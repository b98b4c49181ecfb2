"""The task of the peers that import theirs in the process that runs it: a module that costs nothing."""


def noop() -> None: ...
