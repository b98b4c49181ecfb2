"""A function's folder, read and checked. Nothing here needs Docker, or runs the function's code."""

import hashlib
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from docker.utils.build import PatternMatcher

from mayfly.errors import FunctionError
from mayfly.function import NAME, Limits
from mayfly.manifest import FILE, HANDLER, Manifest, line_of, read_manifest, read_schema, read_text
from mayfly.requirements import Requirements, read_requirements

Contract = Literal["python", "unix"]

LEFT_OUT: Final = frozenset({
    ".env", ".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".DS_Store",
})  # fmt: skip
"""Names that reach no image, at any depth: secrets, history, and what tools leave behind."""

LEFT_OUT_AT_TOP: Final = frozenset({FILE, "examples", "tests", ".dockerignore", ".gitignore"})
"""What describes a function and is no part of it: a change there builds nothing."""


@dataclass(frozen=True)
class File:
    """A file of the image. `mode` is 0o755 or 0o644; a `link` has a target and no content."""

    name: str
    mode: int
    link: str | None = None


@dataclass(frozen=True)
class Folder:
    """What a function's folder says. `files` are what its image is built from, sorted by name."""

    path: Path
    name: str
    contract: Contract
    manifest: Manifest
    schema: dict[str, Any] | None
    requirements: Requirements | None
    dockerfile: bool
    files: tuple[File, ...]
    examples: tuple[Path, ...]
    digest: str
    """SHA-256 in hex of names, modes and contents of the files."""

    @property
    def limits(self) -> Limits:
        return Limits(
            timeout_seconds=self.manifest.timeout,
            memory_mib=self.manifest.memory,
            cpu=self.manifest.cpu,
            pids=self.manifest.pids,
            open_files=self.manifest.open_files,
            tmp_mib=self.manifest.tmp,
        )


def _check_isolation(path: Path, manifest: Manifest) -> None:
    """By the Unix contract a process gets its task at its start: it can neither wait for it nor have two."""
    asked = {
        "isolation": f'isolation = "{manifest.isolation}"' if manifest.isolation != "container" else None,
        "warm_pool": f"warm_pool = {manifest.warm_pool}" if manifest.warm_pool else None,
    }
    for key, what in asked.items():
        if what is not None:
            raise FunctionError(
                f'{what} is for Python functions: by the contract "unix" every task has a container of its '
                "own that starts with it",
                file=FILE,
                line=line_of(read_text(path / FILE, FILE), key),
            )


def _check_runtime(path: Path, manifest: Manifest) -> None:
    if manifest.runtime is not None:
        raise FunctionError(
            f'runtime = "{manifest.runtime}" is for Python functions: what carries a task there and back is '
            "part of their images",
            file=FILE,
            line=line_of(read_text(path / FILE, FILE), "runtime"),
        )


def is_function(path: Path) -> bool:
    """Whether a folder is meant as a function; what lies beside functions may be anything."""
    return (path / "handler.py").exists() or (path / "Dockerfile").exists() or (path / FILE).exists()


def read_folder(path: Path) -> Folder:
    """Raises `FunctionError`, with the file (relative to the folder) and the line that are wrong."""
    name = path.resolve().name
    _check_shape(path, name)
    manifest = read_manifest(path)
    dockerfile = (path / "Dockerfile").exists()
    contract = manifest.contract or ("unix" if dockerfile else "python")
    if contract == "unix" and not dockerfile:
        raise FunctionError(
            'contract = "unix" needs a Dockerfile',
            file=FILE,
            line=line_of(read_text(path / FILE, FILE), "contract"),
        )
    _check_entry(path, manifest, contract)
    if contract == "unix":
        _check_isolation(path, manifest)
        _check_runtime(path, manifest)
    files = tuple(_files(path))
    if contract == "python":
        _check_shadows(files)
    return Folder(
        path=path,
        name=name,
        contract=contract,
        manifest=manifest,
        schema=read_schema(path, manifest),
        requirements=None if dockerfile else read_requirements(path, manifest.module),
        dockerfile=dockerfile,
        files=files,
        examples=tuple(sorted((path / "examples").glob("*.json"))),
        digest=_digest(path, files),
    )


