"""`bootstrap describe`: what a function takes, read from its handler's type hints. One JSON line on stdout.

{"schema": JSON Schema or null, "acceptsBytes": bool, "python": "3.11",
 "error": null or {"message", "file", "line"}}
"""

import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mayfly_errors
import mayfly_events


def main(load_handler: Callable[[], Any]) -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # what the import prints is no description
    line = json.dumps(_describe(load_handler)) + "\n"
    os.write(stdout, line.encode())
    os._exit(0)


def _describe(load_handler: Callable[[], Any]) -> dict[str, Any]:
    function = str(Path.cwd())
    about: dict[str, Any] = {
        "schema": None,
        "acceptsBytes": True,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    handler = None
    try:
        handler = load_handler()
        _check_signature(handler)
        converter = mayfly_events.converter(handler)
        if converter is not None:
            about |= {"schema": converter.schema(), "acceptsBytes": converter.accepts_bytes}
    except BaseException as error:  # noqa: BLE001 - whatever the import raises is the answer
        file, line = mayfly_errors.location(error, function)
        # What Mayfly itself has to say is a sentence; what the function's code raised also has a class.
        message = _message(error) if file else str(error)
        if file is None and hasattr(handler, "__code__"):
            file, line = "handler.py", handler.__code__.co_firstlineno
        return about | {"error": {"message": message, "file": file, "line": line}}
    return about | {"error": None}


def _check_signature(handler: Callable[..., Any]) -> None:
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        raise TypeError("handler takes two arguments: `def handler(event, context): ...`") from None
    except ValueError:
        return  # written in C: it has no signature to read


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"handler.py ended the process while it was imported (exit code {error.code})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error}; if it is a package, name it in requirements.txt"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"
