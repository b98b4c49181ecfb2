"""Logs: a line of JSON per event on stderr, with what is bound to the context: above all the task's id."""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import msgspec
import structlog


class _Lines:
    """Ours do not pass through the standard library's `logging`: a task has two lines, and there they would
    cost it twice as much."""

    def __init__(self, file: TextIO, name: str | None = None) -> None:
        self.name = name
        self._file = file

    def msg(self, line: str) -> None:
        """A log that cannot be written, on a disk that is full, stops nothing else."""
        with suppress(OSError, ValueError):
            # At once, so that lines of several threads stay whole; and that flushes it.
            self._file.write(line + "\n")

    debug = info = warning = error = critical = msg


def _line(event: Any, default: Callable[[Any], Any]) -> str:
    """`default` says what JSON has no form for."""
    try:
        return msgspec.json.encode(event, enc_hook=default).decode()
    except (TypeError, ValueError):
        # Half of a surrogate pair, as a file's name may have it, or a key that is no text.
        return json.dumps(event, default=default)


def configure(service: str, level: str) -> None:
    """Send structlog's and the standard library's records the same way. Call it once, at the root."""

    def named(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"service": service, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]
    rendered: list[structlog.typing.Processor] = [
        # Without the frames' locals: they hold payloads and secrets.
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ),
        structlog.processors.JSONRenderer(_line),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[*shared, *rendered],
        logger_factory=partial(_Lines, sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=True,
    )
    # A line per connection says nothing that ours do not.
    for chatty in ("urllib3", "docker", "botocore", "boto3", "httpx", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
