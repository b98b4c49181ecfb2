"""What parts of the gateway leave in a request's ASGI scope for the ones around them."""

from typing import Final

REQUEST_ID: Final = "mayfly.request_id"
"""The request's name in the audit log, once there is something to write there; the answer has it too."""
ANSWER_HEADERS: Final = "mayfly.answer_headers"
"""Headers, as pairs of bytes, that its answer gets whatever it will be."""
BODY_CAME: Final = "mayfly.body_came"
"""There from when the request's body has arrived as a whole."""
