"""The packages that a Python function needs: `requirements.txt`, or a PEP 723 block beside its handler."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mayfly.errors import FunctionError
from mayfly.manifest import read_text, split_toml_error
from mayfly.typed import known

FILE: Final = "requirements.txt"

_BLOCK: Final = re.compile(r"(?m)^# /// script[ \t]*\r?\n(?P<content>(?:^#(?:| .*)\r?\n)+?)^# ///[ \t]*\r?$")


class ScriptMetadata(msgspec.Struct, frozen=True, rename={"requires_python": "requires-python"}):
    """The keys of a PEP 723 block that matter here."""

    dependencies: tuple[str, ...] = ()
    requires_python: str | None = None
    tool: dict[str, Any] = {}


@dataclass(frozen=True)
class Requirements:
    """What pip would be given: lines, and the file and line that they come from, for messages."""

    lines: tuple[str, ...]
    file: str
    line: int = 1
    requires_python: str | None = None

    def line_in(self, message: str) -> int:
        """The line of the first package that a message names; the first line if it names none."""
        named = {_normal(word) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", message)}
        for index, text in enumerate(self.lines):
            package = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", text)
            if package and _normal(package[1]) in named and self.file == FILE:
                return self.line + index
        return self.line

    def line_at(self, position: int) -> int:
        """The line of a character's position in the file."""
        return "\n".join(self.lines).count("\n", 0, position) + 1


def allows(requires_python: str | None, version: str) -> bool:
    """Whether `requires-python` (PEP 440, such as `>=3.11,<4`) takes a Python like `3.12`."""
    release = _release(version)
    for part in filter(None, (requires_python or "").replace(" ", "").split(",")):
        comparison = re.fullmatch(r"(~=|===?|!=|<=|>=|<|>)(\d+(?:\.\d+)*)(\.\*)?", part)
        if comparison is None:
            return False
        bound = _release(comparison[2])
        # Of 3.12.4 only 3.12 can be compared: which patch release an image has does not matter here.
        ours, theirs = release[: len(bound)], bound[: len(release)]
        holds = {
            "~=": ours >= theirs and release[: len(bound) - 1] == bound[: len(bound) - 1][: len(release)],
            "==": ours == theirs,
            "===": ours == theirs,
            "!=": ours != theirs or len(bound) > len(release),
            "<=": ours <= theirs,
            ">=": ours >= theirs,
            "<": ours < theirs or (ours == theirs and len(bound) > len(release) and any(bound[2:])),
            ">": ours > theirs or (ours == theirs and len(bound) > len(release)),
        }
        if not holds[comparison[1]]:
            return False
    return True


def read_requirements(folder: Path, module: str = "handler.py") -> Requirements | None:
    """None for a function that needs no package; `module` is its handler's file. Raises `FunctionError`."""
    listed = _from_file(folder)
    declared = _from_script(folder, module)
    if listed and declared:
        raise FunctionError(
            f"{FILE} and this block both name packages: keep one", file=module, line=declared.line
        )
    return listed or declared


def _from_file(folder: Path) -> Requirements | None:
    if not (folder / FILE).exists():
        return None
    lines = tuple(read_text(folder / FILE, FILE).splitlines())
    for number, text in enumerate(lines, 1):
        if re.match(r"\s*(-e|--editable)\b", text):
            raise FunctionError(
                "an editable install stays on this machine: name the package or its wheel",
                file=FILE,
                line=number,
            )
    wanted = any(text.strip() and not text.strip().startswith("#") for text in lines)
    return Requirements(lines, FILE) if wanted else None


def _from_script(folder: Path, module: str) -> Requirements | None:
    path = folder / module
    if not path.exists():
        return None
    text = read_text(path, module)
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        return None
    line = text.count("\n", 0, blocks[-1].start()) + 1
    if len(blocks) > 1:
        raise FunctionError("a second `# /// script` block: PEP 723 allows one", file=module, line=line)
    content = "".join(
        row[2:] if row.startswith("# ") else row[1:] for row in blocks[0]["content"].splitlines(keepends=True)
    )
    try:
        metadata = msgspec.convert(tomllib.loads(content), known(ScriptMetadata))
    except tomllib.TOMLDecodeError as error:
        message, inner = split_toml_error(str(error), content)
        raise FunctionError(
            f"the `# /// script` block is not TOML: {message}", file=module, line=line + (inner or 0)
        ) from error
    except msgspec.ValidationError as error:
        raise FunctionError(f"the `# /// script` block: {error}", file=module, line=line) from error
    if not metadata.dependencies and not metadata.requires_python:
        return None
    return Requirements(metadata.dependencies, module, line, metadata.requires_python)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
