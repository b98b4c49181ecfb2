import fcntl
import os
import subprocess
import sys

import pytest

from dispatcher.runtimes import ownership
from dispatcher.runtimes.ownership import OwnerLock, folder_label, is_deserted
from mayfly.errors import StackError

HOLD = """
import sys
from pathlib import Path
from dispatcher.runtimes.ownership import OwnerLock
lock = OwnerLock(Path(sys.argv[1]), "other")
lock.acquire()
print(lock.label, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def mine(tmp_path):
    lock = OwnerLock(tmp_path, "mine")
    lock.acquire()
    yield lock
    lock.release()


def test_a_dispatcher_lives_as_long_as_its_process(mine, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        label = other.stdout.readline().strip()
        assert not mine.is_dead(label)
        other.kill()
        other.wait()
    assert mine.is_dead(label)
    mine.forget_dead()
    assert sorted(path.name for path in (tmp_path / "dispatchers").iterdir()) == ["mine.lock"]
    assert mine.is_dead(label)


def test_one_whose_lock_file_is_gone_is_dead(mine):
    assert mine.is_dead(mine.label.replace("mine.lock", "gone.lock"))


def test_oneself_is_never_dead(mine, tmp_path):
    assert not mine.is_dead(mine.label)
    (tmp_path / "dispatchers/mine.lock").unlink()
    assert not mine.is_dead(mine.label)


def test_another_machine_and_another_folder_are_not_ours_to_judge(mine, tmp_path):
    machine, path = mine.label.split(":", 1)
    assert not mine.is_dead(f"elsewhere:{path.replace('mine', 'gone')}")
    assert not mine.is_dead(f"{machine}:{tmp_path}/other/dispatchers/gone.lock")
    assert not mine.is_dead("")
    assert not mine.is_dead("nonsense")


def test_an_id_that_is_taken_is_an_error(mine, tmp_path):
    with pytest.raises(StackError, match=r"mine\.lock cannot be made"):
        OwnerLock(tmp_path, "mine").acquire()
    assert (tmp_path / "dispatchers/mine.lock").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="no lock file can be made"):
        OwnerLock(tmp_path / "file", "mine").acquire()


def test_releasing_leaves_nothing_and_may_be_repeated(tmp_path):
    lock = OwnerLock(tmp_path, "mine")
    lock.acquire()
    lock.release()
    lock.release()
    assert list((tmp_path / "dispatchers").iterdir()) == []


def test_a_folder_is_deserted_when_nobody_in_it_lives(mine, tmp_path):
    assert not is_deserted(folder_label(tmp_path))
    mine.release()
    assert is_deserted(folder_label(tmp_path))
    assert not is_deserted(f"elsewhere:{tmp_path}")


def test_the_lock_is_held_from_the_moment_it_can_be_seen(mine, tmp_path):
    descriptor = os.open(tmp_path / "dispatchers/mine.lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


# --- in containers, which have no machine's id, and the same name and paths although what is there may differ


@pytest.fixture
def no_machine_id(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "MACHINE_ID", tmp_path / "nothing")


def test_the_dispatchers_of_one_folder_know_each_others_locks(no_machine_id, tmp_path):
    first, second = OwnerLock(tmp_path, "first"), OwnerLock(tmp_path, "second")
    first.acquire()
    second.acquire()
    assert not second.is_dead(first.label)
    first.release()
    assert second.is_dead(first.label)
    assert not is_deserted(folder_label(tmp_path))
    second.release()
    assert is_deserted(folder_label(tmp_path))


def test_the_same_path_with_another_folder_there_is_not_ours_to_judge(no_machine_id, tmp_path):
    theirs = OwnerLock(tmp_path / "mounted", "theirs")
    theirs.acquire()
    label, folder = theirs.label, folder_label(tmp_path / "mounted")
    (tmp_path / "mounted").rename(tmp_path / "elsewhere")
    ours = OwnerLock(tmp_path / "mounted", "ours")
    ours.acquire()
    assert not ours.is_dead(label)
    assert not is_deserted(folder)
    ours.release()
    assert not is_deserted(folder)
    assert not is_deserted(folder.replace("/mounted/", "/not-seen-from-here/"))
    theirs.release()


def test_a_folder_that_cannot_be_given_an_id_is_an_error(no_machine_id, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="no lock file can be made"):
        folder_label(tmp_path / "file")
