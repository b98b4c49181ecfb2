"""The directory that a stack keeps its things in between runs: `.mayfly/`, unless told otherwise."""

import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mayfly.errors import StackError

FREE_PORTS: Final = range(20_000, 30_000)
"""Below the range that systems take the near end of outgoing connections from: a port that was free when
it was chosen is then still free when its server comes up."""


class Home:
    """Paths, ports and secrets of one stack. Nobody but its user can read it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()

    def make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise StackError(f"{self.path} cannot be written: {error.strerror}") from error

    def directory(self, name: str) -> Path:
        path = self.path / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        return self.directory("logs") / f"{name}.log"

    def write(self, name: str, text: str) -> Path:
        """Replaces a file in one step, readable by its user alone. Raises `StackError`."""
        path = self.path / name
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(text)
            fresh.replace(path)
        except OSError as error:
            raise StackError(f"{path} cannot be written: {error.strerror}") from error
        return path

    def read(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text()
        except OSError:
            return None

    def write_json(self, name: str, value: object) -> Path:
        return self.write(name, json.dumps(value, indent=1))

    def read_json(self, name: str) -> Any:
        """The file's value, or None if there is none that can be read."""
        try:
            return json.loads(self.read(name) or "null")
        except ValueError:
            return None

    def remembered(self, name: str, make: Callable[[], str]) -> str:
        """The file's text, made the first time that it is asked for."""
        text = self.read(name)
        if not text:
            text = make()
            self.write(name, text)
        return text

    def secret(self, name: str) -> str:
        """A random secret that stays the same from run to run."""
        return self.remembered(f"secrets/{name}", lambda: secrets.token_hex(24))

    def port(self, name: str, usual: int | None) -> int:
        """The port of the last run, else the usual one, else another: the first of them that is free."""
        ports = self.read_json("ports.json") or {}
        wanted = [port for port in (ports.get(name), usual) if port]
        candidates = [*wanted, *random.sample(FREE_PORTS, 200)]
        taken = {port for other, port in ports.items() if other != name}
        for port in candidates:
            if port not in taken and is_free(port):
                self.write_json("ports.json", {**ports, name: port})
                return port
        raise StackError(f"there is no free port for {name} between {FREE_PORTS.start} and {FREE_PORTS.stop}")

    def hold(self) -> int:
        """Takes the stack's lock and returns its file descriptor: closing it, or dying, gives it back."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StackError(f"a stack is already up in {self.path}", mend="mayfly down") from error
        return descriptor


def is_free(port: int, host: str = "") -> bool:
    """Whether a server could listen on the port, on every address unless one is named."""
    with socket.socket() as listener:
        # As servers do: a connection of the last run that lingers is no reason to move.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def cache_directory() -> Path:
    """What is the same for every stack of a user, so that a second clone downloads nothing."""
    own = os.environ.get("MAYFLY_CACHE")
    path = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mayfly"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()
