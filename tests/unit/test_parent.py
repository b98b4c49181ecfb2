"""What the process that forks tasks does about a child's end."""

import errno
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
        self.started: list[int] = []
        self.unforkable: set[int] = set()
        self.watched: list[int] = []
        self.told: list[bytes] = []

    def hears_of_a_signal(self, child: int, number: int) -> None:
        self.relay.send(self._parent.PACKET.pack(b"K", child) + number.to_bytes(4, "big"))
        self._parent.Parent._hear(self)

    def is_asked_for(self, *children: int) -> None:
        for child in children:
            self.relay.send(self._parent.PACKET.pack(b"S", child))

    def _spawn(self, number: int, descriptors: list[int]) -> Any:
        return self._parent.Parent._spawn(self, number, descriptors)

    def _start(self, number: int, descriptors: list[int], channel: tuple[int, int]) -> Any:
        assert not self.watched, "those that were forked are seen to before all are"
        if number in self.unforkable:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.started.append(number)
        return self._parent.Child(number, 100 + number, 200 + number)

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


def test_children_are_forked_in_a_row_and_one_that_cannot_be_holds_up_none(
    parent: ModuleType, watching: Watching
) -> None:
    watching.unforkable = {2}
    watching.is_asked_for(1, 2, 3)
    parent.Parent._hear(watching)
    assert (watching.started, watching.told) == ([1, 3], [b"L"])
    assert watching.watched == [101, 103]
    assert list(watching._children) == [1, 3]


def test_a_signal_reaches_a_child_that_was_forked_in_the_same_row(
    parent: ModuleType, watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(parent, "KILL", lambda pid, number: signalled.append((pid, number)))
    watching.is_asked_for(1)
    watching.hears_of_a_signal(1, signal.SIGTERM)
    assert (signalled, watching.watched) == ([(101, signal.SIGTERM)], [101])


def test_no_more_are_forked_in_a_row_than_ended_ones_can_wait_for(
    parent: ModuleType, watching: Watching
) -> None:
    asked_for = range(parent.IN_A_ROW + 1)
    watching.is_asked_for(*asked_for)
    parent.Parent._hear(watching)
    assert watching.started == [*asked_for[:-1]]
    watching.watched.clear()
    parent.Parent._hear(watching)
    assert watching.started == [*asked_for]


class Newborn:
    """A parent whose child cannot be confined. That it lives is seen by what it writes."""

    def __init__(self, lives: int, failure: int) -> None:
        self._lives, self._failure = lives, failure
        self._confinement = self
        self.step = "making namespaces"

    def put_on(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _live(self, tasks: int, results: int) -> None:
        os.write(self._lives, b"it lives")


@pytest.mark.parametrize("handled", [False, True])
def test_a_child_that_cannot_be_confined_runs_nothing_although_signals_are_blocked(
    parent: ModuleType, image_module: Callable[[str], ModuleType], handled: bool
) -> None:
    kernel = image_module("mayfly_kernel")
    lives, lives_end = os.pipe()
    failure, failure_end = os.pipe()
    child = os.fork()
    if child == 0:
        if handled:
            signal.signal(parent.UNCONFINED, signal.SIG_IGN)
        kernel.block_signals()
        parent.Parent._be_born(Newborn(lives_end, failure_end), [], (0, 1))
    for end in (lives_end, failure_end):
        os.close(end)
    status = os.waitpid(child, 0)[1]
    said = [os.read(end, 1000) for end in (lives, failure)]
    for end in (lives, failure):
        os.close(end)
    assert said == [b"", b"making namespaces: No space left on device"]
    assert os.WTERMSIG(status) == parent.UNCONFINED
