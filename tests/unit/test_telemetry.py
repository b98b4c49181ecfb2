"""The lines of a service's log: the same whoever writes them."""

import errno
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from mayfly import telemetry


@pytest.fixture(name="lines")
def _lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a service that is configured for warnings has written."""
    stderr, root = io.StringIO(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(sys, "stderr", stderr)
    telemetry.configure("dispatcher", "warning")
    yield stderr
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def read(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_ours_and_those_of_libraries_say_who_wrote_them_and_for_which_task(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(task_id="a"):
        structlog.get_logger("ours").warning("told", attempt=2)
        logging.getLogger("theirs").warning("told", extra={"attempt": 2})
    ours, theirs = read(lines)
    assert ours.pop("timestamp")
    assert theirs.pop("timestamp")
    about = {"service": "dispatcher", "level": "warning", "event": "told", "attempt": 2, "task_id": "a"}
    assert ours == about | {"logger": "ours"}
    assert theirs == about | {"logger": "theirs"}


def test_what_is_below_the_level_is_not_written(lines: io.StringIO) -> None:
    structlog.get_logger("ours").info("told")
    logging.getLogger("theirs").info("told")
    assert not lines.getvalue()


def test_an_exception_comes_with_its_place_and_without_its_values(lines: io.StringIO) -> None:
    secret = "open sesame"
    try:
        int(secret[:0])
    except ValueError as error:
        structlog.get_logger("ours").error("broke", exc_info=error)
        logging.getLogger("theirs").exception("broke")
    ours, theirs = read(lines)
    assert ours["exception"] == theirs["exception"]
    assert "test_an_exception_comes_with_its_place" in str(ours["exception"])
    assert secret not in lines.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(line: str) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    log = structlog.get_logger("ours")
    with monkeypatch.context() as disk:
        disk.setattr(lines, "write", full)
        log.error("lost")
    log.error("told")
    assert [line["event"] for line in read(lines)] == ["told"]
