"""A Docker engine that the stack starts itself."""

import os
from pathlib import Path

import pytest

from mayfly.stack import engine, mounts
from mayfly.stack.engine import Engine, with_crun
from mayfly.stack.home import Home
from mayfly.stack.packages import CRUN, DOCKERD, Program


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that has crun, whose control groups are not hybrid and whose engine has no configuration and no
    containerd but its own."""
    monkeypatch.setattr(engine, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(engine, "CONFIGURATION", tmp_path / "daemon.json")
    monkeypatch.setattr(engine, "CONTAINERD", tmp_path / "containerd.sock")
    monkeypatch.setattr(mounts, "UNIFIED", str(tmp_path / "unified"))
    return tmp_path


def test_an_engine_of_ours_is_given_crun(machine: Path) -> None:
    command = ["dockerd", "--add-runtime", "crun=/usr/bin/crun"]
    assert with_crun(["dockerd"]) == mounts.made_for("/usr/bin/crun", command) != command


@pytest.mark.parametrize("where", ["socket", "file"])
def test_an_engine_with_somebody_elses_containerd_shares_its_mounts(machine: Path, where: str) -> None:
    if where == "socket":
        (machine / "containerd.sock").touch()
    else:
        (machine / "daemon.json").write_text('{"containerd": "/run/other.sock"}')
    assert with_crun(["dockerd"]) == ["dockerd", "--add-runtime", "crun=/usr/bin/crun"]


def test_without_crun_its_command_is_as_ever(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", lambda name: None)
    assert with_crun(["dockerd"]) == ["dockerd"]


@pytest.mark.parametrize(
    ("text", "flag"), [('{"runtimes": {}}', False), ('{"debug": true}', True), ("[", True), ("1", True)]
)
def test_runtimes_that_its_file_names_are_not_named_again(machine: Path, text: str, flag: bool) -> None:
    (machine / "daemon.json").write_text(text)
    assert ("--add-runtime" in with_crun(["dockerd"])) is flag


@pytest.mark.parametrize("hybrid", [False, True])
def test_its_mounts_are_made_for_crun(monkeypatch: pytest.MonkeyPatch, hybrid: bool) -> None:
    monkeypatch.setattr("os.path.ismount", lambda path: hybrid and path == "/sys/fs/cgroup/unified")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    command = mounts.made_for("/usr/bin/crun", ["dockerd", "--flag"])
    assert command[:4] == ["unshare", "--mount", "--propagation", "slave"]
    assert (mounts.HIDE in command[6]) is hybrid
    assert command[-3:] == ["/usr/bin/crun", "dockerd", "--flag"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert mounts.made_for("/usr/bin/crun", ["dockerd"]) == ["dockerd"]


@pytest.mark.parametrize(("installed", "wanted"), [(True, [DOCKERD]), (False, [DOCKERD, CRUN])])
def test_crun_comes_with_an_engine_that_is_installed_and_not_to_one_that_is_there(
    installed: bool, wanted: list[Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        "shutil.which", lambda name, path=None: f"/usr/bin/{name}" if name == "apt-get" or installed else None
    )
    monkeypatch.setattr(Engine, "_answers", lambda self: False)
    assert Engine(Home(tmp_path), print, {}).programs() == wanted
