"""Whether a process that serves many tasks asks, after one, for what it has left."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def turns(image_module: Callable[[str], ModuleType]) -> ModuleType:
    return image_module("mayfly_turns")


def test_the_youngest_is_another_once_one_was_started(turns: ModuleType) -> None:
    before = turns._youngest()
    if not before:
        pytest.skip("this kernel does not tell which was started last")
    subprocess.run(["true"], check=True)
    assert 0 < before != turns._youngest()


@pytest.mark.parametrize("told", [None, "", "\n", "of no use\n", "0.00 0.00 0.00 0/0 0\n"])
def test_it_is_unknown_where_the_kernel_does_not_say(
    told: str | None, turns: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tmp_path / "loadavg"
    if told is not None:
        load.write_text(told)
    monkeypatch.setattr(turns, "LOAD", str(load))
    assert turns._youngest() == 0


@pytest.mark.parametrize(
    ("before", "after", "short", "asked"),
    [(7, 7, True, False), (7, 7, False, True), (7, 8, True, True), (0, 0, True, True), (7, 0, True, True)],
)
def test_it_is_asked_unless_surely_none_was_started(
    before: int,
    after: int,
    short: bool,
    asked: bool,
    turns: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*signal: int) -> None:
        asks.append(signal)
        raise ProcessLookupError

    asks: list[tuple[int, ...]] = []
    monkeypatch.setattr("os.kill", nobody)
    monkeypatch.setattr(turns, "LOAD", str(tmp_path / "loadavg"))
    state = turns.State.__new__(turns.State)
    state._processes, state._youngest = {1}, before
    Path(turns.LOAD).write_text(f"0.00 0.00 0.00 1/80 {after}\n")
    state.end_processes(short=short)
    assert asks == ([(-1, 0)] if asked else [])
    assert state._youngest == after
