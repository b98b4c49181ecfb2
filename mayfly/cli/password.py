"""A password, typed or from stdin: never an argument, which every user of the machine can see."""

import sys

from mayfly.cli.output import FAILED, USAGE, fail


def read_password(what: str, *, new: bool = False) -> str:
    """Asked for on a terminal without being shown, twice if it is `new`; else the first line of stdin."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        if not password:
            fail("stdin has no password", hint="on a terminal it is asked for", code=USAGE)
        return password
    password = _ask(what)
    if new and _ask(f"{what}, again") != password:
        fail("they are not the same; nothing was done", code=FAILED)
    return password


def _ask(what: str) -> str:
    import getpass

    try:
        return getpass.getpass(f"{what}: ", stream=sys.stderr)
    except EOFError:
        print(file=sys.stderr)
        fail("there is no password; nothing was done", code=FAILED)
