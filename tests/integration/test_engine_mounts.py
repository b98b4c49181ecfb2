"""The mount namespace that an engine of ours is started in."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mayfly.stack import mounts


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def test_nobody_can_write_to_crun_and_the_command_runs_even_where_that_cannot_be(tmp_path: Path) -> None:
    alone = ["unshare", "--mount", "true"]
    if not shutil.which("unshare") or subprocess.run(alone, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine has no mount namespaces for us")
    crun = tmp_path / "crun"
    crun.write_text("as it was")
    write = ["sh", "-c", f"echo other > {crun} || echo refused"]
    assert run(mounts.made_for(str(crun), write)) == "refused"
    assert crun.read_text() == "as it was"
    assert run(mounts.made_for(str(tmp_path / "missing"), ["echo", "run"])) == "run"
