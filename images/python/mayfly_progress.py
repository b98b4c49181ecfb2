"""A handler's progress, told at a pace: at most one frame in `PAUSE` seconds, and always the latest.

A loop may tell its progress a million times, and whoever watches sees no more of it than an eye does. What
comes too soon is held; a thread tells the latest of it when the pause is over, or `flush` does at the end.
"""

import _thread
import os
import time

PAUSE = 0.05


class Pace:
    """`send` is given the body of each frame. May be used from several threads."""

    def __init__(self, send) -> None:
        self._send = send
        self._lock = _thread.allocate_lock()
        self._held: tuple[float, str] | None = None
        self._next = 0.0
        """When the pause is over, on the monotonic clock."""
        self._waiting = False
        """Whether a thread will tell what is held."""
        # A process that the handler forks has no such thread, and is not to find its lock taken for ever.
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._forked,
        )

    def tell(self, fraction: float, message: str) -> None:
        with self._lock:
            self._held = fraction, message
            if time.monotonic() >= self._next:
                self._send_held()
            elif not self._waiting:
                self._waiting = self._start()

    def flush(self) -> None:
        """Tell what is held."""
        with self._lock:
            self._send_held()

    def _start(self) -> bool:
        try:
            _thread.start_new_thread(self._wait, ())
        except RuntimeError:  # no thread to be had: the next call tells it, or the end
            return False
        return True

    def _wait(self) -> None:
        while True:
            with self._lock:
                left = self._next - time.monotonic()  # a call may have begun another pause meanwhile
                if left <= 0:
                    self._waiting = False
                    self._send_held()
                    return
            time.sleep(left)

    def _forked(self) -> None:
        self._waiting = False
        self._lock.release()

    def _send_held(self) -> None:
        if self._held is None:
            return
        fraction, message = self._held
        self._held = None
        self._next = time.monotonic() + PAUSE
        self._send({"fraction": fraction, "message": message})
