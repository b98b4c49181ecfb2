"""Known ways out of a container, and which versions of the engine's parts they are open in.

Pure: versions and changelogs in, findings out. Sources are the projects' own advisories: runc
GHSA-xr7r-f8xq-vfvv, GHSA-9493-h29p-rfm2, GHSA-qw9x-cqr3-wc7r and GHSA-cgrx-mc8f-2prm, containerd
GHSA-cm76-qm8v-3j95, Moby GHSA-x86f-5xw2-fm2r, GHSA-vp62-88p7-qqf5 and GHSA-rg2x-37c3-w2rh, Docker Desktop's
release notes for 4.44.3.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

Version = tuple[int, int, int, bool]


@dataclass(frozen=True)
class Escape:
    part: str
    """`runc`, `containerd`, `engine` or `desktop`."""
    ids: tuple[str, ...]
    what: str
    fixed: tuple[str, ...]
    """The first release without it, of each branch that got one."""
    since: str = "0.0.0"
    """The first release with it."""


ESCAPES: Final = (
    Escape(
        "runc", ("CVE-2024-21626",), "a leaked descriptor opens the host's files to a container", ("1.1.12",)
    ),
    Escape(
        "runc",
        ("CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"),
        "a container's image can redirect what runc writes to /proc, up to code on the host",
        ("1.2.8", "1.3.3", "1.4.0"),
    ),
    Escape(
        "containerd",
        ("CVE-2025-47290",),
        "an image can write to the host while it is unpacked",
        ("2.1.1",),
        since="2.1.0",
    ),
    Escape(
        "engine",
        ("CVE-2026-41567", "CVE-2026-41568", "CVE-2026-42306"),
        "`docker cp` with a running sandbox can run its code or write its files on the host",
        ("29.5.1",),
    ),
    Escape("desktop", ("CVE-2025-9074",), "a container can reach the engine's API", ("4.44.3",)),
)


class Open(NamedTuple):
    """An escape that is open in a part, as far as can be seen."""

    ids: tuple[str, ...]
    what: str
    fixed: tuple[str, ...]


def open_escapes(part: str, version: str, changelog: str | None = None) -> list[Open]:
    """What is open in this version.

    `changelog` is that of the distribution's package, where the part is one: distributions fix old versions
    without changing their number, and name each fix there.
    """
    number = parse(version)
    found = []
    for escape in ESCAPES:
        if escape.part != part or number is None or not _affects(escape, number):
            continue
        ids = tuple(name for name in escape.ids if changelog is None or name not in changelog)
        if ids:
            found.append(Open(ids, escape.what, escape.fixed))
    return found


def parse(version: str) -> Version | None:
    """(major, minor, patch, whether it is a release), or None. `1.1.5+ds1` is Debian's way to write 1.1.5."""
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?(-(?:rc|alpha|beta))?", version)
    if not match:
        return None
    return int(match[1]), int(match[2]), int(match[3] or 0), match[4] is None


def _affects(escape: Escape, number: Version) -> bool:
    fixes = sorted(fix for text in escape.fixed if (fix := parse(text)))
    since = parse(escape.since)
    if since is not None and number < since:
        return False
    of_branch = [fix for fix in fixes if fix[:2] == number[:2]]
    return number < (of_branch or fixes)[-1]
