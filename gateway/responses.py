"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.responses import Response

_TYPE: Final = (b"content-type", b"application/json")


def json_bytes(value: Any) -> bytes:
    return orjson.dumps(value)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`headers` are others than the body's own."""
    return _Json(orjson.dumps(value), status, headers)


class _Json(Response):
    """Starlette looks through its headers for what is set here: every task has such an answer."""

    media_type = "application/json"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        own = [(b"content-length", b"%d" % len(self.body)), _TYPE]
        if headers:
            own += [
                (name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()
            ]
        self.raw_headers = own
