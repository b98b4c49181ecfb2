"""What compose.yaml says is what the code, the local stack and the cloud say."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.security import is_loopback
from mayfly.identity.keys import new_credential
from mayfly.identity.vault import new_key
from mayfly.settings import Settings
from mayfly.stack import kafka, s3

ROOT = Path(__file__).parents[2]
SECRETS = {
    "MAYFLY_ADMIN_KEY": str(new_credential()),
    "MAYFLY_HEARTBEAT_KEY": "k" * 64,
    "MAYFLY_SECRETS_KEY": new_key(),
    "REDIS_PASSWORD": "r" * 48,
    "S3_SECRET_KEY": "s" * 48,
}
OURS = ("gateway", "dispatcher", "deploy")
OF_THE_PLACE = {"process.roles", "node.id", "controller.quorum.voters", "log.dirs"}
"""Settings of the broker that say where it is."""


def value(text: str) -> str:
    """A text with its variables replaced: by a secret of ours, or by the default."""

    def replaced(found: re.Match[str]) -> str:
        name, kind, rest = found[1], found[2], found[3]
        return rest if kind == ":-" else SECRETS[name]

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", replaced, text)


def read(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: read(each) for key, each in node.items()}
    if isinstance(node, list):
        return [read(each) for each in node]
    return value(node) if isinstance(node, str) else node


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(yaml.safe_load((ROOT / "compose.yaml").read_text()))["services"]
    return found


def settings_of(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(text) for name, text in service["environment"].items()}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_ours_is_a_setting_and_has_a_value_that_it_takes(services, name, monkeypatch):
    variables = settings_of(services[name])
    assert {f"MAYFLY_{field.upper()}" for field in Settings.model_fields}.issuperset(variables)
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)
    Settings()


@pytest.mark.parametrize("name", OURS)
def test_a_command_of_ours_is_a_module_that_there_is_and_what_the_cloud_runs(services, name):
    command = services[name]["command"]
    assert command[:3] == ["python", "-P", "-m"]
    assert importlib.util.find_spec(command[3]) is not None
    cloud = (ROOT / "infra/terraform" / f"{name}{'er' * (name == 'deploy')}.tf").read_text()
    assert "[" + ", ".join(f'"{word}"' for word in command) + "]" in cloud
    assert f'user                   = "{services[name]["user"]}"' in cloud


def test_the_gateway_would_start_where_it_listens(services):
    settings = settings_of(services["gateway"])
    assert not is_loopback(settings["MAYFLY_HOST"])
    assert settings["MAYFLY_AUTH"] == "true"
    assert settings["MAYFLY_ADMIN_KEY"] == SECRETS["MAYFLY_ADMIN_KEY"]
    assert services["gateway"]["ports"] == [f"127.0.0.1:8080:{settings['MAYFLY_PORT']}"]


def test_the_parts_are_where_ours_look_for_them_and_nothing_is_open_to_another_machine(services):
    ports = {name: [port.split(":") for port in one.get("ports", ())] for name, one in services.items()}
    assert {host for each in ports.values() for host, *_ in each} == {"127.0.0.1"}
    published = {f"127.0.0.1:{port}": name for name, each in ports.items() for _, port, _ in each}
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert listeners == "HOST://127.0.0.1:9092,INSIDE://kafka:29092"
    inside, outside = settings_of(services["gateway"]), settings_of(services["dispatcher"])
    assert inside["MAYFLY_KAFKA"] == settings_of(services["deploy"])["MAYFLY_KAFKA"] == "kafka:29092"
    assert published[outside["MAYFLY_KAFKA"]] == "kafka"
    assert services["dispatcher"]["network_mode"] == "host"
    for variable, part in (("MAYFLY_REDIS", "redis"), ("MAYFLY_S3_ENDPOINT", "s3")):
        [port] = ports[part]
        assert f"{part}:{port[2]}" in inside[variable]
        assert f"127.0.0.1:{port[1]}" in outside[variable]
        assert inside[variable].replace(f"{part}:{port[2]}", f"127.0.0.1:{port[1]}") == outside[variable]
    assert inside["MAYFLY_S3_PUBLIC_ENDPOINT"] == outside["MAYFLY_S3_ENDPOINT"]


def test_the_broker_is_set_as_that_of_the_local_stack(services):
    variables = services["kafka"]["environment"]
    found = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(text) for name, text in variables.items()
    }
    lines = [line for line in kafka.PROPERTIES.splitlines() if not line.startswith("#")]
    wanted = dict(line.split("=", 1) for line in lines)
    for name, text in wanted.items():
        if "listener" not in name and name not in OF_THE_PLACE:
            assert found[name] == text, name


def test_the_images_of_others_are_those_versions_that_the_local_stack_runs(services):
    assert services["kafka"]["image"] == f"apache/kafka:{kafka.JARS.removeprefix('kafka-')}"
    assert services["s3"]["image"] == f"andrewgaul/s3proxy:{s3.JARS.removeprefix('s3proxy-')}"
    tags = {name: one["image"].rpartition(":")[2] for name, one in services.items()}
    assert all(tag[0].isdecimal() for tag in tags.values()), tags


def test_what_runs_on_is_started_again_and_says_whether_it_lives(services):
    for name, service in services.items():
        if name == "deploy":
            continue
        assert service["restart"] == "unless-stopped", name
        assert name in ("gateway", "dispatcher") or service["healthcheck"]["test"], name


def test_a_dispatchers_folder_has_the_same_path_for_the_engine(services):
    dispatcher = services["dispatcher"]
    state = settings_of(dispatcher)["MAYFLY_STATE_DIR"]
    assert f"{state}:{state}" in dispatcher["volumes"]
    grace = float(settings_of(dispatcher)["MAYFLY_GRACE_SECONDS"])
    assert float(dispatcher["stop_grace_period"].removesuffix("s")) >= grace + 10


def test_what_the_page_says_to_put_in_the_file_is_all_that_is_wanted():
    wanted = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text()))
    assert wanted == set(SECRETS)
    page = (ROOT / "docs/images.md").read_text()
    assert set(re.findall(r"^(\w+)=\$\(", page, re.MULTILINE)) == wanted
