"""The gateway over parts in memory, where every task ends at once: for what is sent at random."""

import base64
from typing import Any

from gateway_world import Records, World

from mayfly.identity.keys import new_credential
from mayfly.task import JSON, Envelope, Lane, Status, encode
from mayfly.view import QueuedTask

ENDED = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
"""A task with a result and a log."""
FAILED = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f13"
"""One that failed for good."""
BATCH = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f14"
RESULT = {"result": "null", "resultSize": "4", "resultContentType": JSON}


class Served(World):
    """`World`, where everybody has to say who they are, and all that can be set is set."""

    def __init__(self) -> None:
        self.admin = new_credential()
        super().__init__(
            auth=True,
            admin_key=str(self.admin),
            jwt_secret="of thirty-two bytes, or a few more",
            secrets_key=base64.b64encode(bytes(32)).decode(),
        )
        # Its schema is none, which is a 500 by design.
        del self.catalog.functions["broken"]
        self.read_model.unmark_all = self._rebuilt
        self._listed, self.read_model.list = self.read_model.list, self._page
        self._queued, self.read_model.queued = self.read_model.queued, self._ended
        self.blobs.objects |= {f"results/{ENDED}": b"null", f"logs/{ENDED}": b"one line\n"}
        for place, task_id in enumerate((ENDED, FAILED)):
            command = encode(Envelope("echo", task_id=task_id))
            self.commands.records.append(("default", Lane.NORMAL, task_id, command))
            self.commands.partitions.append(0)
            self.task(task_id, command=f"normal:0:{place}", attempt="1")
        stored = {"resultKey": f"results/{ENDED}", "logKey": f"logs/{ENDED}", **RESULT}
        failure = {"errorType": "Function.Error", "errorMessage": "no"}
        self.read_model.hashes[ENDED] |= {"status": Status.COMPLETED, "batch": BATCH, **stored}
        self.read_model.hashes[FAILED] |= {"status": Status.FAILED, **failure}
        self.read_model.letters[FAILED] = 1

    async def _rebuilt(self, queue: str) -> None:
        """As dispatchers would have it that take no time: so that what is asked next is answered."""

    async def _page(self, **filters: Any) -> tuple[Records, str | None]:
        """No more than is asked for: there come to be thousands."""
        records, cursor = await self._listed(**filters)
        return records[: filters["limit"]], cursor

    async def _ended(self, *tasks: QueuedTask) -> None:
        """The same: so that nobody waits for a task in vain."""
        await self._queued(*tasks)
        for task in tasks:
            self.read_model.hashes[task.task_id] |= {"status": Status.COMPLETED, **RESULT}