def _check_shape(path: Path, name: str) -> None:
    if not path.is_dir():
        raise FunctionError(f"{path} is no folder")
    if not NAME.fullmatch(name):
        raise FunctionError(
            f'a function cannot be named "{name}": lower-case letters, digits, - and _, a letter first, '
            "at most 63 characters"
        )
    for file in ("handler.py", "Dockerfile", FILE):
        if (path / file).exists() and not (path / file).is_file():
            raise FunctionError("is not a file", file=file)
    if not any((path / file).exists() for file in ("handler.py", "Dockerfile", FILE)):
        raise FunctionError(f"{name} has neither handler.py nor Dockerfile: add one")


def _check_entry(path: Path, manifest: Manifest, contract: Contract) -> None:
    """That there is what is to be run. What a Dockerfile makes is seen when it was built."""
    package = path / manifest.module.removesuffix(".py") / "__init__.py"
    is_there = (path / manifest.module).is_file() or package.is_file()
    if manifest.handler == HANDLER:
        if not is_there and not (path / "Dockerfile").exists():
            raise FunctionError(f"{path.resolve().name} has neither handler.py nor Dockerfile: add one")
        return
    line = line_of(read_text(path / FILE, FILE), "handler")
    if contract == "unix":
        message = "handler is for Python functions: an image says itself what it runs"
        raise FunctionError(message, file=FILE, line=line)
    if not is_there and not (path / "Dockerfile").exists():
        message = f'handler = "{manifest.handler}": there is no file {manifest.module}'
        raise FunctionError(message, file=FILE, line=line)


def _files(folder: Path) -> Iterator[File]:
    ignored = _ignored(folder)
    for path in sorted(_walk(folder, top=True)):
        name = path.relative_to(folder).as_posix()
        # Docker reads a Dockerfile even where its own ignore file leaves it out.
        if name != "Dockerfile" and ignored.matches(name):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield File(name, 0o777, _link_target(folder, path, name))
        elif stat.S_ISREG(mode):
            yield File(name, 0o755 if mode & 0o100 else 0o644)
        else:
            raise FunctionError("is neither a file nor a folder: take it out", file=name)


def _walk(folder: Path, *, top: bool) -> Iterator[Path]:
    for path in folder.iterdir():
        if _left_out(path, top):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, top=False)
        else:
            yield path


def _left_out(path: Path, top: bool) -> bool:
    name = path.name
    return (
        name in LEFT_OUT
        or name.startswith(".env.")
        or path.suffix == ".pyc"
        or (top and name in LEFT_OUT_AT_TOP)
    )


def _ignored(folder: Path) -> Any:
    path = folder / ".dockerignore"
    text = read_text(path, path.name) if path.is_file() else ""
    rows = (row.strip() for row in text.splitlines())
    return PatternMatcher([row for row in rows if row and not row.startswith("#")])


def _link_target(folder: Path, path: Path, name: str) -> str:
    target = path.readlink()
    if target.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise FunctionError("is a link that leads out of the folder: copy what it points to", file=name)
    return str(target)


def _check_shadows(files: tuple[File, ...]) -> None:
    """`json.py` beside handler.py would be what every package gets for `import json`."""
    for file in files:
        parts = PurePosixPath(file.name).parts
        module = parts[0].removesuffix(".py")
        is_module = len(parts) == 1 and file.name.endswith(".py")
        is_package = len(parts) == 2 and parts[1] == "__init__.py"
        if (is_module or is_package) and module in sys.stdlib_module_names:
            raise FunctionError(f"hides Python's own module {module}: give it another name", file=file.name)


def _digest(folder: Path, files: tuple[File, ...]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{file.mode:o}\0{file.link or ''}\0".encode())
        if file.link is None:
            total.update(_file_digest(folder / file.name, file.name))
    return total.hexdigest()


def _file_digest(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise FunctionError(f"cannot be read: {error.strerror}", file=name) from error
