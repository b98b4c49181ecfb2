"""The documentation has what the code has, and its links lead somewhere."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from gateway_world import World
from pydantic import SecretStr
from starlette.routing import Route, WebSocketRoute

from gateway.errors import CODES
from mayfly import view
from mayfly.audit.report import Kind
from mayfly.cli.app import app
from mayfly.events import Claimed, Finished
from mayfly.manifest import EXPECTED
from mayfly.settings import Settings
from mayfly.task import (
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Log,
    Origin,
    Outcome,
    Result,
    RetryPolicy,
    encode,
)

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
OTHER_VARIABLES = {
    "MAYFLY_URL",
    "MAYFLY_API_KEY",
    "MAYFLY_PROFILE",
    "MAYFLY_CONFIG",
    "MAYFLY_ALLOW_HTTP",
    "MAYFLY_CACHE",
    "MAYFLY_DEBUG",
    "MAYFLY_SECRET_<NAME>",
}
"""Not settings of the services, and documented beside them."""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def prose(text: str) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The headings as code hosts make links of them."""
    titles = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose(path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_is_linked_from_the_readme_or_its_folders_index() -> None:
    linked = set()
    for index in (ROOT / "README.md", ROOT / "docs" / "adr" / "README.md"):
        links = LINK.findall(index.read_text())
        linked |= {(index.parent / link.partition("#")[0]).resolve() for link in links}
    assert set(PAGES) - {ROOT / "README.md"} <= linked


def rows(text: str) -> dict[str, str]:
    """The variables of the tables, each with its row's second cell."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0].startswith("`MAYFLY_"):
            for name in re.findall(r"`(MAYFLY_[^`]+)`", cells[0]):
                found[name] = cells[1]
    return found


def shown(value: Any) -> str:
    """A default as the page shows it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value}`"


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    variables = rows(page("configuration.md"))
    assert f"MAYFLY_{name.upper()}" in variables
    field = Settings.model_fields[name]
    if field.default_factory is None:
        assert variables[f"MAYFLY_{name.upper()}"] == shown(field.default)


def test_no_setting_is_documented_that_there_is_not() -> None:
    settings = {f"MAYFLY_{name.upper()}" for name in Settings.model_fields}
    assert set(rows(page("configuration.md"))) - settings == OTHER_VARIABLES


def test_every_route_is_documented() -> None:
    text = page("api.md")
    routes = [route for route in World().gateway.routes() if isinstance(route, Route)]
    named = {f"{method} {route.path}" for route in routes for method in (route.methods or set()) - {"HEAD"}}
    assert len(named) > 10
    sockets = [route for route in World().gateway.routes() if isinstance(route, WebSocketRoute)]
    named |= {f"WebSocket {route.path}" for route in sockets}
    assert {name for name in named if f"`{name}`" not in text} == set()


def test_every_error_code_is_documented_with_its_status() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", page("api.md"), re.MULTILINE))
    assert table == {code: str(kind.status) for code, kind in CODES.items()}


def test_every_command_is_documented_and_no_other() -> None:
    group: Any = typer.main.get_command(app)
    documented = set(re.findall(r"^\| `mayfly ([\w-]+)[^`]*` \|", page("cli.md"), re.MULTILINE))
    assert documented == set(group.commands)


def test_every_key_of_function_toml_is_documented_and_no_other() -> None:
    section = page("functions.md").partition("## `function.toml`")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(EXPECTED)


def test_every_failure_type_is_documented() -> None:
    text = page("functions.md")
    assert {kind for kind in FailureType if f"`{kind}`" not in text} == set()


def test_every_field_of_a_tasks_hash_is_documented() -> None:
    blob = BlobRef("key", 1, "00")
    queued = view.queued(
        Envelope(
            "echo",
            "id",
            name="n",
            timeout_seconds=1,
            delay_seconds=1,
            ttl_seconds=1,
            concurrency_key="k",
            rerun_of="id",
            payload_sha256="00",
            request_sha256="00",
            tenant="acme",
            batch="id",
            upload="u",
        ),
        queue="default",
        lane=Lane.LOW,
        partition=0,
        offset=0,
        at=0,
    )
    claimed = Claimed("id", Lane.LOW, 0, 1, "dispatcher", "nonce", image="image")
    failure = Failure(FailureType.ERROR, "message", error="E", traceback="t", exit_code=1)
    outcome = Outcome(0, 0, Result(blob, inline=b"1"), failure, Log(blob))  # type: ignore[arg-type]
    fields = queued.fields().keys() | {"status", "position", "progress", "progressMessage"}
    fields |= {"cancelRequestedAt", "dueAt", "attempts"}
    fields |= view.claimed(claimed, partition=0, offset=0, at=0).fields.keys()
    fields |= view.finished(Finished("id", 0, 1, outcome), partition=0, offset=0).fields.keys()
    section = page("interfaces.md").partition("### The hash of a task")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == fields


def test_every_field_of_an_envelope_is_documented() -> None:
    whole = Envelope(
        "echo",
        "id",
        b"1",
        "MQ==",
        BlobRef("key", 1, "00"),
        "text/csv",
        "n",
        1.5,
        ("tag",),  # type: ignore[arg-type]
        7,
        delay_seconds=1,
        run_at=1,
        ttl_seconds=1,
        retry=RetryPolicy(1),
        redeliver=False,
        concurrency_key="k",
        image="i",
        rerun_of="id",
        payload_sha256="00",
        request_sha256="00",
        releases=1,
        origin=Origin(Lane.LOW, 0, 0),
        tenant="acme",
        callback_url="https://example.com/",
        batch="id",
        upload="u",
    )
    section = page("interfaces.md").partition("## Kafka: appending a task")[2].partition("\n##")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert documented == set(json.loads(encode(whole)))


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.M)}
    assert named <= targets | {"help"}
    assert {"run", "demo", "test"} <= named


def test_every_kind_of_damage_is_documented() -> None:
    assert {kind for kind in Kind if f"`{kind}`" not in page("reliability.md")} == set()


def test_every_test_that_is_named_is_there() -> None:
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    # Not those that end in an asterisk.
    pattern = re.compile(r"(?:`|/)(test_\w+(?:\.py)?)(?!\*)\b")
    named = {name for path in PAGES for name in pattern.findall(path.read_text())}
    assert named - there == set()
    assert len(named) > 20
