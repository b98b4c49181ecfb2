"""Builds functions' images, and says what the catalog must know of them.

An image is tagged `mayfly/fn-<name>:<hash of what it is built from>` only once the function in it was seen
to import, so a tag that is there needs neither a build nor a look. A function's packages are an image of
their own below it: code that changes does not resolve, copy or compile them again.
"""

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
from docker.types import LogConfig
from requests.exceptions import RequestException

from mayfly.base_image import Base, ensure_base
from mayfly.errors import FunctionError
from mayfly.example import read_examples
from mayfly.folder import Folder, is_function, read_folder
from mayfly.function import Function
from mayfly.image import BuildFailed, Context, Image, build_image, engine_errors, find_image, tag_image
from mayfly.manifest import HANDLER
from mayfly.packages import install_packages

Progress = Callable[[str], None]

DESCRIPTION: Final = "mayfly.description"
"""Label of a Python function's image: what its bootstrap said of the handler."""

DESCRIBE_SECONDS: Final = 30
DESCRIBE_MIB: Final = 1024

PACKAGES_DOCKERFILE: Final = """\
ARG BASE
FROM ${BASE}
COPY site/ /opt/mayfly/site/
# A package may carry files for other Pythons: one that does not compile is left as it is.
RUN python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/mayfly/site || true
"""

FUNCTION_DOCKERFILE: Final = """\
ARG BASE
FROM ${BASE}
COPY function/ /function/
"""

DESCRIBED_DOCKERFILE: Final = """\
ARG BASE
FROM ${BASE}
COPY compiled/ /function/
USER 65532:65532
"""


@dataclass(frozen=True)
class Built:
    """What became of a directory of functions."""

    functions: tuple[Function, ...]
    errors: dict[str, FunctionError]
    """By the folder's name."""


@dataclass(frozen=True)
class Blueprint:
    """What a folder asks for, before anything is built of it."""

    folder: Folder
    base: Base
    version: str
    examples: tuple[str, ...]

    @property
    def image(self) -> str:
        return f"mayfly/fn-{self.folder.name}:{self.version}"

    @property
    def needs_image(self) -> bool:
        """Whether only its image can say what it takes."""
        return self.folder.contract == "python" and self.folder.schema is None

    def function(self, description: Mapping[str, Any]) -> Function:
        """The catalog entry; `description` is what its image says of its handler."""
        manifest, schema = self.folder.manifest, self.folder.schema
        if schema is None:
            schema = description.get("schema")
        return Function(
            name=self.folder.name,
            image=self.image,
            version=self.version,
            contract=self.folder.contract,
            description=manifest.description,
            limits=self.folder.limits,
            isolation=manifest.isolation,
            warm_pool=manifest.warm_pool,
            network=manifest.network,
            runtime=manifest.runtime,
            queue=manifest.queue,
            retries=manifest.policy,
            redeliver=manifest.redeliver,
            concurrency=manifest.concurrency,
            callback_url=manifest.callback_url,
            env=manifest.env,
            secrets=manifest.secrets,
            schema=schema,
            accepts_bytes=schema is None and description.get("acceptsBytes", True),
            examples=self.examples,
            hinted=self.needs_image,
        )


def blueprint(folder: Path, client: docker.DockerClient, *, on_progress: Progress) -> Blueprint:
    """Raises as `build` does; what is built is the base, if the engine has none."""
    read = read_folder(folder)
    examples = read_examples(read.path, read.examples)
    base = ensure_base(client, on_progress=on_progress)
    payloads = tuple(example.payload.decode() for example in examples if example.is_json)
    return Blueprint(read, base, _version(read, base), payloads)


def build(folder: Path | Blueprint, client: docker.DockerClient, *, on_progress: Progress) -> Function:
    """The catalog entry of a folder whose image the engine has, built now if it had none.

    Raises `FunctionError` for what the folder's owner must mend, `StackError` for what the engine lacks.
    """
    plan = folder if isinstance(folder, Blueprint) else blueprint(folder, client, on_progress=on_progress)
    image = find_image(client, plan.image)
    if image is None:
        on_progress(f"building {plan.folder.name}")
        if plan.folder.dockerfile:
            _build_dockerfile(client, plan.folder, plan.image)
        else:
            _build_python(client, plan.folder, plan.base, plan.image, on_progress)
        image = find_image(client, plan.image)
        assert image is not None
    return plan.function(_description(image))


