import os
from dataclasses import replace
from pathlib import Path

import pytest

from mayfly.errors import StackError
from mayfly.stack.packages import Program, find, install, java_version

ABSENT = Program("no-such-program", ("no-such-package", "nor-this-one"), "nothing at all")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only programs are those in this folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def executable(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)


async def test_without_root_the_error_has_the_command_that_installs_what_is_missing(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(programs / "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StackError, match=r"no-such-program \(for nothing at all\)") as raised:
        await install([ABSENT], print)
    assert raised.value.mend == "sudo apt-get install --no-install-recommends no-such-package"


async def test_without_a_package_manager_that_is_known_the_error_names_the_programs(programs: Path) -> None:
    with pytest.raises(StackError) as raised:
        await install([ABSENT], print)
    assert raised.value.mend == "install no-such-program with your package manager"


async def test_what_there_is_a_substitute_for_may_stay_missing(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apt-get", "apt-cache"):
        executable(programs / name)
        (programs / name).write_text("#!/bin/sh\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("mayfly.stack.packages._index_is_fresh", lambda: True)
    await install([replace(ABSENT, needed=False)], print)
    with pytest.raises(StackError, match="no-such-program is still missing"):
        await install([ABSENT], print)


async def test_nothing_is_installed_or_said_where_nothing_is_missing(programs: Path) -> None:
    executable(programs / "no-such-program")
    lines: list[str] = []
    await install([ABSENT], lines.append)
    assert lines == []


def test_a_java_that_is_too_old_does_not_count(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(programs / "jdk/bin/java")
    release = programs / "jdk/release"
    monkeypatch.setenv("JAVA_HOME", str(programs / "jdk"))
    release.write_text('JAVA_VERSION="11.0.2"\n')
    assert find("java") != str(programs / "jdk/bin/java")
    release.write_text('JAVA_VERSION="21.0.2"\n')
    assert find("java") == str(programs / "jdk/bin/java")


@pytest.mark.parametrize(
    ("text", "major"),
    [('JAVA_VERSION="17.0.15"', 17), ('JAVA_VERSION="1.8.0_402"', 8), ('JAVA_VERSION="25"', 25), ("", 0)],
)
def test_the_version_of_a_java_is_what_its_release_file_says(tmp_path: Path, text: str, major: int) -> None:
    executable(tmp_path / "bin/java")
    (tmp_path / "release").write_text(text)
    assert java_version(tmp_path / "bin/java") == major
