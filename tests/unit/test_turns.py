"""What a process that serves many tasks knows of those that were started meanwhile."""

import importlib
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from mayfly.base_image import python_files


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(python_files()["mayfly_turns.py"]).parent))
    return importlib.import_module("mayfly_turns")


def test_the_youngest_is_another_once_one_was_started(turns: ModuleType) -> None:
    if not Path(turns.LOAD).exists():
        pytest.skip("Linux alone tells which was started last")
    before = turns._youngest()
    subprocess.run(["true"], check=True)
    assert 0 < before != turns._youngest()


@pytest.mark.parametrize("told", [None, "0.00 0.00 0.00 0/0 0\n"])
def test_it_is_unknown_where_the_kernel_does_not_say(
    told: str | None, turns: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tmp_path / "loadavg"
    if told is not None:
        load.write_text(told)
    monkeypatch.setattr(turns, "LOAD", str(load))
    assert turns._youngest() == 0
