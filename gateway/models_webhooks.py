"""The shapes of webhooks that go over HTTP."""

from pydantic import Field

from gateway.models import Timestamp, _Model


class NewWebhookSecret(_Model):
    """What a tenant's webhooks are signed with from now on."""

    secret: str = Field(description="`whsec_` and Base64, by Standard Webhooks; shown this once.")
    tenant: str
    created_at: Timestamp
    former_signs_until: Timestamp | None = Field(
        None, description="Until then the one before signs beside it; left out where there was none."
    )
