"""Where in the store the bytes are that go past the gateway."""

from typing import Final

UPLOADS: Final = "uploads/"
"""What was uploaded, by tenant: for as long as `MAYFLY_UPLOAD_HOURS` says."""
PAYLOADS: Final = "payloads/"
"""Payloads, by task: for as long as the task is kept."""


def upload_key(tenant: str, upload_id: str) -> str:
    return f"{UPLOADS}{tenant}/{upload_id}"