def without_building(
    plan: Blueprint, client: docker.DockerClient, known: Iterable[Function]
) -> Function | None:
    """The same, where it can be told now: by the image, if the engine has it, or by one of the `known`
    functions that was built of the same; else None."""
    if not plan.needs_image:
        return plan.function({})
    if (image := find_image(client, plan.image)) is not None:
        return plan.function(_description(image))
    twin = next((one for one in known if one.image == plan.image and one.hinted), None)
    return plan.function({"schema": twin.schema, "acceptsBytes": twin.accepts_bytes}) if twin else None


def _description(image: Image) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(image.labels.get(DESCRIPTION, "{}"))
    return found


def build_all(folders: Path, client: docker.DockerClient, *, on_progress: Progress) -> Built:
    """Every function in a directory; a broken one does not keep the others from being built."""
    functions, errors = [], {}
    for folder in function_folders(folders):
        try:
            functions.append(build(folder, client, on_progress=on_progress))
        except FunctionError as error:
            errors[folder.name] = error
    return Built(tuple(functions), errors)


def function_folders(folders: Path) -> list[Path]:
    """The folders in a directory that are meant as functions, by name."""
    if not folders.is_dir():
        return []
    return sorted(path for path in folders.iterdir() if path.is_dir() and is_function(path))


def _version(folder: Folder, base: Base) -> str:
    """A hash of all that the image is built from, short."""
    lines = [folder.digest, folder.contract, *(f"{name}={value}" for name, value in _entry(folder).items())]
    if folder.requirements:
        lines += folder.requirements.lines
    if folder.dockerfile:
        if "mayfly/" in (folder.path / "Dockerfile").read_text(errors="replace"):
            lines.append(base.id)
    else:
        lines += [base.id, FUNCTION_DOCKERFILE, PACKAGES_DOCKERFILE, DESCRIBED_DOCKERFILE]
    return hashlib.sha256("\0".join(lines).encode()).hexdigest()[:12]


# --- a folder with a handler.py -----------------------------------------------------------------------------


def _build_python(
    client: docker.DockerClient, folder: Folder, base: Base, tag: str, on_progress: Progress
) -> None:
    below = _packages_image(client, folder, base, on_progress)
    context = Context()
    context.add_text("Dockerfile", FUNCTION_DOCKERFILE)
    _add_files(context, folder, "function/")
    _finish(client, folder, context, tag, {"BASE": below})


def _packages_image(client: docker.DockerClient, folder: Folder, base: Base, on_progress: Progress) -> str:
    """The tag of the base with the function's packages; the base's own where it needs none."""
    requirements = folder.requirements
    if requirements is None:
        return base.tag
    parts = [base.id, PACKAGES_DOCKERFILE, *requirements.lines, *_beside_requirements(folder)]
    tag = f"mayfly/packages:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"
    if find_image(client, tag) is None:
        on_progress(f"fetching the packages of {folder.name}")
        with tempfile.TemporaryDirectory(prefix="mayfly-packages-") as target:
            site = Path(target)
            install_packages(requirements, folder.path, site, python=base.python, platform=base.platform)
            context = Context()
            context.add_text("Dockerfile", PACKAGES_DOCKERFILE)
            context.add_folder("site")
            for path in sorted(path for path in site.rglob("*") if path.is_file()):
                mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                context.add_file(f"site/{path.relative_to(site).as_posix()}", path, mode)
            on_progress(f"building the packages of {folder.name}")
            _run_build(client, folder, context, {"BASE": base.tag}, tag=tag)
    return tag


def _beside_requirements(folder: Folder) -> Iterator[str]:
    """Files that requirements may name: other lists, constraints, wheels of the folder's own."""
    for file in folder.files:
        if file.link is None and file.name.endswith((".txt", ".whl")):
            content = (folder.path / file.name).read_bytes()
            yield f"{file.name} {hashlib.sha256(content).hexdigest()}"


# --- a folder with a Dockerfile -----------------------------------------------------------------------------


def _build_dockerfile(client: docker.DockerClient, folder: Folder, tag: str) -> None:
    context = Context()
    _add_files(context, folder, "")
    if folder.contract == "python":
        _finish(client, folder, context, tag, {})
        return
    image = _run_build(client, folder, context, {}, network=True)
    if not (image.config.get("Entrypoint") or image.config.get("Cmd")):
        raise FunctionError("names nothing to run: add ENTRYPOINT or CMD", file="Dockerfile")
    tag_image(client, image.id, tag)


# --- both ---------------------------------------------------------------------------------------------------


