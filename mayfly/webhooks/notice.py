"""A notice: that a task has ended, as it waits in `mayfly.<queue>.webhooks` until it is delivered. Pure."""

import msgspec


class Notice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The record's value; its key is the task's id. Times are milliseconds since 1970, UTC.

    Its first version is the owner's of the task's partition; whoever delivers it writes how far that has
    come, and takes it away when it is over.
    """

    id: str
    """The header `webhook-id`: the same for each attempt, and for each copy."""
    task_id: str
    tenant: str
    url: str
    body: msgspec.Raw
    """What is posted, byte for byte: the task in JSON."""
    attempts: int = 0
    """Those that were made."""
    first_at: int = 0
    """When the first of them was made."""
    next_at: int = 0
    """When the next one is due."""
    last: str = ""
    """What came of the last one: a status, or why there was none."""


_decoder = msgspec.json.Decoder(Notice)


def message_id(task_id: str, fence: int) -> str:
    """Of the outcome that was recorded under that fence. A task whose id was used anew has another."""
    return f"msg_{task_id.replace('-', '')}_{fence}"


def decode_notice(value: bytes) -> Notice | None:
    """The notice, or None for what is none."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
