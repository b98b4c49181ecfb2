"""The images that functions' images start from.

`mayfly/base` is a small system with Python: `python:3.13-slim` where that can be pulled, else what
mmdebstrap makes from the packages of this machine's own distribution. `mayfly/python` is the base with the
bootstrap. Both are tagged with a hash of what they are made of, and as `latest`, for a Dockerfile's FROM.
"""

import hashlib
import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from mayfly import advice
from mayfly.data import images_dir
from mayfly.errors import StackError
from mayfly.image import BuildFailed, Context, build_image, engine_errors, find_image, tag_image

Progress = Callable[[str], None]

BASE: Final = "mayfly/base"
PYTHON: Final = "mayfly/python"
PULLED: Final = "python:3.13-slim"

PACKAGES: Final = ("python3", "ca-certificates", "tzdata", "libstdc++6")
"""What Python code expects of a system: trusted roots, time zones, and the C++ library that wheels link."""

UNUSED: Final = ("doc", "man", "info", "locale")
"""Folders of /usr/share that a function does not read."""

STRIP: Final = (
    # The machine's mirrors, with whatever passwords are in them, are none of a function's business.
    'rm -rf "$1"/etc/apt/sources.list* "$1"/etc/apt/auth.conf* "$1"/etc/apt/trusted.gpg* '
    '"$1"/etc/resolv.conf "$1"/etc/hostname "$1"/var/cache/* "$1"/var/log/* '
    '"$1"/var/lib/apt/lists/*'
)
SOURCES: Final = Path("/etc/apt")

PROBE: Final = (
    "import json, os, sys; version = '%d.%d' % sys.version_info[:2]; "
    "print(json.dumps([version, os.uname().machine, os.confstr('CS_GNU_LIBC_VERSION')]))"
)

NEWEST_GLIBC: Final = 40
"""The newest 2.x that uv knows as a platform; a newer C library runs what was made for this one."""


class Base(NamedTuple):
    """The base of Python functions: its tag, and what packages must be resolved for."""

    tag: str
    id: str
    python: str
    """Like `3.11`."""
    platform: str
    """As uv names it: `x86_64-manylinux_2_36`."""


def ensure_base(client: docker.DockerClient, *, on_progress: Progress) -> Base:
    """The base, made if the engine has none of this recipe. Takes half a minute then, else milliseconds.

    Raises `StackError` where it can neither be pulled nor made.
    """
    root = ensure_root(client, on_progress=on_progress)
    files = python_files()
    tag = f"{PYTHON}:{_hash(root, *(name + path.read_text() for name, path in files.items()))}"
    image = find_image(client, tag)
    if image is None:
        on_progress("building the Python base image")
        version, target = probe(client, root)
        _build_python(client, root, tag, files, {"mayfly.python": version, "mayfly.platform": target})
        image = find_image(client, tag)
        assert image is not None
    tag_image(client, tag, PYTHON)
    return Base(tag, image.id, image.labels["mayfly.python"], image.labels["mayfly.platform"])


def python_files() -> dict[str, Path]:
    """What `mayfly/python` is built from, by name: the Dockerfile, the bootstrap, and the `mayfly` that
    handlers import, which is the same here and there."""
    folder = images_dir() / "python"
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    return files | {"mayfly.py": Path(advice.__file__)}


def ensure_root(client: docker.DockerClient, *, on_progress: Progress) -> str:
    """The id of `mayfly/base`."""
    tag = f"{BASE}:{_hash(PULLED, *PACKAGES, *UNUSED, STRIP)}"
    image = find_image(client, tag)
    if image is None:
        if not _pull(client, tag, on_progress):
            _bootstrap(client, tag, on_progress)
        image = find_image(client, tag)
        assert image is not None
    tag_image(client, tag, BASE)
    return image.id


def _pull(client: docker.DockerClient, tag: str, on_progress: Progress) -> bool:
    on_progress(f"pulling {PULLED}")
    repository, _, version = PULLED.partition(":")
    try:
        client.images.pull(repository, tag=version)
        tag_image(client, PULLED, tag)
    except (DockerException, RequestException, StackError):
        on_progress(f"{PULLED} cannot be pulled from here")
        return False
    return True


def _bootstrap(client: docker.DockerClient, tag: str, on_progress: Progress) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise StackError(
            f"no base image: {PULLED} cannot be pulled, and mmdebstrap, to make one, is missing",
            mend="apt-get install mmdebstrap",
        )
    on_progress("making the base image from this system's packages (about half a minute, once)")
    with tempfile.TemporaryDirectory(prefix="mayfly-base-") as folder:
        archive = Path(folder) / "base.tar"
        command = [program, "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNUSED]
        command += [f"--customize-hook={STRIP}", _suite(), str(archive), *_sources()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-8:])
            raise StackError(f"mmdebstrap could not make the base image:\n{tail}", mend="apt-get update")
        repository, _, version = tag.partition(":")
        with engine_errors():
            answer = json.loads(client.api.import_image(str(archive), repository=repository, tag=version))
        if "error" in answer:
            raise StackError(f"the Docker engine refused the base image: {answer['error']}")


def _suite() -> str:
    try:
        return platform.freedesktop_os_release()["VERSION_CODENAME"]
    except (OSError, KeyError) as error:
        raise StackError(
            f"no base image: {PULLED} cannot be pulled, and this system does not name its release",
            mend=f"docker pull {PULLED}",
        ) from error


def _sources() -> list[str]:
    """The files in which this machine's apt has its mirrors."""
    parts = SOURCES / "sources.list.d"
    files = [SOURCES / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]
    return [str(path) for path in files if path.is_file() and path.stat().st_size]


def probe(client: docker.DockerClient, image: str) -> tuple[str, str]:
    """The Python version in an image, and its platform."""
    try:
        output = client.containers.run(image, ["python3", "-c", PROBE], network_disabled=True, remove=True)
    except (DockerException, RequestException) as error:
        raise StackError(f"Python does not start in the base image: {error}") from error
    version, machine, libc = json.loads(output)
    minor = min(int(libc.rpartition(".")[2]), NEWEST_GLIBC)
    return version, f"{machine}-manylinux_2_{minor}"


def _build_python(
    client: docker.DockerClient, root: str, tag: str, files: dict[str, Path], labels: dict[str, str]
) -> None:
    context = Context()
    for name, path in files.items():
        context.add_file(name if name == "Dockerfile" else f"bootstrap/{name}", path)
    try:
        build_image(client, context, tag=tag, arguments={"BASE": root}, labels=labels)
    except BuildFailed as error:
        raise StackError(f"the Python base image cannot be built: {error}\n{error.log}") from error


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
