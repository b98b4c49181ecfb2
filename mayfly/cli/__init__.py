"""The command `mayfly`."""

from mayfly.cli.app import app


def main() -> None:
    app(prog_name="mayfly")
