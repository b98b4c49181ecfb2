"""Webhooks: whether a task's callback may be one, and the secret that a tenant's are signed with."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.access import principal_of
from gateway.errors import Problem
from gateway.parameters import parameters
from gateway.ports import Control
from gateway.responses import json_response
from gateway.submissions import Submission
from gateway.times import now
from mayfly.identity.vault import Vault
from mayfly.view import timestamp
from mayfly.webhooks.callback import Policy
from mayfly.webhooks.sealing import sealed
from mayfly.webhooks.signing import OVERLAP_MS, new_secret, rotated


class Webhooks:
    """The handler of /webhooks/secret, and the check of each task. `is_read` says whether the secrets are
    there. Without a vault a secret is stored in clear."""

    def __init__(
        self, control: Control, is_read: Callable[[], bool], policy: Policy, vault: Vault | None
    ) -> None:
        self._control = control
        self._is_read = is_read
        self._policy = policy
        self._vault = vault

    def check(self, submission: Submission) -> None:
        """What can be known of a callback before the task runs: whoever delivers it looks again, and looks
        its host up. Raises `Problem`."""
        if submission.callback_url is None:
            return
        try:
            self._policy.check(submission.callback_url)
        except ValueError as error:
            raise Problem("invalid_callback", f"callbackUrl {error}.", field="callbackUrl") from None
        if submission.tenant in self._control.book.webhooks:
            return
        if not self._is_read():
            raise Problem("catalog_unavailable", "The secrets are still being read; try again in a moment.")
        detail = (
            "The callback could not be signed: `mayfly webhooks renew`, or PUT /webhooks/secret, makes the "
            "secret that receivers check it with."
        )
        raise Problem("no_webhook_secret", detail, field="callbackUrl")

    async def renew(self, request: Request) -> Response:
        """A new secret, shown this once. The one before signs beside it for a day.

        Whatever is in clear yet is encrypted with it.
        """
        parameters(request)
        by = principal_of(request)
        if not self._is_read():
            # One that is not known yet would stop to sign at once.
            raise Problem("catalog_unavailable", "The secrets are still being read; try again in a moment.")
        at = now()
        before = self._control.book.webhooks.get(by.tenant)
        secret = new_secret()
        record = rotated(secret, before, at, by.subject)
        if self._vault is not None:
            record = await asyncio.to_thread(sealed, self._vault, by.tenant, record)
        await audit.record(request, "webhook.renew", by.tenant)
        await self._control.put("webhook", by.tenant, record)
        view = {"secret": secret, "tenant": by.tenant, "createdAt": timestamp(at)}
        if before is not None:
            view["formerSignsUntil"] = timestamp(at + OVERLAP_MS)
        return json_response(view, headers={"cache-control": "no-store"})
