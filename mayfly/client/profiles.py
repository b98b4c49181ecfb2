"""Profiles: gateways by name, each with what says who asks, in a TOML file.

    [profiles.production]
    url = "https://mayfly.example"
    api_key = "mf_..."

The file is `MAYFLY_CONFIG`, else `~/.config/mayfly/config.toml`. `mayfly login` adds a `token` to a profile.
"""

import json
import logging
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from mayfly.client.errors import ClientError

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
"""The profile that counts where none is named, if there is one."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Profile:
    """One profile. A token goes before a key: who has logged in wants to be who that was."""

    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    username: str | None = None
    """Who logged in last, for the next time."""

    @property
    def credential(self) -> str | None:
        return self.token or self.api_key


KEYS: Final = tuple(one.name for one in fields(Profile))


def place() -> Path:
    """Where the profiles are, whether or not there is such a file."""
    if named := os.environ.get("MAYFLY_CONFIG"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(base) if base else Path.home() / ".config") / "mayfly" / "config.toml"
    except RuntimeError:
        # A user whom the system does not know, as in some containers, has no home and no such file.
        return Path(os.devnull)


def chosen(name: str | None = None) -> str | None:
    """The profile that is named here or in `MAYFLY_PROFILE`; None leaves it to the default."""
    return name or os.environ.get("MAYFLY_PROFILE") or None


def load(name: str | None = None) -> Profile:
    """The profile of that name, or the one that counts where none is named. Warns in the log of a file that
    holds credentials and that others can read.

    Raises `ClientError` for a file that is wrong, and for a profile that is named and is not there.
    """
    path = place()
    try:
        text = _text(path)
    except PermissionError:
        # Somebody else's home, as in some containers, is no place where this user keeps profiles.
        text = ""
    profiles = _parse(text, path)
    if any(profile.credential for profile in profiles.values()):
        _warn_if_exposed(path)
    found = profiles.get(name or DEFAULT)
    if found is None and name is not None:
        there = ", ".join(sorted(profiles)) or "none"
        raise ClientError(f"there is no profile {name!r} in {path}; there are: {there}")
    return found or Profile()


def find(name: str) -> Profile:
    """The profile of that name, or an empty one. Raises `ClientError` for a file that is wrong."""
    path = place()
    try:
        return _parse(_text(path), path).get(name, Profile())
    except PermissionError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}") from None


def save(name: str, **changes: str | None) -> Path:
    """Set these keys of a profile, or take away those that are None; the rest of the file stays as it is.

    Returns the file, which nobody else can read then. Raises `ClientError`.
    """
    check_name(name)
    # A link, as people have who keep such files elsewhere, stays one.
    path = place().resolve()
    try:
        text = _text(path)
    except PermissionError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}") from None
    before = _parse(text, path)
    wanted = {
        **before,
        name: Profile(**{key: changes.get(key, getattr(before.get(name), key, None)) for key in KEYS}),
    }
    written = _edited(text, name, changes)
    if not _says(written, path, wanted):
        raise ClientError(f"{path} is written in a way that cannot be changed here: edit [profiles.{name}]")
    _replace(path, written)
    return path


def check_name(name: str) -> None:
    """Raises `ClientError`."""
    if not _NAME.fullmatch(name):
        raise ClientError(f"{name!r} is no name of a profile: letters, digits, - and _")


# --- the file


def _text(path: Path) -> str:
    """Raises `PermissionError`, and `ClientError`."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ClientError(f"{path} cannot be read: {reason}") from None


def _parse(text: str, path: Path) -> dict[str, Profile]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ClientError(f"{path} is no TOML: {error}") from None
    found = document.get("profiles", {})
    if unknown := sorted(document.keys() - {"profiles"}):
        raise ClientError(f"{path}: {unknown[0]} is not known; profiles are [profiles.<name>]")
    if not isinstance(found, dict):
        raise ClientError(f"{path}: profiles are [profiles.<name>]")
    return {name: _profile(name, keys, path) for name, keys in found.items()}


def _says(text: str, path: Path, wanted: dict[str, Profile]) -> bool:
    try:
        return _parse(text, path) == wanted
    except ClientError:
        return False


def _profile(name: str, keys: Any, path: Path) -> Profile:
    where = f"{path}: [profiles.{name}]"
    if not isinstance(keys, dict):
        raise ClientError(f"{where} is to be a table")
    if unknown := sorted(keys.keys() - set(KEYS)):
        raise ClientError(f"{where}: {unknown[0]} is not known; there are {', '.join(KEYS)}")
    if wrong := sorted(key for key, value in keys.items() if not isinstance(value, str)):
        raise ClientError(f"{where}: {wrong[0]} is to be a string")
    return Profile(**keys)


def _warn_if_exposed(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s holds credentials, and others can read it: chmod 600 %s", path, path)


def _edited(text: str, name: str, changes: dict[str, str | None]) -> str:
    """The text with the profile's keys changed, line by line, so that comments and all else stay."""
    header = re.compile(rf"\s*\[\s*profiles\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]\s*(#.*)?")
    changed = re.compile(rf"\s*({'|'.join(map(re.escape, changes))})\s*=")
    # JSON's strings are strings of TOML as well.
    added = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in changes.items()
        if value is not None
    ]
    lines: list[str] = []
    inside = found = False
    for line in text.removesuffix("\n").split("\n") if text else ():
        if header.fullmatch(line):
            inside = found = True
            lines += [line, *added]
        elif re.match(r"\s*\[", line):
            inside = False
            lines.append(line)
        elif not (inside and changed.match(line)):
            lines.append(line)
    if not found:
        lines += [*([""] if lines else []), f"[profiles.{name}]", *added]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """In one step, readable by its user alone from the beginning."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise ClientError(f"{path} cannot be written: {error.strerror}") from error
