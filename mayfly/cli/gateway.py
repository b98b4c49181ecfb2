"""Where the gateway is."""

import json

from mayfly.cli.folders import nearest_home
from mayfly.client import DEFAULT_URL, Client


def connect(url: str | None) -> Client:
    """A client of the gateway at `url`, else of the one in this folder's stack, else at the default."""
    return Client(url or recorded() or DEFAULT_URL)


def recorded() -> str | None:
    """The gateway's URL in the `stack.json` of this folder's stack, if one is up."""
    home = nearest_home()
    try:
        found = json.loads((home / "stack.json").read_text()) if home else None
    except (OSError, ValueError):
        return None
    return found.get("gateway") if isinstance(found, dict) else None
