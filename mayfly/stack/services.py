"""Mayfly's own two services as parts of the stack."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from mayfly.errors import StackError
from mayfly.settings import Settings
from mayfly.stack.home import Home, is_free
from mayfly.stack.part import Part, Say

Environment = Callable[[], Mapping[str, str]]
GATEWAYS_OWN: Final = ("MAYFLY_ADMIN_KEY", "MAYFLY_JWT_SECRET")
"""Secrets that a dispatcher has no use for."""


def client_of(url: str, *, timeout: float, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """To speak with one of the services below; `timeout` is in seconds.

    They speak no TLS themselves, so no certificates are read: for each look at one that starts, that would
    take most of the time.
    """
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=timeout,
        trust_env=False,
        verify=False,  # noqa: S501  # nosec B501
    )


class Service(Part):
    """A service that tells over HTTP whether it is ready."""

    module: str
    path: str

    def __init__(self, home: Home, say: Say, environment: Environment, host: str, port: int) -> None:
        super().__init__(home, say)
        self._environment = environment
        self._host = host
        self._port = port

    @property
    def address(self) -> str:
        return self._at(self._host)

    @property
    def url(self) -> str:
        """Where this machine reaches it: a wildcard is an address to listen on, not one to call."""
        return self._at({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host))  # noqa: S104

    def _at(self, host: str) -> str:
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def command(self) -> list[str]:
        # -P: a user's folder must not shadow the modules of the service.
        return [sys.executable, "-P", "-m", self.module]

    def child_environment(self) -> Mapping[str, str]:
        return {**self._environment(), **self.environment()}

    async def probe(self, settings: Settings) -> None:
        try:
            async with client_of(self.url, timeout=5) as client:
                answer = await client.get(self.path)
        except httpx.HTTPError as error:
            raise StackError(f"{self.path} does not answer: {error or type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise StackError(f"{self.path} answers {answer.status_code}: {answer.text[:300]}")


class Gateway(Service):
    name = "gateway"
    module = "gateway"
    path = "/readyz"

    @classmethod
    def plan(
        cls, home: Home, say: Say, environment: Environment, environ: Mapping[str, str], *, usual: bool
    ) -> "Gateway":
        """The port that the environment names, or the usual one if it is free, or another."""
        host = environ.get("MAYFLY_HOST") or "127.0.0.1"
        asked = environ.get("MAYFLY_PORT")
        if not asked or asked == "0":
            return cls(home, say, environment, host, home.port("gateway", 8080 if usual else None))
        if not asked.isdecimal() or not is_free(int(asked)):
            raise StackError(
                f"MAYFLY_PORT is {asked}, and the gateway cannot have that port",
                mend="unset MAYFLY_PORT to have a free one chosen",
            )
        return cls(home, say, environment, host, int(asked))

    def environment(self) -> dict[str, str]:
        return {"MAYFLY_HOST": self._host, "MAYFLY_PORT": str(self._port)}


class Dispatcher(Service):
    module = "dispatcher"
    path = "/healthz"

    @classmethod
    def plan(
        cls, home: Home, say: Say, environment: Environment, number: int, *, usual: bool, grace: float
    ) -> "Dispatcher":
        name = f"dispatcher-{number}"
        port = home.port(name, 8080 + number if usual else None)
        made = cls(home, say, environment, "127.0.0.1", port)
        made.name = name
        # It lets running tasks finish for as long as it was told, and then still has to leave its group.
        made.grace = grace + 10
        return made

    def child_environment(self) -> Mapping[str, str]:
        given = super().child_environment()
        return {name: value for name, value in given.items() if name not in GATEWAYS_OWN}

    def environment(self) -> dict[str, str]:
        return {"MAYFLY_DISPATCHER_HOST": self._host, "MAYFLY_DISPATCHER_PORT": str(self._port)}
