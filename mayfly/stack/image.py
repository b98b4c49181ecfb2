"""Mayfly's own image, built where its Dockerfile's base and its packages cannot be had from inside a build:
on a base that this machine makes, with the packages that this machine fetches. The Dockerfile is the same."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import docker
import uv

from mayfly import __version__
from mayfly.base_image import BASE, PULLED, Progress, ensure_root, probe
from mayfly.errors import StackError
from mayfly.image import BuildFailed, Context, build_image, engine_errors, find_image
from mayfly.stack.engine import address, ping

TAG: Final = f"mayfly:{__version__}"
ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = "infra/Dockerfile"
RECIPE: Final = (DOCKERFILE, "pyproject.toml", "requirements.lock")
OWN_PACKAGES: Final = "mayfly/own-packages"
CODE: Final = ("mayfly", "gateway", "dispatcher", "images")
BESIDES: Final = "iptables"
"""What the Dockerfile installs with apt-get, which a base that was made here has not."""
BESIDES_DOCKERFILE: Final = """\
ARG BASE
FROM ${BASE}
COPY debs /debs
RUN dpkg --install /debs/*.deb && rm -rf /debs
"""
DEPENDS: Final = (
    "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
    "--no-breaks", "--no-replaces", "--no-enhances", BESIDES,
)  # fmt: skip
TIMEOUT: Final = 600
"""Seconds for what is downloaded."""


def build_own(client: docker.DockerClient, *, tag: str = TAG, on_progress: Progress) -> str:
    """Builds the image of this checkout: its id. Raises `StackError`."""
    if not (ROOT / DOCKERFILE).is_file():
        raise StackError(f"there is no {DOCKERFILE} here: the image is built from a checkout of Mayfly")
    base = ensure_root(client, on_progress=on_progress)
    pulled = find_image(client, PULLED)
    if pulled is None or pulled.id != base:
        base = _with_besides(client, base, on_progress)
    packages = _packages(client, base, on_progress)
    context = _recipe()
    for name, path in _code():
        context.add_file(name, path)
    on_progress(f"building {tag}")
    return _build(client, context, tag, {"BASE": base, "PACKAGES": packages})


def _packages(client: docker.DockerClient, base: str, on_progress: Progress) -> str:
    """The Dockerfile's stage `packages`, with what this machine fetches: made once for a lock."""
    digest = hashlib.sha256(base.encode())
    for name in RECIPE:
        digest.update((ROOT / name).read_bytes())
    tag = f"{OWN_PACKAGES}:{digest.hexdigest()[:12]}"
    if (image := find_image(client, tag)) is not None:
        return image.id
    python, platform = probe(client, base)
    context = _recipe()
    with tempfile.TemporaryDirectory(prefix="mayfly-image-") as folder:
        on_progress("fetching the packages")
        _fetch(Path(folder), python, platform)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            context.add_file(f"given/site/{path.relative_to(folder).as_posix()}", path, mode)
    on_progress("compiling the packages")
    return _build(client, context, tag, {"BASE": base}, target="packages")


def _recipe() -> Context:
    context = Context()
    for name in RECIPE:
        context.add_file("Dockerfile" if name == DOCKERFILE else name, ROOT / name)
    return context


def _build(
    client: docker.DockerClient,
    context: Context,
    tag: str,
    arguments: Mapping[str, str],
    target: str | None = None,
) -> str:
    try:
        return build_image(client, context, tag=tag, arguments=arguments, network=True, target=target)
    except BuildFailed as error:
        raise StackError(f"{tag} cannot be built: {error}\n{error.log}") from error


def build_here(tag: str | None = None) -> bool:
    """The same with the engine that the environment names, told line by line."""
    engine = address(os.environ)
    ping(engine)
    client = docker.DockerClient(base_url=engine, timeout=TIMEOUT)
    try:
        built = build_own(client, tag=tag or TAG, on_progress=print)
        print(f"{tag or TAG}: {client.images.get(built).attrs['Size'] / 1e6:.0f} MB")
    finally:
        client.close()
    return True


def _with_besides(client: docker.DockerClient, base: str, on_progress: Progress) -> str:
    """The base with what it lacks, by packages that this machine's apt-get fetches, once."""
    recipe = hashlib.sha256(f"{base}\0{BESIDES}\0{BESIDES_DOCKERFILE}".encode()).hexdigest()[:12]
    tag = f"{BASE}:{recipe}"
    if (image := find_image(client, tag)) is not None:
        return image.id
    on_progress(f"fetching {BESIDES}")
    query = ["dpkg-query", "--show", "--showformat", "${Package}\n"]
    with engine_errors():
        has = client.containers.run(base, query, network_disabled=True, remove=True).decode().split()
    # The packages stand at the beginnings of lines, what they depend on is set in.
    wanted = {line for line in _run(*DEPENDS).splitlines() if line[:1].isalnum()}
    context = Context()
    context.add_text("Dockerfile", BESIDES_DOCKERFILE)
    with tempfile.TemporaryDirectory(prefix="mayfly-image-") as folder:
        _run("apt-get", "download", *sorted(wanted.difference(has)), cwd=Path(folder))
        for path in sorted(Path(folder).glob("*.deb")):
            context.add_file(f"debs/{path.name}", path)
    return build_image(client, context, tag=tag, arguments={"BASE": base})


def _code() -> Iterator[tuple[str, Path]]:
    """What infra/Dockerfile.dockerignore lets in, by its name in the context."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".env"):
                yield path.relative_to(ROOT).as_posix(), path


def _fetch(target: Path, python: str, platform: str) -> None:
    """The locked packages that a service needs, for that Python and platform; each by its hash."""
    command = [
        uv.find_uv_bin(), "pip", "install", "--target", str(target), "--python", sys.executable,
        "--python-version", python, "--python-platform", platform, "--only-binary", ":all:",
        "--no-progress", "--color", "never",
        "--constraint", "requirements.lock", "--requirement", "pyproject.toml",
    ]  # fmt: skip
    _run(*command)
    # Scripts name this machine's Python; uv is a program, and builds functions' packages.
    for path in (target / "bin").iterdir():
        if path.name != "uv":
            path.unlink()
    (target / ".lock").unlink(missing_ok=True)


def _run(*command: str, cwd: Path = ROOT) -> str:
    """What it prints. Raises `StackError`."""
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise StackError(f"{' '.join(command[:3])} failed:\n{done.stderr.strip()}")
    return done.stdout
