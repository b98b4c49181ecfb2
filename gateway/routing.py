"""The way of a request to its route.

Where something only passes a request on, it is no coroutine itself but gives back the one that it passes it
on to: a coroutine around another one costs each request a call, and one more each time that it goes on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send


class App(Starlette):
    """Starlette with these layers around its routes, the outermost first, and none of its own: it answers
    nothing that was raised."""

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        layers: Sequence[Callable[[ASGIApp], ASGIApp]],
        lifespan: Lifespan[Any],
        otherwise: Callable[[ASGIApp], ASGIApp],
    ) -> None:
        """`otherwise` makes what answers where there is no route, out of Starlette's own."""
        super().__init__()
        self.router = Exact(routes, redirect_slashes=False, lifespan=lifespan)
        self.router.default = otherwise(self.router.default)
        self._layers = layers

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer in reversed(self._layers):
            app = layer(app)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A coroutine function: by that, tools tell an application of ASGI from one of WSGI.
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)


class Exact(Router):
    """Starlette's router, which tries one route after the other; but a path without parameters is found at
    once, and before any with parameters."""

    def __init__(self, routes: Sequence[BaseRoute], **given: Any) -> None:
        super().__init__(routes, **given)
        self._exact: Mapping[tuple[str, str], Route] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, Route) and not route.param_convertors
            for method in route.methods or ()
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._exact.get((scope["method"], scope["path"]))
            if route is not None:
                scope["route"] = route
                scope["path_params"] = {}
                return route.app(scope, receive, send)
        return super().__call__(scope, receive, send)
