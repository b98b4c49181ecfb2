"""Workers: the dispatchers that are alive."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.parameters import parameters
from gateway.ports import ReadModel
from gateway.responses import json_response
from gateway.views import worker_view


class Workers:
    """The handler of /workers."""

    def __init__(self, read_model: ReadModel) -> None:
        self._read_model = read_model

    async def list(self, request: Request) -> Response:
        parameters(request)
        heartbeats = await self._read_model.dispatchers()
        return json_response({"workers": [worker_view(heartbeat) for heartbeat in heartbeats]})
