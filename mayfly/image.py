"""Building images with a Docker engine, without its command line and without a network's help."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException

from mayfly.errors import MayflyError, StackError

LOG_LINES: Final = 40
"""How much of a failed build's output is shown."""

ATTEMPTS: Final = 5
"""Of a build whose search of the cache an image's removal breaks off: two in a hundred, of builds beside
a removal all the time."""


class BuildFailed(MayflyError):
    """The engine went through the build, and a step of it failed. `step` counts from 1; 0 is none."""

    def __init__(self, message: str, *, step: int, log: str) -> None:
        super().__init__(message)
        self.step = step
        self.log = log


class Context:
    """A build context. Times and owners are left out, so that the same files hit the same cache."""

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._stream, mode="w")  # noqa: SIM115 - closed by `stream`

    def add_text(self, name: str, text: str) -> None:
        self.add_bytes(name, text.encode())

    def add_bytes(self, name: str, data: bytes) -> None:
        self._add(name, 0o644, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path, mode: int = 0o644) -> None:
        with path.open("rb") as file:
            self._add(name, mode, file, path.stat().st_size)

    def add_folder(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(info)

    def add_link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)

    def _add(self, name: str, mode: int, data: Any, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.mode, info.size = mode, size
        self._tar.addfile(info, data)

    def stream(self) -> io.BytesIO:
        self._tar.close()
        self._stream.seek(0)
        return self._stream


@dataclass(frozen=True)
class Image:
    """An image that the engine has. `config` is what its processes start with: Cmd, Entrypoint, ..."""

    id: str
    labels: Mapping[str, str]
    config: Mapping[str, Any]
    architecture: str


def find_image(client: docker.DockerClient, tag: str) -> Image | None:
    try:
        attributes: dict[str, Any] = client.images.get(tag).attrs
    except ImageNotFound:
        return None
    config = attributes.get("Config") or {}
    return Image(attributes["Id"], config.get("Labels") or {}, config, attributes["Architecture"])


def build_image(
    client: docker.DockerClient,
    context: Context,
    *,
    tag: str | None = None,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    network: bool = False,
    target: str | None = None,
) -> str:
    """Builds the context's Dockerfile, or its stage `target`: the id of the image.

    Raises `BuildFailed`; `StackError` where the engine is at fault.
    """
    options: dict[str, Any] = {
        "tag": tag,
        "buildargs": dict(arguments or {}),
        "labels": dict(labels or {}),
        "network_mode": None if network else "none",
        "target": target or "",
    }
    content = context.stream()
    for attempt in range(1, ATTEMPTS + 1):
        content.seek(0)
        try:
            return _build(client, content, options)
        except BuildFailed as error:
            # The engine lists what its cache may have, then looks at each: one was removed in between,
            # by anybody and of whatever function. Nothing is wrong with this build.
            if attempt == ATTEMPTS or not str(error).startswith("unable to find image"):
                raise
    raise AssertionError("the last attempt either returns or raises")


def _build(client: docker.DockerClient, content: io.BytesIO, options: Mapping[str, Any]) -> str:
    log: list[str] = []
    step = 0
    built, fault = "", None
    with engine_errors():
        events: Iterator[dict[str, Any]] = client.api.build(
            fileobj=content, custom_context=True, rm=True, forcerm=True, decode=True, **options
        )
        for event in events:
            if text := event.get("stream", ""):
                step += text.startswith("Step ")
                log.append(text)
            built = event.get("aux", {}).get("ID", built)
            fault = event.get("error", fault)
    # Only now: a stream that is not read to its end keeps its connection.
    if fault is not None:
        tail = "\n".join("".join(log).rstrip().splitlines()[-LOG_LINES:])
        raise BuildFailed(str(fault).strip(), step=step, log=tail)
    return built


def tag_image(client: docker.DockerClient, image: str, tag: str) -> None:
    repository, _, version = tag.partition(":")
    with engine_errors():
        client.api.tag(image, repository, version or "latest")


@contextmanager
def engine_errors() -> Iterator[None]:
    """What the engine says of itself, as our error. A Dockerfile that it cannot parse is a failed build."""
    try:
        yield
    except docker.errors.APIError as error:
        text = str(error.explanation or error)
        if "parse error" in text or "Dockerfile" in text:
            raise BuildFailed(text, step=0, log="") from error
        raise StackError(f"the Docker engine refused: {text}") from error
    except (DockerException, RequestException) as error:
        raise StackError(f"the Docker engine does not answer: {error}", mend="mayfly doctor") from error
