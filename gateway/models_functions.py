"""The shapes of deployments and of traffic that go over HTTP."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from gateway.models import Retry, Timestamp, _Model
from gateway.models_limits import WHOLE
from mayfly.function import NAME
from mayfly.webhooks import callback

VERSION: Final = r"^v[1-9][0-9]{0,8}$"
_IMAGE: Final = rf"^mayfly/fn-{NAME.pattern}:[a-z0-9]{{1,64}}$"
_NO_OTHERS: Final[JsonDict] = {"additionalProperties": False}
"""Of an object whose names have a pattern: pydantic refuses others, and does not say so."""
_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,254}$"


def _not_own(name: str) -> str:
    if name.startswith("MAYFLY_"):
        raise PydanticCustomError("variable", "names that start with MAYFLY_ are Mayfly's own")
    return name


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("variable", "has a NUL, which no variable can hold")
    return value


def _address(url: str) -> str:
    try:
        callback.parse(url)
    except ValueError as error:
        raise PydanticCustomError("callback", "{reason}", {"reason": str(error)}) from None
    return url


VersionName = Annotated[str, StringConstraints(pattern=VERSION)]
Variable = Annotated[str, StringConstraints(pattern=_VARIABLE), AfterValidator(_not_own)]
Percent = Annotated[int, Field(ge=0, le=100), WHOLE]


def _count(least: int, most: int) -> Any:
    return Annotated[int, Field(ge=least, le=most), WHOLE]


class SandboxLimits(_Model):
    """What a sandbox may use; what is left out is as `function.toml` has it by default."""

    timeout_seconds: float = Field(60.0, gt=0, le=86_400)
    memory_mib: _count(16, 1_048_576) = 256  # type: ignore[valid-type]
    cpu: float = Field(1.0, ge=0.01, le=1024)
    pids: _count(4, 32_768) = 128  # type: ignore[valid-type]
    open_files: _count(512, 1_048_576) = 1024  # type: ignore[valid-type]
    tmp_mib: _count(1, 65_536) = 64  # type: ignore[valid-type]


class FunctionVersion(_Model):
    """A function as it is built: what `function.toml` says, and its image."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    image: str = Field(pattern=_IMAGE, max_length=140, description="`mayfly/fn-<name>:<version>`.")
    version: str = Field(pattern="^[a-z0-9]{1,64}$", description="The hash of what the image is built from.")
    contract: Literal["python", "unix"] = "python"
    description: str = Field("", max_length=1000)
    limits: SandboxLimits = SandboxLimits()
    isolation: Literal["container", "fork", "warm"] = "container"
    warm_pool: _count(0, 1000) | None = None  # type: ignore[valid-type]
    network: Literal["none", "egress"] = "none"
    runtime: Literal["ecs"] | None = None
    queue: str = Field("default", pattern="^[a-z][a-z0-9-]{0,62}$")
    env: dict[Variable, Annotated[str, AfterValidator(_no_nul)]] = Field(
        default_factory=dict, json_schema_extra=_NO_OTHERS
    )
    secrets: list[Variable] = Field(default_factory=list)
    retries: Retry = Retry()
    redeliver: bool = True
    concurrency: _count(1, 100_000) | None = None  # type: ignore[valid-type]
    payload_schema: dict[str, Any] | None = Field(None, alias="schema")
    accepts_bytes: bool = True
    hinted: bool = Field(False, description="Whether the schema was read from the handler's type hint.")
    examples: list[str] = Field(default_factory=list)
    callback_url: Annotated[str, AfterValidator(_address)] | None = Field(None, min_length=1, max_length=2048)


class Deployment(_Model):
    """A function to deploy."""

    function: FunctionVersion
    traffic: bool = Field(True, description="Whether every task goes to it; else none does for now.")


class CatalogDocument(_Model):
    """Every function with all of its versions, as the catalog's topic has them."""

    repository: str | None = Field(description="Of the registry that carries functions' images, if there is.")
    functions: list[dict[str, Any]] = Field(description="As docs/interfaces.md has them.")


class VersionShare(_Model):
    """A version of a function."""

    version: VersionName
    hash: str = Field(description="Of what its image is built from.")
    image: str
    share: Percent = Field(description="How many of a hundred tasks run on it.")
    deployed_at: Timestamp


class Traffic(_Model):
    """Which version a function's tasks run on; newest first."""

    name: str
    versions: list[VersionShare]


class Deployed(Traffic):
    """What became of a deployment."""

    changed: bool = Field(description="Whether it made a version, or brought back what was retired.")


class Shares(_Model):
    """Shares in percent, by version. What they leave of 100 stays with those others that get tasks now."""

    shares: dict[VersionName, Percent] = Field(
        min_length=1, examples=[{"v2": 10}], json_schema_extra=_NO_OTHERS
    )


MODELS: Final[tuple[type[BaseModel], ...]] = (
    Deployment,
    CatalogDocument,
    Traffic,
    Deployed,
    Shares,
)
