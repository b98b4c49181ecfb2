"""An identity provider's public keys (RFC 7517), read when they are needed and kept for a while."""

import logging
import threading
import time
from typing import Final

import httpx
import jwt

log = logging.getLogger(__name__)

FRESH_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 10.0
"""Between two readings for a key that was not there: anybody can name one in a token."""
TIMEOUT_SECONDS: Final = 5.0


class Jwks:
    """The keys at a URL. Who asks never waits for them: a thread reads them, for the next time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._reading = threading.Lock()
        self.refresh()

    def find(self, key_id: str | None) -> jwt.PyJWK | None:
        keys = self._keys
        age = time.monotonic() - self._read_at
        key = keys.get(key_id) if key_id is not None else next(iter(keys.values()), None)
        if age > FRESH_SECONDS or (key is None and age > RETRY_SECONDS):
            self.refresh()
        return key

    def refresh(self) -> None:
        self._read_at = time.monotonic()
        threading.Thread(target=self._read, name="jwks", daemon=True).start()

    def _read(self) -> None:
        with self._reading:
            try:
                answer = httpx.get(self._url, timeout=TIMEOUT_SECONDS, follow_redirects=False)
                found = jwt.PyJWKSet.from_dict(answer.raise_for_status().json())
            except (httpx.HTTPError, jwt.PyJWTError, ValueError) as error:
                log.warning("the provider's keys cannot be read", extra={"reason": str(error)})
                return
            self._keys = {key.key_id or "": key for key in found.keys}
