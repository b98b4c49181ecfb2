from typing import Any

import pytest

from mayfly.cli.checks import Level, isolation, limits
from mayfly.cli.escapes import ESCAPES, open_escapes, parse

BOOKWORM_RUNC = """\
runc (1.1.5+ds1-1+deb12u1) bookworm-security; urgency=high
  * CVE-2024-21626: several container breakouts due to internally leaked fds
"""


def ids(part: str, version: str, changelog: str | None = None) -> list[str]:
    return [name for escape in open_escapes(part, version, changelog) for name in escape.ids]


@pytest.mark.parametrize("version", ["1.2.8", "1.2.9", "1.3.3", "1.3.6", "1.4.0", "1.5.2", "v1.4.3", "2.0.0"])
def test_a_runc_that_has_the_fixes_has_no_known_escape(version: str) -> None:
    assert ids("runc", version) == []


@pytest.mark.parametrize("version", ["1.1.12", "1.1.15", "1.2.0", "1.2.7", "1.3.0", "1.3.2", "1.4.0-rc.1"])
def test_a_runc_before_the_fixes_of_november_2025_is_open(version: str) -> None:
    assert ids("runc", version) == ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"]


def test_an_old_runc_is_open_to_all_of_them() -> None:
    assert ids("runc", "1.1.11")[0] == "CVE-2024-21626"
    assert len(ids("runc", "1.1.11")) == 4


def test_a_distributions_changelog_says_what_it_fixed_without_a_new_version() -> None:
    assert "CVE-2024-21626" in ids("runc", "1.1.5+ds1")
    assert ids("runc", "1.1.5+ds1", BOOKWORM_RUNC) == ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"]


def test_an_escape_that_came_with_a_version_is_not_seen_in_older_ones() -> None:
    assert ids("containerd", "1.6.20~ds1") == []
    assert ids("containerd", "2.1.0") == ["CVE-2025-47290"]
    assert ids("containerd", "2.1.1") == []


def test_the_engine_and_docker_desktop_are_judged_too() -> None:
    assert "CVE-2026-41567" in ids("engine", "28.5.2")
    assert ids("engine", "29.5.1") == []
    assert ids("desktop", "4.44.2") == ["CVE-2025-9074"]
    assert ids("desktop", "4.44.3") == []


@pytest.mark.parametrize("version", ["", "unknown", "dev"])
def test_a_version_that_cannot_be_read_is_not_judged(version: str) -> None:
    assert parse(version) is None
    assert ids("runc", version) == []


def test_every_version_in_the_table_can_be_read() -> None:
    assert all(parse(text) for escape in ESCAPES for text in (*escape.fixed, escape.since))


def engine(runc: str, commit: str = "abc", **rest: Any) -> dict[str, Any]:
    parts = [
        {"Name": "runc", "Version": runc, "Details": {"GitCommit": commit}},
        {"Name": "Engine", "Version": "29.5.1"},
    ]
    return {"Components": parts, **rest}


def test_a_package_is_judged_by_its_revision_and_told_how_to_renew_it() -> None:
    version = engine("1.1.5+ds1", "1.1.5+ds1-1+deb12u1")
    [check] = isolation(version, lambda package, number: BOOKWORM_RUNC if package == "runc" else None)
    assert check.level is Level.WARNING
    assert check.found.startswith("1.1.5+ds1-1+deb12u1 has CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: ")
    assert "apt-get install --only-upgrade runc; if that brings no fix, runc 1.2.8 or" in (check.mend or "")


def test_a_package_whose_changelog_is_not_there_is_in_doubt() -> None:
    checks = list(isolation(engine("1.1.5+ds1", "1.1.5+ds1-1+deb12u1"), lambda package, number: None))
    assert all("unless your distribution fixed it" in check.found for check in checks)


def test_a_release_of_the_project_itself_is_not_in_doubt() -> None:
    [check] = isolation(engine("1.3.2"), lambda package, number: None)
    assert "unless" not in check.found
    assert check.mend == "update to runc 1.2.8 or 1.3.3 or 1.4.0"


def test_parts_without_a_known_escape_are_ok() -> None:
    [check] = isolation(engine("1.3.6"), lambda package, number: None)
    assert (check.name, check.level, check.found) == ("runc", Level.OK, "1.3.6, no known escape")


def test_docker_desktop_is_told_by_its_platform() -> None:
    version = engine("1.3.6", Platform={"Name": "Docker Desktop 4.40.0 (187762)"})
    first = next(isolation(version, lambda package, number: None))
    assert (first.name, first.level) == ("desktop", Level.WARNING)


def test_an_engine_that_cannot_limit_memory_will_not_do() -> None:
    able = {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True, "SecurityOptions": ["name=seccomp"]}
    assert [check.level for check in limits(able)] == [Level.OK]
    [check] = limits({**able, "MemoryLimit": False, "PidsLimit": False})
    assert check.level is Level.MISSING
    assert check.found == "the engine cannot limit memory, processes"


def test_an_engine_without_seccomp_is_warned_of() -> None:
    info = {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True, "SecurityOptions": []}
    assert [check.name for check in limits(info) if check.level is Level.WARNING] == ["seccomp"]
