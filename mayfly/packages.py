"""A function's packages, resolved on this machine for its image: the build then needs no network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import uv

from mayfly.errors import FunctionError
from mayfly.requirements import Requirements, allows

TIMEOUT: Final = 600
"""Seconds for resolving and downloading."""


def install_packages(
    requirements: Requirements, folder: Path, target: Path, *, python: str, platform: str
) -> None:
    """Fills `target` with what the requirements ask for, as wheels for that Python and platform.

    Raises `FunctionError`: a package that nobody has, or that has no wheel for the platform.
    """
    if not allows(requirements.requires_python, python):
        raise FunctionError(
            f"requires-python is {requirements.requires_python}, and the image has Python {python}",
            file=requirements.file,
            line=requirements.line,
        )
    command = [
        uv.find_uv_bin(), "pip", "install", "--target", str(target), "--python", sys.executable,
        "--python-version", python, "--python-platform", platform, "--only-binary", ":all:",
        "--no-progress", "--color", "never", "-r", requirements.file,
    ]  # fmt: skip
    try:
        # In the folder, so that a requirement like ./vendor/x.whl is found.
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise FunctionError(
            f"the packages were not there after {TIMEOUT} s", file=requirements.file, line=requirements.line
        ) from error
    if done.returncode != 0:
        raise _failure(done.stderr, requirements)
    # Scripts name this machine's Python, and nothing in a sandbox calls them.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def _failure(output: str, requirements: Requirements) -> FunctionError:
    """uv's explanation, at the first line that it speaks of."""
    lines = [line.strip() for line in output.splitlines() if not line.startswith("Using ")]
    text = " ".join(line for line in lines if line)
    _, found, cause = text.partition(" cause: ")
    cause = cause if found else text.removeprefix("error: ")
    cause = cause.replace(", we can conclude that your requirements are unsatisfiable", "")
    position = re.search(r"`requirements.txt` at position (\d+)", text)
    line = requirements.line_at(int(position[1])) if position else requirements.line_in(cause)
    return FunctionError(f"the packages cannot be had: {cause}", file=requirements.file, line=line)
