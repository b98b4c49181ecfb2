"""The command `new`."""

import json as json_lib
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from mayfly.cli.folders import FunctionsDir
from mayfly.cli.options import Json
from mayfly.cli.output import USAGE, fail, say, show, show_json

PYTHON: Final = {
    "handler.py": '''\
"""Greets whoever the payload names."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Event:
    """The payload: its types are checked before a task is accepted."""

    name: str


def handler(event: Event, context: Any) -> dict[str, str]:
    context.logger.info("greeting %s", event.name)
    return {"greeting": f"Hello, {event.name}!"}
''',
    "examples/hello.json": """\
{
  "description": "A greeting",
  "input": {"name": "World"},
  "expect": {"equals": {"greeting": "Hello, World!"}}
}
""",
}
UNIX: Final = {
    "Dockerfile": """\
# Any image will do: the payload comes on stdin, the result goes to stdout, the log to stderr, and the
# exit code says whether it worked. mayfly/base is a small Debian.
FROM mayfly/base
COPY main.sh /main.sh
ENTRYPOINT ["sh", "/main.sh"]
""",
    "main.sh": """\
#!/bin/sh
# Says how long the payload is. What is written to stdout is the result: JSON if it parses as that, else text.
set -eu
length=$(wc -c)
echo "task $MAYFLY_TASK_ID has $length bytes" >&2
printf '{"bytes": %d}\\n' "$length"
""",
    "examples/hello.json": """\
{
  "description": "A payload, measured",
  "input": {"name": "World"},
  "expect": {"schema": {"required": ["bytes"]}}
}
""",
}


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the function is to be called.")],
    template: Annotated[
        Literal["python", "unix"],
        typer.Option("--template", "-t", help="python: a handler.py; unix: a Dockerfile, for any language."),
    ] = "python",
    functions: FunctionsDir = Path("functions"),
    json: Json = False,
) -> None:
    """Write a new function's folder, with an example."""
    from mayfly.function import NAME

    if not NAME.fullmatch(name):
        rule = "lower-case letters, digits, - and _, a letter first, at most 63 characters"
        fail(f"a function cannot be named {name!r}", hint=f"a name is {rule}", code=USAGE)
    folder = functions / name
    if folder.exists():
        fail(f"{folder} is there already", hint="choose another name, or remove it", code=USAGE)
    files = {"python": PYTHON, "unix": UNIX}[template]
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if json:
        show_json({"name": name, "folder": folder, "files": sorted(files)})
        return
    for file in files:
        show(str(folder / file))
    _say_next(name, functions, files["examples/hello.json"])


def _say_next(name: str, functions: Path, example: str) -> None:
    payload = json_lib.dumps(json_lib.loads(example)["input"])
    where = "" if functions == Path("functions") else f" --functions {functions}"
    say("\nTry it in its sandbox:")
    say(f"  mayfly run {name} -d '{payload}'{where}")
    say(f"Run it as a task, while `mayfly up{where}` runs:")
    say(f"  mayfly submit {name} -d '{payload}' --wait")
