"""What callers may ask for, as it goes over HTTP."""

from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from mayfly.identity import keys


def _whole(number: Any) -> Any:
    """An integer, also where it is written as 5.0: by JSON Schema that is one."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


WHOLE: Final = BeforeValidator(_whole)
Count = Annotated[int, Field(ge=0, le=2**53), WHOLE]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid", strict=True)


class Allowance(_Model):
    """What a key, or a tenant, may ask for. What is left out is as the tenant, or the gateway's settings,
    have it."""

    requests_per_second: float | None = Field(
        None, gt=0, le=1_000_000, description="On average; 5 s' worth at once."
    )
    waiting_tasks: Count | None = Field(
        None, description="Tasks of the tenant that are QUEUED, SCHEDULED or RETRYING."
    )
    running_tasks: Count | None = Field(
        None, description="Tasks of the tenant that are IN_PROGRESS while another is posted."
    )
    payload_bytes_per_day: Count | None = Field(
        None, description="Of the bodies that bring tasks, in a day, UTC."
    )


class Tenant(_Model):
    """What a tenant may ask for."""

    tenant: str
    allowance: Allowance = Field(description="What was set for it.")


class TenantList(_Model):
    """Those that something was set for, and what holds for the others."""

    tenants: list[Tenant]
    defaults: Allowance


def allowance_of(model: Allowance | None) -> keys.Allowance:
    return keys.Allowance() if model is None else keys.Allowance(**model.model_dump())


def allowance_view(allowance: keys.Allowance) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(allowance)
    return view
