"""The shapes of /secrets that go over HTTP."""

from typing import Final

from pydantic import BaseModel, Field

from gateway.models import Timestamp, _Model


class Secret(_Model):
    """A secret, without its value."""

    name: str
    updated_at: Timestamp
    updated_by: str
    key_id: str = Field(description="Of the key that it is encrypted under.")


class SecretList(_Model):
    secrets: list[Secret]


class SecretFailure(_Model):
    """A secret that stays under its old key, and why."""

    tenant: str
    name: str
    detail: str


class SecretRotation(_Model):
    rotated: int
    failed: list[SecretFailure]


MODELS: Final[tuple[type[BaseModel], ...]] = (Secret, SecretList, SecretRotation)
