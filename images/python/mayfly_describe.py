"""`bootstrap describe`: what a function takes, read from its handler's type hints. One JSON line on stdout.

{"schema": JSON Schema or null, "acceptsBytes": bool, "python": "3.11",
 "error": null or {"message", "file", "line"},
 "compiled": {"__pycache__/handler.cpython-311.pyc": base64}}

The compiled files are for the image: so no step of its build has to run in it.
"""

import base64
import importlib.util
import inspect
import json
import os
import py_compile
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mayfly_errors
import mayfly_events


def main(load_handler: Callable[[], Any]) -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # what the import prints is no description
    line = json.dumps(_describe(load_handler)) + "\n"
    with os.fdopen(stdout, "w") as stream:
        stream.write(line)
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
            code = handler.__code__
            file, line = code.co_filename.removeprefix(f"{function}/"), code.co_firstlineno
        return about | {"error": {"message": message, "file": file, "line": line}}
    return about | {"error": None, "compiled": dict(_compiled(Path(function)))}


def _compiled(function: Path) -> Iterator[tuple[str, str]]:
    # Unchecked: an image's files never change, so a start need not look at their sources.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    scratch = "/tmp/mayfly.pyc"  # noqa: S108 - the sandbox's own
    for source in sorted(function.rglob("*.py")):
        try:
            py_compile.compile(str(source), scratch, doraise=True, invalidation_mode=mode)
        except (py_compile.PyCompileError, ValueError, OSError):
            continue  # a template, or another Python's file: nothing that the handler imported
        name = importlib.util.cache_from_source(str(source.relative_to(function)))
        yield name, base64.b64encode(Path(scratch).read_bytes()).decode()


def _check_signature(handler: Callable[..., Any]) -> None:
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        raise TypeError("handler takes two arguments: `def handler(event, context): ...`") from None
    except ValueError:
        return  # written in C: it has no signature to read


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{sys.argv[0]} ended the process while it was imported (exit code {error.code})"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error}; if it is a package, name it in requirements.txt"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"
