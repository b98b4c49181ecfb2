"""What the relay tells the parent: packets, with the descriptors that go with them."""

import _socket
import os
import select
import struct

THREE = struct.Struct("3i")
RIGHTS = _socket.SOL_SOCKET, _socket.SCM_RIGHTS


class Packets:
    """`control` is registered with `epoll` for reading. `unsendable` gets a packet and its error."""

    def __init__(self, control: _socket.socket, epoll, unsendable) -> None:
        self._control = control
        self._epoll = epoll
        self._unsendable = unsendable
        self._waiting: list[tuple[bytes, tuple[int, ...]]] = []
        self._full = False

    def send(self, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """The three descriptors, if any, are closed here once they are on their way."""
        self._waiting.append((packet, descriptors))
        self.flush()

    def flush(self) -> None:
        while self._waiting:
            packet, descriptors = self._waiting[0]
            rights = [(*RIGHTS, THREE.pack(*descriptors))] if descriptors else []
            try:
                self._control.sendmsg([packet], rights)
            except BlockingIOError:
                break
            except OSError as error:
                self._unsendable(packet, error)
            for descriptor in descriptors:
                os.close(descriptor)
            self._waiting.pop(0)
        if bool(self._waiting) != self._full:
            self._full = bool(self._waiting)
            events = select.EPOLLIN | select.EPOLLOUT if self._full else select.EPOLLIN
            self._epoll.modify(self._control.fileno(), events)
