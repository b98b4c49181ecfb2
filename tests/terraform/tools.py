"""What the tests of the Terraform code need: found on this machine, or got from PyPI and npm, once per user.

Terraform itself is in neither. Where it, or OpenTofu, is missing, the tests are skipped and say so.
"""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mayfly.stack.home import cache_directory
from tests.terraform.schema import recover

PATIENCE: Final = 300
"""Seconds for one run of Terraform, or one download."""

HERE: Final = Path(__file__).parent
CODE: Final = HERE.parent.parent / "infra/terraform"

BINDINGS: Final = "@cdktf/provider-aws@21.22.1"
BINDINGS_SHA256: Final = (
    "d1446ab6ac6526c6fab4b28a5ebefdd90c0ce56203949925d35a4d286c05cbbf"  # pragma: allowlist secret
)
"""Generated from version 6.25.0 of the provider."""

REGISTRY: Final = {"terraform": "registry.terraform.io", "tofu": "registry.opentofu.org"}
"""The host that `hashicorp/aws` stands for."""
TYPE: Final = re.compile(r'^\s*(resource|data)\s+"(aws_\w+)"', re.MULTILINE)


class Missing(Exception):
    """Something that is not here and cannot be got."""


@dataclass(frozen=True)
class Terraform:
    """The program, and the stand-in that it takes for its AWS provider."""

    program: str
    reattach: str

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it in a folder, without an account or a terminal."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "TF_REATTACH_PROVIDERS": self.reattach,
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
        }
        command = [self.program, *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )

    def succeed(self, folder: Path, *arguments: str) -> str:
        """What it printed; an `AssertionError` with that where it failed."""
        done = self.run(folder, *arguments, "-no-color")
        assert done.returncode == 0, f"terraform {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def read(self, folder: Path, *file: str) -> Any:
        """The state, or the plan in a file, as JSON."""
        done = self.run(folder, "show", "-json", *file)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextmanager
def terraform(code: Path = CODE) -> Iterator[Terraform]:
    """Terraform with a stand-in that knows what some code names. Raises `Missing`."""
    program = shutil.which("terraform") or shutil.which("tofu")
    if program is None:
        raise Missing("neither Terraform nor OpenTofu is on this machine")
    host = REGISTRY[Path(program).name]
    # The path of a socket is short: that of pytest's folders may be too long.
    with tempfile.TemporaryDirectory(prefix="mayfly-") as directory:
        schema, socket = Path(directory, "schema.json"), Path(directory, "provider")
        schema.write_text(json.dumps(recover(bindings(), types(code))))
        command = [
            str(environment("standin") / "bin/python"),
            str(HERE / "standin.py"),
            str(schema),
            str(socket),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield Terraform(program, _reattach(host, process.pid, socket))
            finally:
                assert process.stdin is not None
                process.stdin.close()


def _reattach(host: str, pid: int, socket: Path) -> str:
    address = {"Network": "unix", "String": str(socket)}
    provider = {"Protocol": "grpc", "ProtocolVersion": 6, "Pid": pid, "Test": True, "Addr": address}
    return json.dumps({f"{host}/hashicorp/aws": provider})


def types(code: Path) -> set[str]:
    """The resources and data sources that a configuration names: `aws_vpc`, `data.aws_region`."""
    found = set()
    for file in code.rglob("*.tf"):
        for kind, name in TYPE.findall(file.read_text()):
            found.add(name if kind == "resource" else f"data.{name}")
    return found


def environment(name: str) -> Path:
    """The environment of what `<name>.lock` has, made if it is not there: apart from ours, for its pins are
    its own. Raises `Missing` where the packages cannot be had."""
    lock = HERE / f"{name}.lock"
    uv = Path(sys.executable).with_name("uv")
    with _making(f"{name}-{_digest(lock.read_bytes(), sys.version.encode())}") as (path, is_made):
        if not is_made:
            python = path / "bin/python"
            _get([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(path)])
            install = [str(uv), "pip", "install", "--quiet", "--require-hashes", "--python", str(python)]
            _get([*install, "--requirement", str(lock)])
    return path


def bindings() -> Path:
    """The package that the schema is recovered from. Raises `Missing`."""
    npm = shutil.which("npm")
    with _making(f"bindings-{BINDINGS_SHA256[:12]}") as (path, is_made):
        if not is_made:
            if npm is None:
                raise Missing(
                    "npm is not on this machine: the provider's schema is in a package of its registry"
                )
            path.mkdir(exist_ok=True)
            _get([npm, "pack", "--silent", "--pack-destination", str(path), BINDINGS])
        [package] = path.glob("*.tgz")
        if hashlib.sha256(package.read_bytes()).hexdigest() != BINDINGS_SHA256:
            raise Missing(f"{package} is not {BINDINGS} as it was when its digest was taken")
    return package


@contextmanager
def _making(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of the user's cache, and whether it is whole. Nobody else makes it meanwhile; what an error
    leaves is made again."""
    home = cache_directory() / "terraform"
    home.mkdir(parents=True, exist_ok=True)
    path, mark = home / name, home / f"{name}.made"
    with (home / f"{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path, mark.exists()
        mark.touch()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _get(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: {done.stderr[-600:]}")
