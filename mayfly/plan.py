"""What a deployment would change: a function as it is here beside its newest version. Pure."""

import enum
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from mayfly import versions
from mayfly.function import Function

_NOT_SHOWN: Final = frozenset(
    {"name", "version", "hinted", "deployed_at", "retired", "number", "share", "versions"}
)
"""Fields of an entry that nobody sets, or that go without saying: `version` is in the image's name."""
_BY_MANIFEST: Final = {
    "limits.timeout_seconds": "timeout",
    "limits.memory_mib": "memory",
    "limits.cpu": "cpu",
    "limits.pids": "pids",
    "limits.open_files": "open_files",
    "limits.tmp_mib": "tmp",
}
"""Where function.toml calls it otherwise."""


class Change(enum.StrEnum):
    """What becomes of a function."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    RETIRED = "retired"


class Difference(NamedTuple):
    """A field and its values; None is one that is not set."""

    field: str
    before: Any
    after: Any


class Planned(NamedTuple):
    """A function, which version it is then, and what differs from the newest one that there is."""

    name: str
    change: Change
    version: str
    differences: tuple[Difference, ...] = ()
    share: int = versions.ALL
    """How many of a hundred tasks will run on it."""


def planned(entry: Function | None, function: Function, *, traffic: bool = True) -> Planned:
    """What to deploy the function does; `entry` is what the catalog has of that name."""
    after = versions.deployed(entry, function, 0, traffic=traffic)
    newest = versions.versions(after or entry or function)[0]
    name, version = function.name, versions.name_of(newest)
    if after is None:
        return Planned(name, Change.UNCHANGED, version, share=newest.share)
    if entry is None or entry.retired:
        return Planned(name, Change.NEW, version, share=newest.share)
    return Planned(
        name, Change.CHANGED, version, differences(versions.versions(entry)[0], function), newest.share
    )


def retirement(entry: Function) -> Planned:
    return Planned(entry.name, Change.RETIRED, versions.name_of(versions.versions(entry)[0]), share=0)


def differences(before: Function, after: Function) -> tuple[Difference, ...]:
    """By the names that function.toml has, as far as it has one."""
    old, new = dict(_fields(before)), dict(_fields(after))
    return tuple(
        Difference(field, old.get(field), new.get(field))
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field)
    )


def _fields(function: Function) -> Iterator[tuple[str, Any]]:
    for field, value in msgspec.structs.asdict(function).items():
        if field not in _NOT_SHOWN:
            yield from _flat(field, value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(f"{path}.{key}", part)
    elif value not in (None, {}, ()):
        yield _BY_MANIFEST.get(path, path), msgspec.to_builtins(value)
