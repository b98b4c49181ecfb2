"""A registry that carries functions' images from who builds them to the engines of other machines.

An image is called `mayfly/fn-<name>:<version>` wherever it is used. In the registry it is the tag
`<name>-<version>` of the one repository that is set: no such tag ever means another image, so a registry may
refuse to have one changed.
"""

import base64
import re
from collections.abc import Callable
from typing import Any, Final

import docker
from docker.errors import DockerException, NotFound
from requests.exceptions import RequestException

from mayfly.errors import ImageNotThere, RegistryUnavailable

PREFIX: Final = "mayfly/fn-"
ECR: Final = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/")
"""A repository of Amazon's registry, and its region: it wants a password that AWS's credentials get."""
IMMUTABLE: Final = "immutable"
"""In the answer of a registry that has the tag already, and lets nobody change it."""
ABSENT: Final = ("not found", "manifest unknown")


class Registry:
    """One repository. Everything blocks, and raises `RegistryUnavailable` where it does not do its part."""

    def __init__(self, repository: str) -> None:
        self._repository = repository

    def address(self, image: str) -> str:
        """What another machine's engine finds it by. Raises `ImageNotThere` for what is not ours."""
        return f"{self._repository}:{_tag(image)}"

    def has(self, engine: docker.APIClient, image: str) -> bool:
        """Whether it is there; not, where nobody can tell: to push it tells then."""
        try:
            engine.inspect_distribution(self.address(image), auth_config=self._credentials())  # type: ignore[no-untyped-call]
        except (DockerException, RequestException):
            return False
        return True

    def push(self, engine: docker.APIClient, image: str) -> None:
        """Have it there. Where it is there already, built elsewhere of the same, that one stays."""
        tag = _tag(image)
        try:
            engine.tag(image, self._repository, tag, force=True)
            self._move(engine.push, tag)
        except RegistryUnavailable as error:
            if IMMUTABLE not in str(error):
                raise
        except (DockerException, RequestException) as error:
            raise self._unavailable(error) from error

    def pull(self, engine: docker.APIClient, image: str) -> None:
        """Have the engine know it by its name. Raises `ImageNotThere`."""
        tag = _tag(image)
        name, _, version = image.rpartition(":")
        try:
            self._move(engine.pull, tag)
            engine.tag(f"{self._repository}:{tag}", name, version, force=True)
        except NotFound as error:
            raise ImageNotThere(f"{self._repository} has no {tag}") from error
        except (DockerException, RequestException) as error:
            raise self._unavailable(error) from error

    def _move(self, move: Callable[..., Any], tag: str) -> None:
        credentials = self._credentials()
        for line in move(self._repository, tag=tag, auth_config=credentials, stream=True, decode=True):
            if reason := line.get("error"):
                if any(word in reason.lower() for word in ABSENT):
                    raise ImageNotThere(f"{self._repository} has no {tag}: {reason}")
                raise self._unavailable(reason)

    def _credentials(self) -> dict[str, str] | None:
        """None leaves it to what `docker login` has left."""
        found = ECR.match(self._repository)
        if found is None:
            return None
        # To import it takes longer than to import all of ours, and only AWS needs it.
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = boto3.client("ecr", region_name=found[1]).get_authorization_token()
        except (BotoCoreError, ClientError) as error:
            raise self._unavailable(error) from error
        token = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
        user, _, password = token.partition(":")
        return {"username": user, "password": password}

    def _unavailable(self, reason: object) -> RegistryUnavailable:
        return RegistryUnavailable(f"the registry of {self._repository}: {reason}")


def _tag(image: str) -> str:
    """`mayfly/fn-echo:85509949c9d3` is `echo-85509949c9d3`. Raises `ImageNotThere` for what is not ours."""
    name, _, version = image.rpartition(":")
    if not name.startswith(PREFIX):
        raise ImageNotThere(f"{image} is no function's image: a registry has those only")
    return f"{name.removeprefix(PREFIX)}-{version}"
