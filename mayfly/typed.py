"""msgspec's types, for use by any thread."""

import threading
from typing import TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()
_known: set[object] = set()


def known(kind: type[T]) -> type[T]:
    """The same type, once msgspec knows all about it.

    It finds out when a type is first used, and runs Python for that: a thread that used the type meanwhile
    read what is not there yet (msgspec 0.22), and the process died without a word.
    """
    if kind not in _known:
        with _lock:
            msgspec.json.Decoder(kind)
            _known.add(kind)
    return kind