def _finish(
    client: docker.DockerClient, folder: Folder, context: Context, tag: str, arguments: dict[str, str]
) -> None:
    """Builds a Python function's image and asks it what the handler takes."""
    image = _run_build(client, folder, context, arguments, network=folder.dockerfile)
    description = describe(client, image.id, folder)
    described = Context()
    entry = "".join(f"ENV {name}={value}\n" for name, value in _entry(folder).items())
    described.add_text("Dockerfile", DESCRIBED_DOCKERFILE + entry)
    described.add_folder("compiled")
    for name, content in description.pop("compiled").items():
        described.add_bytes(f"compiled/{name}", base64.b64decode(content))
    labels = {DESCRIPTION: json.dumps(description)}
    build_image(client, described, tag=tag, arguments={"BASE": image.id}, labels=labels)


def _entry(folder: Folder) -> dict[str, str]:
    """How the image's bootstrap learns of the handler, where it is not the usual one."""
    manifest = folder.manifest
    return {} if manifest.handler == HANDLER else {"MAYFLY_HANDLER": manifest.entry}


def _add_files(context: Context, folder: Folder, prefix: str) -> None:
    for file in folder.files:
        if file.link is not None:
            context.add_link(prefix + file.name, file.link)
        else:
            context.add_file(prefix + file.name, folder.path / file.name, file.mode)


def _run_build(
    client: docker.DockerClient,
    folder: Folder,
    context: Context,
    arguments: dict[str, str],
    *,
    tag: str | None = None,
    network: bool = False,
) -> Image:
    try:
        built = build_image(client, context, tag=tag, arguments=arguments, network=network)
    except BuildFailed as error:
        log = f"\n{error.log}" if error.log else ""
        if not folder.dockerfile:
            raise FunctionError(f"the image cannot be built: {error}{log}") from error
        text = (folder.path / "Dockerfile").read_text(errors="replace")
        line = _line_of_step(text, error)
        raise FunctionError(f"{error}{log}", file="Dockerfile", line=line) from error
    image = find_image(client, built)
    assert image is not None
    return image


def _line_of_step(dockerfile: str, error: BuildFailed) -> int | None:
    """Where the step of a Dockerfile that failed begins."""
    named = re.search(r"(?:parse error )?(?:on )?line (\d+)", str(error))
    if named:
        return int(named[1])
    step, continued = 0, False
    for number, row in enumerate(dockerfile.splitlines(), 1):
        text = row.strip()
        if not text or text.startswith("#"):
            continue
        step += not continued
        if step == error.step and not continued:
            return number
        continued = text.endswith("\\")
    return None


def describe(client: docker.DockerClient, image: str, folder: Folder) -> dict[str, Any]:
    """What a Python function takes, asked of its image in a sandbox. Raises `FunctionError`."""
    with engine_errors():
        container = client.containers.create(
            image,
            ["describe"],
            environment=folder.manifest.env | _entry(folder),
            # Not the network `none`: the engine's network code deadlocks under many short-lived containers.
            network_disabled=True,
            user="65532:65532",
            read_only=True,
            tmpfs={"/tmp": f"rw,nosuid,nodev,size={folder.manifest.tmp}m"},  # noqa: S108 - the sandbox's own
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=f"{max(DESCRIBE_MIB, folder.manifest.memory)}m",
            pids_limit=folder.manifest.pids,
            log_config=LogConfig(type="json-file", config={"max-size": "64m", "max-file": "1"}),
        )
        try:
            output, log, code = _run_to_end(container, folder)
        finally:
            container.remove(force=True)
    try:
        description: dict[str, Any] = json.loads(output)
    except ValueError as error:
        message = f"the import ended the process (exit code {code})\n{log.strip()[-2000:]}".strip()
        raise FunctionError(message, file=folder.manifest.module) from error
    if description["error"]:
        wrong = description["error"]
        hint = _hint(wrong["message"], folder)
        raise FunctionError(
            wrong["message"] + hint, file=wrong["file"] or folder.manifest.module, line=wrong["line"]
        )
    return description


def _run_to_end(container: Any, folder: Folder) -> tuple[str, str, int]:
    container.start()
    try:
        code = container.wait(timeout=DESCRIBE_SECONDS)["StatusCode"]
    except RequestException as error:
        message = f"its import took over {DESCRIBE_SECONDS} s"
        raise FunctionError(message, file=folder.manifest.module) from error
    output = container.logs(stdout=True, stderr=False).decode(errors="replace")
    log = container.logs(stdout=False, stderr=True).decode(errors="replace")
    return output, log, code


def _hint(message: str, folder: Folder) -> str:
    """A secret comes with the task: at import there is none yet."""
    for name in folder.manifest.secrets:
        if re.search(rf"KeyError: '{name}'", message):
            return f"; secrets come with each task: read {name} inside handler"
    return ""
