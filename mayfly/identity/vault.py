"""Secrets, encrypted at rest: AES-256-GCM under a key of their own each, which a master key encrypts in turn.

Pure but for randomness. What is encrypted is bound to its tenant and its name, so that a record which is put
in another one's place opens nothing. NIST SP 800-38D; a nonce is random, and a data key encrypts one value.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
MOST_BYTES: Final = 64 * 1024
"""Of a value."""
_NONCE_BYTES: Final = 12


class Context(NamedTuple):
    """Whose secret it is, and its name: what a ciphertext is bound to."""

    tenant: str
    name: str

    @property
    def bytes(self) -> bytes:
        # JSON, so that no two pairs have the same bytes.
        return msgspec.json.encode(("mayfly secret", self.tenant, self.name))


class Sealed(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A secret as it is stored. Times are milliseconds since 1970, UTC."""

    key_id: str
    """The master key's: nothing of the key can be told from it."""
    data_key: bytes
    """Encrypted under the master key."""
    nonce: bytes
    ciphertext: bytes
    updated_at: int
    updated_by: str = ""


class DataKey(NamedTuple):
    """A fresh key, and the same one encrypted under the master key of that id."""

    key: bytes
    key_id: str
    wrapped: bytes


class Unopened(Exception):
    """A secret cannot be opened: the message says why, and what to do."""


class MasterKey(Protocol):
    """Encrypts data keys. Both methods may block, and raise `SecretsUnavailable`."""

    def make(self, context: Context) -> DataKey: ...

    def unwrap(self, sealed: Sealed, context: Context) -> bytes | None:
        """None where it is encrypted under a key of another kind. Raises `Unopened`."""

    def is_current(self, key_id: str) -> bool:
        """Whether `make` would use that key."""


class LocalKeys:
    """Master keys out of the environment: one that encrypts, and older ones that still open."""

    def __init__(self, current: bytes, old: Sequence[bytes] = ()) -> None:
        self._current = key_id(current)
        self._keys = {key_id(key): AESGCM(key) for key in (*old, current)}

    def make(self, context: Context) -> DataKey:
        key, nonce = os.urandom(KEY_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = nonce + self._keys[self._current].encrypt(nonce, key, context.bytes)
        return DataKey(key, self._current, wrapped)

    def unwrap(self, sealed: Sealed, context: Context) -> bytes | None:
        if (key := self._keys.get(sealed.key_id)) is None:
            return None
        return _decrypt(key, sealed.data_key[:_NONCE_BYTES], sealed.data_key[_NONCE_BYTES:], context)

    def is_current(self, key_id: str) -> bool:
        return key_id == self._current


class Vault:
    """Seals under the first of its master keys, and opens what any of them has sealed."""

    def __init__(self, *keys: MasterKey) -> None:
        self._keys = keys

    def seal(self, context: Context, value: str, *, at: int, by: str) -> Sealed:
        """Raises `SecretsUnavailable`."""
        data_key, nonce = self._keys[0].make(context), os.urandom(_NONCE_BYTES)
        ciphertext = AESGCM(data_key.key).encrypt(nonce, value.encode(), context.bytes)
        return Sealed(data_key.key_id, data_key.wrapped, nonce, ciphertext, at, by)

    def open(self, context: Context, sealed: Sealed) -> str:
        """Raises `Unopened`, and `SecretsUnavailable`."""
        return _decrypt(
            AESGCM(self._data_key(context, sealed)), sealed.nonce, sealed.ciphertext, context
        ).decode()

    def is_current(self, sealed: Sealed) -> bool:
        return self._keys[0].is_current(sealed.key_id)

    def rotated(self, context: Context, sealed: Sealed) -> Sealed:
        """The same secret under the current master key, and a fresh data key. Raises as `open`."""
        return self.seal(context, self.open(context, sealed), at=sealed.updated_at, by=sealed.updated_by)

    def _data_key(self, context: Context, sealed: Sealed) -> bytes:
        for keys in self._keys:
            if (key := keys.unwrap(sealed, context)) is not None:
                if len(key) != KEY_BYTES:
                    break
                return key
        raise Unopened(
            f"it is encrypted under the key {sealed.key_id}, which is not set here: MAYFLY_SECRETS_KEY or "
            "MAYFLY_SECRETS_KEYS_OLD is to have it"
        )


def _decrypt(key: AESGCM, nonce: bytes, ciphertext: bytes, context: Context) -> bytes:
    try:
        return key.decrypt(nonce, ciphertext, context.bytes)
    except (InvalidTag, ValueError):
        raise Unopened("its record was changed, or is another secret's: set it again") from None


def key_id(key: bytes) -> str:
    """16 hex digits by which a key is known, and from which nobody learns it."""
    return hashlib.sha256(b"mayfly secrets key\0" + key).hexdigest()[:16]


def new_key() -> str:
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_key(text: str) -> bytes:
    """Raises `ValueError`."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a key is 32 bytes in base64: `mayfly secrets generate-key` prints one") from None
    if len(key) != KEY_BYTES:
        raise ValueError(
            f"a key has 32 bytes, and this one {len(key)}: `mayfly secrets generate-key` prints one"
        )
    return key
