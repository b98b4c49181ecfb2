"""Where the gateway is, and who asks."""

import json
import os
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from mayfly.cli.folders import nearest_home
from mayfly.client import Client
from mayfly.client.target import target

profile: Final[ContextVar[str | None]] = ContextVar("profile", default=None)
"""The profile of `mayfly --profile NAME`."""
_ADMIN_KEY: Final = re.compile(r"^MAYFLY_ADMIN_KEY=(\S+)$", re.MULTILINE)


def connect(url: str | None, home: Path | None = None) -> Client:
    """A client of the gateway that is named; else of the one in the stack of `home`, or of this folder; else
    of the one that the profile `default` has, or of the usual one.

    For the stack's gateway the stack's own admin key is good, which lies in its directory, where nobody else
    can read it. Raises `ClientError`.
    """
    if not is_named(url) and (found := _stack(home or nearest_home())):
        address, admin_key = found
        return Client(address, api_key=target(address).credential or admin_key)
    return Client(url, profile=profile.get())


def is_named(url: str | None) -> bool:
    """Whether it is said which gateway is meant: by --url, by a profile, or in the environment."""
    return any((url, profile.get(), os.environ.get("MAYFLY_URL"), os.environ.get("MAYFLY_PROFILE")))


def _stack(home: Path | None) -> tuple[str, str | None] | None:
    """The URL of the stack's gateway, if one is up, and the key that is good for everything there."""
    try:
        found = json.loads((home / "stack.json").read_text()) if home else None
    except (OSError, ValueError):
        return None
    address = found.get("gateway") if isinstance(found, dict) else None
    if home is None or not isinstance(address, str):
        return None
    try:
        key = _ADMIN_KEY.search((home / "environment").read_text())
    except OSError:
        key = None
    return address, key[1] if key else None
