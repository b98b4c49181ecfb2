import logging
import stat
from pathlib import Path

import pytest

from mayfly.client import ClientError, profiles

FILE = """\
# what I keep
[profiles.production]  # the real one
url = "https://mayfly.example"   # behind the proxy
api_key = "mf_secret"

[profiles.other]
url = "https://other.example"
token = 'theirs'
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mayfly" / "config.toml"
    monkeypatch.setenv("MAYFLY_CONFIG", str(path))
    monkeypatch.delenv("MAYFLY_PROFILE", raising=False)
    return path


def write(file: Path, text: str = FILE, mode: int = 0o600) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def test_the_file_is_where_configuration_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAYFLY_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.place() == tmp_path / ".config" / "mayfly" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert profiles.place() == tmp_path / "xdg" / "mayfly" / "config.toml"


def test_a_profile_is_read_by_its_name(file: Path) -> None:
    write(file)
    found = profiles.load("production")
    assert (found.url, found.credential) == ("https://mayfly.example", "mf_secret")
    assert "mf_secret" not in repr(found)


def test_without_a_file_there_is_an_empty_default(file: Path) -> None:
    assert profiles.load() == profiles.Profile()


def test_a_profile_that_is_named_and_not_there_is_an_error_that_lists_those_that_are(file: Path) -> None:
    write(file)
    with pytest.raises(ClientError, match=r"no profile 'staging'.* there are: other, production"):
        profiles.load("staging")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[profiles.", "is no TOML"),
        ("[profile.a]", "profile is not known"),
        ("profiles = 1", "profiles are"),
        ("[profiles]\na = 1", "to be a table"),
        ('[profiles.a]\npassword = "x"', "password is not known; there are url, api_key"),
        ("[profiles.a]\napi_key = 7", "api_key is to be a string"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(file: Path, text: str, wrong: str) -> None:
    write(file, text)
    with pytest.raises(ClientError, match=wrong) as caught:
        profiles.load()
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_with_a_key_that_others_can_read_is_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    write(file, mode=mode)
    with caplog.at_level(logging.WARNING):
        profiles.load()
    [record] = caplog.records
    assert f"chmod 600 {file}" in record.getMessage()
    assert "mf_secret" not in caplog.text


@pytest.mark.parametrize(("text", "mode"), [(FILE, 0o600), ('[profiles.a]\nurl = "https://a"', 0o644)])
def test_a_file_that_gives_nothing_away_is_not_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture, text: str, mode: int
) -> None:
    write(file, text, mode)
    profiles.load()
    assert caplog.records == []


def test_a_token_is_written_into_its_profile_and_all_else_stays(file: Path) -> None:
    write(file, mode=0o644)
    assert profiles.save("production", token='to"k\\en') == file
    added = 'token = "to\\"k\\\\en"\n'
    assert file.read_text() == FILE.replace("# the real one\n", f"# the real one\n{added}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert profiles.load("production").credential == 'to"k\\en'
    profiles.save("production", token=None)
    assert file.read_text() == FILE
    assert profiles.load("production").credential == "mf_secret"


def test_a_profile_that_is_not_there_is_added(file: Path) -> None:
    profiles.save("default", url="https://a.example", username="ana", token="t")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    write(file, FILE.removesuffix("\n"))
    profiles.save("default", url="https://a.example", token="ü")
    assert file.read_text().startswith(FILE)
    assert profiles.load() == profiles.Profile(url="https://a.example", token="ü")


@pytest.mark.parametrize("text", ["profiles.a.url = 'https://a'\n", "profiles = {a = {url = 'https://a'}}\n"])
def test_a_file_that_cannot_be_changed_line_by_line_stays_as_it_is(file: Path, text: str) -> None:
    write(file, text)
    with pytest.raises(ClientError, match=r"edit \[profiles\.a\]"):
        profiles.save("a", token="t")
    assert file.read_text() == text


def test_a_link_to_the_file_stays_one(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    file.parent.mkdir()
    file.symlink_to(kept)
    profiles.save("default", token="t")
    assert file.is_symlink()
    assert "t" in kept.read_text()


@pytest.mark.parametrize("name", ["", "a.b", "a]", "ä", "x" * 65])
def test_a_name_that_no_profile_can_have_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ClientError, match="no name of a profile"):
        profiles.save(name, token="t")
    assert not file.exists()
