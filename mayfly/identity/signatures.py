"""Signed heartbeats: whoever can write in Redis is no dispatcher yet. Pure.

A signed heartbeat is a JSON object: `heartbeat`, the text itself; `timestamp`, when it was signed, in
milliseconds since 1970; `nonce`, the how manieth its process has signed; `signature`, in hex, the HMAC-SHA256
(RFC 2104), under the shared secret, of five lines: a fixed word, the dispatcher's id, the timestamp, the
nonce and the text.

It proves who spoke, and not that nobody was silenced: who can write in Redis can take heartbeats away.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

SHORTEST_SECRET: Final = 32
"""Bytes: as many as the hash has."""
_WORD: Final = "mayfly-heartbeat-1"
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Signed(msgspec.Struct, frozen=True):
    """A heartbeat as it stands in Redis."""

    heartbeat: str
    timestamp: Number
    nonce: Number
    signature: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Seen(NamedTuple):
    """The last one that was believed, and whether it was missing when it was looked for since."""

    nonce: int
    timestamp: int
    gone: bool = False


_decoder: Final = msgspec.json.Decoder(Signed)
_encoder: Final = msgspec.json.Encoder()


class Signatures:
    """Signs heartbeats, and says which of those that are found may be believed.

    `life` is how long one is good for, in milliseconds, and as far may two clocks be apart. Of each
    dispatcher the last one is remembered for as long: an older one, or the same one after it was gone, is a
    copy.
    """

    def __init__(self, secret: bytes, *, life: int) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"a secret for heartbeats has at least {SHORTEST_SECRET} bytes")
        self._secret = secret
        self._life = life
        self._count = 0
        self._seen: dict[str, _Seen] = {}

    def sign(self, dispatcher_id: str, text: str, now: int) -> str:
        self._count += 1
        signature = self._signature(dispatcher_id, text, now, self._count)
        return _encoder.encode(Signed(text, now, self._count, signature)).decode()

    def look(self, found: Mapping[str, str | bytes], now: int) -> tuple[dict[str, str], dict[str, str]]:
        """All that stands there now, by dispatcher: the texts to believe, and why the others are refused."""
        believed: dict[str, str] = {}
        refused: dict[str, str] = {}
        for one, text in found.items():
            try:
                signed = self._checked(one, text, now)
            except ValueError as error:
                refused[one] = str(error)
            else:
                believed[one] = signed.heartbeat
                self._seen[one] = _Seen(signed.nonce, signed.timestamp)
        self._seen = {
            one: seen if one in found else seen._replace(gone=True)
            for one, seen in self._seen.items()
            # Older, it is refused for its age.
            if now - seen.timestamp <= self._life
        }
        return believed, refused

    def _checked(self, dispatcher_id: str, text: str | bytes, now: int) -> Signed:
        """Raises `ValueError`, which says why it is not believed."""
        try:
            signed = _decoder.decode(text)
        except (ValueError, RecursionError):
            raise ValueError("it is not signed") from None
        ours = self._signature(dispatcher_id, signed.heartbeat, signed.timestamp, signed.nonce)
        if not hmac.compare_digest(ours, signed.signature):
            raise ValueError("its signature is of another secret")
        age = now - signed.timestamp
        if abs(age) > self._life:
            when = f"{abs(age) / 1000:.1f} s {'ago' if age > 0 else 'ahead'}"
            raise ValueError(f"it was signed {when} by this machine's clock")
        seen = self._seen.get(dispatcher_id)
        if seen is not None and (signed.nonce < seen.nonce or (seen.gone and signed.nonce == seen.nonce)):
            raise ValueError("it is a copy of an older one")
        return signed

    def _signature(self, dispatcher_id: str, text: str, timestamp: int, nonce: int) -> str:
        lines = f"{_WORD}\n{dispatcher_id}\n{timestamp}\n{nonce}\n{text}"
        return hmac.new(self._secret, lines.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
