import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mayfly.errors import StackError
from mayfly.stack.home import FREE_PORTS, Home, cache_directory, is_free
from mayfly.stack.process import Identity
from mayfly.stack.record import environment, running
from mayfly.stack.stack import settings_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "stack")
    home.make()
    return home


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_usual_port_is_taken_if_it_is_free_and_another_one_if_not(home: Home, taken: int) -> None:
    free = next(port for port in FREE_PORTS if is_free(port))
    assert home.port("redis", free) == free
    assert home.port("kafka", taken) in FREE_PORTS


def test_a_port_that_was_chosen_is_chosen_again(home: Home) -> None:
    chosen = home.port("redis", None)
    assert Home(home.path).port("redis", None) == chosen


def test_no_two_parts_get_the_same_port(home: Home) -> None:
    free = next(port for port in FREE_PORTS if is_free(port))
    assert home.port("redis", free) == free
    assert home.port("kafka", free) != free


def test_a_secret_stays_the_same_and_only_its_user_can_read_it(home: Home) -> None:
    secret = home.secret("redis")
    assert home.secret("redis") == secret != home.secret("s3")
    assert (home.path / "secrets/redis").stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_git_does_not_see_the_directory(home: Home) -> None:
    assert (home.path / ".gitignore").read_text() == "*\n"


def test_one_stack_at_a_time_holds_a_directory(home: Home) -> None:
    held = home.hold()
    with pytest.raises(StackError, match="already up"):
        home.hold()
    os.close(held)
    os.close(home.hold())


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="file/stack cannot be written"):
        Home(tmp_path / "file/stack").make()


def test_a_file_that_was_cut_short_counts_as_none(home: Home) -> None:
    home.write("ports.json", '{"redis": 2')
    assert home.read_json("ports.json") is None
    assert home.port("redis", None) in FREE_PORTS


def test_a_process_is_known_by_its_birth_as_well_as_its_pid() -> None:
    mine = Identity.of(os.getpid())
    assert mine is not None
    assert mine.alive
    assert not Identity(mine.pid, "earlier").alive


def test_where_nothing_is_up_nothing_is_found(home: Home) -> None:
    assert running(home.path) is None
    assert environment(home.path) == {}


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAYFLY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg/mayfly"
    monkeypatch.setenv("MAYFLY_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_settings_are_read_from_an_environment_that_is_given() -> None:
    settings = settings_of({"MAYFLY_KAFKA": "a:1", "MAYFLY_EGRESS_ALLOW": "b:2, c:3", "HOME": "/"})
    assert settings.kafka == "a:1"
    assert settings.egress_allow == ("b:2", "c:3")
