"""The operation on the audit log, for the OpenAPI document."""

from typing import Any

from gateway import operations as op


def paths() -> dict[str, Any]:
    time = {"type": "string", "format": "date-time"}
    parameters = [
        op._query("since", "Only what was done at or after this time.", time),
        op._query("until", "Only what was done before this time.", time),
        op._query("subject", "Only what this one did, such as `user:ana`."),
        op._query("action", "Only this, such as `key.create`, or `key` for all that begins with `key.`."),
        *op._filters()[-2:],
    ]
    read = op._read("audit", "listAudit", "Who did what, newest first", "AuditPage", "log_unavailable")
    return {"/audit": {"get": read | {"parameters": parameters}}}
