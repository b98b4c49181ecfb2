"""/docs: a page of our own over /openapi.json, all of it served from here, so that it works offline."""

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import Problem

_ASSETS: Final = {"docs.css": "text/css", "docs.js": "text/javascript"}
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
}


class Docs:
    """The handlers of /docs."""

    def __init__(self) -> None:
        static = files("gateway") / "static"
        self._page = (static / "docs.html").read_bytes()
        self._assets = {name: (static / name).read_bytes() for name in _ASSETS}

    async def page(self, _request: Request) -> Response:
        return Response(self._page, headers=_HEADERS, media_type="text/html")

    async def asset(self, request: Request) -> Response:
        name: str = request.path_params["asset"]
        if name not in self._assets:
            raise Problem("not_found", "The documentation has no such part; /docs is the page.")
        return Response(self._assets[name], headers=_HEADERS, media_type=_ASSETS[name])
