"""The scan for secrets finds what was planted, and the audit of what is depended on says what it found."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parents[2]


def scan(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/secret_scan.py", *map(str, files)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)


# None of them stands here as it is: the scan looks at this file as well.
@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("Mayfly Key", "mf_" + "0123456789abcdef." + "aB3dE6gH9jK" * 3 + "aB3dE6gH9j"),
        ("AWS Access Key", "AKIA" + "Q3EGRFN5BX7PWZ2K"),
        ("GitHub Token", "ghp_" + "aB3dE6gH9jK2" * 3),
        ("Private Key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("Basic Auth Credentials", "redis://mayfly:" + "swordfish@redis.example.com"),
    ],
    ids=["ours", "AWS", "GitHub", "a private key", "a password in a URL"],
)
def test_a_secret_that_was_planted_is_found(tmp_path: Path, kind: str, secret: str) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(f'"""A module."""\n\nVALUE = "{secret}"\n')
    found = scan(planted)
    assert found.returncode == 1
    assert f"planted.py:3: {kind}" in found.stderr
    assert secret not in found.stderr + found.stdout


def test_what_holds_none_passes(tmp_path: Path) -> None:
    clean = tmp_path / "clean.py"
    clean.write_text('"""A module."""\n\nVALUE = "correct"\n')
    assert scan(clean).returncode == 0


@pytest.mark.parametrize(
    ("stdout", "stderr", "code", "says"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, "", 0, ""),
        (
            {
                "dependencies": [
                    {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
                ]
            },
            "Found 1 known vulnerability in 1 package",
            1,
            "a 1: CVE-1, mended in 2",
        ),
        (None, "requests.exceptions.ConnectionError: no route to host", 0, "cannot be reached"),
        (None, "ERROR: requirements.lock is malformed", 1, "malformed"),
    ],
)
def test_the_audit_fails_for_what_is_known_and_not_for_want_of_a_database(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stdout: Any,
    stderr: str,
    code: int,
    says: str,
) -> None:
    (tmp_path / "requirements.lock").write_text("a==1\n")
    monkeypatch.chdir(tmp_path)
    done = subprocess.CompletedProcess([], 1, "" if stdout is None else json.dumps(stdout), stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    main = runpy.run_path(str(HERE / ".ci/audit.py"))["main"]
    assert main() == code
    said = capsys.readouterr()
    assert says in said.out + said.err
    # A clean answer is not asked for again the same day.
    assert bool(list(tmp_path.glob(".cache/audited-*"))) == (stdout is not None and code == 0)
