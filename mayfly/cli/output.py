"""What the commands print: results on stdout, everything said about them on stderr."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer

OK, FAILED, USAGE, UNREACHABLE, CHANGES, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""What the command exits with."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline: what a function wrote must not steer the terminal of who reads it."""


def say(message: str) -> None:
    """A line about what happens, for people."""
    print(printable(message, sys.stderr.isatty()), file=sys.stderr)


def fail(message: str, *, hint: str | None = None, code: int) -> NoReturn:
    say(f"error: {message}")
    if hint:
        say(hint)
    raise typer.Exit(code)


def show(text: str) -> None:
    """Text as a result. Flushed, since `up` prints one and then goes on."""
    print(printable(text, sys.stdout.isatty()), flush=True)


def show_piece(text: str) -> None:
    """Text as a result that goes on: no line is ended that is not ended in it."""
    print(printable(text, sys.stdout.isatty()), end="", flush=True)


def show_json(value: Any) -> None:
    """`value` may hold what msgspec turns into JSON, such as a `Task`."""
    import msgspec

    plain = json.loads(msgspec.json.encode(value, enc_hook=str))
    show(json.dumps(plain, indent=2, ensure_ascii=False))


def show_json_line(value: Any) -> None:
    """The same on one line, for results that have no end."""
    import msgspec

    show(msgspec.json.encode(value, enc_hook=str).decode())


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned for a terminal; elsewhere a line a row, with tabs between."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell, True)) for cell in row))
    Console().print(table)


class Meanwhile(NamedTuple):
    """What can be done while something is under way: say a line, advance the bar, take it away."""

    say: Callable[[str], None]
    advance: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def spinner(doing: str, total: int | None = None) -> Iterator[Meanwhile]:
    """Shows on a terminal that something is under way, and how far where a total is known."""
    if not sys.stderr.isatty():
        yield Meanwhile(say, lambda: None, lambda: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield Meanwhile(
            lambda line: progress.console.print(Text(printable(line, True))),
            lambda: progress.advance(task),
            progress.stop,
        )


def confirm(question: str, *, yes: bool) -> None:
    """Ends the command unless `yes` is given, or said now."""
    if yes:
        return
    # Not click's prompt, which writes to stdout, where results go.
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        fail("nothing was done", hint="--yes does it without asking", code=FAILED)


def save(body: bytes, content_type: str, path: Path) -> None:
    """Writes a result's bytes; `-` is stdout, where a terminal gets nothing but text."""
    if str(path) != "-":
        path.write_bytes(body)
        say(f"{size(len(body))} of {content_type} written to {path}")
    elif not sys.stdout.isatty():
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    elif is_text(content_type):
        show(body.decode(errors="replace").removesuffix("\n"))
    else:
        fail(f"{content_type} is not for a terminal", hint="name a file: -o FILE", code=USAGE)


def is_text(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media.startswith("text/") or media in ("application/json", "application/xml")


def size(count: float) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count:.0f} bytes"
    kilo = count / 1000
    return f"{kilo:.1f} kB" if kilo < 1000 else f"{kilo / 1000:.1f} MB"


def printable(text: str, terminal: bool) -> str:
    """Text without what would steer a terminal, if it goes to one."""
    return _CONTROL.sub("�", text) if terminal else text
