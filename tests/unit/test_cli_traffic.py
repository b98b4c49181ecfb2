"""`mayfly traffic`, and what `mayfly deploy` says where it cannot go on: without an engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import Mayfly, ScriptedGateway, command

from mayfly.cli import deployment
from mayfly.cli.deployment import Deployment
from mayfly.cli.output import FAILED, OK, USAGE
from mayfly.client import ApiError, Client
from mayfly.client.deployments import Catalog
from mayfly.function import Function

VERSIONS = [
    {
        "version": f"v{number}",
        "hash": f"{number}",
        "image": f"mayfly/fn-f:{number}",
        "share": share,
        "deployedAt": "2026-11-24T12:00:00.123Z",
    }
    for number, share in ((2, 10), (1, 90))
]
TRAFFIC = {"name": "f", "versions": VERSIONS}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    folder = tmp_path / "functions" / "f"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text("def handler(event, context):\n    return 1\n")
    return command(gateway, tmp_path, monkeypatch)


def test_traffic_is_shown_and_set(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /functions/f/traffic", TRAFFIC)
    gateway.answer("PUT /functions/f/traffic", TRAFFIC)
    header, *rows = [line.split("\t") for line in mayfly("traffic", "f").stdout.splitlines()]
    assert header == ["VERSION", "SHARE", "IMAGE", "DEPLOYED"]
    assert rows == [
        ["v2", "10%", "mayfly/fn-f:2", "2026-11-24 12:00:00"],
        ["v1", "90%", "mayfly/fn-f:1", "2026-11-24 12:00:00"],
    ]
    assert mayfly("traffic", "f", "v2=10%", "v1=90").exit_code == OK
    assert gateway.requests[-1].json == {"shares": {"v2": 10, "v1": 90}}


@pytest.mark.parametrize("share", ["v2", "v2=101%", "v2=-1", "v0=1", "2=10", "v2=1.5%"])
def test_what_is_no_share_is_sent_to_nobody(gateway: ScriptedGateway, mayfly: Mayfly, share: str) -> None:
    done = mayfly("traffic", "f", share)
    assert done.exit_code == USAGE
    assert "such as v2=10%" in done.stderr
    assert not gateway.requests


def test_whoever_may_not_deploy_is_told_what_it_takes(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("GET /catalog", 403, "forbidden", "This asks for the scope admin.")
    done = mayfly("deploy")
    assert done.exit_code == FAILED
    assert "Use a credential that may" in done.stderr


def test_a_system_elsewhere_has_to_name_what_carries_images_there(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answer("GET /catalog", {"repository": None, "functions": []})
    monkeypatch.setattr(deployment, "_is_here", lambda url: False)
    done = mayfly("deploy")
    assert done.exit_code == FAILED
    assert "give --registry" in done.stderr


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.0.0.1:8080", True), ("http://[::1]:1", True), ("https://mayfly.example", False)],
)
def test_only_this_machine_is_taken_to_have_this_machines_engine(url: str, here: bool) -> None:
    assert deployment._is_here(url) is here


def test_where_writing_breaks_off_it_is_told_what_was_written(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answer("PUT /functions/f", TRAFFIC | {"changed": True})
    gateway.refuse("PUT /functions/g", 422, "invalid_body", "no")
    functions = [Function(name, f"mayfly/fn-{name}:1", "1") for name in "fgh"]
    with Client(gateway.url) as client:
        work = Deployment(client, Catalog(()), None, None, traffic=True)  # type: ignore[arg-type]
        with pytest.raises(ApiError):
            work._write(functions, [])
    assert "deployed before this went wrong: f; the rest is as it was" in capsys.readouterr().err
    assert [one.path for one in gateway.requests] == ["/functions/f", "/functions/g"]
