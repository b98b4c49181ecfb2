"""Functions' images on their way to other machines: what the engine is asked, and what follows from what it
says."""

from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import DockerException

from mayfly.errors import ImageNotThere, RegistryUnavailable
from mayfly.registry import Registry

REPOSITORY = "registry.example.com/functions"
IMAGE = "mayfly/fn-echo:85509949c9d3"


class Engine:
    """Docker's API, as far as a registry asks it for anything."""

    def __init__(self, *lines: dict[str, str], error: Exception | None = None) -> None:
        self.lines, self.error = lines, error
        self.calls: list[tuple[str, ...]] = []

    def tag(self, image: str, repository: str, tag: str, force: bool) -> bool:
        self.calls.append(("tag", image, repository, tag))
        return True

    def push(self, repository: str, tag: str, **options: Any) -> Iterator[dict[str, str]]:
        return self._move("push", repository, tag)

    def pull(self, repository: str, tag: str, **options: Any) -> Iterator[dict[str, str]]:
        return self._move("pull", repository, tag)

    def inspect_distribution(self, image: str, auth_config: Any) -> dict[str, str]:
        self.calls.append(("inspect", image))
        if self.error:
            raise self.error
        return {}

    def _move(self, what: str, repository: str, tag: str) -> Iterator[dict[str, str]]:
        self.calls.append((what, repository, tag))
        if self.error:
            raise self.error
        return iter(self.lines)


def test_an_image_is_pushed_as_a_tag_of_the_one_repository() -> None:
    engine = Engine({"status": "Pushed"})
    Registry(REPOSITORY).push(engine, IMAGE)  # type: ignore[arg-type]
    assert engine.calls == [
        ("tag", IMAGE, REPOSITORY, "echo-85509949c9d3"),
        ("push", REPOSITORY, "echo-85509949c9d3"),
    ]


def test_an_image_that_was_pulled_has_its_own_name() -> None:
    engine = Engine({"status": "Downloaded"})
    Registry(REPOSITORY).pull(engine, IMAGE)  # type: ignore[arg-type]
    assert engine.calls == [
        ("pull", REPOSITORY, "echo-85509949c9d3"),
        ("tag", f"{REPOSITORY}:echo-85509949c9d3", "mayfly/fn-echo", "85509949c9d3"),
    ]


def test_a_tag_that_is_there_and_may_not_change_is_as_good_as_pushed() -> None:
    refusal = {"error": "tag invalid: it already exists and the repository is immutable"}
    Registry(REPOSITORY).push(Engine(refusal), IMAGE)  # type: ignore[arg-type]


def test_an_image_is_there_if_the_registry_says_so_and_not_if_nobody_can_tell() -> None:
    there, away = Engine(), Engine(error=DockerException("no answer"))
    assert Registry(REPOSITORY).has(there, IMAGE)  # type: ignore[arg-type]
    assert not Registry(REPOSITORY).has(away, IMAGE)  # type: ignore[arg-type]
    assert there.calls == [("inspect", f"{REPOSITORY}:echo-85509949c9d3")]


@pytest.mark.parametrize(
    "engine", [Engine({"error": "no basic auth credentials"}), Engine(error=DockerException("no answer"))]
)
def test_a_registry_that_does_not_do_its_part_is_unavailable(engine: Engine) -> None:
    with pytest.raises(RegistryUnavailable, match=REPOSITORY):
        Registry(REPOSITORY).push(engine, IMAGE)  # type: ignore[arg-type]
    with pytest.raises(RegistryUnavailable, match=REPOSITORY):
        Registry(REPOSITORY).pull(engine, IMAGE)  # type: ignore[arg-type]


def test_what_the_registry_has_not_is_told_from_a_registry_that_is_away() -> None:
    engine = Engine({"error": "manifest for functions:echo-85509949c9d3 not found: manifest unknown"})
    with pytest.raises(ImageNotThere):
        Registry(REPOSITORY).pull(engine, IMAGE)  # type: ignore[arg-type]
    with pytest.raises(ImageNotThere):
        Registry(REPOSITORY).pull(Engine(), "somebody/else:latest")  # type: ignore[arg-type]


def test_amazon_s_registry_is_asked_with_a_password_that_aws_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Ecr:
        def get_authorization_token(self) -> dict[str, Any]:
            return {"authorizationData": [{"authorizationToken": "QVdTOnNlY3JldA=="}]}

    def client(service: str, region_name: str) -> Ecr:
        asked.update(service=service, region=region_name)
        return Ecr()

    monkeypatch.setattr("boto3.client", client)
    registry = Registry("123456789012.dkr.ecr.eu-central-1.amazonaws.com/mayfly/functions")
    assert registry._credentials() == {"username": "AWS", "password": "secret"}
    assert asked == {"service": "ecr", "region": "eu-central-1"}
    assert Registry(REPOSITORY)._credentials() is None
