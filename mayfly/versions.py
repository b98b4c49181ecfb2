"""A function's versions, and which of them a task runs on. Pure.

Whatever is deployed that differs from the newest version is a version of its own: v1, v2, ... Each has an
image and all of a manifest, and a share of the tasks, in percent. A catalog entry is the function as its main
version has it, the one with the largest share, with the other versions beside it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from mayfly.function import Function, encode_function

KEPT: Final = 10
"""How many versions an entry keeps, and more only where more of them get tasks."""
MOST_BYTES: Final = 512 * 1024
"""Of an entry, of which there are fewer versions then: it is to fit a record."""
ALL: Final = 100


def name_of(function: Function) -> str:
    """What people type."""
    return f"v{function.number}"


def versions(entry: Function) -> list[Function]:
    """All that are kept, newest first, each by itself."""
    every = (msgspec.structs.replace(entry, versions=(), retired=False), *entry.versions)
    return sorted(every, key=lambda version: -version.number)


def serving(entry: Function) -> list[Function]:
    """Those that tasks run on, oldest first. The main one is the entry itself."""
    others = [version for version in entry.versions if version.share > 0]
    if not others:
        return [entry]
    return sorted((entry, *others), key=lambda version: version.number)


def queues(entries: Iterable[Function]) -> set[str]:
    """Of all their versions."""
    return {version.queue for entry in entries for version in (entry, *entry.versions)}


# --- which one a task runs on -------------------------------------------------------------------------------


def chosen(entry: Function, task_id: str, ran_on: str | None = None) -> Function:
    """The version that the task runs on: by its id, so that everybody who asks finds the same one; but the
    one with the image that it `ran_on` before, for as long as that one gets tasks.

    `concurrency` and `callback_url` are the main version's: they are the function's, not a version's.
    """
    choice = serving(entry)
    if len(choice) == 1:
        return entry
    version = _by_id(choice, task_id)
    if ran_on is not None and version.image != ran_on:
        version = next((one for one in reversed(choice) if one.image == ran_on), version)
    return _of_function(version, entry)


def pinned(entry: Function, image: str) -> Function:
    """What runs on that image, whatever gets tasks now: the version that had it, else the main one on it."""
    found = next((version for version in versions(entry) if version.image == image), None)
    if found is None:
        return msgspec.structs.replace(entry, image=image)
    return _of_function(found, entry)


def _by_id(choice: Sequence[Function], task_id: str) -> Function:
    """In the order of their numbers, so that a newer one whose share grows takes tasks from older ones, and
    no task goes the other way."""
    # Not the hash that chooses the partition: each partition is to have tasks of every version.
    place = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:8]) * ALL >> 64
    for version in choice:
        place -= version.share
        if place < 0:
            return version
    return choice[-1]


def _of_function(version: Function, entry: Function) -> Function:
    own = version.concurrency, version.callback_url
    if own == (entry.concurrency, entry.callback_url):
        return version
    return msgspec.structs.replace(version, concurrency=entry.concurrency, callback_url=entry.callback_url)


# --- what changes them --------------------------------------------------------------------------------------


def same(one: Function, other: Function) -> bool:
    """Whether they are the same but for when they were deployed, and what they get."""
    return _content(one) == _content(other)


def deployed(entry: Function | None, built: Function, at: int, *, traffic: bool = True) -> Function | None:
    """The entry with what was built as its newest version, which gets every task, or, without `traffic`,
    none; None where that is what the newest version is already. `at` is milliseconds since 1970.

    Where nothing takes tasks yet, or any more, the new one does in any case. What was retired and is the same
    again goes on as it was.
    """
    if entry is None:
        return _content(built, number=1, share=ALL, deployed_at=at)
    known = versions(entry)
    if same(known[0], built):
        return msgspec.structs.replace(entry, retired=False) if entry.retired else None
    if traffic or entry.retired:
        known = [msgspec.structs.replace(version, share=0) for version in known]
        share = ALL
    else:
        share = 0
    new = _content(built, number=known[0].number + 1, share=share, deployed_at=at)
    return _kept([new, *known])


def retired(entry: Function) -> Function:
    return msgspec.structs.replace(entry, retired=True)


def shared(entry: Function, shares: Mapping[str, int]) -> Function:
    """The entry with these shares, by version and in percent. What they leave of 100 stays with those others
    that get tasks now, in proportion. Raises `ValueError`, which says what is wrong with them."""
    by_name = {name_of(version): version for version in versions(entry)}
    for name, share in shares.items():
        if name not in by_name:
            raise ValueError(f"there is no {name[:20]}: there are {', '.join(by_name)}")
        if not 0 <= share <= ALL:
            raise ValueError(f"{name}={share} is no share: that is a whole number of percent, from 0 to 100")
    left = ALL - sum(shares.values())
    if left < 0:
        raise ValueError(f"the shares are {ALL - left} % together, and 100 is the most")
    now = {name: version.share for name, version in by_name.items() if name not in shares and version.share}
    if left and not now:
        other = next((name for name in by_name if name not in shares), None)
        hint = f": give it to one of them, such as {other}={left}" if other else ""
        raise ValueError(f"{left} % would go to no version{hint}")
    all_shares = dict(shares) | _divided(left, now)
    return _entry(
        [
            msgspec.structs.replace(version, share=all_shares.get(name, 0))
            for name, version in by_name.items()
        ],
        retired=entry.retired,
    )


def _divided(total: int, by: Mapping[str, int]) -> dict[str, int]:
    """So many whole parts, in proportion; what rounding leaves goes to those that it took the most from."""
    if not by:
        return {}
    whole = sum(by.values())
    parts = {name: total * one // whole for name, one in by.items()}
    most = sorted(by, key=lambda name: -(total * by[name] % whole))
    for name in most[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _content(function: Function, *, number: int = 1, share: int = ALL, deployed_at: int = 0) -> Function:
    """The version by itself, as nobody's or as that one."""
    return msgspec.structs.replace(
        function, number=number, share=share, deployed_at=deployed_at, versions=(), retired=False
    )


def _kept(every: Sequence[Function]) -> Function:
    """An entry of those, newest first, without the oldest ones that there is no room for."""
    kept = list(every)
    while len(kept) > KEPT or len(encode_function(_entry(kept))) > MOST_BYTES:
        unused = [version for version in kept[1:] if not version.share]
        if not unused:
            break
        kept.remove(unused[-1])
    return _entry(kept)


def _entry(every: Sequence[Function], *, retired: bool = False) -> Function:
    main = max(every, key=lambda version: (version.share, version.number))
    others = tuple(version for version in every if version is not main)
    return msgspec.structs.replace(main, versions=others, retired=retired)
