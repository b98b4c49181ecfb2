"""Where in the store the bytes are that go past the gateway, or past the dispatcher."""

from typing import Final

UPLOADS: Final = "uploads/"
"""What was uploaded, by tenant: for as long as `MAYFLY_UPLOAD_HOURS` says."""
PAYLOADS: Final = "payloads/"
"""Payloads, by task: for as long as the task is kept."""
REMOTE: Final = "remote/"
"""What carries the streams of sandboxes that are far away, by sandbox: while it runs."""
REMOTE_HOURS: Final = 26
"""None runs longer: a function has a day. What is older was left by a dispatcher that died."""


def upload_key(tenant: str, upload_id: str) -> str:
    return f"{UPLOADS}{tenant}/{upload_id}"
