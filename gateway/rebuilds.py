"""Rebuilding the read model by hand, and seeing how far that is."""

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.completeness import Completeness
from gateway.parameters import parameters
from gateway.responses import json_response


class Rebuilds:
    """The handlers of /rebuild."""

    def __init__(self, completeness: Completeness) -> None:
        self._completeness = completeness

    async def start(self, request: Request) -> Response:
        """The dispatchers of these queues tell everything anew; until then reads are answered 503."""
        parameters(request)
        await audit.record(request, "read-model.rebuild")
        queues = await self._completeness.start_over()
        return json_response({"complete": not queues, "queues": queues}, 202)

    async def get(self, request: Request) -> Response:
        parameters(request)
        missing = await self._completeness.missing()
        return json_response({"complete": not missing, "queues": missing})
