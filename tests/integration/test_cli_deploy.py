"""`mayfly deploy`, through a gateway that names a registry: once, once more, and where it fails."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from gateway_process import StartGateway, until
from typer.testing import CliRunner, Result

from mayfly import versions
from mayfly.adapters.kafka import FUNCTIONS_TOPIC, client_config
from mayfly.cli.app import app
from mayfly.cli.output import CHANGES, FAILED, OK, UNREACHABLE, USAGE
from mayfly.client import Client
from mayfly.settings import Settings
from tests.engine import remove_images, tags_of
from tests.web import WEB

Command = Callable[..., Result]
HANDLER = "def handler(event, context):\n    return 1\n"


def written(settings: Settings, names: set[str]) -> list[int]:
    """Where the catalog's topic has records of these functions, by its end as it is now."""
    consumer = Consumer(client_config(settings, **{"group.id": "reader", "enable.auto.commit": False}))
    place = TopicPartition(FUNCTIONS_TOPIC, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=60)
    consumer.assign([TopicPartition(FUNCTIONS_TOPIC, 0, OFFSET_BEGINNING)])
    found: list[int] = []
    at = 0
    while at < end:
        message = consumer.poll(60)
        assert message is not None
        assert message.error() is None
        at = (message.offset() or 0) + 1
        if (message.key() or b"").decode() in names:
            found.append(at - 1)
    consumer.close()
    return found


@pytest.fixture
def names(docker_engine: docker.DockerClient, registry: str) -> Iterator[list[str]]:
    made = [f"deploy{uuid.uuid4().hex[:8]}{suffix}" for suffix in "ab"]
    yield made
    for name in made:
        remove_images(docker_engine, name)


@pytest.fixture
def folders(tmp_path: Path, names: list[str]) -> list[Path]:
    made = [tmp_path / "functions" / name for name in names]
    for folder in made:
        folder.mkdir(parents=True)
        (folder / "handler.py").write_text(HANDLER)
    return made


@pytest.fixture
async def url(start_gateway: StartGateway, registry: str) -> str:
    process = start_gateway(MAYFLY_FUNCTIONS_REPOSITORY=f"{registry}/deployed")
    async with process.client() as http:
        await until(http, "/readyz", 200)
    return process.url


@pytest.fixture
def command(url: str, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAYFLY_URL", url)
    monkeypatch.setenv("MAYFLY_CONFIG", str(tmp_path / "config.toml"))
    for name in ("MAYFLY_API_KEY", "MAYFLY_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, code: int = OK) -> Result:
        done = CliRunner().invoke(app, args, catch_exceptions=False, prog_name="mayfly")
        assert done.exit_code == code, done.output
        return done

    return run


def tags(registry: str) -> set[str]:
    answer = WEB.get(f"http://{registry}/v2/deployed/tags/list")
    return set(answer.json().get("tags") or ()) if answer.status_code == 200 else set()


def steps(done: Result) -> dict[str, Any]:
    return {step["name"]: step for step in json.loads(done.stdout)["functions"]}


async def test_a_deployment_changes_what_its_plan_says_and_the_second_one_nothing(
    command: Command,
    url: str,
    names: list[str],
    folders: list[Path],
    registry: str,
    settings: Settings,
    docker_engine: docker.DockerClient,
) -> None:
    first, second = names
    # The plan builds, pushes and writes nothing.
    planned = steps(command("deploy", "--plan", "--json", code=CHANGES))
    assert {name: step["change"] for name, step in planned.items()} == dict.fromkeys(names, "new")
    assert (written(settings, set(names)), tags(registry)) == ([], set())

    # What is wrong with one leaves all as it was: no build, then no push.
    (folders[1] / "handler.py").write_text("def handler(:\n")
    done = command("deploy", code=FAILED)
    assert f"{second}/handler.py" in done.stderr
    assert "nothing was deployed" in done.stderr
    (folders[1] / "handler.py").write_text(HANDLER)
    done = command("deploy", "--registry", "127.0.0.1:1/deployed", code=FAILED)
    assert "was not pushed" in done.stderr
    assert written(settings, set(names)) == []

    done = command("deploy")
    assert "deployed: 2 new" in done.stderr
    records = written(settings, set(names))
    assert len(records) == 2
    pushed = tags(registry)
    assert len(pushed) == 2

    # The second one, as a machine does it that never built them.
    for tag in pushed:
        name, version = tag.rsplit("-", 1)
        docker_engine.images.remove(f"mayfly/fn-{name}:{version}", force=True)
        docker_engine.images.remove(f"{registry}/deployed:{tag}", force=True)
    done = command("deploy")
    assert "nothing to do" in done.stderr
    assert not any(word in done.stderr for word in ("building", "pushing"))
    assert written(settings, set(names)) == records
    assert [tag for name in names for tag in tags_of(docker_engine, f"mayfly/fn-{name}:")] == []

    # A manifest that changed is a version, without a build or a push.
    (folders[0] / "function.toml").write_text("memory = 300\n")
    done = command("deploy", "--plan", first, code=CHANGES)
    assert "memory: 256 -> 300" in done.stdout
    done = command("deploy", "--no-traffic", first)
    assert f"`mayfly traffic {first} v2=100%`" in done.stdout
    assert not any(word in done.stderr for word in ("building", "pushing"))
    assert len(written(settings, set(names))) == 3
    assert command("traffic", first, "v2=10%").stdout.splitlines()[1].startswith("v2\t10%\t")
    with Client(url) as client:
        entry = next(one for one in client.catalog().functions if one.name == first)
        assert {one.limits.memory_mib: one.share for one in versions.versions(entry)} == {300: 10, 256: 90}
        assert client.function(first).limits.memory_mib == 256
    command("traffic", first, "v1=100%")


async def test_what_cannot_be_deployed_from_here_is_told(
    command: Command, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders[0] / "function.toml").write_text("memory = 'much'\n")
    done = command("deploy", code=FAILED)
    assert 'memory is "much": it must be' in done.stderr
    assert command("deploy", "--prune", folders[1].name, code=USAGE).stdout == ""
    command("deploy", "--registry", "https://registry.example.com", code=USAGE)
    command("deploy", "--url", "http://127.0.0.1:1", code=UNREACHABLE)
    command("traffic", "nobody", "v1=100%", code=FAILED)
    command("traffic", "nobody", "v1=lots", code=USAGE)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert "nowhere.sock" in command("deploy", code=FAILED).stderr
