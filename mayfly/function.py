"""A function as the catalog knows it: what the gateway checks a task against and the dispatcher runs."""

import re
from typing import Any, Final, Literal

import msgspec

from mayfly.task import RetryPolicy

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
"""A function's name, which is its folder's."""


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """What a sandbox may use. `timeout_seconds` counts from the moment it has its input."""

    timeout_seconds: float = 60.0
    memory_mib: int = 256
    cpu: float = 1.0
    """Cores."""
    pids: int = 128
    open_files: int = 1024
    tmp_mib: int = 64


class Function(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A catalog entry: the value of a record in `mayfly.functions`, keyed by the function's name."""

    name: str
    image: str
    """Tag of the image, which holds the hash of what it is built from."""
    version: str
    """That hash, short."""
    contract: Literal["python", "unix"] = "python"
    """How a sandbox is spoken to: `python` (frames, `images/python`) or `unix` (stdin, stdout, exit code)."""
    description: str = ""
    limits: Limits = Limits()
    isolation: str = "container"
    """`container`, `fork` or `warm`; the last two for the contract `python` only."""
    warm_pool: int | None = None
    """How many sandboxes each dispatcher of its queue keeps ready; None: as its use asks for."""
    network: Literal["none", "egress"] = "none"
    runtime: str | None = None
    """`ecs`; None: what its dispatchers run tasks with. Whoever does not know it refuses its tasks."""
    queue: str = "default"
    env: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    retries: RetryPolicy = RetryPolicy()
    redeliver: bool = True
    """Whether a task whose sandbox was lost runs again."""
    concurrency: int | None = None
    """How many of its tasks run at once, over all dispatchers; of tasks with a `concurrencyKey`, how many of
    each key. None: as many as there are slots."""
    schema: dict[str, Any] | None = None
    """JSON Schema (2020-12) of the payload; None takes anything."""
    accepts_bytes: bool = True
    """Whether a body of another type than JSON may be posted: not where a schema wants JSON."""
    examples: tuple[str, ...] = ()
    deployed_at: int = 0
    """Milliseconds since 1970, UTC."""
    callback_url: str | None = None
    """Where the ends of its tasks are posted to, of those that do not say it themselves."""
    retired: bool = False
    """Its folder is gone: no new task is taken, those that wait still run."""
    hinted: bool = False
    """Whether `schema` and `accepts_bytes` are what the image says of its handler."""
    number: int = 1
    """Which version it is, counted per function: `v1` is 1."""
    share: int = 100
    """How many of a hundred tasks run on it."""
    versions: tuple["Function", ...] = ()
    """The other versions, newest first; those have none. `mayfly.versions` makes and reads them."""


_decoder = msgspec.json.Decoder(Function)


def encode_function(function: Function) -> bytes:
    return msgspec.json.encode(function)


def decode_function(value: bytes) -> Function | None:
    """The entry, or None for a record that is none."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
