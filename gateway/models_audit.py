"""The shapes of /audit that go over HTTP."""

from typing import Final, Literal

from pydantic import BaseModel, Field

from gateway.models import Timestamp, _Model


class AuditRecord(_Model):
    """Who did what to what."""

    place: int = Field(description="Where it stands in the topic `mayfly.audit`.")
    at: Timestamp
    subject: str = Field(description="By whom; empty where who asked is not known.", examples=["user:ana"])
    tenant: str
    action: str = Field(examples=["key.create"])
    target: str
    outcome: Literal["ok", "refused"]
    address: str = Field(description="The client's.")
    request_id: str
    count: int = Field(description="How many alike this record stands for.")
    targets: list[str] | None = Field(None, description="All of them, where a call was about many.")
    reason: str | None = Field(None, description="Why it was refused.")


class AuditPage(_Model):
    records: list[AuditRecord]
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page; null on the last one."
    )


MODELS: Final[tuple[type[BaseModel], ...]] = (AuditPage,)
