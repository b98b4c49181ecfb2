import os
import subprocess
from pathlib import Path

import pytest

from mayfly.stack import archives

MAKING, USING = "-XX:ArchiveClassesAtExit=", "-XX:SharedArchiveFile="


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    path = tmp_path / "jars" / "kafka-1"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def java(tmp_path: Path) -> str:
    path = tmp_path / "java"
    path.write_text("one")
    return str(path)


def made(jars: Path, java: str, exit_code: int = archives.ENDED) -> Path:
    """What a JVM does that is told to make one, and ends: the path that it was told."""
    path = Path(archives.using_or_making(jars, java)[0].removeprefix(MAKING))
    path.write_text("classes")
    archives.keep(jars, java, exit_code)
    return path


def test_the_first_jvm_makes_an_archive_and_the_next_one_uses_it(jars: Path, java: str) -> None:
    assert archives.using(jars, java) == []
    fresh = made(jars, java)
    [kept] = jars.parent.glob("*.jsa")
    assert not fresh.exists()
    assert f"{USING}{kept}" in archives.using(jars, java)
    assert archives.using_or_making(jars, java) == archives.using(jars, java)
    archives.keep(jars, java, archives.ENDED)
    assert kept.read_text() == "classes", "one that used it leaves it"


def test_what_a_killed_jvm_has_written_is_not_used(jars: Path, java: str) -> None:
    fresh = made(jars, java, exit_code=-9)
    assert not fresh.exists()
    assert archives.using(jars, java) == []


def test_another_java_or_other_jars_have_an_archive_of_their_own_and_the_old_one_goes(
    jars: Path, java: str
) -> None:
    made(jars, java)
    [first] = jars.parent.glob("*.jsa")
    Path(java).write_text("another")
    assert archives.using(jars, java) == []
    made(jars, java)
    [second] = jars.parent.glob("*.jsa")
    assert second != first
    os.utime(jars, (1, 1))
    assert archives.using(jars, java) == []


def test_what_a_killed_stack_has_left_is_taken_away_and_another_stacks_is_not(jars: Path, java: str) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    theirs = jars.with_name(f".{jars.name}.0.{os.getppid()}.jsa")
    left = jars.with_name(f".{jars.name}.0.{ended.pid}.jsa")
    for path in (theirs, left):
        path.touch()
    archives.using_or_making(jars, java)
    assert theirs.exists()
    assert not left.exists()


def test_where_nothing_can_be_kept_nothing_is_made(
    jars: Path, java: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert archives.using_or_making(jars, java) == []
    assert archives.using_or_making(jars, f"{java}-that-is-not-there") == []
    archives.keep(jars, java, archives.ENDED)
