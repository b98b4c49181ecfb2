"""API keys that were shown before: what was found to be right once is not taken apart for each request.

Only a header that held a right key is remembered, by its SHA-256: neither it nor the secret is kept, and who
guesses fills nothing. It counts only while the key is the very one that the book has, so that one that was
revoked, or changed in any way, is looked at anew at once. Whether it has expired is asked each time, by
whoever uses this.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from mayfly.identity.keys import ApiKey
from mayfly.identity.principal import Principal

REMEMBERED: Final = 10_000
"""Headers, at most."""
Holder = tuple[ApiKey, Principal]


class Recognised:
    """By `Authorization` headers. `current` gives the key of an id as it is now."""

    def __init__(self, current: Callable[[str], ApiKey | None]) -> None:
        self._current = current
        self._holders: dict[bytes, Holder] = {}

    def find(self, header: bytes) -> Holder | None:
        """The key in that header, and who has it, if it was right before and nothing has changed since."""
        holder = self._holders.get(hashlib.sha256(header).digest())
        return holder if holder is not None and self._current(holder[0].id) is holder[0] else None

    def keep(self, header: bytes, key: ApiKey, principal: Principal) -> None:
        """That header held this key, and its secret."""
        if len(self._holders) >= REMEMBERED:
            self._holders.clear()
        self._holders[hashlib.sha256(header).digest()] = key, principal
