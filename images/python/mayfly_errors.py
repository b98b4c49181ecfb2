"""An exception as the body of an E frame."""

import traceback
from types import TracebackType


def describe(error: BaseException, kind: str, function: str, limit: int) -> dict[str, object]:
    """Its class, message and traceback, each cut to `limit` characters.

    The traceback starts in the function's own folder, `function`: how the call got there is no news. With
    it goes what a `mayfly.Retry` or `mayfly.Permanent` says of another attempt.
    """
    body: dict[str, object] = {
        "type": kind,
        "error": type(error).__qualname__,
        "message": _cut(_message(error), limit),
        **_advice(error),
    }
    if kind != "Function.BadResult":
        error.__traceback__ = _own_part(error.__traceback__, function)
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        body["traceback"] = _cut("".join(lines).replace(f'File "{function}/', 'File "'), limit)
    return body


def location(error: BaseException, function: str) -> tuple[str | None, int | None]:
    """File (relative to the folder) and line where the function's own code went wrong."""
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(function):
        return _relative(error.filename, function), error.lineno
    found: tuple[str | None, int | None] = (None, None)
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(function + "/"):
            found = _relative(frame.f_code.co_filename, function), line
    return found


def _advice(error: BaseException) -> dict[str, object]:
    """Known by their mark: a function may have packages with a `mayfly` of their own."""
    advice = getattr(type(error), "_mayfly_advice", None)
    if advice not in ("retry", "permanent"):
        return {}
    try:
        after = error.after if advice == "retry" else None
    except Exception:  # noqa: BLE001 - a subclass may have made anything of it
        after = None
    # A subclass may set it unchecked, and JSON has no infinity.
    if isinstance(after, int | float) and 0 <= after < float("inf"):
        return {"advice": advice, "retryAfter": after}
    return {"advice": advice}


def _relative(path: str, function: str) -> str:
    return path.removeprefix(function + "/")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose own __str__ raises
        return f"<{type(error).__name__} has no message: its __str__ raised>"


def _own_part(trace: TracebackType | None, function: str) -> TracebackType | None:
    step = trace
    while step is not None and not step.tb_frame.f_code.co_filename.startswith(function + "/"):
        step = step.tb_next
    return step


def _cut(text: str, limit: int) -> str:
    """Both ends of a text that is too long: a traceback's last lines say most."""
    # A lone surrogate would not survive the way to the client.
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= limit:
        return text
    mark = f"\n... {len(text) - limit} characters left out ...\n"
    half = (limit - len(mark)) // 2
    return text[:half] + mark + text[-half:]
