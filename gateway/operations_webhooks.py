"""The operations of webhooks in the OpenAPI document."""

from typing import Any

from gateway import operations as shared


def paths() -> dict[str, Any]:
    return {
        "/webhooks/secret": {
            "put": shared._operation(
                "webhooks", "renewWebhookSecret", "Make a new secret to sign webhooks with"
            )
            | {
                "description": (
                    "Webhooks of the caller's tenant are signed with it from now on, and with the one before "
                    "as well for a day."
                ),
                "responses": {
                    "200": shared._json("The secret, this once", "NewWebhookSecret"),
                    **shared._problems("log_unavailable", "catalog_unavailable", "secrets_unavailable"),
                },
            },
        },
    }
