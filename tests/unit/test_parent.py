"""What the process that forks tasks does about a child's end."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

COMMANDS = ("true",), ("sleep", "infinity")


@pytest.fixture
def parent(image_module: Callable[[str], ModuleType]) -> ModuleType:
    return image_module("mayfly_parent")


class Watching:
    """A parent that only notes what it is asked to watch, and what it tells. `relay` speaks to it."""

    def __init__(self, parent: ModuleType) -> None:
        self.relay, self._control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._children: dict[int, Any] = {}
        self._parent = parent
        self.watched: list[int] = []
        self.told: list[bytes] = []

    def hears_of_a_signal(self, child: int, number: int) -> None:
        self.relay.send(self._parent.PACKET.pack(b"K", child) + number.to_bytes(4, "big"))
        self._parent.Parent._hear(self)

    def _unwatch(self, child: Any) -> None: ...

    def _watch(self, child: Any, pid: int) -> None:
        self.watched.append(pid)

    def _tell(self, kind: bytes, number: int, body: bytes) -> None:
        self.told.append(kind)


@pytest.fixture
def watching(parent: ModuleType) -> Iterator[Watching]:
    found = Watching(parent)
    yield found
    found.relay.close()
    found._control.close()


def test_a_signal_that_comes_while_a_child_ends_reaches_nobody(
    parent: ModuleType, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, first = (os.posix_spawnp(name, (name, *rest), os.environ) for name, *rest in COMMANDS)
    try:
        child = watching._children[7] = parent.Child(7, handler, first)
        child.ended(watching)  # waits for it
        assert watching.watched == [first]
        signalled: list[int] = []
        monkeypatch.setattr(parent, "KILL", lambda pid, number: signalled.append(pid))
        watching.hears_of_a_signal(7, signal.SIGKILL)
        assert signalled == []
    finally:
        os.kill(first, signal.SIGKILL)
    child.ended(watching)
    assert (watching.told, watching._children) == ([b"X"], {})


def test_a_signal_reaches_a_child_that_runs(
    parent: ModuleType, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(parent, "KILL", lambda pid, number: signalled.append((pid, number)))
    watching._children[7] = parent.Child(7, 123, 124)
    watching.hears_of_a_signal(7, signal.SIGTERM)
    assert signalled == [(123, signal.SIGTERM)]
