"""The command `run`: a function once, in its real image and sandbox, and nothing else of the stack.

The sandbox is made by the dispatcher's own code, in a process of its own, so that what runs here runs there.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.folders import FunctionsDir, build_one, find_folder
from mayfly.cli.options import Json, OutputFile
from mayfly.cli.output import FAILED, fail, is_text, save, say, show, show_json, size
from mayfly.cli.payload import ContentType, Data, File, Payload, read_payload

if TYPE_CHECKING:
    from mayfly.function import Function
    from mayfly.task import Failure
    from mayfly.trial import Trial, Verdict


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function, or the path of its folder.")],
    data: Data = None,
    file: File = None,
    content_type: ContentType = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="What the function may take.")
    ] = None,
    output: OutputFile = None,
    functions: FunctionsDir = Path("functions"),
    json: Json = False,
) -> None:
    """Run a function once in its sandbox, without the stack.

    Its image is built if it has changed. Prints its log on stderr, its result on stdout.
    """
    folder = find_folder(name, functions)
    payload = read_payload(data, file, content_type)
    function = build_one(folder)
    verdict = _try(_trial(function, folder, payload, timeout))
    if verdict.trouble:
        from mayfly.errors import StackError

        raise StackError(verdict.trouble, mend=verdict.mend)
    if json:
        show_json(_plain(verdict))
    elif verdict.log:
        say(verdict.log.decode(errors="replace").removesuffix("\n"))
    if verdict.log_dropped:
        say(f"({size(verdict.log_dropped)} of log dropped)")
    if verdict.failure:
        _blame(verdict.failure)
    if output is not None:
        save(verdict.result or b"", verdict.content_type, output)
    elif not json:
        _show_result(verdict)


def _trial(function: "Function", folder: Path, payload: Payload, timeout: float | None) -> "Trial":
    import json

    from mayfly.trial import Trial

    body = json.dumps(payload.value, ensure_ascii=False).encode() if payload.data is None else payload.data
    return Trial(function, str(folder.resolve()), body, payload.content_type, timeout)


def _try(trial: "Trial") -> "Verdict":
    import subprocess
    import sys

    import msgspec

    from mayfly.trial import Verdict

    # -P: a module in the current folder must not stand in for one of the dispatcher's.
    command = [sys.executable, "-P", "-m", "dispatcher.once"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
    ) as child:
        try:
            answer, _ = child.communicate(msgspec.json.encode(trial))
        except KeyboardInterrupt:
            # Ctrl-C reaches the child as well; it takes its sandbox away before it ends.
            child.wait()
            raise
    try:
        return msgspec.json.decode(answer, type=Verdict)
    except msgspec.DecodeError:
        fail(f"the sandbox's process ended with {child.returncode} and no answer", code=FAILED)


def _environment() -> dict[str, str]:
    import os

    from mayfly.cli.folders import stack_environment

    return {**stack_environment(), **os.environ}


def _plain(verdict: "Verdict") -> dict[str, object]:
    import json

    from mayfly.task import JSON

    plain: dict[str, object] = {
        "seconds": verdict.seconds,
        "log": verdict.log.decode(errors="replace"),
    }
    if verdict.failure:
        return plain | {"failure": verdict.failure}
    body = verdict.result or b""
    if verdict.content_type == JSON:
        return plain | {"contentType": JSON, "result": json.loads(body)}
    kind = {"contentType": verdict.content_type}
    if is_text(verdict.content_type):
        return plain | kind | {"result": body.decode(errors="replace")}
    return plain | kind | {"resultBase64": body}


def _blame(failure: "Failure") -> None:
    if failure.traceback:
        say(failure.traceback.rstrip())
    raised = f"{failure.error}: " if failure.error else ""
    fail(f"{failure.type.value}: {raised}{failure.message}", code=FAILED)


def _show_result(verdict: "Verdict") -> None:
    import json

    from mayfly.task import JSON

    body = verdict.result or b""
    if verdict.content_type == JSON:
        show_json(json.loads(body))
    elif is_text(verdict.content_type):
        show(body.decode(errors="replace").removesuffix("\n"))
    else:
        say(f"the result is {size(len(body))} of {verdict.content_type}; to save it: -o FILE")
